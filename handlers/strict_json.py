"""Bodies in which a name stands twice are refused: two readers would take two different requests from one."""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar

import msgspec

from handlers.http import HttpRefused, decode

T = TypeVar("T")


def decode_strictly(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """As `decode`, and a name that stands twice in one object → 422, without quoting it."""
    decoded = decode(body, decoder)
    try:
        _READER.decode(body.decode())
    except _Twice:
        raise HttpRefused(422, "INVALID_REQUEST", "a name stands twice in one object", details={"field": ""}) from None
    except RecursionError:
        raise HttpRefused(400, "INVALID_JSON", "the body is nested too deeply") from None
    except ValueError:
        # In a part that the decoder passes over.
        raise HttpRefused(400, "INVALID_JSON", "the body is not JSON") from None
    return decoded


class _Twice(Exception):
    """A name stands twice."""


def _no_pair_twice(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _Twice


# Numbers are left alone: Python would refuse one of many digits, or spend its time on it.
_READER: Final = json.JSONDecoder(
    object_pairs_hook=_no_pair_twice, parse_int=len, parse_float=len, parse_constant=len, strict=False
)
