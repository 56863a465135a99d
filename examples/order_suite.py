"""Let the execution agent order a test suite: ask, run, report what came of it.

    python examples/order_suite.py run tests                    # pytest: all three steps, no plugin needed
    python examples/order_suite.py order --tests ids.txt        # any other runner: prints the order, ...
    python examples/order_suite.py report --junit results.xml   # ... and reads what its JUnit XML (or Playwright JSON) says

Run it where pytest is run. `ids.txt` holds one test a line, `<classname>::<name>` as the report will name it, which for
Playwright is `[<project>] › <file>::<title>`: a test is known by its project or browser too, as reports are ingested
($MLOPS_IDENTITY_RULES as there). The server is $DECISIONS_URL (http://127.0.0.1:8000), its token $DECISIONS_TOKEN.

A suite is one CI cycle and one episode: tests are decided one after another, since every decision counts what was queued
before. What the agent sees of a test is made by the functions that training uses, from a small JSON history of the last
cycles. Class HIGH runs first, then NORMAL and LOW, then SKIP; with --skip the last class does not run. Without a server
the suite runs as it was collected. A cycle has a price, and is reported, when every test has a verdict and one has
failed: NAPFD is not defined without a failure, and training replays such cycles as little.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mlops_assets.experiences.identity import IdentityRules, load_rules
from mlops_assets.experiences.replay.context import CycleProgress, opening_contexts
from mlops_assets.experiences.replay.history import CycleHistory, cycle_histories
from mlops_assets.experiences.replay.outcomes import cycle_outcomes, run_order
from mlops_assets.experiences.replay.rewards import PriorityClass
from mlops_assets.experiences.reports.detect import parse_report
from mlops_assets.experiences.reports.documents import DocumentError
from mlops_assets.experiences.reports.model import Report, ReportedTest
from mlops_assets.experiences.schema import EXECUTIONS
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError, MlopsError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.settings import load_settings
from mlops_assets.serving.client import DecisionClient, DecisionQuery, Outcome, OutcomeReceipt, ServingError

SPEC = agent_spec("execution")
# Half a year of nightly runs; older ones weigh nothing in rates that halve with every run.
KEPT_CYCLES = 200
NO_TESTS, REFUSED = 5, 2
Status = Literal["failed", "passed", "skipped"]
# Of several results of one test, the first of these that there is.
_WORST_FIRST: tuple[Status, ...] = ("failed", "passed", "skipped")
_PROJECT = re.compile(r"\[(?P<project>[^]]+)\] › ")


@dataclass(frozen=True)
class SuiteTest:
    """One test: what its runner calls it, how a report names it, and its identity, by which the online store knows it."""

    id: str
    suite: str
    name: str
    project: str
    test_id: str

    @property
    def names(self) -> tuple[str, str, str]:
        """What a report has of it."""
        return self.suite, self.name, self.project


@dataclass(frozen=True)
class Run:
    """One past run of one test."""

    test_id: str
    suite: str
    status: Status
    duration_ms: float


@dataclass(frozen=True)
class Cycle:
    """One past cycle."""

    cycle_id: str
    started_at: datetime
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Step:
    """One decision that was taken, with what pricing it needs: both numbers as they were sent."""

    prediction_id: str
    test: SuiteTest
    action: int
    failure_rate_recent: float
    duration_share: float


@dataclass(frozen=True)
class DecidedCycle:
    """A cycle whose outcome is still to come; its steps are in the order in which they were decided."""

    cycle_id: str
    started_at: datetime
    steps: tuple[Step, ...]

    def order(self, *, skip: bool) -> list[SuiteTest]:
        """Return the tests in the order in which they are to run; class SKIP last, or not at all."""
        actions = np.array([step.action for step in self.steps], dtype=np.int64)
        rates = np.array([step.failure_rate_recent for step in self.steps])
        chosen = run_order(actions, rates, np.array([step.duration_share for step in self.steps])).tolist()
        if not skip:
            chosen += np.flatnonzero(actions == PriorityClass.SKIP).tolist()
        return [self.steps[position].test for position in chosen]


def suite_test(node_id: str, rules: IdentityRules, browser: str = "") -> SuiteTest:
    """Split `<file>::<class>::<name>` as pytest does for its JUnit XML; any other `<classname>::<name>` at its first `::`.

    `[<project>] › ` before it, as Playwright lists tests, is the project or browser in which it runs; else `browser` is.

    Raises:
        InputError: the id has no `::`.
    """
    prefix = _PROJECT.match(node_id)
    project, plain = (prefix["project"], node_id[prefix.end() :]) if prefix else (browser, node_id)
    suite, separator, name = plain.partition("::")
    if not separator:
        raise InputError(f"{node_id!r} is no test id; expected <file>::<name>, or <classname>::<name> as in the report")
    if suite.endswith(".py"):
        path, bracket, parameters = name.partition("[")
        *classes, function = path.split("::")
        module = re.sub(r"\.py$", "", suite.replace("/", "."))
        suite, name = ".".join([module, *classes]), function + bracket + parameters
    return SuiteTest(node_id, suite, name, project, rules.identity(suite, name, project).test_id)


def collect(paths: Sequence[str], options: Sequence[str], rules: IdentityRules, browser: str = "") -> list[SuiteTest]:
    """Ask pytest which tests there are.

    Raises:
        InputError: pytest cannot collect them.
    """
    # Not -q, which a project's own options may have too: twice -q prints files instead of tests.
    result = _pytest([*options, *paths, "--collect-only", "--verbosity=-1"], capture=True)
    if result.returncode not in {0, NO_TESTS}:
        raise InputError(f"pytest cannot collect the tests:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    listed, _, _ = result.stdout.partition("\n\n")
    return [suite_test(line, rules, browser) for line in listed.splitlines() if "::" in line]


def cycle_history(
    past: Sequence[Cycle], cycle_id: str, started_at: datetime, tests: Sequence[SuiteTest]
) -> CycleHistory:
    """Return what is known of the tests before the cycle begins, as training computes it.

    Raises:
        InputError: the cycle is in the past already.
    """
    if any(cycle.cycle_id == cycle_id for cycle in past):
        raise InputError(f"cycle {cycle_id!r} has run already; give every cycle an id of its own")
    # No verdict of a cycle enters its own history, so these are placeholders.
    to_come = tuple(Run(test.test_id, test.suite, "passed", 0.0) for test in tests)
    cycles = cycle_histories(executions([*past, Cycle(cycle_id, started_at, to_come)]))
    return next(cycle for cycle in cycles if cycle.cycle_id == cycle_id)


def executions(cycles: Sequence[Cycle]) -> pa.Table:
    """Return cycles as a table of executions."""
    rows = [(cycle, run) for cycle in cycles for run in cycle.runs]
    started = [cycle.started_at for cycle, _ in rows]
    nothing, zeros = [""] * len(rows), [0] * len(rows)
    columns: dict[str, Sequence[Any]] = {
        "execution_id": nothing,
        "test_id": [run.test_id for _, run in rows],
        "test_name": nothing,
        "suite": [run.suite for _, run in rows],
        "project": nothing,
        "framework": nothing,
        "status": [run.status for _, run in rows],
        "started_at": started,
        "duration_ms": [run.duration_ms for _, run in rows],
        "retries": zeros,
        "flaky": [False] * len(rows),
        "cycle_id": [cycle.cycle_id for cycle, _ in rows],
        "cycle_started_at": started,
        "source_file": nothing,
        "source_hash": nothing,
    }
    return pa.table(columns, schema=EXECUTIONS)


def decide(
    client: DecisionClient, tests: Sequence[SuiteTest], history: CycleHistory, *, project: str, started_at: datetime
) -> DecidedCycle:
    """Ask for a class for every test, one after another, in an order drawn by the cycle's id as in training.

    Raises:
        ServingError: the server does not answer, or refuses.
    """
    seed = hashlib.sha256(history.cycle_id.encode()).digest()
    rows = np.random.default_rng(list(seed)).permutation(len(tests)).tolist()
    names = [field.name for field in SPEC.context]
    contexts, progress = opening_contexts(SPEC, history), CycleProgress(SPEC, history)
    steps: list[Step] = []
    for step, row in enumerate(rows):
        values = contexts[row].copy()
        values[progress.columns] = progress.fields(row)
        context = dict(zip(names, values.tolist(), strict=True))
        query = DecisionQuery(
            agent=SPEC.name,
            agent_id=f"{SPEC.name}-{project}",
            context=context,
            test_id=history.test_ids[row],
            episode_id=history.cycle_id,
            step=step,
        )
        answer = client.predict(query)
        progress.assign(row, answer.action)
        rate, share = context["failure_rate_recent"], context["duration_share"]
        steps.append(Step(answer.prediction_id, tests[row], answer.action, rate, share))
    return DecidedCycle(history.cycle_id, started_at, tuple(steps))


def finished(cycle: DecidedCycle, report: Report, rules: IdentityRules) -> tuple[Cycle, list[Outcome]]:
    """Return the cycle as history, and the outcomes of its decisions; none where it has no price."""
    results = _results(cycle, report, rules)
    runs = tuple(_folded(step.test, found) for step, found in zip(cycle.steps, results, strict=True) if found)
    past = Cycle(cycle.cycle_id, cycle.started_at, runs)
    if len(runs) < len(cycle.steps) or not any(run.status == "failed" for run in runs):
        return past, []
    priced = cycle_outcomes(
        np.array([step.action for step in cycle.steps], dtype=np.int64),
        np.array([run.status == "failed" for run in runs], dtype=np.bool_),
        np.array([run.duration_ms for run in runs]),
        failure_rate_recent=np.array([step.failure_rate_recent for step in cycle.steps]),
        expected_durations=np.array([step.duration_share for step in cycle.steps]),
    )
    last = len(cycle.steps) - 1
    return past, [
        Outcome(
            prediction_id=step.prediction_id,
            reward=float(priced.rewards[i]),
            done=i == last,
            best_action=int(priced.best_actions[i]),
            action_values=priced.action_values[i].tolist(),
        )
        for i, step in enumerate(cycle.steps)
    ]


def _results(cycle: DecidedCycle, report: Report, rules: IdentityRules) -> list[list[ReportedTest]]:
    """Return what is reported of each step: under its test's own names, else what has its identity under no step's names."""
    names = {step.test.names for step in cycle.steps}
    by_names: dict[tuple[str, str, str], list[ReportedTest]] = {}
    by_identity: dict[str, list[ReportedTest]] = {}
    for test in report.tests:
        key = test.suite, test.name, test.project
        if key in names:
            by_names.setdefault(key, []).append(test)
        else:
            by_identity.setdefault(rules.identity(*key).test_id, []).append(test)
    return [by_names.get(step.test.names) or by_identity.get(step.test.test_id, []) for step in cycle.steps]


def _folded(test: SuiteTest, found: Sequence[ReportedTest]) -> Run:
    """Return one run of all results of a test: failed if any is, as long as all together."""
    statuses = {_status(one.status) for one in found}
    status = next(one for one in _WORST_FIRST if one in statuses)
    return Run(test.test_id, test.suite, status, sum(one.duration_ms for one in found))


def _status(text: str) -> Status:
    return "failed" if text == "failed" else "skipped" if text == "skipped" else "passed"


class Memory:
    """The history file, and beside it the cycle that waits for its report."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting = path.with_suffix(".waiting.json")

    def cycles(self) -> list[Cycle]:
        """Return the past cycles, none before the first one."""
        if not self._path.exists():
            return []
        return [
            Cycle(
                cycle["cycle_id"],
                datetime.fromisoformat(cycle["started_at"]),
                tuple(Run(*run) for run in cycle["runs"]),
            )
            for cycle in json.loads(self._path.read_text(encoding="utf-8"))
        ]

    def remember(self, cycle: Cycle) -> None:
        """Append a cycle, once; the oldest ones go."""
        kept = [past for past in self.cycles() if past.cycle_id != cycle.cycle_id]
        self._write(
            self._path,
            [
                {
                    "cycle_id": one.cycle_id,
                    "started_at": one.started_at.isoformat(),
                    "runs": [list(asdict(run).values()) for run in one.runs],
                }
                for one in [*kept, cycle][-KEPT_CYCLES:]
            ],
        )

    def wait_for(self, cycle: DecidedCycle) -> None:
        """Keep a cycle until its report is there."""
        self._write(self._waiting, {**asdict(cycle), "started_at": cycle.started_at.isoformat()})

    def waiting(self) -> DecidedCycle:
        """Return the cycle that waits.

        Raises:
            InputError: none does.
        """
        if not self._waiting.exists():
            raise InputError(f"no cycle waits for its report in {self._waiting}; order one first")
        found = json.loads(self._waiting.read_text(encoding="utf-8"))
        steps = tuple(Step(**{**step, "test": SuiteTest(**step["test"])}) for step in found["steps"])
        return DecidedCycle(found["cycle_id"], datetime.fromisoformat(found["started_at"]), steps)

    def reported(self) -> None:
        """Forget the cycle that waited."""
        self._waiting.unlink()

    @staticmethod
    def _write(path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")


def order(
    client: DecisionClient, memory: Memory, tests: Sequence[SuiteTest], project: str, cycle_id: str | None
) -> DecidedCycle:
    """Decide a cycle that begins now, and keep it until its report is there.

    Raises:
        InputError: there is no test.
        ServingError: the server does not answer, or refuses.
    """
    if not tests:
        raise InputError("there is no test to order")
    now = datetime.now(UTC)
    history = cycle_history(memory.cycles(), cycle_id or f"{project}@{now:%Y%m%dT%H%M%S.%fZ}", now, tests)
    cycle = decide(client, tests, history, project=project, started_at=now)
    memory.wait_for(cycle)
    return cycle


def report(client: DecisionClient, memory: Memory, file: Path, rules: IdentityRules) -> OutcomeReceipt | None:
    """Learn from a report, and tell the server; None for a cycle without a price.

    Raises:
        InputError: the file is no report, or not of these tests; or no cycle waits for one.
        ServingError: the server does not answer, or refuses; a second try does no harm.
    """
    cycle = memory.waiting()
    try:
        parsed = parse_report(file.read_bytes(), "json" if file.suffix == ".json" else "xml")
    except (DocumentError, OSError) as error:
        raise InputError(f"{file} is no report: {error}") from error
    past, outcomes = finished(cycle, parsed, rules)
    if not past.runs:
        raise InputError(
            f"{file} reports none of the {len(cycle.steps)} tests of cycle {cycle.cycle_id}, as "
            f"{cycle.steps[0].test.id!r} is one; it names {_named(parsed)}"
        )
    memory.remember(past)
    receipt = client.post_outcomes(outcomes) if outcomes else None
    memory.reported()
    return receipt


def _named(report: Report) -> str:
    """Return the first test of a report as an id of `ids.txt`."""
    if not report.tests:
        return "no test"
    first = report.tests[0]
    return repr(f"{f'[{first.project}] › ' if first.project else ''}{first.suite}::{first.name}")


def _pytest(arguments: Sequence[str], *, capture: bool) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "--rootdir=.", "-p", "no:randomly", *arguments]
    return subprocess.run(command, capture_output=capture, text=True, check=False)


