"""The examples: the ordered suite in parts and as a whole, against a server that decides as the test says."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlops_assets.experiences.identity import IdentityRules
from mlops_assets.experiences.napfd import napfd
from mlops_assets.experiences.replay.environment import ReplayEpisode
from mlops_assets.experiences.replay.rewards import PriorityClass
from mlops_assets.experiences.reports.detect import parse_report
from mlops_assets.experiences.reports.model import report_table
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError
from mlops_assets.serving.client import DecisionClient, Outcome, ServerUnavailableError
from mlops_assets.serving.problems import problem_response
from mlops_assets.serving.requests import request_model
from mlops_assets_tests.programs import free_port
from mlops_assets_tests.serving.loopback import served

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SPEC = agent_spec("execution")
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


suite = _load("order_suite")


@dataclass
class Server:
    """Decides by test id, and keeps what it was asked and told."""

    action: Callable[[str], int] = lambda _: PriorityClass.LOW
    asked: list[dict[str, Any]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    broken: bool = False
    url: str = ""

    async def predict(self, request: Request) -> Response:
        """Answer as the API does."""
        body = request_model("execution").model_validate_json(await request.body()).model_dump()
        self.asked.append(body)
        action = int(self.action(body["test_id"]))
        return JSONResponse(
            {
                "prediction_id": f"{body['episode_id']}#{body['step']}",
                "agent": "execution",
                "action": action,
                "action_name": SPEC.actions[action],
                "q_values": dict.fromkeys(SPEC.actions, 0.0),
                "confidence": 0.0,
                "model": {"name": "execution-agent-dqn", "version": "1.0.0", "alias": "champion"},
                "experiment": None,
                "variant": "control",
                "propensity": 1.0,
                "explored": False,
                "cached": False,
                "status": "ok",
                "fallback": None,
                "missing_features": [],
                "latency_ms": 0.1,
                "timestamp": "2026-01-05T12:00:00Z",
            }
        )

    async def outcomes(self, request: Request) -> Response:
        """Take outcomes once each."""
        if self.broken:
            return problem_response(500, "Server error", "down", error_id="e1")
        rows = (await request.json())["outcomes"]
        known = {row["prediction_id"] for row in self.told}
        new = [row for row in rows if row["prediction_id"] not in known]
        self.told += new
        return JSONResponse({"accepted": len(new), "repeated": len(rows) - len(new)})


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that finds everything low."""
    made = Server()
    routes = [Route("/predict", made.predict, methods=["POST"]), Route("/outcomes", made.outcomes, methods=["POST"])]
    with served(Starlette(routes=routes)) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made


def past(*verdicts: Sequence[str]) -> list[Any]:
    """Past cycles of the tests a.py::t0, a.py::t1, ..., one a day up to yesterday, 100 ms, 200 ms, ... long."""
    first = NOW - len(verdicts) * DAY
    return [
        suite.Cycle(
            f"c{number}",
            first + number * DAY,
            tuple(
                suite.Run(test.test_id, test.suite, status, 100.0 * (i + 1))
                for i, (test, status) in enumerate(zip(shop_tests(len(statuses)), statuses, strict=True))
            ),
        )
        for number, statuses in enumerate(verdicts)
    ]


RULES = IdentityRules()


def shop_tests(count: int) -> list[Any]:
    """The tests a.py::t0, a.py::t1, ..."""
    return [suite.suite_test(f"a.py::t{number}", RULES) for number in range(count)]


@pytest.mark.parametrize(
    ("node_id", "classname", "name", "browser"),
    [
        ("test_a.py::test_b", "test_a", "test_b", ""),
        ("tests/sub/test_a.py::TestC::test_b", "tests.sub.test_a.TestC", "test_b", ""),
        ("tests/test_a.py::test_b[x::y/z.py]", "tests.test_a", "test_b[x::y/z.py]", ""),
        ("e2e/login.spec.ts::Login › signs in", "e2e/login.spec.ts", "Login › signs in", ""),
        ("[Mobile Safari] › e2e/login.spec.ts::Login › in", "e2e/login.spec.ts", "Login › in", "Mobile Safari"),
        ("[slug]/page.spec.ts::Page › [x] › opens", "[slug]/page.spec.ts", "Page › [x] › opens", ""),
        ("com.acme.CartTest::adds [1]", "com.acme.CartTest", "adds [1]", ""),
    ],
)
def test_ids_are_split_as_reports_name_them(node_id: str, classname: str, name: str, browser: str) -> None:
    """No verdict would be found for the test, and nothing learnt."""
    test = suite.suite_test(node_id, RULES)
    assert (test.id, test.suite, test.name, test.project) == (node_id, classname, name, browser)
    assert test.test_id == RULES.identity(classname, name, browser).test_id
    other = suite.suite_test(node_id, RULES, browser="edge")
    assert other.project == (browser or "edge")


