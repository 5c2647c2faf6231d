"""The core surface, second part: refunds, captures and cancellations."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from engine import errors
from engine.changing import Asked, Changing
from engine.facts import RefundState
from engine.payment import Payment
from handlers.auth import Authenticator
from handlers.core_types import CancelPayment, CapturePayment, RefundPayment
from handlers.core_views import PaymentView, RefundsView, RefundView, payment_view, refund_view
from handlers.core_waiting import OutcomeWaiting
from handlers.http import decode, idempotency_key, read_body, reply
from handlers.routes import KEY, PREFER, Route

_STORE: Final = (errors.PaymentNotFound, errors.StoreUnavailable, errors.Overloaded)


class CoreChanges:
    """What can be asked of a payment that exists."""

    def __init__(self, changing: Changing, waiting: OutcomeWaiting, auth: Authenticator) -> None:
        self._changing = changing
        self._waiting = waiting
        self._auth = auth
        self._refund = msgspec.json.Decoder(RefundPayment)
        self._capture = msgspec.json.Decoder(CapturePayment)
        self._cancel = msgspec.json.Decoder(CancelPayment)

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route(
                "POST", "/api/payments/{payment_id}/refund", self.refund, "Refund a payment, in whole or in part",
                {201: RefundView}, body=RefundPayment, body_required=False, params=(KEY, PREFER),
                errors=(
                    *_STORE, errors.AmountRefused, errors.RefundNotAllowed, errors.RefundTooLarge, errors.KeyReused,
                ),
            ),
            Route(
                "GET", "/api/payments/{payment_id}/refunds", self.refunds, "A payment's refunds",
                {200: RefundsView}, errors=_STORE,
            ),
            Route(
                "GET", "/api/payments/{payment_id}/refunds/{refund_id}", self.get_refund, "A refund",
                {200: RefundView}, errors=(*_STORE, errors.RefundNotFound),
            ),
            Route(
                "POST", "/api/payments/{payment_id}/capture", self.capture, "Take what is authorized",
                {200: PaymentView, 202: PaymentView}, body=CapturePayment, body_required=False, params=(KEY, PREFER),
                errors=(*_STORE, errors.AmountRefused, errors.IllegalMove, errors.KeyReused),
            ),
            Route(
                "POST", "/api/payments/{payment_id}/cancel", self.cancel, "Release what is authorized",
                {200: PaymentView, 202: PaymentView}, body=CancelPayment, body_required=False, params=(KEY, PREFER),
                errors=(*_STORE, errors.IllegalMove, errors.KeyReused),
            ),
        ]  # fmt: skip

    async def refund(self, request: web.Request) -> web.Response:
        """`POST /api/payments/{payment_id}/refund`."""
        caller = await self._auth.caller(request)
        key = idempotency_key(request)
        wanted = decode(await read_body(request, optional=True), self._refund)
        refunded = await self._changing.refund(
            request.match_info["payment_id"], caller, amount=wanted.amount_text, reason=wanted.reason, key=key
        )
        refund_id = refunded.refund.id

        def done(payment: Payment) -> bool:
            refund = payment.refund(refund_id)
            return refund is not None and refund.state is not RefundState.PENDING

        waited = await self._waiting.until(done, refunded.payment, caller, request)
        refund = waited.payment.refund(refund_id) or refunded.refund
        location = f"/api/payments/{waited.payment.id}/refunds/{refund_id}"
        headers = {"Location": location, **_replayed(refunded.replayed), **waited.headers}
        return reply(201, refund_view(waited.payment, refund), headers)

    async def refunds(self, request: web.Request) -> web.Response:
        """`GET /api/payments/{payment_id}/refunds`."""
        caller = await self._auth.caller(request)
        payment = await self._changing.find(request.match_info["payment_id"], caller)
        return reply(200, RefundsView([refund_view(payment, refund) for refund in payment.refunds]))

    async def get_refund(self, request: web.Request) -> web.Response:
        """`GET /api/payments/{payment_id}/refunds/{refund_id}`."""
        caller = await self._auth.caller(request)
        found = await self._changing.find_refund(
            request.match_info["payment_id"], request.match_info["refund_id"], caller
        )
        return reply(200, refund_view(found.payment, found.refund))

    async def capture(self, request: web.Request) -> web.Response:
        """`POST /api/payments/{payment_id}/capture`."""
        caller = await self._auth.caller(request)
        key = idempotency_key(request)
        wanted = decode(await read_body(request, optional=True), self._capture)
        asked = await self._changing.capture(
            request.match_info["payment_id"], caller, amount=wanted.amount_text, key=key
        )
        waited = await self._waiting.until(_nothing_to_do, asked.payment, caller, request)
        return _changed(waited.payment, asked, waited.headers)

    async def cancel(self, request: web.Request) -> web.Response:
        """`POST /api/payments/{payment_id}/cancel`."""
        caller = await self._auth.caller(request)
        key = idempotency_key(request)
        wanted = decode(await read_body(request, optional=True), self._cancel)
        asked = await self._changing.cancel(request.match_info["payment_id"], caller, reason=wanted.reason, key=key)
        waited = await self._waiting.until(_nothing_to_do, asked.payment, caller, request)
        return _changed(waited.payment, asked, waited.headers)


def _nothing_to_do(payment: Payment) -> bool:
    return payment.operation is None


def _changed(payment: Payment, asked: Asked, headers: dict[str, str]) -> web.Response:
    status = 200 if payment.operation is None else 202
    return reply(status, payment_view(payment), {**_replayed(asked.replayed), **headers})


def _replayed(replayed: bool) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if replayed else {}