def run_pytest(tests: Sequence[SuiteTest], options: Sequence[str], junit: Path) -> int:
    """Run tests in this order and return pytest's exit code; the ids go by a file, since a suite outgrows a command line."""
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder) / "ids"
        ids.write_text("".join(f"{test.id}\n" for test in tests), encoding="utf-8")
        return _pytest([*options, f"--junitxml={junit}", f"@{ids}"], capture=False).returncode


def _run(arguments: argparse.Namespace, client: DecisionClient, memory: Memory, rules: IdentityRules) -> int:
    tests = collect(arguments.paths, arguments.pytest_option, rules, arguments.browser)
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        try:
            cycle = order(client, memory, tests, arguments.project, arguments.cycle_id)
        except ServingError as error:
            sys.stderr.write(f"{error}\nno order: the tests run as they were collected\n")
            return run_pytest(tests, arguments.pytest_option, junit)
        code = run_pytest(cycle.order(skip=arguments.skip), arguments.pytest_option, junit)
        if not junit.exists():
            sys.stderr.write("pytest wrote no report; nothing is learnt from this cycle\n")
            return code
        kept = arguments.history.with_suffix(".junit.xml")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(junit.read_bytes())
    try:
        _say(report(client, memory, kept, rules))
    except ServingError as error:
        sys.stderr.write(f"{error}\nnot reported; again with: order_suite.py report --junit {kept}\n")
    return code


