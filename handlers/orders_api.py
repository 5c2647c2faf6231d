"""The orders surface: payments for integer order ids, settled outside and recorded at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from engine import errors
from engine.errors import PaymentNotFound
from engine.recording import RecordedPayments
from handlers.auth import Authenticator
from handlers.envelopes import FLAT
from handlers.http import idempotency_key, read_body, reply
from handlers.orders_types import (
    CreatedView,
    CreatePayment,
    ManyView,
    OneView,
    UpdateStatus,
    payment_view,
    wanted_payment,
    wanted_status,
)
from handlers.routes import KEY, ErrorTable, Route

ERRORS: Final[ErrorTable] = {
    errors.FieldsRequired: 400,
    errors.AmountRefused: 400,
    errors.AlreadyProcessed: 400,
    errors.StatusUnknown: 400,
    errors.NotYourUser: 403,
    errors.RoleRequired: 403,
    errors.UserNotFound: 404,
    errors.OrderNotFound: 404,
    errors.PaymentNotFound: 404,
    errors.IllegalMove: 409,
    errors.KeyReused: 422,
    errors.BadUpstreamAnswer: 502,
    errors.UserServiceUnavailable: 503,
    errors.OrderServiceUnavailable: 503,
    errors.SigningKeysUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.Overloaded: 503,
}

HEALTH: Final[Mapping[str, str]] = {"status": "OK", "service": "payment-service"}
_STORE: Final = (errors.StoreUnavailable, errors.Overloaded)
_READ: Final = (errors.PaymentNotFound, *_STORE)
_DIGITS_MAX: Final = 15
_CREATED: Final = "Payment created successfully"


class OrdersApi:
    """Payment Service of the orders contract."""

    name = "orders"
    title = "Payment Service for orders"
    errors = ERRORS
    envelope = FLAT
    health = HEALTH

    def __init__(self, payments: RecordedPayments, auth: Authenticator, *, currency: str) -> None:
        self._payments = payments
        self._auth = auth
        self._currency = currency

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route(
                "POST", "/api/payments", self.create, "Record the payment of an order",
                {201: CreatedView}, body=CreatePayment, params=(KEY,),
                errors=(
                    errors.FieldsRequired, errors.AmountRefused, errors.AlreadyProcessed, errors.NotYourUser,
                    errors.UserNotFound, errors.OrderNotFound, errors.KeyReused, errors.BadUpstreamAnswer,
                    errors.UserServiceUnavailable, errors.OrderServiceUnavailable, *_STORE,
                ),
            ),
            Route(
                "GET", "/api/payments/user/{user_id}", self.of_user, "A user's payments, newest first",
                {200: ManyView}, errors=_READ,
            ),
            Route("GET", "/api/payments/{payment_id}", self.get, "A payment", {200: OneView}, errors=_READ),
            Route(
                "PUT", "/api/payments/{payment_id}/status", self.update, "Set a payment's status",
                {200: OneView}, body=UpdateStatus,
                errors=(errors.StatusUnknown, errors.RoleRequired, errors.IllegalMove, *_READ),
            ),
        ]  # fmt: skip

    async def create(self, request: web.Request) -> web.Response:
        """`POST /api/payments`."""
        caller = await self._auth.caller(request)
        key = idempotency_key(request)
        wanted = wanted_payment(await read_body(request), self._currency)
        made = await self._payments.record(wanted, caller, key)
        headers = {"Location": f"/api/payments/{made.payment.public_number}"}
        if made.replayed:
            headers["Idempotent-Replayed"] = "true"
        return reply(201, CreatedView(_CREATED, payment_view(made.payment)), headers)

    async def get(self, request: web.Request) -> web.Response:
        """`GET /api/payments/{payment_id}`."""
        caller = await self._auth.caller(request)
        payment = await self._payments.find(_number(request, "payment_id"), caller)
        return reply(200, OneView(payment_view(payment)))

    async def of_user(self, request: web.Request) -> web.Response:
        """`GET /api/payments/user/{user_id}`."""
        caller = await self._auth.caller(request)
        payments = await self._payments.of_user(_number(request, "user_id"), caller)
        return reply(200, ManyView([payment_view(payment) for payment in payments]))

    async def update(self, request: web.Request) -> web.Response:
        """`PUT /api/payments/{payment_id}/status`."""
        caller = await self._auth.caller(request)
        to = wanted_status(await read_body(request))
        payment = await self._payments.move(_number(request, "payment_id"), to, caller)
        return reply(200, OneView(payment_view(payment)))


def _number(request: web.Request, name: str) -> int:
    """The whole number in the path. What is none cannot be the name of anything that there is."""
    text = request.match_info[name]
    if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX and text[0] != "0":
        return int(text)
    raise PaymentNotFound("Payment not found")
