"""What the console needs of a process: what the process tells of itself, and, on the ops port, the page."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from app import __version__
from app.activity import Activity
from app.circuits import Circuits
from app.readiness import OK
from app.settings import topics
from engine.circuits import CircuitOrder
from engine.errors import Overloaded, StoreUnavailable
from engine.ids import now_ms
from engine.store.processes import RedisProcesses
from handlers.console.access import LIMIT, Access, Sessions
from handlers.console.lookup import Lookup
from handlers.console.merging import picture
from handlers.console.snapshot import CircuitTold, DepthTold, Snapshot, decode, encode
from handlers.console.stream import Frame, Stream
from handlers.console.surface import Console
from handlers.security import security_headers
from resilience.limit_settings import Rule
from resilience.status import BreakerStatus

if TYPE_CHECKING:
    from app.wiring import Parts

_TELL_EVERY_S: Final = 1.0
_ORDERS_SHOWN: Final = 30
log = structlog.get_logger(__name__)

_SIGN_IN: Final = Rule(LIMIT, requests=10, window_s=300, on_failure="closed")


class Telling:
    """Tells once a second what this process is and does. What it cannot tell is told a second later."""

    def __init__(self, parts: Parts, roles: Sequence[str], activity: Activity) -> None:
        self._parts = parts
        self._roles = tuple(roles)
        self._activity = activity
        self._host = socket.gethostname()
        self._started_ms = now_ms()
        self.processes = RedisProcesses(parts.batcher)

    def now(self) -> Snapshot:
        """This process as of now."""
        parts, sampler = self._parts, self._parts.sampler
        depths = sampler.depths._asdict() if sampler.depths else {}
        return Snapshot(
            owner=parts.owner,
            host=self._host,
            pid=os.getpid(),
            roles=self._roles,
            version=__version__,
            started_ms=self._started_ms,
            # To ten milliseconds: an idle process tells the same again and again, which costs nothing.
            lag_ms=round(sampler.lag_s * 100) * 10,
            unfit={part: state for part, state in parts.readiness.parts().items() if state != OK},
            seconds=self._activity.seconds(),
            circuits={name: _circuit(status) for name, status in parts.guards.statuses().items()},
            depths={name: DepthTold(depth.waiting, depth.oldest_ms) for name, depth in depths.items()},
            recents=self._activity.recents(),
        )

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            try:
                await self.processes.tell(self._parts.owner, encode(self.now()))
            except (StoreUnavailable, Overloaded):
                pass
            except Exception:
                # The process is there for payments: whatever is wrong with this, they go on.
                log.exception("the console could not be told")
            await asyncio.sleep(_TELL_EVERY_S)


class Watching:
    """The picture of all processes, as it is streamed."""

    def __init__(self, telling: Telling, circuits: Circuits) -> None:
        self._telling = telling
        self._circuits = circuits

    async def look(self) -> Frame | None:
        """Look at all of them; at this one alone while the store does not answer. None: what is there is not to be
        understood, and payments go on."""
        try:
            return await self._look()
        except Exception:
            log.exception("the console cannot look")
            return None

    async def _look(self) -> Frame:
        own = self._telling.now()
        stale = False
        orders: Sequence[CircuitOrder] = ()
        others: list[Snapshot] = []
        try:
            bodies = await self._telling.processes.all()
            orders = await self._circuits.log(limit=_ORDERS_SHOWN)
            others = [told for body in bodies if (told := decode(body)) is not None and told.owner != own.owner]
        except (StoreUnavailable, Overloaded):
            stale = True
        held: Mapping[str, CircuitOrder] = self._circuits.held()
        at_ms = now_ms()
        shown = picture([own, *others], held, orders, self._circuits.names(), now_ms=at_ms, stale=stale)
        return Frame(str(at_ms), encode(shown))


class OpsConsole:
    """The console of one process. `run` must be running; `close` ends every stream."""

    def __init__(self, parts: Parts, roles: Sequence[str], activity: Activity) -> None:
        server, ops = parts.settings.server, parts.settings.ops
        self._telling = Telling(parts, roles, activity)
        watching = Watching(self._telling, parts.circuits)
        headers = security_headers(hsts_max_age_s=server.hsts_max_age_s)
        self._stream = Stream(watching.look, {**headers, "X-Accel-Buffering": "no"})
        access = Access(
            Sessions(ops.console_token) if ops.console_token else None,
            parts.limiting.of("ops", (_SIGN_IN,)),
            # The headers say that whoever serves us speaks TLS.
            secure=bool(server.hsts_max_age_s),
        )
        lookup = Lookup(parts.payments, parts.notifications, parts.fingerprints, tuple(topics(parts.settings)))
        self.surface = Console(access, self._stream, lookup, parts.circuits)

    async def run(self) -> None:
        """Tell, and show, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._telling.run())
            tasks.create_task(self._stream.run())

    def close(self) -> None:
        """End every stream at once: the process stops."""
        self._stream.close()


def _circuit(status: BreakerStatus) -> CircuitTold:
    last = status.last_failure
    return CircuitTold(
        state=status.state,
        failure_count=status.failure_count,
        last_failure_ms=int(last.timestamp() * 1000) if last else 0,
        retry_at_ms=now_ms() + int(status.retry_after_s * 1000) if status.retry_after_s is not None else 0,
        window_calls=status.window_calls,
        window_failure_rate=round(status.window_failure_rate, 4),
        window_slow_rate=round(status.window_slow_rate, 4),
        trials_in_flight=status.trials_in_flight,
    )
