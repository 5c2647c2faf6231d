"""`docs/configuration.md` is what the settings types say now, and it says something about each of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from app import reference
from app.__main__ import is_secret
from app.settings import Settings, load
from tests.docs.pages import DOCS
from tests.support import ROOT

PAGE = DOCS / "configuration.md"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def variable(key: str) -> str:
    """The environment variable of a dotted key."""
    return f"PAYMENTS__{key.upper().replace('.', '__')}"


def test_the_page_is_current() -> None:
    command = [sys.executable, "-m", "app", "config-reference"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made == PAGE.read_text(), "a setting has changed: run `make docs`"


def test_every_setting_has_its_variable_on_the_page() -> None:
    text = PAGE.read_text()
    for key in flat(msgspec.to_builtins(Settings())):
        section, _, name = key.rpartition(".")
        alone = f"`{variable(key)}`" in text
        shared = f"`{variable(section)}__…`" in text and f"`…__{name.upper()}`" in text
        assert alone or shared, key


def test_the_variables_on_the_page_set_what_they_say() -> None:
    """Each is taken, with the default that stands beside it, and changes nothing."""
    rows = re.findall(r"^\| `\w+` \| `(PAYMENTS__[A-Z0-9_]+)` \| [^|]+ \| `([^`]*)` \|", PAGE.read_text(), re.MULTILINE)
    rows = [(name, value) for name, value in rows if "__NAME__" not in name]
    assert len(rows) > 100
    for name, default in rows:
        value = default if default.startswith("[") else default.strip('"')
        assert msgspec.to_builtins(load(None, {name: value})) == msgspec.to_builtins(Settings()), name


def test_secrets_are_marked() -> None:
    text = PAGE.read_text()
    for name in ("AUTH__SECRET", "CARDS__KEYS", "ACQUIRER__API_KEY", "KAFKA__SASL_PASSWORD", "MPESA__PASSKEY"):
        assert re.search(rf"`PAYMENTS__{name}` .* A secret\. \|$", text, re.MULTILINE), name


class Silent(msgspec.Struct, frozen=True):
    """A section with a key that says nothing."""

    told: int = 1
    """Something."""
    untold: int = 1


class Holder(msgspec.Struct, frozen=True):
    """Settings that nobody finished."""

    silent: Silent = Silent()


def test_a_setting_without_a_docstring_is_refused_by_name() -> None:
    with pytest.raises(reference.Undocumented, match=r"silent\.untold") as refused:
        reference.reference(is_secret, Holder)
    assert "silent.told" not in str(refused.value)
