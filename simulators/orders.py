"""A pretend order service: real orders with exact totals and their events, over the order service's contract.

It hears from the engine what was paid, and asks it for a refund when a paid order is cancelled. `POST /_orders/{id}`
changes an order behind the engine's back; only a simulator has that.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Coroutine, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import UNSET

from engine.messages import Message
from simulators.base import Clock, utc_now
from simulators.companion import Companion, State
from simulators.companion_metrics import OrderMetrics
from simulators.neighbours import Neighbours, NoAnswer
from simulators.order_moves import PENDING, Order, Refund, answered, cancelled, confirmed, created
from simulators.order_payments import heard
from simulators.order_types import CENT, Edit, NewOrder, NewStatus, page
from simulators.telling import Publisher
from simulators.wire import Refusal, decode, reply

TOPIC: Final = "order-events"
REFUND_PAUSE_S: Final = 0.5
REFUND_PAUSE_MAX_S: Final = 30.0
_USER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")

log = logging.getLogger(__name__)


def _new_order_id() -> str:
    return f"order-{secrets.token_hex(8)}"


class OrderServiceSim(Companion[Order]):
    """The order service."""

    def __init__(
        self,
        journal_path: Path | None,
        *,
        clock: Clock = utc_now,
        new_id: Callable[[], str] = _new_order_id,
        state: State | None = None,
        publisher: Publisher | None = None,
        topic: str = TOPIC,
        neighbours: Neighbours | None = None,
    ) -> None:
        self._counts = OrderMetrics()
        self._owing_some = asyncio.Event()
        super().__init__(
            journal_path, Order, self._counts, clock,
            source="/orders", topic=topic, state=state, publisher=publisher,
        )  # fmt: skip
        self._new_id = new_id
        self._neighbours = neighbours or Neighbours()
        self._new_order = msgspec.json.Decoder(NewOrder)
        self._new_status = msgspec.json.Decoder(NewStatus)
        self._edit = msgspec.json.Decoder(Edit)

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/orders", self._create),
            web.get("/api/orders/{id}", self._read),
            web.get("/api/orders/user/{user_id}", self._list),
            web.put("/api/orders/{id}/status", self._move),
            web.post("/api/orders/{id}/cancel", self._cancel),
            web.get("/internal/orders/{id}", self._read),
            web.post("/_orders/{id}", self._edit_freely),
        ]

    def _loops(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [*super()._loops(), *([self._refunding] if self._neighbours.asks_engine else [])]

    def _forget(self) -> None:
        self._of_user: dict[str, dict[str, None]] = {}
        self._owing: dict[str, None] = {}

    def _index(self, record: Order) -> None:
        self._of_user.setdefault(record.user_id, {})[record.id] = None
        if record.owed:
            self._owing.setdefault(record.id)
            self._owing_some.set()
        else:
            self._owing.pop(record.id, None)

    async def _start(self, app: web.Application) -> None:
        self._owing_some = asyncio.Event()
        await self._neighbours.open()
        await super()._start(app)
        if self._owing:
            self._owing_some.set()

    async def _close(self, app: web.Application) -> None:
        await super()._close(app)
        await self._neighbours.close()

    async def _create(self, request: web.Request) -> web.Response:
        wanted = await decode(request, self._new_order)
        if not isinstance(wanted.user_id, str) or not wanted.user_id:
            raise Refusal(422, "ORDER_001", "Invalid user ID")
        if not wanted.items:
            raise Refusal(422, "ORDER_002", "Empty order items")
        items = tuple(item.item() for item in wanted.items)
        await self._refuse_strangers(wanted.user_id)
        order = Order(
            id=wanted.id or self._new_id(),
            user_id=wanted.user_id,
            items=items,
            status=wanted.status,
            total_amount=sum((item.price * item.quantity for item in items), Decimal(0)).quantize(CENT),
            currency=wanted.currency,
            created_at=self._now(),
        )
        async with self._turn():
            if order.id in self._records:
                raise Refusal(409, "ID_TAKEN", "Id already exists")
            self._refuse_when_full()
            await self._keep(created(order))
        self._counts.created.inc()
        self._counts.value.observe(float(order.total_amount))
        return reply(201, order.view())

    async def _refuse_strangers(self, user_id: str) -> None:
        if not self._neighbours.asks_users:
            return
        try:
            known = bool(_USER.fullmatch(user_id)) and await self._neighbours.knows_user(user_id)
        except NoAnswer as error:
            raise Refusal(503, "USER_SERVICE_UNAVAILABLE", "the user service does not answer") from error
        if not known:
            raise Refusal(422, "ORDER_001", "Invalid user ID")

    async def _read(self, request: web.Request) -> web.Response:
        return reply(200, self._find(request).view())

    async def _list(self, request: web.Request) -> web.Response:
        wanted = page(dict(request.query))
        orders = [self._records[each] for each in self._of_user.get(request.match_info["user_id"], ())]
        found = [order for order in orders if wanted.status in {None, order.status}]
        found.sort(key=lambda order: (order.created_at, order.id), reverse=True)
        shown = [order.view() for order in found[wanted.offset : wanted.offset + wanted.limit]]
        return reply(200, {"orders": shown, "total": len(found), "limit": wanted.limit, "offset": wanted.offset})

    async def _move(self, request: web.Request) -> web.Response:
        wanted = await decode(request, self._new_status)

        def move(order: Order) -> Order:
            if wanted.payment_id is not None:
                return confirmed(order, wanted.payment_id, self._now())
            if wanted.status == order.status == PENDING:
                return order
            if wanted.status == PENDING:
                raise Refusal(409, "ORDER_004", f"Order cannot be modified: it is {order.status}")
            return cancelled(order, self._now())

        return reply(200, (await self._changed(request, move)).view())

    async def _cancel(self, request: web.Request) -> web.Response:
        order = await self._changed(request, lambda order: cancelled(order, self._now()))
        return reply(200, {"id": order.id, "status": order.status, "cancelledAt": order.cancelled_at})

    async def _changed(self, request: web.Request, move: Callable[[Order], Order]) -> Order:
        async with self._turn():
            order = self._find(request)
            moved = move(order)
            return order if moved is order else await self._keep(moved)

    async def _edit_freely(self, request: web.Request) -> web.Response:
        edit = await decode(request, self._edit)
        changes: dict[str, object] = {"updated_at": self._now()}
        if edit.status is not UNSET:
            changes["status"] = edit.status
        if edit.payment_id is not UNSET:
            changes["payment_id"] = edit.payment_id
        async with self._turn():
            changed = await self._keep(msgspec.structs.replace(self._find(request), **changes))
        return reply(200, changed.view())

    async def handle(self, messages: Sequence[Message]) -> None:
        """Hear the engine's events; safe to run twice. Raises while the store does not answer: they come again."""
        for message in messages:
            async with self._turn():
                told = heard(message, self._records.get, self._now())
                if told.order is not None:
                    await self._keep(told.order)
            self._counts.heard.labels(told.outcome).inc()
            if told.alarming:
                log.warning("payment event %s: %s", told.outcome, message.place)

    def _wake_loops(self) -> None:
        super()._wake_loops()
        self._owing_some.set()

    async def _refunding(self) -> None:
        """Ask the engine for what is owed, until the end; an order whose answer is lost goes to the end of the line."""
        pause_s = REFUND_PAUSE_S
        while not self._ending:
            await self._owing_some.wait()
            if not self._owing:
                self._owing_some.clear()
                continue
            order_id = next(iter(self._owing))
            try:
                await self._ask_for(self._records[order_id])
                pause_s = REFUND_PAUSE_S
                continue
            except NoAnswer as error:
                log.warning("refund of %s waits: %s", order_id, error)
                self._counts.refunds.labels("none").inc()
            except Refusal:
                log.warning("refund of %s waits: the store does not answer", order_id)
            except Exception:
                log.exception("asking for the refund of %s broke", order_id)
            if order_id in self._owing:
                del self._owing[order_id]
                self._owing[order_id] = None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, REFUND_PAUSE_MAX_S)

    async def _ask_for(self, order: Order) -> None:
        for refund in order.owed:
            # Made of what is refunded: whoever asks again, after whatever death, asks for the same refund.
            key = f"cancel-{order.id}-{refund.payment_id}"
            asked = await self._neighbours.refund(refund.payment_id, order.id, key)
            known = Refund(refund.payment_id, asked.status, asked.refund_id, asked.code)
            async with self._turn():
                await self._keep(answered(self._records[order.id], known))
            self._counts.refunds.labels(known.status).inc()
            log.info("refund of %s %s", order.id, known.status)

    def _find(self, request: web.Request) -> Order:
        order = self._records.get(request.match_info["id"])
        if order is None:
            raise Refusal(404, "ORDER_003", "Order not found")
        return order