def _order(arguments: argparse.Namespace, client: DecisionClient, memory: Memory, rules: IdentityRules) -> int:
    lines = arguments.tests.read_text(encoding="utf-8").splitlines()
    tests = [suite_test(line.strip(), rules, arguments.browser) for line in lines if line.strip()]
    if len({test.names for test in tests}) < len(tests):
        raise InputError(f"{arguments.tests} names a test twice")
    cycle = order(client, memory, tests, arguments.project, arguments.cycle_id)
    sys.stdout.write("".join(f"{test.id}\n" for test in cycle.order(skip=arguments.skip)))
    return 0


def _report(arguments: argparse.Namespace, client: DecisionClient, memory: Memory, rules: IdentityRules) -> int:
    _say(report(client, memory, arguments.junit, rules))
    return 0


def _say(receipt: OutcomeReceipt | None) -> None:
    if receipt is None:
        sys.stderr.write("no price, so nothing to report: no test failed, or one has no verdict\n")
    else:
        sys.stderr.write(f"{receipt.accepted} outcomes reported, {receipt.repeated} known before\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="order and run a pytest suite, and report")
    run.add_argument("paths", nargs="*", help="what pytest collects")
    run.add_argument("--pytest-option", action="append", default=[], help="goes to pytest, as in --pytest-option=-x")
    run.set_defaults(run=_run)
    ordering = commands.add_parser("order", help="print the order of the tests in a file")
    ordering.add_argument("--tests", type=Path, required=True, help="one [<project>] › <classname>::<name> a line")
    ordering.set_defaults(run=_order)
    reporting = commands.add_parser("report", help="report the cycle that was ordered last")
    reporting.add_argument("--junit", type=Path, required=True, help="JUnit XML, or Playwright's JSON")
    reporting.set_defaults(run=_report)
    for command in (run, ordering):
        command.add_argument(
            "--project", default=Path.cwd().name, help="whose tests they are; by default this folder's name"
        )
        command.add_argument(
            "--browser", default="", help="project or browser, as the report has it, of the tests that name none"
        )
        command.add_argument("--cycle-id", help="unique id of this CI run; by default project and time")
        command.add_argument("--skip", action="store_true", help="leave tests of class SKIP out")
    for command in (run, ordering, reporting):
        command.add_argument("--history", type=Path, default=Path(".order_suite.json"), help="the history's file")
    return parser


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; `run` returns pytest's exit code, 2 is a refusal."""
    arguments = _parser().parse_args(argv)
    url, token = environ.get("DECISIONS_URL", "http://127.0.0.1:8000"), environ.get("DECISIONS_TOKEN")
    try:
        rules = load_rules(load_settings(environ).identity_rules)
        with DecisionClient(url, token or None) as client:
            return int(arguments.run(arguments, client, Memory(arguments.history), rules))
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