def test_an_id_without_a_suite_is_refused() -> None:
    """A list of file names would be taken for tests that never get a verdict."""
    with pytest.raises(InputError, match=r"'login\.spec\.ts'"):
        suite.suite_test("login.spec.ts", RULES)


def test_the_context_is_that_of_training(server: Server) -> None:
    """A context that is made another way than in training is another language to the agent."""
    cycles = past(["passed", "failed", "passed"], ["failed", "failed", "passed"], ["passed", "failed", "skipped"])
    history = suite.cycle_history(cycles, "now", NOW, shop_tests(4))
    server.action = lambda test_id: int(test_id[-1]) % 4
    with DecisionClient(server.url) as client:
        decided = suite.decide(client, shop_tests(4), history, project="shop", started_at=NOW)
    order = np.array([shop_tests(4).index(step.test) for step in decided.steps])
    replayed = ReplayEpisode("now#0", SPEC, history, order)
    for step, asked in enumerate(server.asked):
        context = replayed.context()
        assert list(asked["context"]) == [one.name for one in SPEC.context]
        assert list(asked["context"].values()) == context.tolist()
        assert (asked["episode_id"], asked["step"]) == ("now", step)
        assert asked["agent_id"] == "execution-shop"
        assert asked["test_id"] == history.test_ids[order[step]]
        replayed.take(decided.steps[step].action)
    assert sorted(order) == [0, 1, 2, 3]


def test_the_context_holds_what_the_catalogue_says(server: Server) -> None:
    """Both sides of the comparison above could be wrong together; these numbers are worked out by hand."""
    history = suite.cycle_history(past(["failed", "passed"], ["passed", "passed"]), "now", NOW, shop_tests(3))
    server.action = lambda _: PriorityClass.HIGH
    with DecisionClient(server.url) as client:
        suite.decide(client, shop_tests(3), history, project="shop", started_at=NOW)
    first = next(one for one in server.asked if one["test_id"] == history.test_ids[0])["context"]
    assert first["failure_rate_recent"] == pytest.approx(0.5 / 1.5)
    assert first["last_failed"] == 0.0
    assert first["last_four_failures"] == 0.25
    assert first["runs_seen"] == pytest.approx(2 / 12)
    assert first["recency"] == pytest.approx(1.0 - np.exp(-1 / 7))
    assert first["flakiness"] == 1.0
    assert first["suite_failure_rate"] == pytest.approx(0.25 / 1.5)
    new = next(one for one in server.asked if one["test_id"] == history.test_ids[2])["context"]
    assert (new["failure_rate_recent"], new["runs_seen"], new["recency"]) == (1.0, 0.0, 1.0)
    # 100, 200 and, unknown, their median 150 ms; the budget is half of the sum.
    assert new["duration_share"] == pytest.approx(0.75)
    assert [one["context"]["steps_left"] for one in server.asked] == pytest.approx([1.0, 2 / 3, 1 / 3])
    assert server.asked[0]["context"]["budget_left"] == 1.0
    assert server.asked[1]["context"]["suite_saturation"] == pytest.approx(1 / 3)
    by_id = {history.test_ids[0]: 100.0, history.test_ids[1]: 200.0, history.test_ids[2]: 150.0}
    spent = by_id[server.asked[0]["test_id"]] / 225.0
    assert server.asked[1]["context"]["queued_ahead"] == pytest.approx(spent)
    assert server.asked[1]["context"]["budget_left"] == pytest.approx(1.0 - spent)


