"""What other services tell the vault: orders, or products of them, that were refunded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
import structlog
from msgspec import Meta, Raw

from engine import context
from engine.errors import Overloaded, PaymentNotFound, StoreUnavailable
from engine.messages import Message
from engine.purchase import Poison
from engine.vault_refunds import Done, RefundAll, RefundProduct, VaultRefunds, refund_id_of
from handlers.dead_letters import DeadLetters, Publisher
from handlers.vault_types import QUANTITY_MAX
from metrics.instruments import Instruments

_IGNORED: Final = "ignored"
_DEAD: Final = "dead"
_PAUSE_MAX_S: Final = 5.0
_NOTHING: Final = Raw(b'""')

Text = Annotated[str, Meta(min_length=1, max_length=128)]
log = structlog.get_logger()


class OrderRefunded(msgspec.Struct, rename="camel"):
    """An order was refunded, all of it."""

    refunded: bool
    total_price: Raw
    payment_id: Text

    def wanted(self) -> RefundAll | None:
        """None: the order was not refunded after all."""
        return RefundAll(self.payment_id, bytes(self.total_price).decode()) if self.refunded else None


class ProductRefunded(msgspec.Struct, rename="camel"):
    """So many of a product of an order were refunded."""

    product_id: Text
    price: Raw
    payment_id: Text
    quantity: Annotated[int, Meta(ge=1, le=QUANTITY_MAX)] = 1
    card_number: Raw = _NOTHING

    def wanted(self) -> RefundProduct:
        """What is to be done."""
        card = bytes(self.card_number).decode().strip('" ')
        number = "" if card == "null" else card
        return RefundProduct(self.payment_id, self.product_id, bytes(self.price).decode(), self.quantity, number)

    def __repr__(self) -> str:
        return "ProductRefunded(…)"


class VaultListeners:
    """The listeners of the vault contract. `handle` returns when every message has had its effect or was put aside.

    A message about an unknown payment is tried `tries_max` times, for the payment may be a moment younger than its
    refund. While the store is away everything waits: nothing is put aside for a trouble of ours.
    """

    def __init__(
        self,
        refunds: VaultRefunds,
        dead: Publisher,
        instruments: Instruments,
        *,
        order_topic: str,
        product_topic: str,
        tries_max: int = 4,
        pause_s: float = 0.2,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._refunds = refunds
        self._dead = DeadLetters(dead, pause_s=pause_s, sleep=sleep)
        self._tries_max = tries_max
        self._pause_s = pause_s
        self._sleep = sleep
        self._decoders: dict[str, msgspec.json.Decoder[OrderRefunded] | msgspec.json.Decoder[ProductRefunded]] = {
            order_topic: msgspec.json.Decoder(OrderRefunded),
            product_topic: msgspec.json.Decoder(ProductRefunded),
        }
        names = {order_topic: "order_refunded", product_topic: "product_refunded"}
        self._counts = {
            (topic, outcome): instruments.listener_messages.labels(name, outcome)
            for topic, name in names.items()
            for outcome in (*(done.value for done in Done), _IGNORED, _DEAD)
        }

    @property
    def topics(self) -> tuple[str, ...]:
        """What is listened to."""
        return tuple(self._decoders)

    async def handle(self, messages: Sequence[Message]) -> None:
        """Do what the messages ask for, all at the same time, and put aside what can never be done."""
        async with asyncio.TaskGroup() as tasks:
            # Begun in their order, so those about one payment take their turns in it.
            asked = [tasks.create_task(self._outcome(message)) for message in messages]
        poisoned = []
        for message, task in zip(messages, asked, strict=True):
            outcome = task.result()
            if isinstance(outcome, Poison):
                poisoned.append((message, outcome.reason))
            else:
                self._counts[message.topic, outcome].inc()
        if poisoned:
            await self._dead.put(poisoned)
            for message, _ in poisoned:
                self._counts[message.topic, _DEAD].inc()

    async def _outcome(self, message: Message) -> str | Poison:
        # In a task of its own: its log lines name its trace, and nobody else's.
        context.set_current("", message.traceparent)
        try:
            return await self._done(message)
        except Exception as error:
            # A bug of ours must not stop the others for ever; the message is there to be sent again.
            log.exception("message broke", place=message.place)
            return Poison(f"broke here: {type(error).__name__}")

    async def _done(self, message: Message) -> str | Poison:
        try:
            wanted = self._decoders[message.topic].decode(message.value).wanted()
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # Where, not what: the value may hold a card number.
            return Poison(f"not a message of this topic: {type(error).__name__}")
        if wanted is None:
            return _IGNORED
        refund_id = refund_id_of(message.topic, message.id)
        done = await self._tried(wanted, refund_id)
        if isinstance(done, Poison):
            return done
        if done is Done.REFUNDED:
            log.info("refunded to card", payment_id=wanted.payment_id, refund_id=refund_id)
        return done.value

    async def _tried(self, wanted: RefundAll | RefundProduct, refund_id: str) -> Done | Poison:
        missed, pause_s = 0, self._pause_s
        while True:
            try:
                return await self._refunds.refund(wanted, refund_id)
            except PaymentNotFound:
                missed += 1
                if missed >= self._tries_max:
                    return Poison("there is no such payment")
                await self._sleep(self._pause_s)
            except (StoreUnavailable, Overloaded) as error:
                log.warning("refund waits", payment_id=wanted.payment_id, reason=str(error))
                await self._sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)
