"""What all simulators share: one application with faults, JSON errors, a health check and a journal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic

from aiohttp import web
from aiohttp.typedefs import Middleware

from simulators.faults import Faults
from simulators.journal import Journal, R
from simulators.wire import BODY_BYTES_MAX, ErrorBody, Pauses, errors_as_json, reply

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """RFC 3339 with milliseconds and Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def coded_error(code: str, message: str) -> object:
    """The error envelope of the user and order services."""
    return {"error": {"code": code, "message": message}}


class Simulator(ABC, Generic[R]):
    """A pretend counterparty; with a journal path its state survives a restart.

    It may be served again after it stopped: from the journal if there is one, else with what it remembers.
    """

    def __init__(self, journal_path: Path | None, record_type: type[R], error_body: ErrorBody) -> None:
        self._journal = Journal(journal_path, record_type)
        self._error_body = error_body
        self._pauses = Pauses()
        self._faults = Faults(self._pauses, error_body)

    def app(self) -> web.Application:
        """A fresh application over this simulator's state; serve one at a time."""
        app = web.Application(
            middlewares=[self._faults.middleware, *self._middlewares()],
            client_max_size=BODY_BYTES_MAX,
        )
        own = [web.get("/health", self._health), *self._own_routes()]
        app.add_routes([*own, *self._faults.routes(), *self._routes()])
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)
        app.on_cleanup.append(self._close)
        return app

    @abstractmethod
    def _routes(self) -> list[web.RouteDef]:
        """The counterparty's own routes."""

    @abstractmethod
    def _restore(self, records: list[R]) -> None:
        """Forget everything, then become what the records say."""

    def _middlewares(self) -> list[Middleware]:
        """What stands around every handler, and within the faults."""
        return [errors_as_json(self._error_body)]

    def _own_routes(self) -> list[web.RouteDef]:
        """What operators ask, beside `/health`."""
        return []

    async def _start(self, _: web.Application) -> None:
        self._pauses.begin()
        records = self._journal.open()
        if records is not None:
            self._restore(records)

    async def _stop(self, _: web.Application) -> None:
        self._pauses.end()

    async def _close(self, _: web.Application) -> None:
        self._journal.close()

    async def _health(self, _: web.Request) -> web.Response:
        return reply(200, {"status": "healthy"})