def test_a_cycle_has_an_id_of_its_own() -> None:
    """Two episodes of one id would be learnt from as one."""
    with pytest.raises(InputError, match="'c0' has run already"):
        suite.cycle_history(past(["passed"]), "c0", NOW, shop_tests(1))


def decided(actions: Sequence[int], rates: Sequence[float], shares: Sequence[float]) -> Any:
    """A decided cycle of the tests a.py::t0, ... in this order."""
    rows = zip(shop_tests(len(actions)), actions, rates, shares, strict=True)
    return suite.DecidedCycle("now", NOW, tuple(suite.Step(f"p-{t.name}", t, a, r, s) for t, a, r, s in rows))


def test_classes_run_in_order_and_skip_runs_last() -> None:
    """The order that is priced would not be the one that runs."""
    high, normal, low, skip = PriorityClass.HIGH, PriorityClass.NORMAL, PriorityClass.LOW, PriorityClass.SKIP
    cycle = decided([low, skip, high, normal, high], [0.1, 0.9, 0.2, 0.5, 0.8], [0.1] * 5)
    assert [test.name for test in cycle.order(skip=False)] == ["t4", "t2", "t3", "t0", "t1"]
    assert [test.name for test in cycle.order(skip=True)] == ["t4", "t2", "t3", "t0"]


def junit(*cases: tuple[str, str, float], suite_name: str = "a") -> bytes:
    """A report of (name, status, seconds)."""
    inner = {"passed": "", "failed": "<failure/>", "skipped": "<skipped/>"}
    rows = [f'<testcase classname="{suite_name}" name="{n}" time="{s}">{inner[v]}</testcase>' for n, v, s in cases]
    return f"<testsuites><testsuite>{''.join(rows)}</testsuite></testsuites>".encode()


def test_rewards_add_up_to_the_cycles_napfd() -> None:
    """The agent would learn to please another measure than the one that it is judged by."""
    actions = [PriorityClass.LOW, PriorityClass.HIGH, PriorityClass.SKIP, PriorityClass.NORMAL]
    cycle = decided(actions, [0.5, 0.2, 0.0, 0.9], [0.2, 0.4, 1.0, 0.6])
    content = junit(("t0", "failed", 0.1), ("t1", "passed", 0.2), ("t2", "passed", 0.5), ("t3", "failed", 0.3))
    finished, outcomes = suite.finished(cycle, parse_report(content, "xml"), RULES)
    assert all(isinstance(one, Outcome) for one in outcomes)
    durations, failed = np.array([100.0, 200.0, 500.0, 300.0]), np.array([True, False, False, True])
    assert sum(one.reward for one in outcomes) == pytest.approx(100.0 * napfd([1, 3, 0], durations, failed))
    assert [one.done for one in outcomes] == [False, False, False, True]
    assert [one.prediction_id for one in outcomes] == ["p-t0", "p-t1", "p-t2", "p-t3"]
    assert {len(one.action_values) for one in outcomes} == {4}
    assert (outcomes[0].best_action, outcomes[2].best_action) == (PriorityClass.LOW, PriorityClass.LOW)
    assert outcomes[0].action_values[PriorityClass.SKIP] < outcomes[0].action_values[PriorityClass.LOW]
    assert [(run.status, run.duration_ms) for run in finished.runs] == [
        ("failed", 100.0),
        ("passed", 200.0),
        ("passed", 500.0),
        ("failed", 300.0),
    ]


def test_a_test_without_a_verdict_leaves_the_cycle_without_a_price() -> None:
    """A test that did not run would be counted as one that passed."""
    cycle = decided([1, 1], [0.5, 0.5], [1.0, 1.0])
    finished, outcomes = suite.finished(cycle, parse_report(junit(("t1", "failed", 0.1)), "xml"), RULES)
    assert outcomes == []
    assert [run.test_id for run in finished.runs] == [shop_tests(2)[1].test_id]


def test_a_cycle_without_a_failure_is_history_without_a_price() -> None:
    """Green cycles are most cycles, and would teach that nothing matters."""
    cycle = decided([1, 1], [0.5, 0.5], [1.0, 1.0])
    content = junit(("t0", "passed", 0.1), ("t1", "passed", 0.1))
    finished, outcomes = suite.finished(cycle, parse_report(content, "xml"), RULES)
    assert outcomes == []
    assert len(finished.runs) == 2


