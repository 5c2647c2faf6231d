"""`config.example.toml` tells the truth: every setting is there, with the default it really has."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.settings import ConfigError, Settings, load
from tests.support import ROOT

EXAMPLE = ROOT / "config.example.toml"
# `#name = …` and `#[section]` are settings, `##name = …` an example without a default; prose has a space: `# words`.
SETTING = re.compile(r"^#(?=[a-z]\w* = |\[)")
EXAMPLE_ONLY = re.compile(r"^##(?=[a-z]\w* = )")


def uncommented(pattern: re.Pattern[str] = SETTING) -> str:
    """The example with its settings switched on."""
    return "\n".join(pattern.sub("", line) for line in EXAMPLE.read_text().splitlines())


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def defaults() -> dict[str, Any]:
    """Dotted keys and their defaults, in the words of TOML."""
    return dict(flat(msgspec.to_builtins(Settings())))


def loaded(text: str, folder: Path) -> Settings:
    """The settings from this text as the file, and an empty environment."""
    path = folder / "config.toml"
    path.write_text(text)
    return load(path, {})


def test_every_setting_is_in_the_example_with_its_default() -> None:
    """A forgotten key cannot be found by an operator, and a wrong default misleads one."""
    shown = dict(flat(tomllib.loads(uncommented())))
    expected = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in defaults().items()
        if value is not None
    }
    assert shown == expected


def test_what_has_no_default_is_shown_by_an_example_that_loads(tmp_path: Path) -> None:
    """TOML cannot say `not set`, so these are marked by `##`."""
    both = re.sub(EXAMPLE_ONLY.pattern, "", uncommented(), flags=re.MULTILINE)
    examples = dict(flat(tomllib.loads(both))).keys() - dict(flat(tomllib.loads(uncommented()))).keys()
    assert examples == {key for key, value in defaults().items() if value is None}
    loaded(both, tmp_path)


def test_the_example_with_everything_switched_on_changes_nothing(tmp_path: Path) -> None:
    """What is loaded from it are the defaults, in type too."""
    assert msgspec.to_builtins(loaded(uncommented(), tmp_path)) == msgspec.to_builtins(Settings())


def test_the_example_as_it_is_sets_nothing() -> None:
    """Somebody will copy it whole: then an empty text in it must not take away what `make run` provides."""
    assert tomllib.loads(EXAMPLE.read_text()) == {}


@pytest.mark.parametrize("section", sorted({key.rpartition(".")[0] for key in defaults()}))
def test_switching_on_one_setting_changes_no_other(section: str, tmp_path: Path) -> None:
    """A section with one key in it keeps the defaults of the rest."""
    for line in _lines_of(section):
        settings = loaded(f"[{section}]\n{line}", tmp_path)
        assert msgspec.to_builtins(settings) == msgspec.to_builtins(Settings()), line


def test_every_setting_has_a_line_of_meaning() -> None:
    """A name and a number are no documentation."""
    bare = [
        line for line in EXAMPLE.read_text().splitlines() if re.match(r"##?[a-z]\w* = ", line) and "  # " not in line
    ]
    assert bare == []


def test_a_misspelt_key_is_refused_by_its_name(tmp_path: Path) -> None:
    """Otherwise this file's checks would prove nothing: everything would load."""
    with pytest.raises(ConfigError, match="concurency"):
        loaded(uncommented().replace("concurrency = ", "concurency = "), tmp_path)


def _lines_of(section: str) -> list[str]:
    _, _, rest = uncommented().partition(f"\n[{section}]\n")
    return [line for line in rest.split("\n[")[0].splitlines() if " = " in line and not line.startswith("#")]
