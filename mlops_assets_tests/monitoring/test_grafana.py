"""Panels become a document that Grafana takes: its published model, positions, and what is refused of it."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mlops_assets.monitoring.grafana import Panel, Query, Section, Variable, dashboard

SCHEMA = json.loads((Path(__file__).parent / "grafana_dashboard.schema.json").read_text(encoding="utf-8"))
PANEL = Panel("Latency", "Of what.", [Query("a", "{{b}}"), Query("c")], "s", limits=(None, 0.1, 0.5))


def problems(document: dict[str, Any]) -> list[str]:
    """What Grafana's model says against a document, and what a schema cannot say."""
    found = [f"{one.json_path}: {one.message}" for one in Draft202012Validator(SCHEMA).iter_errors(document)]
    taken: set[tuple[int, int]] = set()
    seen: set[int] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if taken & cells:
            found.append(f"{panel['title']} lies on another panel")
        if any(x >= 24 for x, _ in cells):
            found.append(f"{panel['title']} is wider than the page")
        if panel["id"] in seen:
            found.append(f"{panel['title']} has the number of another panel")
        letters = [target["refId"] for target in panel.get("targets", [])]
        if len(set(letters)) != len(letters):
            found.append(f"{panel['title']} has two queries of one letter")
        taken |= cells
        seen.add(panel["id"])
    return found


def made(*panels: Panel) -> dict[str, Any]:
    """A dashboard of one section, with a variable."""
    return dashboard("some-dashboard", "Some", [Section("All", panels)], [Variable("agent", "Agent", "m", "agent")])


def test_every_kind_of_panel_is_in_the_model() -> None:
    """Grafana shows an error in place of a panel, or leaves out what it does not know."""
    kinds = [Panel(kind, "Of what.", [Query("a")], kind=kind) for kind in ("timeseries", "stat", "heatmap", "table")]
    document = made(PANEL, *kinds)
    assert problems(document) == []
    lines = document["panels"][1]["fieldConfig"]["defaults"]
    assert lines["thresholds"]["steps"] == [
        {"color": "green", "value": None},
        {"color": "orange", "value": 0.1},
        {"color": "red", "value": 0.5},
    ]
    assert lines["custom"]["thresholdsStyle"] == {"mode": "line"}
    assert [(one["refId"], one["legendFormat"]) for one in document["panels"][1]["targets"]] == [
        ("A", "{{b}}"),
        ("B", "__auto"),
    ]
    formats = {panel["type"]: panel["targets"][0]["format"] for panel in document["panels"][2:]}
    assert formats == {"timeseries": "time_series", "stat": "time_series", "heatmap": "heatmap", "table": "table"}
    # A number shows what is now, a curve what was.
    assert [panel["targets"][0]["instant"] for panel in document["panels"][1:]] == [False, False, True, False, True]


@given(st.lists(st.tuples(st.integers(1, 24), st.integers(1, 12)), min_size=1, max_size=12))
def test_panels_never_lie_on_each_other(sizes: list[tuple[int, int]]) -> None:
    """One panel hides another one."""
    panels = [
        Panel(str(i), "Of what.", [Query("a")], width=width, height=height) for i, (width, height) in enumerate(sizes)
    ]
    document = dashboard("some-dashboard", "Some", [Section("One", panels), Section("Two", panels)])
    assert problems(document) == []
    assert len(document["panels"]) == 2 * len(sizes) + 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(uid="a b"), "$.uid"),
        (lambda d: d.pop("schemaVersion"), "'schemaVersion' is a required property"),
        (lambda d: d.update(graphTooltip=3), "$.graphTooltip"),
        (lambda d: d["panels"][1].update(type="graph"), "'graph' is not one of"),
        (lambda d: d["panels"][1].update(fieldconfig={}), "'fieldconfig' was unexpected"),
        (lambda d: d["panels"][1].update(id=1), "has the number of another panel"),
        (lambda d: d["panels"][1]["gridPos"].update(y=0), "lies on another panel"),
        (lambda d: d["panels"][1]["gridPos"].update(x=20), "is wider than the page"),
        (lambda d: d["panels"][1]["gridPos"].update(w=0), "0 is less than the minimum of 1"),
        (lambda d: d["panels"][1]["targets"][1].update(refId="A"), "has two queries of one letter"),
        (lambda d: d["panels"][1]["targets"][0].pop("expr"), "'expr' is a required property"),
        (lambda d: d["panels"][1]["targets"][0].update(datasource="Prometheus"), "is not of type 'object'"),
        (lambda d: d["panels"][1]["fieldConfig"]["defaults"]["thresholds"]["steps"].pop(0), "is not of type 'null'"),
        (lambda d: d["templating"]["list"][0].update(type="choice"), "'choice' is not one of"),
        (lambda d: d["annotations"]["list"][0].pop("iconColor"), "'iconColor' is a required property"),
        (lambda d: d["links"][0].pop("icon"), "'icon' is a required property"),
    ],
)
def test_what_grafana_does_not_take_is_seen(change: Any, problem: str) -> None:
    """A validation that lets everything pass says nothing of the dashboards that pass it."""
    document = deepcopy(made(PANEL))
    assert problems(document) == []
    change(document)
    assert any(problem in one for one in problems(document)), problems(document)
