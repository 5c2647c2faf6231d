"""Messages about refunds over a real Redis: once each, never more than was bought, and poison is put aside."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import StoreUnavailable
from engine.events import Answer, OutgoingEvent
from engine.facts import REFUNDS_MAX, Status
from engine.ids import now_ms
from engine.messages import Message
from engine.payment import Payment
from engine.purchase import Line, Purchase
from engine.turns import Turns
from engine.vault_refunds import VaultRefunds, refund_id_of
from handlers.vault_listeners import VaultListeners
from tests.store.datasets import Dataset, connected, running
from tests.support import RedisServer
from tests.vault.making import CALLER, Crash, Mortal, Silent, a_card, cards_of, findings, payments_of, vault_of, wanted
from tests.vault.world import PAN

ALL, PRODUCT = "orderService-orderRefunded", "orderService-productFromOrderRefunded"


class Aside:
    """Where dead letters go; refuses the first few."""

    def __init__(self, refusals: int = 0) -> None:
        self.letters: list[OutgoingEvent] = []
        self._refusals = refusals

    async def publish(self, events: Sequence[OutgoingEvent]) -> list[Answer]:
        if self._refusals:
            self._refusals -= 1
            return [False] * len(events)
        self.letters += events
        return [True] * len(events)

    @property
    def reasons(self) -> list[str]:
        return [dict(letter.headers)["reason"] for letter in self.letters]


class Shop:
    """A card, and listeners on the dataset."""

    def __init__(self, dataset: Dataset, store: Any = None, refusals: int = 0) -> None:
        self.dataset, self.aside = dataset, Aside(refusals)
        self._offset = 0
        refunds = VaultRefunds(store or vault_of(dataset), Turns(), Silent(), now_ms)
        self.listeners = VaultListeners(
            refunds, self.aside, dataset.instruments, order_topic=ALL, product_topic=PRODUCT, sleep=_no_pause
        )

    def message(self, topic: str, body: Any, **headers: str) -> Message:
        """The next message of a topic."""
        self._offset += 1
        value = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Message(topic, 0, self._offset, value, tuple((name, text.encode()) for name, text in headers.items()))

    def all_of(self, payment: Payment, total: float = 30.0, **headers: str) -> Message:
        """The order is refunded."""
        return self.message(ALL, {"refunded": True, "totalPrice": total, "paymentId": payment.id}, **headers)

    def product_of(self, payment: Payment, quantity: int = 1, price: float = 10.0, product: str = "p-1") -> Message:
        """So many of a product are refunded."""
        body = {"productId": product, "price": price, "quantity": quantity, "paymentId": payment.id}
        return self.message(PRODUCT, body)

    async def hears(self, *messages: Message) -> list[str]:
        """Handle them, and tell what was put aside meanwhile."""
        before = len(self.aside.letters)
        await self.listeners.handle(messages)
        return self.aside.reasons[before:]

    async def of(self, payment: Payment) -> tuple[Payment, Purchase]:
        """The payment as it stands."""
        found = await vault_of(self.dataset).paid(payment.id)
        assert found is not None
        return found

    async def balance(self, card_id: str) -> int:
        return (await cards_of(self.dataset).find(card_id, CALLER)).balance_minor

    def count(self, listener: str, outcome: str) -> float:
        return self.dataset.metric("listener_messages_total", listener=listener, outcome=outcome)


async def _no_pause(_seconds: float) -> None:
    return None


@pytest.fixture
async def dataset(redis_server: RedisServer) -> AsyncIterator[Dataset]:
    """An empty dataset of sixteen shards."""
    async with running(connected(redis_server.url)) as store:
        yield store


async def bought(dataset: Dataset, *lines: Line) -> tuple[str, Payment]:
    """A card with 100.00, and a payment of 30.00 or of these lines."""
    card = await a_card(dataset)
    return card.id, (await payments_of(dataset).pay(wanted(card, lines=lines), CALLER)).payment


async def test_a_refunded_order_goes_back_to_the_card_once(dataset: Dataset) -> None:
    shop = Shop(dataset)
    card_id, payment = await bought(dataset)
    message = shop.all_of(payment)
    assert await shop.hears(message, message) == []
    assert await shop.hears(message) == []
    now, purchase = await shop.of(payment)
    assert (now.status, purchase.lines) == (Status.REFUNDED, (Line("p-1", 3, 10_00, refunded_quantity=3),))
    assert await shop.balance(card_id) == 100_00
    assert [shop.count("order_refunded", each) for each in ("refunded", "repeated", "dead")] == [1, 2, 0]
    assert await findings(dataset) == []


async def test_the_same_message_at_another_place_is_known_by_its_id(dataset: Dataset) -> None:
    shop = Shop(dataset)
    card_id, payment = await bought(dataset)
    body = {"productId": "p-1", "price": 10, "paymentId": payment.id}
    for header in ("ce_id", "message-id"):
        twice = [shop.message(PRODUCT, body, **{header: f"m-{header}"}) for _ in range(2)]
        assert await shop.hears(*twice) == []
    assert await shop.balance(card_id) == 90_00
    assert shop.count("product_refunded", "repeated") == 2


async def test_without_an_id_every_place_is_a_message_and_the_quantity_the_bound(dataset: Dataset) -> None:
    shop = Shop(dataset)
    card_id, payment = await bought(dataset)
    assert await shop.hears(*(shop.product_of(payment) for _ in range(5))) == ["more than is left of the product"] * 2
    assert await shop.balance(card_id) == 100_00
    assert (await shop.of(payment))[0].status is Status.REFUNDED
    assert await findings(dataset) == []


async def test_all_gives_back_only_what_is_left(dataset: Dataset) -> None:
    shop = Shop(dataset)
    card_id, payment = await bought(dataset)
    assert await shop.hears(shop.product_of(payment), shop.all_of(payment)) == []
    now, _ = await shop.of(payment)
    assert [refund.minor for refund in now.refunds] == [10_00, 20_00]
    assert await shop.hears(shop.all_of(payment), shop.product_of(payment)) == ["more than is left of the product"]
    assert shop.count("order_refunded", "nothing_left") == 1
    assert await shop.balance(card_id) == 100_00
    events = [json.loads(body) for body in await dataset.payments().events_of(payment.id)]
    assert [event["eventType"] for event in events][1:] == ["paymentService-cardRefunded"] * 2
    assert [(event["amount"], event["totalRefunded"], event["refunded"]) for event in events[1:]] == [
        (10, 10, False), (20, 30, True),
    ]  # fmt: skip
    assert await findings(dataset) == []


async def test_an_order_that_was_not_refunded_changes_nothing(dataset: Dataset) -> None:
    shop = Shop(dataset)
    card_id, payment = await bought(dataset)
    body = {"refunded": False, "totalPrice": 30, "paymentId": payment.id}
    assert await shop.hears(shop.message(ALL, body)) == []
    assert (await shop.balance(card_id), shop.count("order_refunded", "ignored")) == (70_00, 1)


@pytest.mark.parametrize(
    ("topic", "changed", "reason"),
    [
        (ALL, {"totalPrice": 30.01}, "the total is neither what was paid nor what is left"),
        (ALL, {"totalPrice": -30}, "amount must be above 0"),
        (ALL, {"totalPrice": "30"}, "amount must be a JSON number"),
        (ALL, {"paymentId": "pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a"}, "there is no such payment"),
        (ALL, {"paymentId": "x"}, "there is no such payment"),
        (ALL, {"paymentId": 7}, "not a message of this topic"),
        (ALL, {"refunded": "yes"}, "not a message of this topic"),
        (PRODUCT, {"quantity": 4}, "more than is left of the product"),
        (PRODUCT, {"quantity": 0}, "not a message of this topic"),
        (PRODUCT, {"quantity": -1}, "not a message of this topic"),
        (PRODUCT, {"quantity": 10**30}, "not a message of this topic"),
        (PRODUCT, {"price": 9.99}, "the price is not what was paid for the product"),
        (PRODUCT, {"price": 10.001}, "amount has more decimals"),
        (PRODUCT, {"productId": "p-2"}, "the payment has no such product"),
        (PRODUCT, {"cardNumber": "4000000000000002"}, "the card is not the payment's"),
    ],
)
async def test_what_cannot_be_is_put_aside_with_its_reason(
    dataset: Dataset, topic: str, changed: dict[str, Any], reason: str
) -> None:
    shop = Shop(dataset)
    card_id, payment = await bought(dataset)
    body = {"refunded": True, "totalPrice": 30, "productId": "p-1", "price": 10, "paymentId": payment.id, **changed}
    message = shop.message(topic, body, trace="t")
    [said] = await shop.hears(message)
    assert said.startswith(reason)
    [letter] = shop.aside.letters
    headers = dict(letter.headers)
    assert (letter.topic, headers["source"], headers["trace"]) == (f"{topic}.dead", message.place, "t")
    assert PAN not in letter.value.decode()
    assert await shop.balance(card_id) == 70_00
    assert await findings(dataset) == []


@pytest.mark.parametrize("value", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"refunded":true}'])
@pytest.mark.parametrize("topic", [ALL, PRODUCT])
async def test_what_is_no_message_is_put_aside_and_blocks_nobody(dataset: Dataset, topic: str, value: bytes) -> None:
    shop = Shop(dataset, refusals=2)
    card_id, payment = await bought(dataset)
    said = await shop.hears(shop.message(topic, value), shop.all_of(payment))
    assert [each.partition(":")[0] for each in said] == ["not a message of this topic"]
    assert shop.aside.letters[0].value == value
    assert await shop.balance(card_id) == 100_00


async def test_a_card_number_in_a_dead_letter_keeps_its_last_four_alone(dataset: Dataset) -> None:
    shop = Shop(dataset)
    for number in (f'"{PAN}"', PAN, '"4242 4242 4242 4242"', '"4242-4242-4242-4242"'):
        await shop.hears(shop.message(PRODUCT, f'{{"cardNumber":{number},"price":1}}'.encode(), note=PAN))
    for letter in shop.aside.letters:
        assert letter.value.endswith((b'0000000000004242","price":1}', b'0000000000004242,"price":1}'))
        assert PAN not in str(letter.headers)


async def test_the_cards_number_may_come_in_any_form(dataset: Dataset) -> None:
    shop = Shop(dataset)
    card_id, payment = await bought(dataset)
    last4 = (await cards_of(dataset).find(card_id, CALLER)).last4
    for number in (f"************{last4}", int(f"9{last4}"), None):
        body = {"productId": "p-1", "price": 10, "paymentId": payment.id, "cardNumber": number}
        assert await shop.hears(shop.message(PRODUCT, body)) == []
    assert await shop.balance(card_id) == 100_00


async def test_a_payment_that_failed_has_nothing_to_give_back(dataset: Dataset) -> None:
    shop = Shop(dataset)
    card = await a_card(dataset, minor=1)
    with pytest.raises(Exception, match="too little money"):
        await payments_of(dataset).pay(wanted(card), CALLER)
    payment_id = await vault_of(dataset).claim_checkout("c-1", "pay-x")  # type: ignore[arg-type]
    message = shop.message(ALL, {"refunded": True, "totalPrice": 30, "paymentId": payment_id})
    assert await shop.hears(message) == ["a payment that is failed cannot be refunded"]


async def test_a_refund_for_a_deleted_card_is_kept_on_its_books(dataset: Dataset) -> None:
    shop = Shop(dataset)
    card_id, payment = await bought(dataset)
    await cards_of(dataset).delete(card_id, CALLER)
    assert await shop.hears(shop.all_of(payment)) == []
    card = await vault_of(dataset).card(card_id)
    assert card is not None
    assert (card.balance_minor, card.sealed, card.holder) == (100_00, b"", "")
    assert await findings(dataset) == []


async def test_a_payment_has_a_bound_of_refunds(dataset: Dataset) -> None:
    shop = Shop(dataset)
    _, payment = await bought(dataset, Line("p-1", REFUNDS_MAX + 5, 10))
    messages = [shop.product_of(payment, price=0.1) for _ in range(REFUNDS_MAX + 1)]
    assert await shop.hears(*messages) == [f"the payment has {REFUNDS_MAX} refunds already"]
    assert await findings(dataset) == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 5))
async def test_a_listener_that_dies_at_any_call_is_healed_by_the_message_coming_again(
    dataset: Dataset, at: int, after: bool
) -> None:
    card_id, payment = await bought(dataset)
    dying = VaultRefunds(Mortal(vault_of(dataset), at, after=after), Turns(), Silent(), now_ms)
    shop = Shop(dataset)
    message = shop.product_of(payment, 2)
    decoded = shop.listeners._decoders[PRODUCT].decode(message.value).wanted()
    assert decoded is not None
    with contextlib.suppress(Crash):
        await dying.refund(decoded, refund_id_of(message.topic, message.id))
    assert await shop.hears(message) == []
    assert await shop.balance(card_id) == 90_00
    assert await findings(dataset) == []


async def test_while_the_store_is_away_nothing_is_put_aside(dataset: Dataset) -> None:
    class Away:
        """Away for the first five calls."""

        def __init__(self) -> None:
            self.calls = 0

        def __getattr__(self, name: str) -> Any:
            async def call(*arguments: Any) -> Any:
                self.calls += 1
                if self.calls <= 5:
                    raise StoreUnavailable("away")
                return await getattr(vault_of(dataset), name)(*arguments)

            return call

    shop = Shop(dataset, Away())
    card_id, payment = await bought(dataset)
    assert await shop.hears(shop.all_of(payment)) == []
    assert await shop.balance(card_id) == 100_00


async def test_two_listeners_of_one_message_give_back_once(dataset: Dataset) -> None:
    first, second = Shop(dataset), Shop(dataset)
    card_id, payment = await bought(dataset, Line("p-1", 50, 1_00))
    messages = [first.product_of(payment, price=1) for _ in range(50)]
    await asyncio.gather(first.hears(*messages), second.hears(*reversed(messages)))
    assert await first.balance(card_id) == 100_00
    assert len((await first.of(payment))[0].refunds) == 50
    assert first.aside.letters == second.aside.letters == []
    assert await findings(dataset) == []


LINES = st.lists(
    st.builds(Line, st.sampled_from(["a", "b"]), st.integers(1, 4), st.sampled_from([0, 1, 250])),
    min_size=1,
    max_size=4,
).filter(lambda lines: any(line.price_minor for line in lines))
ASKED = st.lists(
    st.tuples(st.sampled_from(["all", "a", "b", "again"]), st.sampled_from([0.01, 2.5]), st.integers(1, 5)),
    max_size=12,
)


@settings(max_examples=60)
@given(lines=LINES, asked=ASKED)
async def test_whatever_is_asked_the_lines_bound_it(shared_redis: RedisServer, lines: list[Line], asked: Any) -> None:
    client = shared_redis.client()
    client.flushall()
    client.close()
    async with running(connected(shared_redis.url)) as dataset:
        shop = Shop(dataset)
        card_id, payment = await bought(dataset, *lines)
        messages: list[Message] = []
        for what, price, quantity in asked:
            if what == "again" and messages:
                messages.append(messages[0])
            elif what == "all":
                messages.append(shop.all_of(payment, float(payment.amount.text)))
            else:
                messages.append(shop.product_of(payment, quantity, price, what))
        await shop.hears(*messages)
        now, purchase = await shop.of(payment)
        assert 0 <= now.refunded_minor == purchase.refunded_minor <= now.captured_minor
        assert all(0 <= line.refunded_quantity <= line.quantity for line in purchase.lines)
        assert await shop.balance(card_id) == 100_00 - now.captured_minor + now.refunded_minor
        assert len(now.refunds) <= len({message.id for message in messages})
        assert await findings(dataset) == []
