"""Sending webhooks: what is due is signed and posted, and tried again for days when it was not taken.

At least once: whoever dies between sending and writing it down leaves a lease behind, and after its end the message is
sent again, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from engine.cards import SealBroken
from engine.delivering import Leased
from engine.errors import Overloaded, StoreUnavailable
from engine.ids import Clock
from engine.notifying import Sink
from engine.webhook_endpoints import ChangeableEndpoints, WebhookSecrets, changed, disabled
from engine.webhook_signing import signed_headers
from engine.webhooks import Disabled, Endpoint, Message, Try, disabled_notice, pack, unpack
from metrics.instruments import Instruments

_JITTER: Final = 0.1
_FAILURE_PAUSE_S: Final = 0.5
_WATCH_EVERY_S: Final = 2.0
_DOUBT_PAUSE_S: Final = 1.0
_GONE: Final = 410
_DISABLED_LOOK_MS: Final = 60_000


class PostAnswer(NamedTuple):
    """What an endpoint answered. `status` 0: nothing, and `reason` says why in a word."""

    status: int
    reason: str = ""
    retry_after_s: float | None = None

    @property
    def taken(self) -> bool:
        """Whether it has the message."""
        return 200 <= self.status < 300


class Poster(Protocol):
    """Posts to addresses that strangers have chosen. An async context manager; `post` raises nothing."""

    async def __aenter__(self) -> object: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    async def post(self, url: str, headers: dict[str, str], body: bytes) -> PostAnswer: ...


class Schedule(Protocol):
    """What waits to be sent."""

    async def due(self, now_ms: int, limit: int) -> Sequence[Leased]: ...
    async def done(self, leased: Leased, item: bytes, *, now_ms: int) -> bool: ...
    async def again(self, leased: Leased, item: bytes, *, due_ms: int) -> bool: ...
    async def rest(self, leased: Leased, *, now_ms: int, until_ms: int) -> bool: ...
    async def drop(self, lane: str, *, ended_too: bool) -> None: ...
    async def depth(self) -> tuple[int, int]: ...


class Retrying(NamedTuple):
    """When to try again, and for how long. All in seconds."""

    intervals_s: tuple[float, ...]
    """Between the tries; there is one try more than there are intervals."""
    retry_after_max_s: float
    """An endpoint may ask for no longer pause than this."""
    disable_after_s: float
    """An endpoint that takes nothing for so long is disabled."""
    disabled_keep_s: float
    """How long what waits for a disabled endpoint is kept."""


class WebhookSender:
    """Sends until `stop`, at most `at_once` messages at the same time; how many to one endpoint, the schedule bounds.

    `sink`: takes in that an endpoint was disabled, for its owner's other endpoints.
    `longest_s`: what one try may take; none is begun with less left of its lease.

    `run()` may be cancelled: what was under way is sent again when its lease is over.
    """

    def __init__(
        self,
        schedule: Schedule,
        endpoints: ChangeableEndpoints,
        sink: Sink,
        poster: Poster,
        secrets: WebhookSecrets,
        instruments: Instruments,
        clock: Clock,
        retrying: Retrying,
        *,
        at_once: int,
        longest_s: float,
        idle_s: float = 0.1,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._schedule = schedule
        self._endpoints = endpoints
        self._sink = sink
        self._poster = poster
        self._secrets = secrets
        self._instruments = instruments
        self._clock = clock
        self._retrying = retrying
        self._at_once = at_once
        self._longest_ms = int(longest_s * 1000)
        self._idle_s = idle_s
        self._chance = chance
        self._under_way = 0
        self._doubtful = 0
        self._stopping = asyncio.Event()
        self._freed = asyncio.Event()

    def stop(self) -> None:
        """Take nothing more; `run()` ends when what is under way has."""
        self._stopping.set()
        self._freed.set()

    async def run(self) -> None:
        """Send until stopped."""
        async with self._poster, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch())
            while not self._stopping.is_set():
                self._freed.clear()
                taken = await self._take()
                for leased in taken:
                    self._under_way += 1
                    tasks.create_task(self._send_one(leased))
                if not taken:
                    await self._pause()
            watching.cancel()

    async def pass_once(self) -> int:
        """Send what is due now, and wait for it. Returns how many were tried. For one who runs no `run()`."""
        taken = await self._schedule.due(self._clock(), self._at_once)
        await asyncio.gather(*(self._send(leased) for leased in taken))
        return len(taken)

    async def _take(self) -> Sequence[Leased]:
        free = self._at_once - self._under_way
        if free <= 0:
            return ()
        try:
            return await self._schedule.due(self._clock(), free)
        except (StoreUnavailable, Overloaded):
            await asyncio.sleep(_FAILURE_PAUSE_S)
            return ()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._idle_s):
                await self._freed.wait()

    async def _send_one(self, leased: Leased) -> None:
        try:
            await self._send(leased)
        except (StoreUnavailable, Overloaded):
            # It may be written down or not; if not, it is sent again.
            structlog.get_logger().warning("webhook try not recorded", endpoint_id=leased.lane, message_id=leased.id)
        except Exception:
            # One message that nobody expected must not end the sending of all others.
            structlog.get_logger().exception("webhook broke", endpoint_id=leased.lane, message_id=leased.id)
        finally:
            self._under_way -= 1
            self._freed.set()

    async def _send(self, leased: Leased) -> None:
        endpoint = await self._endpoints.get(leased.lane)
        if self._clock() + self._longest_ms >= leased.till_ms:
            return  # the store was so slow that it might be somebody else's before the try has ended
        if endpoint is None:
            self._count("dropped")
            await self._schedule.drop(leased.lane, ended_too=True)
        elif endpoint.disabled:
            await self._leave(endpoint, leased)
        else:
            try:
                message, body = unpack(leased.item)
            except ValueError:
                self._count("unreadable")
                await self._schedule.done(leased, leased.item, now_ms=self._clock())
                return
            if endpoint.failing_since_ms:
                await self._doubt(endpoint, leased, message, body)
            else:
                await self._settle(endpoint, leased, message, body)

    async def _doubt(self, endpoint: Endpoint, leased: Leased, message: Message, body: bytes) -> None:
        """Try an endpoint that took nothing the last time, if there is room for those.

        They have at most half of what may be under way: else some dozens that hang would hold up everybody.
        """
        if self._doubtful >= max(1, self._at_once // 2):
            due_ms = self._clock() + int(1000 * _DOUBT_PAUSE_S * (1 + self._chance()))
            await self._schedule.again(leased, leased.item, due_ms=due_ms)
            return
        self._doubtful += 1
        try:
            await self._settle(endpoint, leased, message, body)
        finally:
            self._doubtful -= 1

    async def _leave(self, endpoint: Endpoint, leased: Leased) -> None:
        """The endpoint is disabled: what waits stays for a while, and is given up then."""
        now_ms = self._clock()
        if not endpoint.disabled_told:
            await self._tell(endpoint)  # whoever disabled it may have died before it told
        until_ms = endpoint.disabled_ms + int(self._retrying.disabled_keep_s * 1000)
        if now_ms < until_ms:
            # Not for all of that time: it may have been enabled, and its lane woken, since we read it.
            until_ms = min(until_ms, now_ms + _DISABLED_LOOK_MS)
            await self._schedule.rest(leased, now_ms=now_ms, until_ms=until_ms)
        else:
            self._count("dropped")
            await self._schedule.drop(endpoint.id, ended_too=False)

    async def _settle(self, endpoint: Endpoint, leased: Leased, message: Message, body: bytes) -> None:
        at_ms, began = self._clock(), time.perf_counter()
        answer = await self._post(endpoint, message, body, at_ms)
        duration_s = time.perf_counter() - began
        self._instruments.webhook_duration.observe(duration_s)
        attempt = Try(at_ms=at_ms, status=answer.status, reason=answer.reason, duration_ms=round(duration_s * 1000))
        if answer.taken:
            self._count("delivered")
            await self._schedule.done(leased, pack(message.tried(attempt, "delivered"), body), now_ms=self._clock())
            await self._judge(endpoint, answer, at_ms)
            return
        # Before the try is written down: who dies in between leaves a message, and who finds that tells what was not
        # told. Were it the last of its lane, nobody would look.
        await self._judge(endpoint, answer, at_ms)
        if message.tries < len(self._retrying.intervals_s):
            self._count("failed")
            due_ms = self._clock() + int(1000 * self._pause_s(message.tries, answer.retry_after_s))
            await self._schedule.again(leased, pack(message.tried(attempt, "waiting"), body), due_ms=due_ms)
        else:
            self._count("ended")
            await self._schedule.done(leased, pack(message.tried(attempt, "failed"), body), now_ms=self._clock())

    async def _post(self, endpoint: Endpoint, message: Message, body: bytes, at_ms: int) -> PostAnswer:
        try:
            secrets = self._secrets.live(endpoint, at_ms)
        except SealBroken:
            # Its key is not configured any more, which an operator can mend.
            return PostAnswer(0, "secret_unreadable")
        headers = signed_headers(message.id, at_ms // 1000, body, secrets)
        return await self._poster.post(endpoint.url, headers, body)

    def _pause_s(self, tries: int, retry_after_s: float | None) -> float:
        interval_s = self._retrying.intervals_s[tries]
        # All that failed together would come back together.
        interval_s *= 1 + _JITTER * (2 * self._chance() - 1)
        return max(interval_s, min(retry_after_s or 0.0, self._retrying.retry_after_max_s))

    async def _judge(self, endpoint: Endpoint, answer: PostAnswer, at_ms: int) -> None:
        """Remember since when an endpoint takes nothing; disable one that is gone, or that did so for too long.

        Whoever is disabled is looked at again only when somebody enables it.
        """
        reason: Disabled = ""
        if answer.status == _GONE:
            reason = "gone"
        elif not answer.taken and self._fails_for_long(endpoint, at_ms):
            reason = "failing"
        if reason:
            await self._disable(endpoint.id, reason, at_ms)
        elif bool(endpoint.failing_since_ms) is answer.taken:
            # Only when it turns: in fair weather nothing is written.
            await changed(self._endpoints, endpoint.id, lambda found: _seen(found, at_ms, taken=answer.taken))

    def _fails_for_long(self, endpoint: Endpoint, at_ms: int) -> bool:
        since_ms = endpoint.failing_since_ms
        return since_ms > 0 and at_ms - since_ms >= self._retrying.disable_after_s * 1000

    async def _disable(self, endpoint_id: str, reason: Disabled, at_ms: int) -> None:
        ours = False

        def disable(found: Endpoint) -> Endpoint:
            nonlocal ours
            # Another try may have been taken while ours was under way.
            ours = not found.disabled and (reason == "gone" or self._fails_for_long(found, at_ms))
            return disabled(found, reason, at_ms) if ours else found

        endpoint = await changed(self._endpoints, endpoint_id, disable)
        if endpoint is not None and ours:
            self._instruments.webhook_disabled.labels(reason).inc()
            structlog.get_logger().warning("webhook_endpoint_disabled", endpoint_id=endpoint_id, reason=reason)
            await self._tell(endpoint)

    async def _tell(self, endpoint: Endpoint) -> None:
        """Tell the owner's other endpoints that this one is disabled. Safe to call twice: it is known by its id."""
        await self._sink.take([disabled_notice(endpoint)])
        await changed(self._endpoints, endpoint.id, lambda found: _told(found, endpoint.disabled_ms))

    async def _watch(self) -> None:
        """Keep the gauges, until cancelled."""
        while True:
            with contextlib.suppress(StoreUnavailable, Overloaded):
                waiting, oldest_ms = await self._schedule.depth()
                self._instruments.webhooks_waiting.set(waiting)
                age_s = max(0.0, (self._clock() - oldest_ms) / 1000)
                self._instruments.webhooks_oldest.set(age_s if waiting else 0.0)
            await asyncio.sleep(_WATCH_EVERY_S)

    def _count(self, outcome: str) -> None:
        self._instruments.webhook_deliveries.labels(outcome).inc()


def _seen(endpoint: Endpoint, at_ms: int, *, taken: bool) -> Endpoint:
    return msgspec.structs.replace(endpoint, failing_since_ms=0 if taken else endpoint.failing_since_ms or at_ms)


def _told(endpoint: Endpoint, disabled_ms: int) -> Endpoint:
    # It may have been enabled meanwhile, and disabled once more, of which nobody has been told.
    ours = endpoint.disabled and endpoint.disabled_ms == disabled_ms
    return msgspec.structs.replace(endpoint, disabled_told=True) if ours else endpoint
