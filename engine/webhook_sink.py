"""Taking events in for webhooks: each becomes a message for every endpoint that wants to be told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, Protocol

import structlog

from engine.delivering import Added, Delivery
from engine.ids import Clock
from engine.notifying import Notice
from engine.webhooks import Endpoint, body_of, line_of, message_of, pack
from metrics.instruments import Instruments

_TAKEN_AT_ONCE: Final = 100
_TOLD_OF_FULL_S: Final = 60
_MPESA: Final = "/payments/mpesa"


class Listening(Protocol):
    """Who is to be told: the endpoints of some owners, and those that are told of everybody's payments."""

    @property
    def by_owner(self) -> dict[str, list[Endpoint]]: ...
    @property
    def of_all(self) -> list[Endpoint]: ...


class Endpoints(Protocol):
    """Where endpoints live."""

    async def listening(self, owners: Collection[str]) -> Listening: ...


class Schedule(Protocol):
    """Where messages wait."""

    async def add(self, deliveries: Iterable[Delivery], *, now_ms: int) -> Sequence[Added]: ...


class WebhookSink:
    """A `Sink`. An endpoint whose room is used up misses what comes meanwhile; that is counted and logged.

    What waits for a disabled endpoint is kept for `disabled_keep_s` after it was disabled; nothing is added later.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        schedule: Schedule,
        instruments: Instruments,
        clock: Clock,
        *,
        disabled_keep_s: float,
    ) -> None:
        self._endpoints = endpoints
        self._schedule = schedule
        self._instruments = instruments
        self._clock = clock
        self._disabled_keep_ms = int(disabled_keep_s * 1000)
        self._told_of_full_ms = 0

    async def take(self, notices: Sequence[Notice]) -> None:
        """Make a message of each notice for each endpoint that wants it. Raises `StoreUnavailable` or `Overloaded`."""
        # One after the other: each notice may be for a thousand endpoints, and their order must hold.
        for first in range(0, len(notices), _TAKEN_AT_ONCE):
            await self._take(notices[first : first + _TAKEN_AT_ONCE])

    async def _take(self, notices: Sequence[Notice]) -> None:
        listening = await self._endpoints.listening({owner for notice in notices if (owner := _owner_of(notice))})
        if not listening.by_owner and not listening.of_all:
            return
        now_ms = self._clock()
        deliveries = [delivery for notice in notices for delivery in self._of(notice, listening, now_ms)]
        outcomes = await self._schedule.add(deliveries, now_ms=now_ms)
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            if outcome is Added.FULL:
                self._instruments.webhook_deliveries.labels("full").inc()
                self._tell_of_full(delivery.lane, now_ms)

    def _of(self, notice: Notice, listening: Listening, now_ms: int) -> Iterator[Delivery]:
        # An owner's endpoint that is told of everybody's payments stands in both lists.
        candidates = {
            endpoint.id: endpoint for endpoint in (*listening.by_owner.get(_owner_of(notice), ()), *listening.of_all)
        }
        wanting = [
            endpoint
            for endpoint in candidates.values()
            if endpoint.id != notice.subject and endpoint.wants(notice.type) and self._keeps(endpoint, now_ms)
        ]
        if not wanting:
            return
        message = message_of(notice, now_ms=now_ms)
        item, line = pack(message, body_of(notice)), line_of(message)
        for endpoint in wanting:
            yield Delivery(message.id, endpoint.id, line, item, now_ms)

    def _keeps(self, endpoint: Endpoint, now_ms: int) -> bool:
        return not endpoint.disabled or now_ms < endpoint.disabled_ms + self._disabled_keep_ms

    def _tell_of_full(self, endpoint_id: str, now_ms: int) -> None:
        # Once in a while for all of them, however many there are.
        if now_ms >= self._told_of_full_ms + _TOLD_OF_FULL_S * 1000:
            self._told_of_full_ms = now_ms
            structlog.get_logger().warning("webhook endpoint is full", endpoint_id=endpoint_id)


def _owner_of(notice: Notice) -> str:
    """The subject of a token whose own this is; empty when it is nobody's."""
    # There it is a client's configured name, not the subject of a token: somebody else may be called the same.
    return "" if notice.source == _MPESA else notice.user_id
