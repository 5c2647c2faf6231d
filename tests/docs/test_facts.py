"""Tables and drawings that repeat what the code decides say what it decides."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from app.settings import Settings, topics
from app.surface_settings import VaultSettings
from engine.facts import MOVES, AttemptState, Outcome, Status
from handlers.vault_listeners import OrderRefunded, ProductRefunded
from resilience.guard import GuardSettings
from tests.docs.pages import DOCS
from tests.docs.test_reference import flat

CONCEPTS = (DOCS / "concepts.md").read_text()
SECONDS = {"s": 1, "minutes": 60, "a day": 86_400}


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    _, _, rest = text.partition(f"\n## {heading}\n")
    assert rest, heading
    return rest.partition("\n## ")[0]


def first_cells(text: str) -> set[str]:
    """The code in the first cells of the tables' rows."""
    return {name for row in re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def test_the_drawing_of_the_states_has_every_move_and_no_other() -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+):", CONCEPTS, re.MULTILINE))
    assert drawn == {(before.value, after.value) for before, allowed in MOVES.items() for after in allowed}


def test_the_architecture_s_table_of_moves_is_that_of_the_code() -> None:
    text = section((DOCS / "architecture.md").read_text(), "After the charge")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    told = {before: set(re.findall(r"`(\w+)`", after)) for before, after in rows.items()}
    assert told == {before.value: {each.value for each in allowed} for before, allowed in MOVES.items() if allowed}


def test_every_status_outcome_and_state_of_an_attempt_is_explained() -> None:
    assert first_cells(section(CONCEPTS, "Payments and their states")) == {each.value for each in Status}
    assert first_cells(section(CONCEPTS, "Outcomes")) == {each.value for each in Outcome}
    assert first_cells(section(CONCEPTS, "Attempts")) == {each.value for each in AttemptState}


def test_the_time_limits_are_the_defaults() -> None:
    defaults: dict[str, Any] = flat(msgspec.to_builtins(Settings()))
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| (`[^|]+) \|$", section(CONCEPTS, "Time limits"), re.MULTILINE)
    assert len(rows) > 5
    for told, keys in rows:
        first, *more = re.findall(r"`([\w.]+)`", keys)
        names = [first, *(first.rpartition(".")[0] + each for each in more if each.startswith("."))]
        limits = (
            [86_400.0]
            if told == "a day"
            else [float(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+) (s|minutes)\b", told)]
        )
        assert limits == [defaults[name] for name in names], (told, names)


def test_the_bounds_that_operations_names_are_settings_or_a_guard_s() -> None:
    known = {name.rpartition(".")[2] for name in flat(msgspec.to_builtins(Settings()))}
    text = section((DOCS / "operations.md").read_text(), "Capacity and bounds")
    named = {name.rpartition(".")[2] for name in re.findall(r"`[\w.]*\.(\w+)`", text)}
    assert {"jobs_max", "concurrency_max"} <= named <= known | set(GuardSettings.__struct_fields__)


def test_the_messages_that_the_vault_listens_for_have_the_fields_of_their_types() -> None:
    """A question mark stands behind what may be left out."""
    text = section((DOCS / "surfaces/vault.md").read_text(), "What it listens for")
    for topic, kind in (
        (VaultSettings().order_refunded_topic, OrderRefunded),
        (VaultSettings().product_refunded_topic, ProductRefunded),
    ):
        row = re.search(rf"^\| `{topic}` \| `{{(.+)}}` \|", text, re.MULTILINE)
        assert row is not None, topic
        told = set(re.findall(r'"(\w+)"(\??)', row[1]))
        assert told == {(each.encode_name, "" if each.required else "?") for each in msgspec.structs.fields(kind)}


def test_the_topics_that_operations_names_are_the_defaults() -> None:
    text = section((DOCS / "operations.md").read_text(), "Kafka")
    for topic in topics(Settings()).values():
        assert not topic or f"| `{topic}` |" in text, topic
    for surface in topics(Settings()):
        assert (DOCS / f"surfaces/{surface}.md").is_file(), f"the surface {surface} has no page"
