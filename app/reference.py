"""`python -m app config-reference`: every setting, from the types that hold them and the docstrings of their fields."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import json
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from app.settings import CONTRACT_ENV, PORT_ENV, PORT_SECTIONS, Settings
from handlers.cors import CorsSettings
from resilience.guard import GuardSettings
from resilience.limit_settings import RuleSettings, SurfaceRuleSettings

Kind = type[msgspec.Struct]

_INTRODUCTION: Final = """\
# Configuration

<!-- Made by `make docs` from the settings types. Change their docstrings, not this page. -->

Settings come from `config.toml` (or `--config FILE`), then from the environment, which wins: any key is
`PAYMENTS__SECTION__KEY`. Numbers, booleans and texts are written as they are, lists as in TOML. A key that there is
not, and a value out of its range, are refused by name. Secrets belong in the environment; `python -m app check-config`
shows what came of all this without them, and what `serve` misses. `config.example.toml` has every key to copy. How
they play together is in [operations](operations.md#configure).
"""
_SHARED: Final[Mapping[Kind, str]] = {
    GuardSettings: "A guard",
    SurfaceRuleSettings: "A surface's limit",
    RuleSettings: "A limit",
    CorsSettings: "Other origins",
}
"""What several sections have: described once, at the end. The first that fits counts."""
_TABLES: Final = (dict, Mapping)
_WORDS: Final = {int: "whole number", float: "number", str: "text", bool: "true or false"}


class Undocumented(ValueError):
    """Settings without a docstring; the message names them."""


class Key(NamedTuple):
    """One setting: its name within its section, and what the page says of it."""

    name: str
    words: str
    default: str
    meaning: str


class Section(NamedTuple):
    """A section of the file: its name as in `[name]`, and the type that holds it."""

    name: str
    kind: Kind


def reference(is_secret: Callable[[str], bool], settings: Kind = Settings) -> str:
    """The page. `is_secret` tells by a key's name whether `check-config` hides it. Raises `Undocumented`."""
    sections = list(_sections(settings, ""))
    _require_docstrings([*sections, *(Section(name, kind) for kind, name in _SHARED.items())])
    parts = [_INTRODUCTION, _contract_variables()]
    parts += [_section(section, is_secret) for section in sections]
    parts += [_shared(kind, name, is_secret) for kind, name in _SHARED.items()]
    return "\n".join(parts)


def _sections(kind: Kind, prefix: str) -> Iterator[Section]:
    """Every section below this one, in the order of the types."""
    for field in msgspec.structs.fields(kind):
        name = f"{prefix}{field.name}"
        if _is_struct(field.type):
            yield Section(name, field.type)
            yield from _sections(field.type, f"{name}.")
        elif entries := _entries(field.type):
            yield Section(f"{name}.NAME", entries)
            yield from _sections(entries, f"{name}.NAME.")


def _section(section: Section, is_secret: Callable[[str], bool]) -> str:
    prefix = f"PAYMENTS__{section.name.upper().replace('.', '__')}__"
    heading = f"{'###' if '.' in section.name else '##'} [{section.name}]"
    shared = _shared_by(section.kind)
    keys = _keys(section.kind, is_secret)
    if shared is None:
        return "\n".join([heading, "", _doc(section.kind), "", *_table(keys, prefix)])
    title = _SHARED[shared]
    about = "" if section.kind is shared else f" {_doc(section.kind)}"
    lines = [heading, "", f"[{title}](#{_anchor(title)}): `{prefix}…`.{about}", ""]
    usual = {key.name: key for key in _keys(shared, is_secret)}
    other = [key for key in keys if key != usual.get(key.name)]
    return "\n".join([*lines, *(["What is different:", "", *_table(other, prefix)] if other else [])])


def _shared(kind: Kind, title: str, is_secret: Callable[[str], bool]) -> str:
    return "\n".join([f"## {title}", "", _doc(kind), "", *_table(_keys(kind, is_secret), "…__")])


def _contract_variables() -> str:
    """The variables that the contracts promise, and which keys they set."""
    rows = [
        (f"`{name}`", ", ".join(f"`{section}.{key}`{_form(form)}" for section, key, form in places))
        for name, places in CONTRACT_ENV.items()
    ]
    ports = ", ".join(f"`{section}.port`" for section in PORT_SECTIONS)
    rows.append((f"`{PORT_ENV}`", f"the first of {ports} whose surface is enabled"))
    lines = ["## The contracts' variables", "", "| variable | sets |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {keys} |" for name, keys in rows), ""])


def _form(form: str) -> str:
    return "" if form == "{}" else f" as `{form.format('…')}`"


def _keys(kind: Kind, is_secret: Callable[[str], bool]) -> list[Key]:
    """The settings of a section, without the sections below it."""
    meanings = docstrings(kind)
    return [
        Key(
            field.encode_name,
            _words(field.type),
            _default(field),
            meanings.get(field.name, "") + (" A secret." if is_secret(field.encode_name) else ""),
        )
        for field in msgspec.structs.fields(kind)
        if not _is_struct(field.type) and _entries(field.type) is None
    ]


def _table(keys: list[Key], prefix: str) -> list[str]:
    if not keys:
        return []
    rows = [
        f"| `{key.name}` | `{prefix}{key.name.upper()}` | {key.words} | {key.default} | {key.meaning} |" for key in keys
    ]
    return [
        "| key | variable | type | default | |",
        "|---|---|---|---|---|",
        *(row.replace("\n", " ") for row in rows),
        "",
    ]


def _words(kind: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    if origin in _TABLES:
        return f"{_words(arguments[1])} by name"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(each) for each in arguments if each is not type(None))
    return _WORDS[kind]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return "not set" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _entries(kind: Any) -> Kind | None:
    """What a table of sections, `[section.NAME]`, holds of each name; None for anything else."""
    if get_origin(kind) in _TABLES and _is_struct(get_args(kind)[1]):
        held: Kind = get_args(kind)[1]
        return held
    return None


def _shared_by(kind: Kind) -> Kind | None:
    return next((shared for shared in _SHARED if issubclass(kind, shared)), None)


def _anchor(title: str) -> str:
    return title.lower().replace("'", "").replace(" ", "-")


def _doc(kind: Kind) -> str:
    return inspect.cleandoc(kind.__doc__ or "")


@functools.cache
def docstrings(kind: Kind) -> Mapping[str, str]:
    """What stands below each field of a settings type, those of its bases included."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if _is_struct(base) and base is not msgspec.Struct:
            found |= _written(base)
    return found


def _written(kind: type) -> dict[str, str]:
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    body, found = definition.body, dict[str, str]()
    for field, below in itertools.pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
            case _:
                pass
    return found


def _require_docstrings(sections: list[Section]) -> None:
    missing = [
        f"{section.name}.{key.name}"
        for section in sections
        for key in _keys(section.kind, lambda _: False)
        if not key.meaning
    ]
    missing += [f"[{section.name}]" for section in sections if not _doc(section.kind)]
    if missing:
        raise Undocumented(f"without a docstring below the field: {', '.join(dict.fromkeys(missing))}")
