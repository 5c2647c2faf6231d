"""The stored dashboards are what the code builds, and each panel says what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from metrics.dashboards import DASHBOARDS, files
from metrics.dashboards.__main__ import FOLDER, write
from metrics.dashboards.panels import COLUMNS, Section, dashboard, graph
from tests.support import ROOT

# Grafana shows an unknown unit as a word behind the number, and says nothing.
UNITS = {"short", "s", "bytes", "percentunit", "reqps", "ops", "eps", "mps"}


def panels(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that is drawn: rows are not."""
    return [panel for panel in tree["panels"] if panel["type"] != "row"]


def problems(tree: dict[str, Any]) -> list[str]:
    """What is wrong with a dashboard."""
    found = []
    ids = [panel["id"] for panel in tree["panels"]]
    if len(set(ids)) < len(ids):
        found.append("an id is there twice")
    taken: set[tuple[int, int]] = set()
    for panel in tree["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if cells & taken or max(x for x, _ in cells) >= COLUMNS:
            found.append(f"{panel['title']}: its place is taken, or outside")
        taken |= cells
    for panel in panels(tree):
        name = panel["title"] or "a panel without a title"
        if not panel["title"]:
            found.append(name)
        if not panel["description"].endswith("."):
            found.append(f"{name}: no description")
        if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            found.append(f"{name}: no unit, or an unknown one")
        asked = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        if any(each != {"type": "prometheus", "uid": "${datasource}"} for each in asked):
            found.append(f"{name}: does not ask the chosen data source")
        if not panel["targets"] or not all(target["expr"] and target["legendFormat"] for target in panel["targets"]):
            found.append(f"{name}: asks nothing, or does not name what it shows")
    return found


def test_the_stored_dashboards_are_what_the_code_builds() -> None:
    """`make dashboards` writes them."""
    stored = {path.name: path.read_text() for path in FOLDER.glob("*")}
    assert stored.keys() == files().keys()
    for name, text in files().items():
        assert stored[name] == text, f"{name} is not what the code builds: run `make dashboards`"


def test_writing_takes_away_what_is_no_dashboard_any_more(tmp_path: Path) -> None:
    (tmp_path / "gone.json").write_text("{}")
    write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files()


@pytest.mark.parametrize("tree", DASHBOARDS, ids=[tree["uid"] for tree in DASHBOARDS])
def test_every_panel_says_what_it_shows_and_has_a_place_of_its_own(tree: dict[str, Any]) -> None:
    assert problems(tree) == []
    assert len(panels(tree)) >= 8


def _panel(title: str = "Title", unit: str = "short", description: str = "Text.", query: str = "up") -> Any:
    return graph(title, unit, description, (query, "legend"), width=20)


@pytest.mark.parametrize("wrong", [_panel(title=""), _panel(unit="furlongs"), _panel(description=""), _panel(query="")])
def test_a_panel_that_does_not_say_what_it_shows_is_found(wrong: Any) -> None:
    """The check above can fail."""
    assert problems(dashboard("uid", "Title", "Text.", Section("Section", (wrong,))))


def test_a_panel_on_the_place_of_another_is_found() -> None:
    tree = dashboard("uid", "Title", "Text.", Section("Section", (_panel("One"), _panel("Two"))))
    assert problems(tree) == []
    tree["panels"][2]["gridPos"] = {**tree["panels"][1]["gridPos"], "x": 3}
    tree["panels"][2]["id"] = tree["panels"][1]["id"]
    assert len(problems(tree)) == 2


def test_dashboards_have_names_of_their_own_and_grafanas_first_page_is_one() -> None:
    assert len({tree["uid"] for tree in DASHBOARDS}) == len({tree["title"] for tree in DASHBOARDS}) == 5
    home = re.search(r"HOME_DASHBOARD_PATH: /etc/grafana/dashboards/(\S+)", (ROOT / "compose.yaml").read_text())
    assert home is not None
    assert json.loads((FOLDER / home.group(1)).read_text())["uid"] == "payments-overview"
