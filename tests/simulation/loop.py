"""An event loop on virtual time that can kill and stop processes.

When nothing is ready it jumps to the next timer: no sleeping, no threads, no sockets. Every callback belongs to the
`Owner` in whose context it was scheduled; the callbacks of a stopped owner wait, those of a killed one wait for ever.
That is what SIGSTOP and SIGKILL do: no `finally` is run, no answer is read, the rest of the world goes on.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Owner:
    """Somebody whose callbacks can be held back all together: a process of the engine."""

    __slots__ = ("backlog", "held")

    def __init__(self) -> None:
        self.held = False
        self.backlog: list[asyncio.Handle] = []


_owner: ContextVar[Owner | None] = ContextVar("owner", default=None)


def context_of(owner: Owner) -> Context:
    """A context whose callbacks, and all that they schedule, belong to this owner."""
    context = copy_context()
    context.run(_owner.set, owner)
    return context


class Stuck(Exception):
    """Nothing is ready and no timer is set: what is waited for can never happen."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order in which they became ready; `time()` stands still while they run."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[tuple[Owner | None, asyncio.Handle]] = deque()
        self._timers: list[tuple[float, int, Owner | None, asyncio.TimerHandle]] = []
        self._count = 0
        self.broken: list[str] = []
        """What went wrong in callbacks that nobody waits for."""

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run until `main` has ended, and return its result."""
        asyncio._set_running_loop(self)
        try:
            task: asyncio.Task[T] = self.create_task(main)
            while not task.done():
                self._pass()
            return task.result()
        finally:
            asyncio._set_running_loop(None)

    def hold(self, owner: Owner) -> None:
        """Run nothing of this owner from now on."""
        owner.held = True

    def resume(self, owner: Owner) -> None:
        """Run what has become ready meanwhile, in its order, and what becomes ready."""
        owner.held = False
        self._ready.extend((owner, handle) for handle in owner.backlog)
        owner.backlog.clear()

    def _pass(self) -> None:
        if not self._ready:
            self._jump()
        owner, handle = self._ready.popleft()
        if handle.cancelled():
            return
        if owner is not None and owner.held:
            owner.backlog.append(handle)
            return
        handle._run()

    def _jump(self) -> None:
        timers = self._timers
        if not timers:
            raise Stuck
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            _, _, owner, handle = heapq.heappop(timers)
            self._ready.append((owner, handle))

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((context.get(_owner), handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, context.get(_owner), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is skipped when its time comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # An answer that comes back to a killed process is retrieved by nobody.
        if context.get("message") != "Future exception was never retrieved":
            self.broken.append(f"{context.get('message')}: {context.get('exception')!r}")
