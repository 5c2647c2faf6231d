"""The gateway surface: accounts, and payments that are created first and processed by a request of their own."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
from aiohttp import web

from engine import context, errors
from engine.accepting import Accepting
from engine.changing import Changing
from engine.errors import RefundNotAllowed
from engine.facts import RefundState
from engine.ids import PaymentId, qualified
from engine.payment import Payment
from handlers.auth import Authenticator
from handlers.core_types import RefundPayment
from handlers.core_waiting import OutcomeWaiting
from handlers.envelopes import NESTED
from handlers.gateway_accounts import GatewayAccounts
from handlers.gateway_types import (
    SURFACE,
    CreatePayment,
    ProcessPayment,
    decode_payment,
    in_our_words,
    plain,
    to_command,
)
from handlers.gateway_views import (
    PaymentView,
    RefundedView,
    StatusView,
    TransactionsPage,
    payment_view,
    refunded_view,
)
from handlers.http import idempotency_key, read_body, reply
from handlers.ops import HEALTH
from handlers.paging import CURSOR, LIMIT, page_of
from handlers.routes import KEY, ErrorTable, Route
from handlers.strict_json import decode_strictly

ERRORS: Final[ErrorTable] = {
    errors.EmailRefused: 422,
    errors.EmailTaken: 409,
    errors.WrongCredentials: 401,
    errors.AccountNotFound: 404,
    errors.AmountRefused: 422,
    errors.PaymentMethodRefused: 422,
    errors.PaymentNotFound: 404,
    errors.KeyReused: 422,
    errors.IllegalMove: 409,
    errors.RefundNotAllowed: 409,
    errors.RefundTooLarge: 422,
    errors.SigningKeysUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.Overloaded: 503,
}
_LATER: Final = (errors.StoreUnavailable, errors.Overloaded)
_READ: Final = (errors.PaymentNotFound, *_LATER)


class PaymentReader(Protocol):
    """The read that needs no use case."""

    async def of_user(self, user_key: str, *, limit: int, before: PaymentId | None) -> list[Payment]: ...


class GatewayApi:
    """Payment Gateway Service."""

    name = SURFACE
    title = "Payment Gateway Service"
    errors = ERRORS
    envelope = NESTED
    health = HEALTH

    def __init__(
        self,
        accounts: GatewayAccounts,
        accepting: Accepting,
        changing: Changing,
        reader: PaymentReader,
        auth: Authenticator,
        waiting: OutcomeWaiting,
        *,
        hold_s: int,
        process_wait_s: float,
    ) -> None:
        self._accounts = accounts
        self._accepting = accepting
        self._changing = changing
        self._reader = reader
        self._auth = auth
        self._waiting = waiting
        self._hold_ms = hold_s * 1000
        self._process_wait_s = process_wait_s
        self._create = msgspec.json.Decoder(CreatePayment)
        self._process = msgspec.json.Decoder(ProcessPayment)
        self._refund = msgspec.json.Decoder(RefundPayment)

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            *self._accounts.routes(),
            Route(
                "POST", "/api/payments", self.create, "Create a payment, which then waits to be processed",
                {201: PaymentView}, body=CreatePayment, params=(KEY,),
                errors=(errors.AmountRefused, errors.PaymentMethodRefused, errors.KeyReused, *_LATER),
            ),
            Route(
                "POST", "/api/payments/process", self.process,
                "Process a payment: 200 when it is completed or failed, 202 while nobody knows; safe to repeat",
                {200: PaymentView, 202: PaymentView}, body=ProcessPayment, errors=(*_READ, errors.IllegalMove),
            ),
            Route(
                "GET", "/api/payments/{payment_id}/status", self.status, "Where a payment stands",
                {200: StatusView}, errors=_READ,
            ),
            Route(
                "POST", "/api/payments/{payment_id}/refund", self.refund,
                "Refund a payment, in whole or in part: 200 when it is done, 202 while it is pending",
                {200: RefundedView, 202: RefundedView}, body=RefundPayment, body_required=False, params=(KEY,),
                errors=(
                    *_READ, errors.AmountRefused, errors.RefundNotAllowed, errors.RefundTooLarge, errors.KeyReused,
                ),
            ),
            Route(
                "GET", "/api/transactions", self.transactions, "The caller's payments, newest first",
                {200: TransactionsPage}, params=(LIMIT, CURSOR), errors=_LATER,
            ),
        ]  # fmt: skip

    async def create(self, request: web.Request) -> web.Response:
        """`POST /api/payments`."""
        caller = await self._auth.caller(request)
        key = idempotency_key(request)
        wanted = decode_payment(await read_body(request), self._create)
        with in_our_words():
            command = to_command(wanted, caller.subject, context.current(), hold_ms=self._hold_ms)
            accepted = await self._accepting.accept(command, caller, key)
        headers = {"Location": f"/api/payments/{accepted.payment.id}/status", **_replayed(accepted.replayed)}
        return reply(201, payment_view(accepted.payment), headers)

    async def process(self, request: web.Request) -> web.Response:
        """`POST /api/payments/process`."""
        caller = await self._auth.caller(request)
        wanted = decode_strictly(await read_body(request), self._process)
        asked = await self._changing.charge(wanted.payment_id, caller)
        payment = await self._waiting.at_most(self._process_wait_s, _ended, asked.payment, caller)
        return reply(200 if payment.ended else 202, payment_view(payment))

    async def status(self, request: web.Request) -> web.Response:
        """`GET /api/payments/{payment_id}/status`."""
        caller = await self._auth.caller(request)
        payment = await self._accepting.find(request.match_info["payment_id"], caller)
        return reply(200, StatusView(payment.id, payment.status))

    async def refund(self, request: web.Request) -> web.Response:
        """`POST /api/payments/{payment_id}/refund`."""
        caller = await self._auth.caller(request)
        key = idempotency_key(request)
        wanted = decode_strictly(await read_body(request, optional=True), self._refund)
        amount = None if wanted.amount_text is None else plain(wanted.amount_text)
        refunded = await self._changing.refund(
            request.match_info["payment_id"], caller, amount=amount, reason=wanted.reason, key=key
        )
        refund_id = refunded.refund.id

        def done(payment: Payment) -> bool:
            refund = payment.refund(refund_id)
            return refund is not None and refund.state is not RefundState.PENDING

        payment = await self._waiting.at_most(self._process_wait_s, done, refunded.payment, caller)
        refund = payment.refund(refund_id) or refunded.refund
        if refund.failure is not None:
            raise RefundNotAllowed(f"the acquirer refused the refund: {refund.failure.reason}", refundId=refund_id)
        status = 202 if refund.state is RefundState.PENDING else 200
        return reply(status, refunded_view(payment, refund), _replayed(refunded.replayed))

    async def transactions(self, request: web.Request) -> web.Response:
        """`GET /api/transactions`."""
        caller = await self._auth.caller(request)
        asked = page_of(request)
        mine = qualified(SURFACE, caller.subject)
        page, cursor = asked.cut(await self._reader.of_user(mine, limit=asked.to_read, before=asked.before))
        return reply(200, TransactionsPage([payment_view(payment) for payment in page], cursor))


def _ended(payment: Payment) -> bool:
    return payment.ended


def _replayed(replayed: bool) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if replayed else {}
