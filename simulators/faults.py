"""Scripted faults: told over HTTP at run time what to break, how often, and for which requests.

| kind | the simulator acts | the client sees |
|---|---|---|
| `delay` | yes, at once | the answer, `delay_s` late, or when the faults are cleared |
| `silence` | no | nothing, until it gives up |
| `silence_after` | yes | nothing, until it gives up |
| `error_before` | no | 500 |
| `error_after` | yes | 500 |
| `reset` | no | a TCP reset |
| `reset_after` | yes | a TCP reset |
| `wrong_json` | yes | 200 with a body that is not JSON |
| `status` | no | the scripted status, with `code` and `message` in the simulator's own error body |

The oldest fault that matches a request takes it, and takes it alone. Health, readiness,
metrics, the judge's journal and the test hooks (`/_…`) are never broken. Faults live in memory: a restart clears them.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Annotated

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from simulators.wire import ErrorBody, Pauses, Refusal, decode, reply, reset

ACTIVE_FAULTS_MAX = 100
NEVER_BROKEN = ("/_", "/health", "/ready", "/metrics", "/journal")
GARBAGE = b'{"id": "txn-\xff<html>'


class Kind(StrEnum):
    """What a fault does; the table at the top of the module says more."""

    DELAY = "delay"
    SILENCE = "silence"
    SILENCE_AFTER = "silence_after"
    ERROR_BEFORE = "error_before"
    ERROR_AFTER = "error_after"
    RESET = "reset"
    RESET_AFTER = "reset_after"
    WRONG_JSON = "wrong_json"
    STATUS = "status"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scripted fault; `times` None means until cleared, no path or method means any."""

    kind: Kind
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 503
    code: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = "SCRIPTED_FAULT"
    message: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    path_contains: str | None = None
    method: str | None = None

    def matches(self, request: web.Request) -> bool:
        """Whether this request is one to break."""
        if self.method is not None and self.method.upper() != request.method:
            return False
        return self.path_contains is None or self.path_contains in request.path


class Active:
    """A fault that is switched on, and how often it has fired."""

    def __init__(self, number: int, fault: Fault) -> None:
        self.number, self.fault, self.fired = number, fault, 0

    @property
    def used_up(self) -> bool:
        """Whether it has fired as often as it was asked to."""
        return self.fault.times is not None and self.fired >= self.fault.times

    def view(self) -> dict[str, object]:
        """The fault as `GET /_faults` shows it."""
        return {"id": self.number, **msgspec.to_builtins(self.fault), "fired": self.fired}


class Faults:
    """The faults of one simulator: a middleware that breaks requests and the routes that script it."""

    def __init__(self, pauses: Pauses, error_body: ErrorBody) -> None:
        self._pauses = pauses
        self._error_body = error_body
        self._decoder = msgspec.json.Decoder(Fault)
        self._active: list[Active] = []
        self._added = 0
        self._fired: Counter[Kind] = Counter()

    def routes(self) -> list[web.RouteDef]:
        """Where the faults are scripted."""
        return [
            web.post("/_faults", self._add),
            web.get("/_faults", self._show),
            web.delete("/_faults", self._clear),
        ]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Break the request if a fault asks for it; must stand outside every other middleware."""
        if not self._active:
            return await handler(request)
        fault = self._take(request)
        if fault is None:
            return await handler(request)
        broken = await self._instead_of_acting(fault, request)
        if broken is not None:
            return broken
        return await self._after_acting(fault, request, await handler(request))

    def _take(self, request: web.Request) -> Fault | None:
        if request.path.startswith(NEVER_BROKEN):
            return None
        for active in self._active:
            if active.fault.matches(request):
                # Counted before the first await, so racing requests cannot take one fault too often.
                active.fired += 1
                self._fired[active.fault.kind] += 1
                if active.used_up:
                    self._active.remove(active)
                return active.fault
        return None

    async def _instead_of_acting(self, fault: Fault, request: web.Request) -> web.Response | None:
        match fault.kind:
            case Kind.SILENCE:
                return await self._pauses.silence(request)
            case Kind.RESET:
                return reset(request)
            case Kind.ERROR_BEFORE:
                return self._scripted(500)
            case Kind.STATUS:
                return self._scripted(fault.status, fault.code, fault.message)
            case _:
                return None

    async def _after_acting(self, fault: Fault, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
        match fault.kind:
            case Kind.SILENCE_AFTER:
                return await self._pauses.silence(request)
            case Kind.RESET_AFTER:
                return reset(request)
            case Kind.ERROR_AFTER:
                return self._scripted(500)
            case Kind.WRONG_JSON:
                return web.Response(body=GARBAGE, content_type="application/json")
            case _:
                await self._pauses.delay(fault.delay_s)
                return answer

    def _scripted(self, status: int, code: str = "SCRIPTED_FAULT", message: str | None = None) -> web.Response:
        return reply(status, self._error_body(code, f"scripted fault: {status}" if message is None else message))

    async def _add(self, request: web.Request) -> web.Response:
        fault = await decode(request, self._decoder, invalid_status=400)
        if len(self._active) >= ACTIVE_FAULTS_MAX:
            raise Refusal(409, "TOO_MANY_FAULTS", f"{ACTIVE_FAULTS_MAX} faults are active: DELETE /_faults first")
        self._added += 1
        active = Active(self._added, fault)
        self._active.append(active)
        return reply(201, active.view())

    async def _show(self, _: web.Request) -> web.Response:
        totals = {str(kind): self._fired[kind] for kind in Kind}
        return reply(200, {"faults": [active.view() for active in self._active], "fired": totals})

    async def _clear(self, _: web.Request) -> web.Response:
        cleared = len(self._active)
        self._active.clear()
        self._pauses.release()
        return reply(200, {"cleared": cleared})
