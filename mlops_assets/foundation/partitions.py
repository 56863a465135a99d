"""The agent partitions, and how an asset body walks over the agents of its run. No asset here."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from mlops_assets.foundation.agents import AGENTS, AgentSpec, agent_spec
from mlops_assets.foundation.errors import PermanentError, TransientError
from mlops_assets.foundation.files import digest
from mlops_assets.foundation.resources import Platform

AGENT_PARTITIONS = dg.StaticPartitionsDefinition(list(AGENTS))

# A run without a partition would fail on the first partitioned dependency, so the main job asks for all of them.
ALL_AGENTS_TAGS = {
    "dagster/asset_partition_range_start": next(iter(AGENTS)),
    "dagster/asset_partition_range_end": list(AGENTS)[-1],
}


@dataclass(frozen=True)
class Outcome:
    """What an asset made for one agent: the record for the next asset, what people see, and the data version."""

    record: Mapping[str, Any]
    version: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def each_agent(
    context: dg.AssetExecutionContext, platform: Platform, body: Callable[[AgentSpec], Outcome]
) -> dg.MaterializeResult[None]:
    """Run `body` for every agent of the run, record what each made, and return the materialisation.

    A run of one agent has that agent's version as data version; Dagster knows only one data version per step, so a run
    of several has the digest of all of theirs, and every partition carries its own version in its metadata.
    """
    versions: dict[str, str] = {}
    for name in context.partition_keys:
        with permanent_failures(name):
            outcome = body(agent_spec(name))
        platform.write_record(context.asset_key.to_user_string(), name, context.run.run_id, outcome.record)
        context.add_asset_metadata({"agent": name, "version": outcome.version, **outcome.metadata}, partition_key=name)
        versions[name] = outcome.version
    version = next(iter(versions.values())) if len(versions) == 1 else digest(versions)
    return dg.MaterializeResult(data_version=dg.DataVersion(version))


@contextmanager
def permanent_failures(subject: str) -> Iterator[None]:
    """Let only errors that may pass on the next try reach the retry policy; all others fail once, with their text."""
    try:
        yield
    except (TransientError, ConnectionError, TimeoutError):
        raise
    except PermanentError as error:
        raise dg.Failure(description=f"{subject}: {error}", allow_retries=False) from error
    except Exception as error:
        raise dg.Failure(
            description=f"{subject}: unexpected {type(error).__name__}: {error}", allow_retries=False
        ) from error