def test_a_skipped_test_is_no_failure_and_no_run() -> None:
    """pytest.skip would teach that the test fails, or that it passes."""
    cycle = decided([1, 1], [0.5, 0.5], [1.0, 1.0])
    finished, outcomes = suite.finished(
        cycle, parse_report(junit(("t0", "skipped", 0.0), ("t1", "failed", 0.1)), "xml"), RULES
    )
    assert len(outcomes) == 2
    assert outcomes[0].best_action != PriorityClass.HIGH
    history = suite.cycle_history([finished], "later", NOW + DAY, shop_tests(2))
    assert history.runs_seen.tolist() == [0.0, 1.0]


def playwright(*results: tuple[str, str, str, float]) -> bytes:
    """Playwright's JSON of (project, title, status, ms), all in `cart.spec.ts`, below `Cart`."""
    specs = [
        {"title": title, "file": "cart.spec.ts", "tests": [
            {"projectName": project, "status": status, "results": [{"status": "", "duration": duration}]}]}
        for project, title, status, duration in results
    ]  # fmt: skip
    described = {"title": "Cart", "specs": specs}
    return json.dumps(
        {"stats": {}, "suites": [{"title": "cart.spec.ts", "file": "cart.spec.ts", "suites": [described]}]}
    ).encode()


def cart_cycle(*ids: str, rules: IdentityRules = RULES) -> Any:
    """A decided cycle of these ids, all of one class."""
    tests = [suite.suite_test(one, rules) for one in ids]
    return suite.DecidedCycle("now", NOW, tuple(suite.Step(f"p-{t.id}", t, 1, 0.5, 1.0) for t in tests))


def verdicts(cycle: Any, content: bytes, rules: IdentityRules = RULES) -> list[tuple[str, float]]:
    """Status and duration of each run that is found in a Playwright report."""
    past_cycle, _ = suite.finished(cycle, parse_report(content, "json"), rules)
    return [(run.status, run.duration_ms) for run in past_cycle.runs]


CHROMIUM, FIREFOX = "[chromium] › cart.spec.ts::Cart › pays", "[firefox] › cart.spec.ts::Cart › pays"
PAYS = playwright(("chromium", "pays", "unexpected", 20.0), ("firefox", "pays", "expected", 30.0))


def test_every_project_has_its_own_verdict_and_the_identity_of_ingestion() -> None:
    """The last project's verdict would be everybody's, and a test that is asked about has no features online."""
    cycle = cart_cycle(FIREFOX, CHROMIUM)
    assert verdicts(cycle, PAYS) == [("passed", 30.0), ("failed", 20.0)]
    parsed = parse_report(PAYS, "json")
    ingested, _ = report_table(parsed, rules=RULES, source_file="", source_hash="", fallback_start=NOW)
    assert sorted(step.test.test_id for step in cycle.steps) == sorted(ingested["test_id"].to_pylist())
    _, outcomes = suite.finished(cycle, parsed, RULES)
    # Not to run it costs the cycle its failure; nothing is lost with the one that passed.
    assert [one.action_values[PriorityClass.SKIP] < max(one.action_values) for one in outcomes] == [False, True]


def test_a_test_that_is_reported_twice_has_failed_if_it_failed_once() -> None:
    """Of repeated runs only the last one would count, and a failure is taken for a pass."""
    repeated = playwright(
        ("chromium", "pays", "unexpected", 30.0),
        ("chromium", "pays", "expected", 20.0),
        ("chromium", "adds", "skipped", 0.0),
        ("chromium", "adds", "expected", 5.0),
    )
    cycle = cart_cycle(CHROMIUM, "[chromium] › cart.spec.ts::Cart › adds")
    assert verdicts(cycle, repeated) == [("failed", 50.0), ("passed", 5.0)]


