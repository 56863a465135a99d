"""Grafana's classic dashboard model, as much of it as these dashboards need: panels in sections become one JSON document.

The model: https://grafana.com/docs/grafana/latest/visualizations/dashboards/build-dashboards/view-dashboard-json-model/
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# The identifier that the provisioned data source has.
DATA_SOURCE = {"type": "prometheus", "uid": "prometheus"}
# Of Grafana 10.0; newer ones read it, and migrate what they have to.
_SCHEMA_VERSION = 38
_COLUMNS = 24
_SEVERITY_COLORS = ("blue", "orange", "red")
Kind = Literal["timeseries", "stat", "heatmap", "table"]


@dataclass(frozen=True)
class Query:
    """One expression; `legend` is the name of its series, with labels such as `{{model_version}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture; `unit` is Grafana's, such as `s`, `percentunit`, `reqps`.

    `limits` are shown as lines: from where on it is INFO, WARNING and CRITICAL; None is never. `width` is of 24.
    """

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Kind = "timeseries"
    limits: tuple[float | None, float | None, float | None] = (None, None, None)
    width: int = 12
    height: int = 8


@dataclass(frozen=True)
class Section:
    """Panels below one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """A choice at the top: values of a label; all of them unless somebody chooses."""

    name: str
    label: str
    metric: str
    of: str


def dashboard(uid: str, title: str, sections: Sequence[Section], variables: Sequence[Variable] = ()) -> dict[str, Any]:
    """Return a dashboard's document; panels lie from left to right, in the order given."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["mlops"],
        "schemaVersion": _SCHEMA_VERSION,
        "timezone": "utc",
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "templating": {"list": [_variable(one) for one in variables]},
        "annotations": {"list": [_FIRING]},
        "links": [_OTHERS],
        "panels": list(_panels(sections)),
    }


def _panels(sections: Sequence[Section]) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for section in sections:
        number += 1
        yield {
            "type": "row",
            "id": number,
            "title": section.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
            "panels": [],
        }
        top += 1
        left, tallest = 0, 0
        for panel in section.panels:
            if left + panel.width > _COLUMNS:
                left, top, tallest = 0, top + tallest, 0
            number += 1
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": panel.height})
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    document = {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATA_SOURCE,
        "gridPos": position,
        "targets": [_target(panel, query, letter) for query, letter in zip(panel.queries, _letters(), strict=False)],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }
    if panel.kind == "table":
        document["transformations"] = [_WITHOUT_TIME]
    return document


def _target(panel: Panel, query: Query, letter: str) -> dict[str, Any]:
    # A number or a table shows what is now; a range would bring every sample of it.
    now = panel.kind in {"stat", "table"}
    return {
        "refId": letter,
        "datasource": DATA_SOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "format": {"heatmap": "heatmap", "table": "table"}.get(panel.kind, "time_series"),
        "instant": now,
        "range": not now,
    }


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [
        {"color": color, "value": limit}
        for color, limit in zip(_SEVERITY_COLORS, panel.limits, strict=True)
        if limit is not None
    ]
    field: dict[str, Any] = {"unit": panel.unit, "mappings": [], "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        lines = "line" if len(steps) > 1 else "off"
        field["color"] = {"mode": "palette-classic"}
        field["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 0,
            "showPoints": "never",
            # What was not known for a while stays a gap.
            "spanNulls": False,
            "thresholdsStyle": {"mode": lines},
        }
    elif panel.kind == "stat":
        field["color"] = {"mode": "thresholds"}
    return field


def _variable(variable: Variable) -> dict[str, Any]:
    query = f"label_values({variable.metric}, {variable.of})"
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": DATA_SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "hide": 0,
        "skipUrlSync": False,
    }


def _letters() -> Iterator[str]:
    return iter("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


_FIRING = {
    "name": "Alerts",
    "datasource": DATA_SOURCE,
    "enable": True,
    "hide": False,
    "iconColor": "red",
    "expr": 'ALERTS{alertstate="firing"}',
    "step": "60s",
    "titleFormat": "{{alertname}}",
    "textFormat": "{{severity}}",
}
_OTHERS = {
    "type": "dashboards",
    "title": "Dashboards",
    "tags": ["mlops"],
    "asDropdown": True,
    "includeVars": False,
    "keepTime": True,
    "targetBlank": False,
    "icon": "external link",
    "tooltip": "",
    "url": "",
}
_WITHOUT_TIME = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True, "__name__": True}}}
_OPTIONS: dict[Kind, dict[str, Any]] = {
    "timeseries": {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    },
    "heatmap": {
        # The histogram's buckets are the rows: nothing is left to calculate.
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "steps": 64, "reverse": False},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"show": True, "yHistogram": False},
        "yAxis": {"axisPlacement": "left"},
    },
    "table": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "fields": ""}},
}
