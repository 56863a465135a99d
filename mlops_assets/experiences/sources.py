"""Which source the settings ask for: the one place that turns a setting into a source object."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine, or_, select

from mlops_assets.experiences.ci_history import CiHistoryFile
from mlops_assets.experiences.data_versions import DataVersions
from mlops_assets.experiences.environment import ExperienceSource
from mlops_assets.experiences.execution_source import ExecutionSource, NoNewExecutions
from mlops_assets.experiences.executions import read_executions
from mlops_assets.experiences.identity import load_rules
from mlops_assets.experiences.prediction_log import PredictionLog
from mlops_assets.experiences.replay.source import HistoryReplay, ReplayConfig
from mlops_assets.experiences.reports.folder import ReportFolder
from mlops_assets.experiences.simulator.config import SimulatorConfig
from mlops_assets.experiences.simulator.executions import SimulatedExecutions
from mlops_assets.experiences.simulator.simulate import Simulator
from mlops_assets.experiences.table_source import TableSource
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.files import sha256_file
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import IngestedSource

REPLAYED_AGENT = "execution"


def simulator_config(settings: Settings) -> SimulatorConfig:
    """Return the simulated world of the settings."""
    return SimulatorConfig(
        seed=settings.simulator_seed,
        rows=settings.simulator_rows,
        extra_days=settings.simulator_extra_days,
        user_stories=settings.user_stories,
    )


def execution_source(settings: Settings) -> ExecutionSource:
    """Return the source of test executions; of a prediction log, the reports in the source's path if one is set.

    Raises:
        SettingsError: the source's path, URL or query is not set, or the identity rules are not valid.
    """
    kind = settings.experience_source
    if kind == "simulator":
        return SimulatedExecutions(simulator_config(settings))
    rules = load_rules(settings.identity_rules)
    if kind == "table":
        if settings.source_url is None or settings.source_query is None:
            raise SettingsError("MLOPS_EXPERIENCE_SOURCE=table needs MLOPS_SOURCE_URL and MLOPS_SOURCE_QUERY; set both")
        return TableSource(settings.source_url.get_secret_value(), settings.source_query, rules)
    if kind == "prediction_log" and settings.source_path is None:
        return NoNewExecutions(kind)
    if settings.source_path is None:
        raise SettingsError(f"MLOPS_EXPERIENCE_SOURCE={kind} needs MLOPS_SOURCE_PATH; set it")
    if kind in {"reports", "prediction_log"}:
        return ReportFolder(settings.source_path, rules)
    return CiHistoryFile(settings.source_path, rules)


def experience_source(settings: Settings, spec: AgentSpec, engine: Engine) -> ExperienceSource:
    """Return the source of one agent's experiences.

    The simulator and the prediction log have experiences of every agent; test histories hold what the execution agent
    would have decided on.

    Raises:
        SettingsError: the configured source has no experiences of this agent.
    """
    kind = settings.experience_source
    if kind == "simulator":
        return Simulator(simulator_config(settings))
    if kind == "prediction_log":
        return PredictionLog(engine)
    if spec.name != REPLAYED_AGENT:
        raise SettingsError(
            f"MLOPS_EXPERIENCE_SOURCE={kind} is a history of test executions, from which only the agent "
            f"{REPLAYED_AGENT!r} can learn, not {spec.name!r}; run that agent alone (make run agent={REPLAYED_AGENT}), "
            "or take MLOPS_EXPERIENCE_SOURCE=simulator, which MLOPS_USER_STORIES gives real requirement texts, or "
            "prediction_log, once decisions are served"
        )
    history = settings.source_path if kind == "ci_history" else None
    project = kind if history is None else f"{kind}-{history.stem}"
    config = ReplayConfig(seed=settings.simulator_seed, project=project)
    return HistoryReplay(_executions_of(settings, engine, kind, history), config)


def _executions_of(settings: Settings, engine: Engine, kind: str, history: Path | None) -> pa.Table:
    """Executions that came from sources of one kind, or from one CI history: two in one home are never mixed."""
    sources = select(IngestedSource.source_hash).where(IngestedSource.kind == kind)
    if history is not None:
        # Also under other names: a history that was renamed since is known by its content.
        content = sha256_file(history) if history.is_file() else ""
        names = select(IngestedSource.source_file).where(IngestedSource.source_hash == content)
        sources = sources.where(or_(IngestedSource.source_file == history.name, IngestedSource.source_file.in_(names)))
    with read_transaction(engine) as session:
        hashes = list(session.scalars(sources))
    executions = read_executions(settings.paths)
    return executions.filter(pc.is_in(executions["source_hash"], value_set=pa.array(hashes, pa.string())))


def data_versions(settings: Settings) -> DataVersions | None:
    """Return the DVC repository of the home folder; None where no DVC executable is at hand.

    Raises:
        SettingsError: the configured executable does not exist.
    """
    executable = settings.find_dvc()
    if executable is None:
        return None
    paths = settings.paths
    remote = settings.dvc_remote or str(Path(paths.data_remote))
    return DataVersions(executable=executable, repo=paths.data_versions, remote=remote)
