"""What the documentation names is there: files, classes, settings, variables, commands, metrics, Protocols' members."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from app.__main__ import _parser
from app.settings import Settings
from engine.charging import Acquirer
from handlers.routes import Surface
from metrics.instruments import Instruments
from tests.docs.pages import DOCS, blocks, pages
from tests.docs.test_reference import flat
from tests.support import ROOT

PACKAGES: Final = ("app", "bench", "clients", "engine", "handlers", "metrics", "resilience", "simulators", "tests")
CODE: Final = re.compile(r"`([^`\n]+)`")
FILE: Final = re.compile(r"(?:[\w.-]+/)+[\w.-]*\.(?:py|md|toml|ya?ml|json|cfg)|[\w.-]+\.(?:toml|yaml)")
PLACEHOLDER: Final = re.compile(r"kiosk|[A-Z]{4}|NNNN")
"""What a reader is to put a name of his own for."""
DATED: Final = {ROOT / "CHANGELOG.md", *DOCS.glob("decisions/*.md"), DOCS / "configuration.md"}
"""They tell of what was, or are made from the types."""
PAGES: Final = [page for page in pages() if page not in DATED]
COMMAND: Final = re.compile(r"(\$\()?(?:\.venv/bin/)?python -m app (.*)")


def names(text: str) -> Iterator[str]:
    """The code within the lines of a page."""
    for block in blocks(text):
        text = text.replace(block.text, "")
    return (found for found in CODE.findall(text) if not PLACEHOLDER.search(found))


def missing_files(text: str) -> list[str]:
    """The files that a page names and that are not there."""
    made_later = {"config.toml", "secrets.json"}
    found = (name for name in names(text) if FILE.fullmatch(name) and name not in made_later)
    return [name for name in found if not (ROOT / name).exists() and not name.startswith(("orderService", "data/"))]


def missing_objects(text: str) -> list[str]:
    """The modules, classes and functions that a page names by their dotted names and that are not there."""
    found = []
    for name in names(text):
        if not re.fullmatch(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+", name) or FILE.fullmatch(name) or name in settings():
            continue
        module, _, attribute = name.rpartition(".")
        if not _there(module, attribute):
            found.append(name)
    return found


def _there(module: str, attribute: str) -> bool:
    if (ROOT / f"{module}.{attribute}".replace(".", "/")).with_suffix(".py").is_file():
        return True
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        # A method: the class stands before it.
        holder, _, name = module.rpartition(".")
        return bool(holder) and hasattr(getattr(importlib.import_module(holder), name, None), attribute)


def settings() -> set[str]:
    """Every setting's dotted name, and every section's."""
    keys = set(flat(msgspec.to_builtins(Settings())))
    sections = {key[: at.start()] for key in keys for at in re.finditer(r"\.", key)}
    return keys | sections | {"mpesa.clients", "mpesa.packages", "fallbacks"}


def missing_settings(text: str) -> list[str]:
    """The settings that a page names, by key or by variable, and that are not there."""
    known = settings()
    tops = set(Settings.__struct_fields__)
    dotted = [name for name in names(text) if re.fullmatch(r"[a-z_]+(?:\.[a-z_0-9]+)+", name)]
    variables = re.findall(r"\bPAYMENTS__[A-Z0-9_]*[A-Z0-9]", text)
    dotted += [name.removeprefix("PAYMENTS__").lower().replace("__", ".") for name in variables]
    dotted = [name for name in dotted if name.split(".")[0] in tops]
    ours = [name for name in dotted if not name.startswith("fallbacks.") and not FILE.fullmatch(name)]
    return [name for name in ours if name not in known and not name.startswith(tuple(f"{p}." for p in PACKAGES))]


def commands(text: str) -> list[str]:
    """The commands in the shell blocks of a page."""
    lines = [
        line
        for block in blocks(text)
        if block.info.split()[:1] == ["sh"]
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    found = [match for line in lines if (match := COMMAND.search(line))]
    return [match[2].partition(")")[0] if match[1] else match[2] for match in found]


def subcommands(parser: argparse.ArgumentParser, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the parser, with those that it stands below; actions that are arguments too."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        chosen = [action for action in parser._actions if not action.option_strings and action.choices]
        yield from ((*before, str(choice)) for action in chosen for choice in action.choices or ())
        if not chosen:
            yield before
    for action in below:
        for name, sub in action.choices.items():
            yield from subcommands(sub, (*before, name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    assert missing_files(text) == []
    assert missing_objects(text) == []
    assert missing_settings(text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_on_a_page_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page.read_text()):
        try:
            _parser().parse_args(shlex.split(command, comments=True))
        except SystemExit:
            pytest.fail(f"{command}: {capsys.readouterr().err}")


def test_operations_tells_of_every_command() -> None:
    text = (DOCS / "operations.md").read_text()
    for command in subcommands(_parser()):
        words = " ".join(command)
        assert re.search(rf"(?:python -m app|·) `?{words}\b|`{words}\b", text), words


def test_the_how_tos_tell_what_the_protocols_ask_for() -> None:
    surface = (DOCS / "how-to/add-a-surface.md").read_text()
    for name in Surface.__annotations__:
        assert f"\n| `{name}` |" in surface, name
    assert "\n| `routes()` |" in surface
    acquirer = (DOCS / "how-to/add-an-acquirer.md").read_text()
    for name in ("send", "find"):
        parameters = [each for each in inspect.signature(getattr(Acquirer, name)).parameters if each != "self"]
        assert f"\n| `{name}({', '.join(parameters)})` |" in acquirer, name


def test_the_metrics_that_operations_names_are_exported() -> None:
    exported = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for instrument in vars(Instruments(CollectorRegistry())).values()
        if hasattr(instrument, "describe")
        for family in instrument.describe()
    }
    text = (DOCS / "operations.md").read_text()
    named = {name for name in names(text) if re.fullmatch(r"[a-z]+(?:_[a-z]+)+", name)}
    measured = {name for name in named if re.search(r"_(total|seconds|attempts|items|events|state)$", name)}
    assert len(measured) > 5
    assert measured - exported == set()


# The tests above can fail


@pytest.mark.parametrize(
    ("text", "look"),
    [
        ("`engine/nothing.py`", missing_files),
        ("`engine.charging.Nobody`", missing_objects),
        ("`engine.nowhere.Acquirer`", missing_objects),
        ("`app.wiring.Parts.window`", missing_objects),
        ("`redis.ulr`", missing_settings),
        ("`PAYMENTS__REDIS__ULR`", missing_settings),
    ],
)
def test_what_is_not_there_is_found(text: str, look: object) -> None:
    assert callable(look)
    assert len(look(text)) == 1
    assert look("`engine/charging.py` `engine.charging.Acquirer` `redis.url` `PAYMENTS__REDIS__URL`") == []


def test_a_command_that_is_not_there_is_found() -> None:
    text = "```sh\n.venv/bin/python -m app audit --topci\n```\n"
    assert commands(text) == ["audit --topci"]
    with pytest.raises(SystemExit):
        _parser().parse_args(shlex.split(commands(text)[0]))
