"""What the last lifecycle made, as a table: `python -m mlops_assets.summary`. Reads the operational database only."""

import sys
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.errors import MlopsError, NotReadyError
from mlops_assets.foundation.records import newest_run, read_record
from mlops_assets.foundation.settings import load_settings

_HASH_LENGTH = 12


def main() -> int:
    """Print the table; exit code 1 and one line when there is nothing to tell."""
    try:
        engine = create_operational_engine(load_settings().database)
        upgrade(engine)
        found = {spec.name: agent_row(engine, spec) for spec in AGENTS.values()}
        engine.dispose()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    rows = [row for row in found.values() if row is not None]
    if not rows:
        sys.stderr.write("no lifecycle has run here yet: make run\n")
        return 1
    sys.stdout.write(as_text(rows) + "\n")
    if undecided := [name for name, row in found.items() if row is None]:
        sys.stdout.write(f"no decision yet: {', '.join(undecided)}\n")
    return 0


def agent_row(engine: Engine, spec: AgentSpec) -> dict[str, str] | None:
    """Return the records of the run that made one agent's newest decision, column by column; None without a decision.

    A later run that did not get that far is not mixed in.
    """
    try:
        run_id = newest_run(engine, asset="approval", partition=spec.name)
        snapshot, model, report, version, approval = (
            read_record(engine, asset=asset, partition=spec.name, run_id=run_id)
            for asset in ("training_experiences", "dqn_model", "validation_report", "registered_model", "approval")
        )
    except NotReadyError:
        return None
    return {
        "agent": spec.name,
        "rows": f"{snapshot['rows']:,} ({snapshot['new_rows']:,} new)",
        "data version": snapshot["data_hash"][:_HASH_LENGTH],
        "MLflow run": model["run_id"][:_HASH_LENGTH] + ("" if model["trained"] else " (unchanged)"),
        "accuracy": _with_interval(report["accuracy"]),
        "of optimal return": _with_interval(report["share_of_optimal"]),
        **_ranking(report["prioritisation"]),
        "champion before": report["champion"] or "none",
        "version": version["semver"] + ("" if version["created"] else " (nothing new to register)"),
        "decision": approval["status"] + (f": {approval['summary']}" if approval["summary"] else ""),
    }


def _ranking(prioritisation: Mapping[str, Any] | None) -> dict[str, str]:
    """NAPFD of held-out cycles beside the rules; nothing for agents that were not trained on a CI history."""
    if prioritisation is None:
        return {}
    means = prioritisation["mean_napfd"]
    above = _with_interval(prioritisation["agent_above"]["random"])
    listed = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
    return {"NAPFD": f"{listed} on {prioritisation['cycles']} held-out cycles", "NAPFD above random": above}


def as_text(rows: list[dict[str, str]]) -> str:
    """Lay the agents out side by side, one line per column name, so that long decisions do not break the table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names.append(names.pop(names.index("decision")))
    label_width = max(map(len, names))
    widths = [max(len(row.get(name, "")) for name in names[:-1]) for row in rows]
    lines = []
    for name in names[:-1]:
        cells = (f"{row.get(name, ''):<{width}}" for row, width in zip(rows, widths, strict=True))
        lines.append(f"{name:<{label_width}}  {'  '.join(cells)}".rstrip())
    decisions = [f"{row['agent']}: {row[names[-1]]}" for row in rows]
    return "\n".join([*lines, f"{names[-1]}:", *(f"  {decision}" for decision in decisions)])


def _with_interval(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "not measurable"
    if value["low"] is None or value["high"] is None:
        return f"{value['estimate']:.3f} (too few for an interval)"
    return f"{value['estimate']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


if __name__ == "__main__":
    sys.exit(main())
