"""Every alert has its section in the runbook, and what the runbook says to run is there to be run."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml  # type: ignore[import-untyped]

from app.__main__ import _parser
from tests.metrics.runbook import TEXT, arguments, commands, sections
from tests.support import ROOT

ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((ROOT / "metrics/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
PARTS = ("**Money.**", "**Look at.**", "**Do.**", "**Do not.**", "**Ends**")


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert list(sections()) == list(ALERTS), "in the order of the rules"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_points_to_its_section_which_says_all_that_is_needed(name: str) -> None:
    assert ALERTS[name]["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    section = sections()[name]
    places = [section.find(part) for part in PARTS]
    assert -1 not in places, "a part is missing"
    assert places == sorted(places)
    assert section.strip().startswith({"page": "Page. ", "ticket": "Ticket. "}[ALERTS[name]["labels"]["severity"]])


def test_every_link_within_the_runbook_leads_somewhere() -> None:
    anchors = {name.lower() for name in sections()}
    linked = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert linked, "there are links"
    assert linked <= anchors


@pytest.mark.parametrize("command", sorted(set(commands("python -m app"))))
def test_a_command_of_the_runbook_is_understood(command: str) -> None:
    """By the parser that the engine itself uses; nothing is run."""
    assert callable(_parser().parse_args(arguments(command)).command)


def test_the_commands_are_found_where_they_stand() -> None:
    """Otherwise the test above would hold nothing."""
    found = {arguments(each)[0] for each in commands("python -m app")}
    assert found >= {"audit", "unknown", "items", "reconcile", "events", "serve", "token"}
    text = "x `python -m app one --two` y\n```sh\npython -m app three\nA=$(python -m app four)\n```"
    assert [arguments(each) for each in commands("python -m app", text)] == [["one", "--two"], ["three"], ["four"]]


@pytest.mark.parametrize("command", ["unknown resolve --outcome perhaps", "events parked mend", "item list"])
def test_a_command_that_is_not_there_is_refused(command: str) -> None:
    """The parser would not take anything."""
    with pytest.raises(SystemExit):
        _parser().parse_args(shlex.split(command))