def test_a_test_under_two_names_is_found_by_its_identity() -> None:
    """A project that has declared two browsers one test would get no verdict for it."""
    one = RULES.identity("cart.spec.ts", "Cart › pays", "").test_id
    rules = IdentityRules(aliases={f"{one} [{browser}]": one for browser in ("chromium", "firefox")})
    assert verdicts(cart_cycle("cart.spec.ts::Cart › pays", rules=rules), PAYS, rules) == [("failed", 50.0)]
    # Both names asked for: each has its own, and what has none gets nobody else's.
    assert verdicts(cart_cycle(CHROMIUM, FIREFOX, rules=rules), PAYS, rules) == [("failed", 20.0), ("passed", 30.0)]
    only = playwright(("chromium", "pays", "unexpected", 30.0))
    assert verdicts(cart_cycle(CHROMIUM, FIREFOX, rules=rules), only, rules) == [("failed", 30.0)]


def test_memory_keeps_the_last_cycles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file would grow with every run, or a report that is read twice would count twice."""
    memory = suite.Memory(tmp_path / "sub" / "history.json")
    assert memory.cycles() == []
    monkeypatch.setattr(suite, "KEPT_CYCLES", 2)
    cycles = past(["passed"], ["failed"], ["passed"])
    for cycle in (*cycles, cycles[2]):
        memory.remember(cycle)
    assert memory.cycles() == cycles[1:]


def test_memory_keeps_the_cycle_that_waits(tmp_path: Path) -> None:
    """Between order and report another process runs the tests."""
    memory = suite.Memory(tmp_path / "history.json")
    with pytest.raises(InputError, match="no cycle waits"):
        memory.waiting()
    cycle = decided([1, 3], [0.5, 0.25], [1.0, 0.5])
    memory.wait_for(cycle)
    assert memory.waiting() == cycle
    memory.reported()
    with pytest.raises(InputError, match="order one first"):
        memory.waiting()


PROJECT = {
    # Options that print files instead of tests, and tests in another order, when they are not taken into account.
    "pytest.ini": "[pytest]\naddopts = -q --strict-markers\n",
    "tests/test_cart.py": """
import time
import pytest

class TestCart:
    def test_adds(self): time.sleep(0.2)  # longer than the failing test takes: it has to fit half of the cycle
    @pytest.mark.parametrize("price", ["1::2", "a b", "c[d]"])
    def test_sums(self, price): pass

def test_pays():
    assert False
""",
    "tests/deep/test_login.py": """
import pytest

def test_signs_in(): pass

@pytest.mark.skip
def test_signs_out(): pass
""",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pytest project that is the working directory."""
    folder = tmp_path / "shop"
    for name, content in PROJECT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # this project's plugins take a second to load
    return folder


def run(server: Server, *arguments: str, **variables: str) -> int:
    """Run the example's command in this process."""
    return int(suite.main(arguments, {"DECISIONS_URL": server.url, **variables}))


def ran(folder: Path) -> list[str]:
    """Names of the tests in the order of the report that the example kept."""
    content = (folder / ".order_suite.junit.xml").read_bytes()
    return [test.name for test in parse_report(content, "xml").tests]


def test_collected_ids_are_found_in_pytests_own_report(project: Path, tmp_path: Path) -> None:
    """Parameters with brackets, spaces or colons would be lost between the two spellings of one test."""
    collected = suite.collect(["tests"], [], RULES)
    assert len(collected) == 7
    report = tmp_path / "report.xml"
    assert suite.run_pytest(collected, [], report) == 1
    reported = {(test.suite, test.name) for test in parse_report(report.read_bytes(), "xml").tests}
    assert reported == {(test.suite, test.name) for test in collected}


