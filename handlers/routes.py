"""The route table: what a surface offers, in one list, for the server and for its OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import msgspec
from aiohttp import web

from engine.errors import EngineError
from handlers.envelopes import Envelope

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Param(msgspec.Struct, frozen=True):
    """A query parameter or a header that an operation reads. `schema` is JSON Schema."""

    name: str
    place: str
    schema: Mapping[str, Any]
    description: str


KEY: Final = Param(
    "Idempotency-Key",
    "header",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    "The same key and request has the same result; the same key and another request is refused.",
)
PREFER: Final = Param(
    "Prefer", "header", {"type": "string"}, "`wait=5`: answer when the outcome is there, after 5 seconds at most."
)


class Route(msgspec.Struct, frozen=True):
    """One operation.

    `answers` maps a status to the type of its JSON body (None: not JSON, or of free form). `errors` are the
    refusals beyond those that every operation can give. `auth` says whether a bearer token is asked for, `counted`
    whether the surface's rate limit applies; `limits` names the rules that the handler itself checks.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Any]
    body: Any = None
    body_required: bool = True
    errors: tuple[type[EngineError], ...] = ()
    params: tuple[Param, ...] = ()
    auth: bool = True
    tag: str = "payments"
    media_type: str = "application/json"
    counted: bool = True
    limits: tuple[str, ...] = ()


ErrorTable = Mapping[type[EngineError], int]
"""The status of each refusal on one surface."""


@runtime_checkable
class Drains(Protocol):
    """A surface that goes on working on requests that it has answered."""

    async def drained(self) -> None:
        """Wait until that is done."""
        ...


class Surface(Protocol):
    """A door to the engine: a name, its routes, its table of errors, and how it dresses one.

    `health` is what its `/health` answers while the process lives.
    """

    name: str
    title: str
    errors: ErrorTable
    envelope: Envelope
    health: Mapping[str, str]

    def routes(self) -> list[Route]:
        """What it offers."""
        ...
