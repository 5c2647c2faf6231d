"""The M-Pesa surface: a phone is asked for the price of a package, and the client asks how that went."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog
from aiohttp import web

from engine import context, errors
from engine.accepting import Accepting, AcceptPayment, Caller
from engine.catalogue import Catalogue
from engine.changes import Job
from engine.errors import EngineError, PaymentNotFound, TryLater
from engine.facts import AttemptState
from engine.ids import PaymentId
from engine.money import Money
from engine.payment import Payment, attempt_id
from engine.phones import PhonePrompt
from engine.pushes import CURRENCY, PushReport
from engine.pushing import Push
from handlers.address import parse
from handlers.core_waiting import OutcomeWaiting
from handlers.envelopes import FLAT
from handlers.http import HttpRefused, idempotency_key, read_body, reply
from handlers.mpesa_callback import parse_callback
from handlers.mpesa_limits import RULE, CountedRequests
from handlers.mpesa_types import (
    Ask,
    HeardView,
    Initiate,
    InitiatedView,
    StatusView,
    status_view,
    transaction_id,
    wanted_push,
    wanted_status,
)
from handlers.ops import HEALTH
from handlers.routes import KEY, ErrorTable, Route

ERRORS: Final[ErrorTable] = {
    errors.FieldsRequired: 400,
    errors.FieldRefused: 400,
    errors.AmountRefused: 400,
    errors.PackageRefused: 400,
    errors.ClientRefused: 403,
    errors.NotYourUser: 403,
    errors.PaymentNotFound: 404,
    errors.NothingHere: 404,
    errors.PushFailed: 500,
    errors.KeyReused: 422,
    errors.SigningKeysUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.Overloaded: 503,
}
_FORM: Final = (errors.FieldsRequired, errors.FieldRefused)
_LATER: Final = (errors.StoreUnavailable, errors.Overloaded)
_BASE: Final = "/api/v1"
_METHOD: Final = "mobile_money"
_NO_ENTRY: Final = "0-0"
_PUSHED: Final = "Payment initiated successfully"
_UNSURE: Final = "Safaricom has not confirmed yet that the phone is being asked"


class Pushes(Protocol):
    """What is remembered of pushes."""

    async def of_attempt(self, attempt_id: str) -> Push | None: ...
    async def payment_of(self, checkout_id: str) -> PaymentId | None: ...


class Asking(Protocol):
    """Asks counterparties what became of open attempts."""

    async def process(self, job: Job) -> None: ...


class Hints(Protocol):
    """What callbacks claim."""

    async def take(self, report: PushReport, attempt_id: str) -> str: ...


class MpesaApi:
    """Public payment APIs of the M-Pesa contract."""

    name = "mpesa"
    title = "M-Pesa payments"
    errors = ERRORS
    envelope = FLAT
    health = HEALTH

    def __init__(
        self,
        requests: CountedRequests,
        catalogue: Catalogue,
        accepting: Accepting,
        asking: Asking,
        pushes: Pushes,
        callbacks: Callbacks,
        waiting: OutcomeWaiting,
        *,
        initiate_wait_s: float,
    ) -> None:
        """`asking` should ask but once for all who ask about one payment at the same time."""
        self._requests = requests
        self._catalogue = catalogue
        self._accepting = accepting
        self._asking = asking
        self._pushes = pushes
        self._callbacks = callbacks
        self._waiting = waiting
        self._initiate_wait_s = initiate_wait_s

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route(
                "POST", f"{_BASE}/payments/initiate", self.initiate, "Ask a phone to pay a package",
                {200: InitiatedView, 202: InitiatedView}, body=Initiate, params=(KEY,), auth=False, counted=False,
                limits=(RULE,),
                errors=(
                    *_FORM, errors.ClientRefused, errors.PackageRefused, errors.KeyReused, errors.PushFailed, *_LATER,
                ),
            ),
            Route(
                "POST", f"{_BASE}/payments/status", self.status, "How a payment stands: Safaricom is asked",
                {200: StatusView}, body=Ask, auth=False, counted=False, limits=(RULE,),
                errors=(*_FORM, errors.ClientRefused, errors.PaymentNotFound, *_LATER),
            ),
            *self._callbacks.routes(_BASE),
        ]  # fmt: skip

    async def initiate(self, request: web.Request) -> web.Response:
        """`POST /api/v1/payments/initiate`."""
        key = idempotency_key(request)
        wanted = await self._requests.read(request, wanted_push)
        offer = await self._catalogue.offer(wanted.client_id, wanted.package_id)
        client = Caller(wanted.client_id, privileged=False)
        ids = context.current()
        accepted = await self._accepting.accept(
            AcceptPayment(
                surface=self.name,
                order_id="",
                user_id=wanted.client_id,
                amount=Money(offer.package.price * 100, CURRENCY),
                method_type=_METHOD,
                instrument=PhonePrompt(wanted.phone, wanted.description, wanted.package_id),
                manual=False,
                request_id=ids.request_id,
                traceparent=ids.traceparent,
            ),
            client,
            key,
        )
        payment = await self._waiting.at_most(self._initiate_wait_s, _is_answered, accepted.payment, client)
        push = await self._push_of(payment)
        # With a push it was the payer who failed it, however soon: that is told by the status.
        if push is None and payment.failure is not None:
            raise errors.PushFailed(f"failed to initiate STK push: {payment.failure.reason}")
        # A name that only a callback has brought may be made up: it is good to ask by, and proves nothing yet.
        sure = push is not None and (payment.ended or not push.adopted)
        headers = {"Idempotent-Replayed": "true"} if accepted.replayed else {}
        view = InitiatedView(
            transaction_id(payment.id), push.checkout_id if push else "", _PUSHED if sure else _UNSURE, "pending"
        )
        return reply(200 if sure else 202, view, headers)

    async def status(self, request: web.Request) -> web.Response:
        """`POST /api/v1/payments/status`."""
        wanted = await self._requests.read(request, wanted_status)
        client = Caller(wanted.client_id, privileged=False)
        payment_id = await self._pushes.payment_of(wanted.checkout_id)
        if payment_id is None:
            raise PaymentNotFound("Payment not found")
        payment = await self._find(payment_id, client)
        open_before = payment.operation is not None
        if open_before:
            await self._asking.process(Job(payment_id, None, _NO_ENTRY))
            payment = await self._find(payment_id, client)
        view = status_view(payment, wanted.checkout_id)
        last = payment.attempt
        if open_before and last is not None and last.state is AttemptState.UNKNOWN:
            view.stale = True
        return reply(200, view)

    async def drained(self) -> None:
        """Wait for the callbacks that are being worked on: one may be the only bearer of its push's name."""
        await self._callbacks.drained()

    async def _push_of(self, payment: Payment) -> Push | None:
        try:
            return await self._pushes.of_attempt(attempt_id(payment)) if payment.attempts else None
        except TryLater:
            # The payment is accepted and the phone may ring: a refusal now would have the client send it again.
            return None

    async def _find(self, payment_id: PaymentId, client: Caller) -> Payment:
        try:
            return await self._accepting.find(payment_id, client)
        except PaymentNotFound:
            raise PaymentNotFound("Payment not found") from None