def test_a_suite_that_cannot_be_collected_is_refused(project: Path, server: Server) -> None:
    """An import error would be a suite without tests, and a green build."""
    (project / "tests" / "test_broken.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    assert run(server, "run", "tests") == suite.REFUSED
    assert server.asked == []


def test_the_suite_runs_in_the_agents_order_and_is_reported(project: Path, server: Server) -> None:
    """The whole circle: ask, run, report; and the next cycle knows the one before."""
    classes = {"test_pays": PriorityClass.HIGH, "test_signs_in": PriorityClass.NORMAL, "test_adds": PriorityClass.SKIP}
    server.action = lambda test_id: next((c for name, c in classes.items() if name in test_id), PriorityClass.LOW)
    assert run(server, "run", "tests", "--project", "shop") == 1
    order = ran(project)
    assert order[:2] == ["test_pays", "test_signs_in"]
    assert order[-1] == "test_adds"
    assert len(order) == len(server.asked) == len(server.told) == 7
    assert [row["done"] for row in server.told] == [False] * 6 + [True]
    assert sum(row["reward"] for row in server.told) > 0.0
    assert not (project / ".order_suite.waiting.json").exists()
    server.asked.clear()
    run(server, "run", "tests", "--project", "shop")
    failing = next(one for one in server.asked if "test_pays" in one["test_id"])
    assert (failing["context"]["last_failed"], failing["context"]["failure_rate_recent"]) == (1.0, 1.0)
    passing = next(one for one in server.asked if "test_signs_in" in one["test_id"])
    assert (passing["context"]["last_failed"], passing["context"]["failure_rate_recent"]) == (0.0, 0.0)
    assert len({one["episode_id"] for one in server.asked}) == 1


def test_with_skip_the_class_does_not_run_and_nothing_is_reported(
    project: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tests that did not run would be priced as if they had passed."""
    server.action = lambda test_id: PriorityClass.SKIP if "test_adds" in test_id else PriorityClass.HIGH
    assert run(server, "run", "tests", "--skip") == 1
    assert "test_adds" not in ran(project)
    assert server.told == []
    assert "no price, so nothing to report" in capsys.readouterr().err
    assert len(json.loads((project / ".order_suite.json").read_text(encoding="utf-8"))[0]["runs"]) == 6


def test_without_a_server_the_suite_runs_as_collected(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that is down would stop every build."""
    monkeypatch.setattr(suite, "DecisionClient", lambda url, token: DecisionClient(url, token, retries=0))
    assert run(Server(url=f"http://127.0.0.1:{free_port()}"), "run", "tests") == 1
    assert "run as they were collected" in capsys.readouterr().err


def test_a_report_that_was_not_taken_can_be_sent_again(project: Path, server: Server) -> None:
    """One failure of the server would lose a cycle, or change the build's verdict."""
    server.broken = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "DecisionClient", lambda url, token: DecisionClient(url, token, retries=0))
        assert run(server, "run", "tests") == 1
    server.broken = False
    assert run(server, "report", "--junit", ".order_suite.junit.xml") == 0
    assert len(server.told) == 7
    assert run(server, "report", "--junit", ".order_suite.junit.xml") == suite.REFUSED
    assert len(json.loads((project / ".order_suite.json").read_text(encoding="utf-8"))) == 1


def test_other_runners_get_an_order_and_report_by_junit(
    project: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only pytest could be ordered; here Playwright's ids and report."""
    ids = [f"cart.spec.ts::Cart › step {number}" for number in range(3)]
    Path("ids.txt").write_text("\n".join([*ids, ""]), encoding="utf-8")
    server.action = lambda test_id: PriorityClass.HIGH if "step 2" in test_id else PriorityClass.LOW
    assert run(server, "order", "--tests", "ids.txt") == 0
    assert capsys.readouterr().out.splitlines()[0] == ids[2]
    cases = [(f"Cart › step {number}", "failed" if number == 2 else "passed", 1.0) for number in range(3)]
    Path("results.xml").write_bytes(junit(*cases, suite_name="cart.spec.ts"))
    assert run(server, "report", "--junit", "results.xml") == 0
    assert len(server.told) == 3
    Path("ids.txt").write_text(f"{ids[0]}\n{ids[0]}\n", encoding="utf-8")
    assert run(server, "order", "--tests", "ids.txt") == suite.REFUSED


def test_playwrights_projects_are_ordered_and_reported_by_its_json(
    project: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two browsers would be asked about as one test that nobody has ingested."""
    Path("ids.txt").write_text(f"{CHROMIUM}\n{FIREFOX}\n", encoding="utf-8")
    server.action = lambda test_id: PriorityClass.HIGH if "[firefox]" in test_id else PriorityClass.LOW
    assert run(server, "order", "--tests", "ids.txt") == 0
    assert capsys.readouterr().out.splitlines() == [FIREFOX, CHROMIUM]
    assert {one["test_id"] for one in server.asked} == {
        f"cart.spec.ts › Cart › pays [{browser}]" for browser in ("chromium", "firefox")
    }
    Path("results.json").write_bytes(PAYS)
    assert run(server, "report", "--junit", "results.json") == 0
    assert len(server.told) == 2


def test_ids_without_the_project_are_refused_with_those_of_the_report(
    project: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict of any browser would be taken for the test's."""
    Path("ids.txt").write_text("cart.spec.ts::Cart › pays\n", encoding="utf-8")
    Path("results.json").write_bytes(PAYS)
    assert run(server, "order", "--tests", "ids.txt") == 0
    assert run(server, "report", "--junit", "results.json") == suite.REFUSED
    assert f"as 'cart.spec.ts::Cart › pays' is one; it names '{CHROMIUM}'" in capsys.readouterr().err
    assert run(server, "order", "--tests", "ids.txt", "--browser", "chromium") == 0
    assert server.asked[-1]["test_id"] == "cart.spec.ts › Cart › pays [chromium]"
    assert run(server, "report", "--junit", "results.json") == 0
    assert len(server.told) == 1
    Path("ids.txt").write_text(f"cart.spec.ts::Cart › pays\n{CHROMIUM}\n", encoding="utf-8")
    assert run(server, "order", "--tests", "ids.txt", "--browser", "chromium") == suite.REFUSED


def test_identities_follow_the_projects_own_rules(
    project: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """With rules of its own, a project's tests would be asked about under names that its features do not have."""
    Path("rules.yaml").write_text("replace: [{pattern: 'step \\d', with: 'step <n>'}]\n", encoding="utf-8")
    Path("ids.txt").write_text("cart.spec.ts::Cart › step 1\n", encoding="utf-8")
    assert run(server, "order", "--tests", "ids.txt", MLOPS_IDENTITY_RULES="rules.yaml") == 0
    assert [one["test_id"] for one in server.asked] == ["cart.spec.ts › Cart › step <n>"]
    assert run(server, "order", "--tests", "ids.txt", MLOPS_IDENTITY_RULES="absent.yaml") == suite.REFUSED
    assert "absent.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"<html/>", junit(("elsewhere", "passed", 1.0))])
def test_a_report_of_something_else_is_refused(project: Path, server: Server, content: bytes) -> None:
    """The cycle would be forgotten without its outcome."""
    Path("ids.txt").write_text("a.py::t0\n", encoding="utf-8")
    run(server, "order", "--tests", "ids.txt")
    Path("results.xml").write_bytes(content)
    assert run(server, "report", "--junit", "results.xml") == suite.REFUSED
    assert suite.Memory(Path(".order_suite.json")).waiting().steps[0].test.id == "a.py::t0"


def test_outcomes_are_not_lost_to_a_failing_server(tmp_path: Path, server: Server) -> None:
    """A cycle that waits would be forgotten before the server has it."""
    memory = suite.Memory(tmp_path / "history.json")
    memory.wait_for(decided([1], [0.5], [1.0]))
    (tmp_path / "r.xml").write_bytes(junit(("t0", "failed", 0.1)))
    server.broken = True
    with DecisionClient(server.url, retries=0) as client:
        with pytest.raises(ServerUnavailableError):
            suite.report(client, memory, tmp_path / "r.xml", RULES)
        assert memory.waiting().cycle_id == "now"
        server.broken = False
        receipt = suite.report(client, memory, tmp_path / "r.xml", RULES)
    assert receipt.accepted == 1


def test_the_shell_example_asks_a_valid_question() -> None:
    """A context field that was renamed would make the first documented call a 422."""
    script = (EXAMPLES / "curl.sh").read_text(encoding="utf-8")
    request = script.partition("request='")[2].partition("'")[0]
    parsed = request_model("execution").model_validate_json(request)
    assert parsed.agent == "execution"
    assert os.access(EXAMPLES / "curl.sh", os.X_OK)
    subprocess.run(["bash", "-n", EXAMPLES / "curl.sh"], check=True)
