"""The core surface: payments for orders, accepted at once, charged by workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
from aiohttp import web

from engine import context, errors
from engine.accepting import Accepting
from engine.errors import PaymentNotFound
from engine.ids import PaymentId
from engine.payment import Payment
from handlers.auth import Authenticator
from handlers.core_changes import CoreChanges
from handlers.core_types import CreatePayment
from handlers.core_views import EventsView, KeyView, PaymentsPage, PaymentView, key_view, payment_view
from handlers.core_waiting import OutcomeWaiting
from handlers.envelopes import NESTED
from handlers.http import HttpRefused, decode, idempotency_key, read_body, reply
from handlers.ops import HEALTH
from handlers.paging import CURSOR, LIMIT, page_of
from handlers.routes import KEY, PREFER, ErrorTable, Route
from resilience.status import BreakerStatus

ERRORS: Final[ErrorTable] = {
    errors.AmountRefused: 422,
    errors.PaymentMethodRefused: 422,
    errors.UserNotFound: 404,
    errors.UserInactive: 422,
    errors.OrderNotFound: 404,
    errors.AlreadyProcessed: 409,
    errors.OrderMismatch: 422,
    errors.PaymentNotFound: 404,
    errors.NotYourUser: 403,
    errors.KeyReused: 422,
    errors.KeyNotFound: 404,
    errors.IllegalMove: 409,
    errors.RoleRequired: 403,
    errors.CircuitNotFound: 404,
    errors.FieldRefused: 422,
    errors.RefundNotAllowed: 409,
    errors.RefundTooLarge: 422,
    errors.RefundNotFound: 404,
    errors.UserServiceUnavailable: 503,
    errors.OrderServiceUnavailable: 503,
    errors.BadUpstreamAnswer: 502,
    errors.SigningKeysUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.Overloaded: 503,
    errors.WebhookUrlRefused: 422,
    errors.WebhookEndpointNotFound: 404,
    errors.WebhookDeliveryNotFound: 404,
    errors.WebhookEndpointDisabled: 409,
    errors.TooManyWebhookEndpoints: 409,
}


class PaymentReader(Protocol):
    """The reads that need no use case."""

    async def of_user(self, user_id: str, *, limit: int, before: PaymentId | None) -> list[Payment]: ...
    async def events_of(self, payment_id: PaymentId) -> list[bytes]: ...


class Breakers(Protocol):
    """The guards of all counterparties."""

    def statuses(self) -> Mapping[str, BreakerStatus]: ...


class BreakerView(msgspec.Struct):
    """A circuit as the contract shows it first, with more beside it.

    This process's view: every process keeps its own, so that one's trouble is not everybody's.
    """

    state: str
    failure_count: int
    last_failure: str | None
    retry_after_s: float | None
    trials_in_flight: int
    window_calls: int
    window_failure_rate: float
    window_slow_rate: float


class CoreApi:
    """Payment Service of the core contract."""

    name = "core"
    title = "Payment Service"
    errors = ERRORS
    envelope = NESTED
    health = HEALTH

    def __init__(
        self,
        accepting: Accepting,
        reader: PaymentReader,
        breakers: Breakers,
        auth: Authenticator,
        waiting: OutcomeWaiting,
        changes: CoreChanges,
        *,
        more: Sequence[Route] = (),
        phones: bool = False,
    ) -> None:
        self._accepting = accepting
        self._reader = reader
        self._breakers = breakers
        self._auth = auth
        self._waiting = waiting
        self._changes = changes
        self._more = more
        self._phones = phones
        self._decoder = msgspec.json.Decoder(CreatePayment)

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route(
                "POST", "/api/payments", self.create, "Pay an order",
                {201: PaymentView}, body=CreatePayment, params=(KEY, PREFER),
                errors=(
                    errors.AmountRefused, errors.PaymentMethodRefused, errors.UserNotFound, errors.UserInactive,
                    errors.OrderNotFound, errors.AlreadyProcessed, errors.OrderMismatch, errors.NotYourUser,
                    errors.KeyReused, errors.UserServiceUnavailable, errors.OrderServiceUnavailable,
                    errors.BadUpstreamAnswer, errors.StoreUnavailable, errors.Overloaded,
                ),
            ),
            Route(
                "GET", "/api/payments/user/{user_id}", self.of_user, "A user's payments, newest first",
                {200: PaymentsPage}, params=(LIMIT, CURSOR), errors=_READ,
            ),
            Route("GET", "/api/payments/{payment_id}", self.get, "A payment", {200: PaymentView}, errors=_READ),
            Route(
                "GET", "/api/payments/{payment_id}/events", self.events, "A payment's events",
                {200: EventsView}, errors=_READ,
            ),
            *self._changes.routes(),
            Route(
                "GET", "/api/idempotency-keys/{key}", self.key, "What became of an idempotency key",
                {200: KeyView}, errors=(errors.KeyNotFound, errors.StoreUnavailable, errors.Overloaded),
            ),
            Route(
                "GET", "/api/circuit-breaker/status", self.breaker_status, "The circuits to all counterparties",
                {200: dict[str, BreakerView]}, auth=False, tag="operations",
            ),
            *self._more,
        ]  # fmt: skip

    async def create(self, request: web.Request) -> web.Response:
        """`POST /api/payments`."""
        caller = await self._auth.caller(request)
        key = idempotency_key(request)
        wanted = _decode_wanted(await read_body(request), self._decoder)
        command = wanted.to_command(context.current(), phones=self._phones)
        accepted = await self._accepting.accept(command, caller, key)
        waited = await self._waiting.until(_ended, accepted.payment, caller, request)
        headers = {"Location": f"/api/payments/{waited.payment.id}", **waited.headers}
        if accepted.replayed:
            headers["Idempotent-Replayed"] = "true"
        return reply(201, payment_view(waited.payment), headers)

    async def get(self, request: web.Request) -> web.Response:
        """`GET /api/payments/{payment_id}`."""
        caller = await self._auth.caller(request)
        payment = await self._accepting.find(request.match_info["payment_id"], caller)
        return reply(200, payment_view(payment))

    async def of_user(self, request: web.Request) -> web.Response:
        """`GET /api/payments/user/{user_id}`."""
        caller = await self._auth.caller(request)
        user_id = request.match_info["user_id"]
        asked = page_of(request)
        # With a bar it would be a user of another surface.
        if "|" in user_id or not caller.may_act_for(user_id):
            raise PaymentNotFound("no such user's payments")
        page, cursor = asked.cut(await self._reader.of_user(user_id, limit=asked.to_read, before=asked.before))
        return reply(200, PaymentsPage([payment_view(payment) for payment in page], cursor))

    async def events(self, request: web.Request) -> web.Response:
        """`GET /api/payments/{payment_id}/events`."""
        caller = await self._auth.caller(request)
        payment = await self._accepting.find(request.match_info["payment_id"], caller)
        bodies = await self._reader.events_of(payment.id)
        return reply(200, {"events": [msgspec.Raw(body) for body in bodies]})

    async def key(self, request: web.Request) -> web.Response:
        """`GET /api/idempotency-keys/{key}`."""
        caller = await self._auth.caller(request)
        key = request.match_info["key"]
        state = await self._accepting.key_state(caller, key)
        return reply(200, key_view(key, state))

    async def breaker_status(self, request: web.Request) -> web.Response:
        """`GET /api/circuit-breaker/status`."""
        return reply(200, {name: _breaker_view(status) for name, status in self._breakers.statuses().items()})


_READ: Final = (errors.PaymentNotFound, errors.StoreUnavailable, errors.Overloaded)


def _decode_wanted(body: bytes, decoder: msgspec.json.Decoder[CreatePayment]) -> CreatePayment:
    try:
        return decode(body, decoder)
    except HttpRefused as refused:
        if str(refused.details.get("field", "")).startswith("paymentMethod"):
            raise errors.PaymentMethodRefused(str(refused), field=refused.details["field"]) from None
        raise


def _ended(payment: Payment) -> bool:
    return payment.ended


def _breaker_view(status: BreakerStatus) -> BreakerView:
    last = status.last_failure
    return BreakerView(
        state=status.state,
        failure_count=status.failure_count,
        last_failure=None if last is None else _time(last),
        retry_after_s=status.retry_after_s,
        trials_in_flight=status.trials_in_flight,
        window_calls=status.window_calls,
        window_failure_rate=status.window_failure_rate,
        window_slow_rate=status.window_slow_rate,
    )


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