class Callbacks:
    """Takes Safaricom's callbacks: answered at once, worked on after, and never believed."""

    def __init__(
        self,
        hints: Hints,
        address_of: Callable[[web.Request], str],
        *,
        secret: str,
        sources: Sequence[str],
        waiting_max: int,
    ) -> None:
        self._hints = hints
        self._address_of = address_of
        self._secret = secret
        self._sources = [ipaddress.ip_network(source) for source in sources]
        self._waiting_max = waiting_max
        self._working: set[asyncio.Task[None]] = set()

    def routes(self, base: str) -> list[Route]:
        """What it offers: Safaricom is told the second path, the first is the contract's."""
        texts = ("Safaricom tells a push's result", "The same, for the push of this attempt")
        paths = (f"{base}/payments/callback/{{secret}}", f"{base}/payments/callback/{{secret}}/{{attempt_id}}")
        handlers = (self.callback, self.callback_of_attempt)
        return [
            Route(
                "POST", path, handler, text, {200: HeardView}, body=dict, auth=False, tag="callbacks", counted=False,
                errors=(errors.NothingHere,),
            )
            for path, handler, text in zip(paths, handlers, texts, strict=True)
        ]  # fmt: skip

    async def callback(self, request: web.Request) -> web.Response:
        """`POST /api/v1/payments/callback/{secret}`."""
        return await self._take(request, "")

    async def callback_of_attempt(self, request: web.Request) -> web.Response:
        """`POST /api/v1/payments/callback/{secret}/{attempt_id}`."""
        return await self._take(request, request.match_info["attempt_id"])

    async def drained(self) -> None:
        """Wait for what is being worked on."""
        if self._working:
            await asyncio.wait(set(self._working))

    async def _take(self, request: web.Request, attempt: str) -> web.Response:
        self._let_in(request)
        body = await read_body(request)
        try:
            report = parse_callback(body)
        except ValueError:
            raise HttpRefused(400, "INVALID_CALLBACK", "this is not an M-Pesa callback") from None
        # When too many wait, this one is dropped: the payment is asked about anyway, only later.
        if len(self._working) < self._waiting_max:
            task = asyncio.create_task(self._work(report, attempt))
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        return reply(200, HeardView())

    def _let_in(self, request: web.Request) -> None:
        right = hmac.compare_digest(request.match_info["secret"].encode(), self._secret.encode())
        if not right or not self._is_source(self._address_of(request)):
            # As if there were nothing here: who tries secrets learns nothing.
            raise errors.NothingHere("there is nothing at this path")

    def _is_source(self, address: str) -> bool:
        if not self._sources:
            return True
        parsed = parse(address)
        return parsed is not None and any(parsed in network for network in self._sources)

    async def _work(self, report: PushReport, attempt: str) -> None:
        try:
            await self._hints.take(report, attempt)
        except EngineError as error:
            structlog.get_logger().warning("push callback lost", reason=str(error))


def _is_answered(payment: Payment) -> bool:
    """Whether Safaricom has answered the push, or it is certain that nobody knows yet."""
    last = payment.attempt
    return payment.ended or (last is not None and last.state is not AttemptState.SENDING)
