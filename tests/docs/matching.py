"""Whether an answer is the one that an example shows. What the marks in an example mean: see test_examples.py."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_NAME: Final = re.compile(r"<([a-z][a-z0-9 -]*)>")
_MARK: Final = re.compile(r"<([a-z][a-z0-9 -]*)>|(…)")
_STRING_OR_DOTS: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"|…')
_ANY: Final = "\0any"
_MORE: Final = "\0more"


class Differs(AssertionError):
    """The answer is not the one that the example shows."""


class Written(NamedTuple):
    """A number with a decimal point, as it is written: 20.00 is not 20.0 here."""

    text: str


def filled(text: str, names: Mapping[str, str]) -> str:
    """The text with every `<name>` replaced. Raises `Differs` for a name that nobody has given."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in names:
            raise Differs(f"nobody has said what <{match[1]}> is")
        return names[match[1]]

    return _NAME.sub(value, text)


def match_json(example: str, answer: str, names: Mapping[str, str]) -> dict[str, str]:
    """Hold a JSON text against its example; gives the names that the example gives. Raises `Differs`."""
    given: dict[str, str] = {}
    wanted = _parsed(_STRING_OR_DOTS.sub(lambda found: _sentinel(found, example), example), "the example")
    _match(wanted, _parsed(answer, "the answer"), "$", {**names}, given)
    return given


def match_text(example: str, answer: str, names: Mapping[str, str], where: str = "the text") -> dict[str, str]:
    """Hold a text against its example; gives the names that the example gives. Raises `Differs`."""
    pattern, end = "", 0
    fresh: dict[str, str] = {}
    for mark in _MARK.finditer(example):
        pattern += re.escape(example[end : mark.start()])
        end = mark.end()
        if mark[2]:
            pattern += ".*?"
        elif mark[1] in names:
            pattern += re.escape(names[mark[1]])
        elif mark[1] in fresh:
            pattern += f"(?P={fresh[mark[1]]})"
        else:
            fresh[mark[1]] = f"g{len(fresh)}"
            pattern += f"(?P<{fresh[mark[1]]}>.+?)"
    found = re.fullmatch(pattern + re.escape(example[end:]), answer, re.DOTALL)
    if found is None:
        raise Differs(f"{where} is {answer!r}, the example has {example!r}")
    return {name: found[group] for name, group in fresh.items()}


def _parsed(text: str, whose: str) -> Any:
    try:
        return json.loads(text, parse_float=Written)
    except ValueError as error:
        raise Differs(f"{whose} is not JSON: {error}\n{text}") from None


def _sentinel(found: re.Match[str], example: str) -> str:
    if found[0] != "…":
        return found[0]
    before, after = example[: found.start()].rstrip()[-1:], example[found.end() :].lstrip()[:1]
    if before == ":" or (before in ("[", ",") and after == ","):
        return json.dumps(_ANY)
    return f"{json.dumps(_MORE)}: 0" if after == "}" else json.dumps(_MORE)


def _match(wanted: Any, got: Any, where: str, names: dict[str, str], given: dict[str, str]) -> None:
    if wanted == _ANY:
        return
    match wanted, got:
        case dict(), dict():
            _match_objects(wanted, got, where, names, given)
        case list(), list():
            if not (open_ended := bool(wanted) and wanted[-1] == _MORE) and len(wanted) != len(got):
                raise Differs(f"{where} has {len(got)} elements, the example {len(wanted)}: {got}")
            for number, each in enumerate(wanted[:-1] if open_ended else wanted):
                if number >= len(got):
                    raise Differs(f"{where} has {len(got)} elements only: {got}")
                _match(each, got[number], f"{where}[{number}]", names, given)
        case str(), str():
            fresh = match_text(wanted, got, names, where)
            names.update(fresh)
            given.update(fresh)
        case _:
            if type(wanted) is not type(got) or wanted != got:
                raise Differs(f"{where} is {got!r}, the example has {wanted!r}")


def _match_objects(
    wanted: dict[str, Any], got: dict[str, Any], where: str, names: dict[str, str], given: dict[str, str]
) -> None:
    missing, more = wanted.keys() - got.keys() - {_MORE}, got.keys() - wanted.keys()
    if missing:
        raise Differs(f"{where} has no {', '.join(sorted(missing))}: {got}")
    if more and _MORE not in wanted:
        raise Differs(f"{where} also has {', '.join(sorted(more))}: {got}")
    for key in wanted.keys() - {_MORE}:
        _match(wanted[key], got[key], f"{where}.{key}", names, given)
