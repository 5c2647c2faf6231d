"""What dashboards are made of: queries in panels, panels in sections, and the JSON that Grafana reads.

Panels flow from left to right, 24 columns to a line, so no place is ever written down and none is taken twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Final, Literal, NamedTuple

COLUMNS: Final = 24
_SCHEMA_VERSION: Final = 39
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_TOOLTIP: Final = {"mode": "multi", "sort": "desc"}
_LEGEND: Final = {"displayMode": "list", "placement": "bottom", "showLegend": True}

Kind = Literal["timeseries", "stat", "state-timeline"]
Json = dict[str, Any]


class Query(NamedTuple):
    """An expression of PromQL, and the name of what it gives; `{{label}}` is a label's value."""

    expression: str
    legend: str


class State(NamedTuple):
    """A value that has a name."""

    value: int
    text: str
    color: str


class Panel(NamedTuple):
    """One picture. `unit` is one of Grafana's names; `highest` bounds the axis."""

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    highest: float | None = None
    states: tuple[State, ...] = ()


class Section(NamedTuple):
    """Panels under a headline."""

    title: str
    panels: tuple[Panel, ...]


def graph(title: str, unit: str, description: str, *queries: tuple[str, str], **more: Any) -> Panel:
    """Lines over time, from pairs of expression and legend."""
    return Panel(title, unit, description, tuple(Query(*query) for query in queries), **more)


def number(title: str, unit: str, description: str, expression: str, **more: Any) -> Panel:
    """One number as of now."""
    query = Query(expression, title)
    return Panel(title, unit, description, (query,), **{"kind": "stat", "width": 4, "height": 4, **more})


def states(title: str, description: str, query: tuple[str, str], known: Sequence[State], **more: Any) -> Panel:
    """A band per series that shows by its colour what state it was in."""
    return Panel(title, "short", description, (Query(*query),), "state-timeline", states=tuple(known), **more)


def dashboard(uid: str, title: str, description: str, *sections: Section) -> Json:
    """The JSON of a dashboard."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["payments"],
        "description": description,
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "links": [_siblings()],
        "templating": {"list": [_datasource_variable()]},
        "panels": list(_placed(sections)),
    }


def _placed(sections: Sequence[Section]) -> Iterator[Json]:
    ids = count(1)
    y = 0
    for section in sections:
        yield {
            "type": "row",
            "id": next(ids),
            "title": section.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
        }
        x, y, line_height = 0, y + 1, 0
        for panel in section.panels:
            if x + panel.width > COLUMNS:
                x, y, line_height = 0, y + line_height, 0
            yield _panel_json(next(ids), panel, {"h": panel.height, "w": panel.width, "x": x, "y": y})
            x, line_height = x + panel.width, max(line_height, panel.height)
        y += line_height


def _panel_json(number_: int, panel: Panel, place: Json) -> Json:
    return {
        "type": panel.kind,
        "id": number_,
        "title": panel.title,
        "description": panel.description,
        "datasource": dict(_DATASOURCE),
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel.kind),
        "targets": [_target(index, query) for index, query in enumerate(panel.queries)],
    }


def _defaults(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "min": 0}
    if panel.highest is not None:
        defaults["max"] = panel.highest
    if panel.states:
        named = {str(state.value): {"text": state.text, "color": state.color} for state in panel.states}
        defaults["mappings"] = [{"type": "value", "options": named}]
        defaults["custom"] = {"fillOpacity": 80}
    return defaults


def _options(kind: Kind) -> Json:
    match kind:
        case "timeseries":
            return {"legend": dict(_LEGEND), "tooltip": dict(_TOOLTIP)}
        case "stat":
            return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "area"}
        case "state-timeline":
            return {"legend": dict(_LEGEND), "mergeValues": True, "showValue": "auto", "rowHeight": 0.9}


def _target(index: int, query: Query) -> Json:
    return {
        "refId": "ABCDEFGH"[index],
        "datasource": dict(_DATASOURCE),
        "editorMode": "code",
        "range": True,
        "expr": query.expression,
        "legendFormat": query.legend,
    }


def _datasource_variable() -> Json:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "Prometheus", "value": "prometheus"},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
    }


def _siblings() -> Json:
    """A menu of the other dashboards, at the same time range."""
    return {
        "title": "Payments",
        "type": "dashboards",
        "tags": ["payments"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }
