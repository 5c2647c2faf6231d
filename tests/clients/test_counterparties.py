"""The clients of users, orders and acquirers, over real sockets: every manner of answer, in the engine's words."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
import structlog
from aiohttp import web
from multidict import CIMultiDictProxy
from prometheus_client import CollectorRegistry

from app import logs
from clients.acquirer import CardAcquirer
from clients.http import ANSWER_BYTES_MAX, HttpCounterparty, open_session, url_for
from clients.orders import OrderService
from clients.users import UserService
from clients.wire import Wire as Session
from engine import context, errors
from engine.cards import Card, Cvv, Instrument, Pan, WalletToken
from engine.charging import AcquirerRequest, NeverSeen, NotSent, Outcome, Unknown
from engine.checking import Order, User
from engine.facts import Kind
from engine.ids import PaymentId
from engine.money import Money
from engine.settling import Approved, Declined
from metrics.instruments import Instruments
from resilience.errors import BadAnswer, Unreachable
from resilience.guard import Guard, GuardSettings
from simulators import cards
from simulators.server import serve
from tests.support import USER, Sims, free_port, shown

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ATTEMPT = "pay-01kdvnqg0000000000000000000a-a1"
AMOUNT = Money(7548, "USD")
CVV = "9731"
TIMEOUT_S = 30.0
OPEN_S = 3600.0
SHORT_S = 2.0  # no answer comes, but the request must have arrived
"""The patience of tests in which nobody answers."""

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Wire:
    """A server that answers every request in one way, and remembers what came."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[tuple[str, str, CIMultiDictProxy[str], bytes]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.raw_path, request.headers, body))
        return await self._answer(request)


def says(status: int, body: str | bytes = b"", **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        content = body.encode() if isinstance(body, str) else body
        return web.Response(status=status, body=content, content_type="application/json", headers=headers)

    return answer


class Line:
    """A guarded line to one counterparty."""

    def __init__(self, session: Session, name: str, **numbers: Any) -> None:
        timeout_s = numbers.pop("timeout_s", TIMEOUT_S)
        settings = GuardSettings(timeout_s=timeout_s, deadline_s=4 * timeout_s, **{"tries_max": 1, **numbers})
        self.guard = Guard(name, settings, Instruments(CollectorRegistry()))
        self.counterparty = HttpCounterparty(session, self.guard, timeout_s=timeout_s)

    @property
    def failures(self) -> int:
        """What the breaker has counted."""
        return self.guard.status().failure_count

    def users(self, base: str, *, cache_s: float = 5.0, cache_max: int = 100, clock: Any = None) -> UserService:
        more = {} if clock is None else {"clock": clock}
        return UserService(self.counterparty, base + "/api/users/{id}", cache_s=cache_s, cache_max=cache_max, **more)

    def orders(self, base: str) -> OrderService:
        return OrderService(self.counterparty, base + "/api/orders/{id}")

    def acquirer(self, base: str) -> CardAcquirer:
        return CardAcquirer(self.counterparty, base)


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with open_session(client_id="payment-service") as opened:
        yield opened


@pytest.fixture
async def line(session: Session) -> Line:
    return Line(session, "counterparty")


@pytest.fixture
async def impatient(session: Session) -> Line:
    return Line(session, "counterparty", timeout_s=SHORT_S)


def limit_for(fault: str) -> float:
    """How long to wait with this fault: only silence has to be waited for to the end."""
    return SHORT_S if fault.startswith("silence") else TIMEOUT_S


@asynccontextmanager
async def wire(answer: Answer) -> AsyncIterator[tuple[Wire, str]]:
    server = Wire(answer)
    async with serve(server) as base:
        yield server, base


USER_BODY = json.dumps({"id": "u1", "is_active": True, "email": "x@example.com", "profile": {"bio": ""}})
ORDER_BODY = '{"id":"o1","userId":"u1","items":[],"status":"pending","totalAmount":75.48,"createdAt":"2023-01-01"}'
SERVICES = {"user": ("u1", USER_BODY), "order": ("o1", ORDER_BODY)}


def service(kind: str, line: Line, base: str) -> Callable[[str], Awaitable[User | Order | None]]:
    return line.users(base).get if kind == "user" else line.orders(base).get


async def test_a_user_is_read_as_far_as_the_engine_needs(line: Line, sims: Sims) -> None:
    await sims.user()
    await sims.user("u-2", is_active=False)
    users = line.users(sims.users)
    assert await users.get(USER) == User(USER, active=True)
    assert await users.get("u-2") == User("u-2", active=False)
    assert await users.get("nobody") is None and line.failures == 0


async def test_an_order_is_read_with_the_text_of_its_total(line: Line, sims: Sims) -> None:
    await sims.order("o1", price=75.1, currency="EUR", status="confirmed")
    orders = line.orders(sims.orders)
    assert await orders.get("o1") == Order("o1", USER, "confirmed", "75.10", "EUR", None)
    assert await orders.get("nothing") is None and line.failures == 0


@pytest.mark.parametrize(
    ("body", "order"),
    [(ORDER_BODY, Order("o1", "u1", "pending", "75.48", None, None)),
     ('{"id":"o1","userId":7,"status":"paid","totalAmount":1e2,"paymentId":"pay-4"}',
      Order("o1", "7", "paid", "1e2", None, "pay-4")),
     ('{"id":"o1","userId":"u1","status":"x","totalAmount":75.480,"paymentId":9,"currency":null}',
      Order("o1", "u1", "x", "75.480", None, "9"))],
)  # fmt: skip
async def test_totals_stay_text_and_ids_may_be_numbers(line: Line, body: str, order: Order) -> None:
    async with wire(says(200, body)) as (_, base):
        assert await line.orders(base).get("o1") == order


BAD_ANSWERS: dict[str, tuple[Answer, int]] = {
    "500": (says(500, '{"error":{}}'), 1),
    "503": (says(503), 1),
    "429": (says(429), 1),
    "wrong json": (says(200, b'{"id": "txn-\xff<html>'), 1),
    "empty body": (says(200), 1),
    "json of another shape": (says(200, "[]"), 1),
    "missing fields": (says(200, '{"id":"u1"}'), 1),
    "wrong types": (says(200, '{"id":"u1","is_active":"yes","userId":null,"status":1,"totalAmount":1}'), 1),
    "somebody else": (says(200, USER_BODY.replace("u1", "u2")), 1),
    "something else": (says(200, ORDER_BODY.replace("o1", "o2")), 1),
    "huge body": (says(200, b'{"id":"u1","x":"' + b"x" * ANSWER_BYTES_MAX + b'"}'), 1),
    "one byte too many, all of it blanks": (says(200, USER_BODY.ljust(ANSWER_BYTES_MAX + 1)), 1),
    "redirect": (says(302, USER_BODY, Location="/api/users/u1"), 1),
    "201": (says(201, USER_BODY), 1),
    # A 4xx is a healthy answer: one client's odd id must not open the circuit for all.
    "400": (says(400, '{"error":"bad id"}'), 0),
    "403": (says(403), 0),
    "422": (says(422, "nonsense"), 0),
}


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize(("answer", "failures"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_an_answer_that_is_none_is_refused_as_such(line: Line, kind: str, answer: Answer, failures: int) -> None:
    async with wire(answer) as (server, base):
        with pytest.raises(errors.BadUpstreamAnswer) as refused:
            await service(kind, line, base)(SERVICES[kind][0])
    assert refused.value.details == {"counterparty": f"{kind}_service"} and refused.value.retry == "after"
    assert str(refused.value) == f"the {kind} service gave no usable answer"
    assert line.failures == failures
    assert len(server.requests) == 1, "a redirect is not followed"


UNAVAILABLE = {"user": errors.UserServiceUnavailable, "order": errors.OrderServiceUnavailable}


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize("fault", ["silence", "reset", "silence_after", "reset_after"])
async def test_silence_and_a_broken_connection_are_unavailability(
    session: Session, sims: Sims, kind: str, fault: str
) -> None:
    line = Line(session, "counterparty", timeout_s=limit_for(fault))
    base = sims.users if kind == "user" else sims.orders
    await sims.fault(base, fault)
    with pytest.raises(UNAVAILABLE[kind]) as refused:
        await service(kind, line, base)(SERVICES[kind][0])
    assert refused.value.retry == "after" and refused.value.retry_after_s == 1.0
    assert str(refused.value) == f"the {kind} service does not answer" and line.failures == 1


@pytest.mark.parametrize("kind", SERVICES)
async def test_nobody_at_the_port_is_unavailability(line: Line, kind: str) -> None:
    with pytest.raises(UNAVAILABLE[kind]):
        await service(kind, line, f"http://127.0.0.1:{free_port()}")("u1")
    assert line.failures == 1


@pytest.mark.parametrize("kind", SERVICES)
async def test_an_open_circuit_says_when_to_come_back_and_asks_nobody(session: Session, kind: str) -> None:
    line = Line(session, "c", failures_to_open=2, open_s=OPEN_S, open_max_s=OPEN_S)
    async with wire(says(500)) as (server, base):
        ask = service(kind, line, base)
        for _ in range(2):
            with pytest.raises(errors.BadUpstreamAnswer):
                await ask("u1")
        with pytest.raises(UNAVAILABLE[kind]) as refused:
            await ask("u1")
    assert len(server.requests) == 2 and OPEN_S - 100 < refused.value.retry_after_s <= OPEN_S
    assert str(refused.value) == f"the {kind} service is not asked now"


@pytest.mark.parametrize("kind", SERVICES)
async def test_reads_are_tried_again_and_a_clients_mistake_is_not(session: Session, kind: str) -> None:
    async with wire(says(500)) as (server, base):
        line = Line(session, "c", tries_max=3, backoff_base_s=0.001)
        with pytest.raises(errors.BadUpstreamAnswer):
            await service(kind, line, base)("u1")
        assert len(server.requests) == 3
    async with wire(says(400)) as (server, base):
        with pytest.raises(errors.BadUpstreamAnswer):
            await service(kind, Line(session, "c", tries_max=3, backoff_base_s=0.001), base)("u1")
        assert len(server.requests) == 1


async def test_an_answer_of_the_largest_size_is_read(line: Line) -> None:
    body = USER_BODY.ljust(ANSWER_BYTES_MAX)
    async with wire(says(200, body)) as (_, base):
        assert await line.users(base).get("u1") == User("u1", active=True)


async def test_a_body_without_end_is_cut_off(line: Line) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)

    async with wire(endless) as (_, base):
        with pytest.raises(errors.BadUpstreamAnswer):
            await line.users(base).get("u1")
    assert line.failures == 1


async def test_ids_cannot_reach_another_path(line: Line) -> None:
    async with wire(says(404)) as (server, base):
        for name in ("../admin", "a/b", "a?b=c", "a#b", "a b", "ü", "%2e%2e"):
            assert await line.users(base).get(name) is None
    paths = [path for _, path, _, _ in server.requests]
    assert paths == [
        "/api/users/..%2Fadmin", "/api/users/a%2Fb", "/api/users/a%3Fb%3Dc", "/api/users/a%23b", "/api/users/a%20b",
        "/api/users/%C3%BC", "/api/users/%252e%252e",
    ]  # fmt: skip
    assert str(url_for("http://h/{id}/x", "1")) == "http://h/1/x"


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def held(open_: asyncio.Event, status: int = 200) -> Answer:
    """Answers about whoever is asked for, but only after the event."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await open_.wait()
        name = request.path.rsplit("/", 1)[1]
        return web.json_response({"id": name, "is_active": not name.startswith("inactive")}, status=status)

    return answer


async def asked(server: Wire, times: int) -> None:
    async with asyncio.timeout(30):
        while len(server.requests) < times:  # noqa: ASYNC110 - it happens behind a socket
            await asyncio.sleep(0.001)


@pytest.fixture
async def open_() -> asyncio.Event:
    return asyncio.Event()


async def test_a_user_is_asked_for_once_however_many_ask(session: Session, open_: asyncio.Event) -> None:
    async with wire(held(open_)) as (server, base):
        users = Line(session, "c").users(base, cache_s=0)
        waiting = [asyncio.create_task(users.get(name)) for name in ["u1", "u2"] * 10]
        await asked(server, 2)
        open_.set()
        assert await asyncio.gather(*waiting) == [User("u1", active=True), User("u2", active=True)] * 10
        assert len(server.requests) == 2
        await users.get("u1")
        assert len(server.requests) == 3, "with cache_s = 0 the answer is only for who was waiting"


async def test_all_who_wait_hear_of_the_trouble(session: Session, open_: asyncio.Event) -> None:
    async with wire(held(open_, 500)) as (server, base):
        users = Line(session, "c").users(base)
        waiting = [asyncio.create_task(users.get("u1")) for _ in range(5)]
        await asked(server, 1)
        open_.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(answer) for answer in answers} == {errors.BadUpstreamAnswer} and len(server.requests) == 1
        with pytest.raises(errors.BadUpstreamAnswer):
            await users.get("u1")
        assert len(server.requests) == 2, "trouble is not kept"


async def test_when_the_one_who_asks_is_cancelled_another_asks(session: Session, open_: asyncio.Event) -> None:
    async with wire(held(open_)) as (server, base):
        line = Line(session, "c")
        users = line.users(base)
        leader, *others = [asyncio.create_task(users.get("u1")) for _ in range(4)]
        await asked(server, 1)
        leader.cancel()
        await asked(server, 2)
        open_.set()
        assert await asyncio.gather(*others) == [User("u1", active=True)] * 3
        assert leader.cancelled() and len(server.requests) == 2 and line.failures == 0


async def test_one_who_waits_can_leave_without_disturbing_the_others(session: Session, open_: asyncio.Event) -> None:
    async with wire(held(open_)) as (server, base):
        users = Line(session, "c").users(base)
        leader, leaving, other = [asyncio.create_task(users.get("u1")) for _ in range(3)]
        await asked(server, 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        open_.set()
        assert [*await asyncio.gather(leader, other)] == [User("u1", active=True)] * 2
        assert leaving.cancelled() and len(server.requests) == 1


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
async def test_all_who_are_cancelled_together_end(session: Session, open_: asyncio.Event, order: list[int]) -> None:
    """As when the order service refuses several requests of one user at once: nobody may go on asking."""
    async with wire(held(open_)) as (server, base):
        users = Line(session, "c").users(base)
        waiting = [asyncio.create_task(users.get("u1")) for _ in range(3)]
        await asked(server, 1)
        for place in order:
            waiting[place].cancel()
        await asyncio.wait(waiting, timeout=30)
        open_.set()
        assert all(task.cancelled() for task in waiting) and len(server.requests) == 1


async def test_an_active_user_is_kept_for_a_while(line: Line, sims: Sims) -> None:
    await sims.user()
    clock = Clock()
    users = line.users(sims.users, cache_s=5.0, clock=clock)
    assert users.cached(USER) is None
    await users.get(USER)
    await sims.fault(sims.users, "status", status=404)
    clock.now_s += 4.9
    assert users.cached(USER) == await users.get(USER) == User(USER, active=True)
    clock.now_s += 0.1
    assert users.cached(USER) is None and await users.get(USER) is None


async def test_inactive_and_unknown_users_are_not_kept(line: Line, open_: asyncio.Event) -> None:
    open_.set()
    async with wire(held(open_)) as (server, base):
        users = line.users(base)
        for _ in range(2):
            assert await users.get("inactive-1") == User("inactive-1", active=False)
    async with wire(says(404)) as (unknown, base):
        users = line.users(base)
        for _ in range(2):
            assert await users.get("u1") is None
    assert len(server.requests) == len(unknown.requests) == 2


async def test_no_more_users_are_kept_than_allowed(line: Line, open_: asyncio.Event) -> None:
    open_.set()
    async with wire(held(open_)) as (_, base):
        users = line.users(base, cache_max=3)
        for number in range(10):
            await users.get(f"u{number}")
            assert sum(users.cached(f"u{other}") is not None for other in range(10)) <= 3
            assert users.cached(f"u{number}") is not None


def a_card(number: str = cards.APPROVED) -> Card:
    return Card(Pan(number), 12, 2030, Cvv(CVV))


def a_charge(
    instrument: Instrument | None = None, attempt: str = ATTEMPT, amount: Money = AMOUNT, kind: Kind = Kind.CHARGE
) -> AcquirerRequest:
    return AcquirerRequest(attempt, PaymentId(attempt[:-3]), kind, amount, instrument or a_card(), "")


def a_follow_up(kind: Kind) -> AcquirerRequest:
    return AcquirerRequest(ATTEMPT, PaymentId(ATTEMPT[:-3]), kind, AMOUNT, None, "txn-1")


DECLINES = {
    cards.DECLINED: Declined("card_declined", "Card declined"),
    cards.INSUFFICIENT_FUNDS: Declined("insufficient_funds", "Insufficient funds"),
    cards.LOST: Declined("lost_card", "Lost card"),
    cards.EXPIRED: Declined("expired_card", "Expired card"),
    cards.DECLINED_TRY_AGAIN: Declined("try_again_later", "Try again later", retryable=True),
}


@pytest.mark.parametrize("number", [cards.APPROVED, cards.APPROVED_VISA, cards.APPROVED_MASTERCARD])
async def test_cards_that_are_approved(line: Line, sims: Sims, number: str) -> None:
    acquirer = line.acquirer(sims.acquirer)
    answer = await acquirer.send(a_charge(a_card(number)))
    (effect,) = await sims.effects()
    assert answer == Approved(effect["id"]) == await acquirer.find(Kind.CHARGE, ATTEMPT, AMOUNT)
    assert (effect["attempt"], effect["amount_minor"], effect["currency"]) == (ATTEMPT, 7548, "USD")
    assert acquirer.name == "counterparty" and line.failures == 0


@pytest.mark.parametrize(("number", "answer"), DECLINES.items(), ids=[answer.code for answer in DECLINES.values()])
async def test_cards_that_are_declined(line: Line, sims: Sims, number: str, answer: Declined) -> None:
    acquirer = line.acquirer(sims.acquirer)
    assert await acquirer.send(a_charge(a_card(number))) == answer == await acquirer.find(Kind.CHARGE, ATTEMPT, AMOUNT)
    assert await sims.effects() == [] and line.failures == 0, "a declined card is a healthy acquirer"


@pytest.mark.parametrize("number", [cards.SILENT_BUT_CHARGES, cards.LATE, cards.ERROR_AFTER_CHARGE])
async def test_cards_that_are_charged_without_a_usable_answer_are_unknown_until_asked(
    impatient: Line, line: Line, sims: Sims, number: str
) -> None:
    answer = await impatient.acquirer(sims.acquirer).send(a_charge(a_card(number)))
    assert isinstance(answer, Unknown) and impatient.failures == 1
    (effect,) = await sims.effects()
    assert await line.acquirer(sims.acquirer).find(Kind.CHARGE, ATTEMPT, AMOUNT) == Approved(effect["id"])


async def test_a_card_that_breaks_the_acquirer_before_charging_was_never_seen(line: Line, sims: Sims) -> None:
    acquirer = line.acquirer(sims.acquirer)
    assert isinstance(await acquirer.send(a_charge(a_card(cards.ERROR_BEFORE_CHARGE))), Unknown)
    assert await acquirer.find(Kind.CHARGE, ATTEMPT, AMOUNT) == NeverSeen()


async def test_a_wallet_token_is_charged(line: Line, sims: Sims) -> None:
    answer = await line.acquirer(sims.acquirer).send(a_charge(WalletToken("tok_visa_4242")))
    assert isinstance(answer, Approved)


async def test_a_charge_that_is_sent_again_has_one_effect(line: Line, sims: Sims) -> None:
    acquirer = line.acquirer(sims.acquirer)
    answers = [await acquirer.send(a_charge()) for _ in range(3)]
    assert len(set(answers)) == 1 and len(await sims.effects()) == 1


async def test_another_body_under_the_same_attempt_is_unknown_and_not_declined(line: Line, sims: Sims) -> None:
    acquirer = line.acquirer(sims.acquirer)
    await acquirer.send(a_charge())
    assert await acquirer.send(a_charge(a_card(cards.LOST))) == Unknown("counterparty answered 409")


@pytest.mark.parametrize(
    "fault", ["silence", "silence_after", "reset", "reset_after", "error_before", "error_after", "wrong_json"]
)
async def test_trouble_after_sending_is_unknown_and_is_not_repeated(session: Session, sims: Sims, fault: str) -> None:
    line = Line(session, "bank", timeout_s=limit_for(fault), tries_max=3)
    await sims.fault(sims.acquirer, fault)
    assert isinstance(await line.acquirer(sims.acquirer).send(a_charge()), Unknown)
    assert (await sims.faults(sims.acquirer))["fired"][fault] == 1 and line.failures == 1


ANSWER = {"id": "txn-1", "attempt": ATTEMPT, "status": "approved", "amount_minor": 7548, "currency": "USD"}
BAD_CHARGES: dict[str, tuple[int, dict[str, Any]]] = {
    "another attempt": (200, {"attempt": ATTEMPT[:-1] + "2"}),
    "a smaller amount": (200, {"amount_minor": 7547}),
    "another currency": (200, {"currency": "EUR"}),
    "no amount": (200, {"amount_minor": None}),
    "an amount in dollars": (200, {"amount_minor": 75.48}),
    "a status that is neither": (200, {"status": "pending"}),
    "no status": (200, {"status": None}),
    "another attempt declined": (402, {"status": "declined", "attempt": "pay-x-a1"}),
    "400": (400, {}),
    "401": (401, {}),
    "404": (404, {}),
    "redirect": (307, {}),
    "500": (500, {}),
    "429": (429, {}),
}


@pytest.mark.parametrize("request_", [a_charge(), a_follow_up(Kind.CAPTURE), a_follow_up(Kind.REFUND)])
@pytest.mark.parametrize(("status", "changes"), BAD_CHARGES.values(), ids=BAD_CHARGES)
async def test_an_answer_that_is_not_about_this_charge_is_unknown(
    line: Line, status: int, changes: dict[str, Any], request_: AcquirerRequest
) -> None:
    body = json.dumps({**ANSWER, **changes})
    async with wire(says(status, body, Location="/charges")) as (server, base):
        acquirer = line.acquirer(base)
        assert isinstance(await acquirer.send(request_), Unknown)
        assert len(server.requests) == 1
        found = await acquirer.find(request_.kind, ATTEMPT, AMOUNT)
    assert found == NeverSeen() if status == 404 else isinstance(found, Unknown)


async def test_an_acquirer_that_says_little_of_a_decline_has_declined(line: Line) -> None:
    async with wire(says(402, json.dumps({"id": "t", "attempt": ATTEMPT, "status": "declined"}))) as (_, base):
        assert await line.acquirer(base).send(a_charge()) == Declined("declined", "Declined")


async def test_a_refused_connection_is_not_sent(line: Line) -> None:
    acquirer = line.acquirer(f"http://127.0.0.1:{free_port()}")
    for answer in (await acquirer.send(a_charge()), await acquirer.find(Kind.CHARGE, ATTEMPT, AMOUNT)):
        assert isinstance(answer, NotSent) and answer.retry_after_s == 1.0
    assert line.failures == 2


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port whose queue is full: a connection to it is neither made nor refused."""
    with ExitStack() as sockets:
        deaf, *fill = [sockets.enter_context(socket.socket()) for _ in range(5)]
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(deaf.getsockname())
        yield deaf.getsockname()[1]


async def test_a_connection_that_is_never_made_is_not_sent(impatient: Line, deaf_port: int) -> None:
    """Not unknown: nobody would have to be asked about it."""
    answer = await impatient.acquirer(f"http://127.0.0.1:{deaf_port}").send(a_charge())
    assert isinstance(answer, NotSent) and impatient.failures == 1


async def test_an_open_circuit_is_not_sent_and_says_for_how_long(session: Session) -> None:
    line = Line(session, "bank", failures_to_open=1, open_s=OPEN_S, open_max_s=OPEN_S)
    async with wire(says(500)) as (server, base):
        acquirer = line.acquirer(base)
        assert isinstance(await acquirer.send(a_charge()), Unknown)
        for answer in (await acquirer.send(a_charge()), await acquirer.find(Kind.CHARGE, ATTEMPT, AMOUNT)):
            assert isinstance(answer, NotSent) and OPEN_S - 100 < answer.retry_after_s <= OPEN_S
    assert len(server.requests) == 1


async def test_a_charge_is_asked_for_by_its_attempt(impatient: Line, line: Line, sims: Sims) -> None:
    found = await line.acquirer(sims.acquirer).find(Kind.CHARGE, ATTEMPT, AMOUNT)
    assert found == NeverSeen() and line.failures == 0
    await sims.fault(sims.acquirer, "silence", method="GET")
    assert isinstance(await impatient.acquirer(sims.acquirer).find(Kind.CHARGE, ATTEMPT, AMOUNT), Unknown)


async def test_what_an_acquirer_is_sent(line: Line) -> None:
    async with wire(says(200, json.dumps(ANSWER))) as (server, base):
        acquirer = line.acquirer(base + "/")
        await acquirer.send(a_charge())
        await acquirer.send(a_charge(Card(Pan(cards.APPROVED), 1, 2031, None)))
        await acquirer.send(a_charge(WalletToken("tok_visa_4242")))
        await acquirer.find(Kind.CHARGE, ATTEMPT, AMOUNT)
    (method, path, headers, body), (*_, no_cvv), (*_, wallet), find = server.requests
    assert (method, path, headers["Idempotency-Key"]) == ("POST", "/charges", ATTEMPT)
    assert headers["Content-Type"] == "application/json" and headers["User-Agent"] == "payment-service"
    common = {"amount_minor": 7548, "currency": "USD", "reference": ATTEMPT[:-3]}
    card = {"number": cards.APPROVED, "expiry_month": 12, "expiry_year": 2030, "cvv": CVV}
    assert json.loads(body) == {**common, "card": card}
    assert json.loads(no_cvv)["card"] == {**card, "expiry_month": 1, "expiry_year": 2031, "cvv": None}
    assert json.loads(wallet) == {**common, "wallet_token": "tok_visa_4242"}
    assert find[:2] == ("GET", f"/charges/{ATTEMPT}") and find[3] == b""


@pytest.mark.parametrize(
    ("kind", "path"), [(Kind.CAPTURE, "/captures"), (Kind.VOID, "/voids"), (Kind.REFUND, "/refunds")]
)
async def test_what_an_acquirer_is_sent_after_a_charge(line: Line, kind: Kind, path: str) -> None:
    async with wire(says(200, json.dumps(ANSWER))) as (server, base):
        acquirer = line.acquirer(base)
        assert await acquirer.send(a_follow_up(kind)) == Approved("txn-1")
        assert await acquirer.find(kind, ATTEMPT, AMOUNT) == Approved("txn-1")
    (method, sent_to, headers, body), find = server.requests
    assert (method, sent_to, headers["Idempotency-Key"]) == ("POST", path, ATTEMPT)
    assert json.loads(body) == {
        "amount_minor": 7548, "currency": "USD", "reference": ATTEMPT[:-3], "charge": "txn-1",
    }  # fmt: skip
    assert find[:2] == ("GET", f"{path}/{ATTEMPT}") and find[3] == b""


async def test_an_authorization_is_a_charge_that_does_not_capture_and_has_an_end(line: Line) -> None:
    answer = json.dumps({**ANSWER, "authorized_until": "2026-01-01T00:00:00.000Z"})
    async with wire(says(200, answer)) as (server, base):
        acquirer = line.acquirer(base)
        assert await acquirer.send(a_charge(kind=Kind.AUTHORIZE)) == Approved("txn-1", 1_767_225_600_000)
        assert await acquirer.find(Kind.AUTHORIZE, ATTEMPT, AMOUNT) == Approved("txn-1", 1_767_225_600_000)
        await acquirer.send(a_charge())
    (_, path, _, body), find, (*_, charge) = server.requests
    assert path == "/charges" and find[:2] == ("GET", f"/charges/{ATTEMPT}")
    assert json.loads(body) == {**json.loads(charge), "capture": False} and "capture" not in json.loads(charge)


async def test_the_requests_ids_travel_on_to_every_counterparty(line: Line) -> None:
    async with wire(says(404)) as (server, base):
        await line.users(base).get("u1")
        context.set_current("req-7", TRACEPARENT)
        await line.users(base).get("u1")
        await line.orders(base).get("o1")
        await line.acquirer(base).send(a_charge())
    outside, *inside = [headers for _, _, headers, _ in server.requests]
    assert "X-Request-Id" not in outside and "traceparent" not in outside
    assert [(headers["X-Request-Id"], headers["traceparent"]) for headers in inside] == [("req-7", TRACEPARENT)] * 3


@pytest.fixture
def written() -> Iterator[Callable[[], str]]:
    """All that is logged while a test runs, at the lowest level."""
    before = structlog.get_config()
    root_handlers, root_level = logging.getLogger().handlers[:], logging.getLogger().level
    file = io.StringIO()
    buffer = logs.configure("debug", file)
    logging.getLogger().setLevel("DEBUG")

    def read() -> str:
        buffer.flush_now()
        return file.getvalue()

    yield read
    logging.getLogger().handlers[:] = root_handlers
    logging.getLogger().setLevel(root_level)
    structlog.configure(**before)


ECHO = json.dumps({**ANSWER, "status": cards.APPROVED, "cvv": CVV})


@pytest.mark.parametrize(
    "answer",
    [says(200, ECHO), says(500, ECHO), says(400, ECHO), says(200, ECHO[:-5]), says(302, ECHO, Location="/" + CVV)],
)
async def test_neither_outcomes_nor_logs_hold_the_card_even_if_the_acquirer_echoes_it(
    session: Session, answer: Answer, written: Callable[[], str]
) -> None:
    line = Line(session, "bank", failures_to_open=1)
    outcomes: list[Outcome | NeverSeen] = []
    async with wire(answer) as (_, base):
        for _ in range(2):
            outcomes += [
                await line.acquirer(base).send(a_charge()),
                await line.acquirer(base).find(Kind.CHARGE, ATTEMPT, AMOUNT),
            ]
    outcomes.append(await line.acquirer(f"http://127.0.0.1:{free_port()}").send(a_charge()))
    text = repr(outcomes) + repr(a_charge()) + written()
    assert cards.APPROVED not in text and not shown(CVV, text)


@pytest.mark.parametrize(("status", "error"), [(500, BadAnswer), (200, BadAnswer)])
async def test_no_exception_of_a_call_holds_the_card_or_the_answer(
    session: Session, status: int, error: type[Exception]
) -> None:
    def read(_: int, body: bytes) -> str:
        raise ValueError(f"cannot read {body!r}")

    line = Line(session, "bank")
    async with wire(says(status, ECHO)) as (_, base):
        with pytest.raises(error) as raised:
            await line.counterparty.call(
                "POST", url_for(base + "/{id}", "x"), read, body=ECHO.encode(), idempotent=False
            )
    text = "".join(traceback.format_exception(raised.value))
    assert cards.APPROVED not in text and not shown(CVV, text) and f"answered {status}" in text


async def test_errors_say_whether_anything_was_sent(session: Session) -> None:
    line = Line(session, "bank")
    with pytest.raises(Unreachable) as raised:
        url = url_for(f"http://127.0.0.1:{free_port()}/{{id}}", "x")
        await line.counterparty.call("GET", url, lambda _, __: None, idempotent=True)
    assert not raised.value.sent and str(raised.value) == "bank: cannot be reached (ConnectionRefusedError)"
