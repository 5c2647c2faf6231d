"""The two ways in which the surfaces dress an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from engine.errors import Retry


class ErrorInfo(msgspec.Struct, omit_defaults=True):
    """What went wrong. Programs read `code` and `retry`; `message` is for people and may change.

    `retry`: `never` as it is; `same_key` the same request with the same Idempotency-Key is safe and right;
    `new_key` with a new key; `after` the `Retry-After` header's seconds.
    """

    code: str
    message: str
    request_id: str
    retry: Retry
    details: dict[str, Any]


class ErrorBody(msgspec.Struct):
    """The envelope of every error."""

    error: ErrorInfo


class FlatError(msgspec.Struct, omit_defaults=True):
    """Every error: the text that the contract shows, and beside it what programs read.

    `retry`: `never` as it is; `same_key` the same request with the same Idempotency-Key is safe and right;
    `new_key` with a new key; `after` the `Retry-After` header's seconds.
    """

    error: str
    code: str
    request_id: str
    retry: Retry
    details: dict[str, Any] = {}


class Envelope(NamedTuple):
    """How a surface dresses an error: the JSON body's type, how it is made, and its shape in a sentence's words."""

    body: type[ErrorBody] | type[FlatError]
    dress: Callable[[ErrorInfo], ErrorBody | FlatError]
    code_path: tuple[str, ...]
    """Where the code stands."""
    shape: str


NESTED: Final = Envelope(
    ErrorBody,
    ErrorBody,
    ("error", "code"),
    '`{"error": {"code", "message", "request_id", "retry", "details"}}`',
)
FLAT: Final = Envelope(
    FlatError,
    lambda info: FlatError(info.message, info.code, info.request_id, info.retry, info.details),
    ("code",),
    '`{"error": message, "code", "request_id", "retry", "details"}`',
)
