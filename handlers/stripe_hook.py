"""`POST /api/webhooks/stripe`: Stripe says that something has happened. The payment is looked at sooner, no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import web

from engine import errors
from engine.ids import Clock, PaymentId, is_payment_id
from engine.payment import Payment
from handlers.http import HttpRefused, read_body, reply
from handlers.routes import Param, Route

_SIGNATURE: Final = Param(
    "Stripe-Signature", "header", {"type": "string"}, "Stripe's signature of the body: `t=…,v1=…`."
)


class HintStore(Protocol):
    """Where a payment's next look is written."""

    async def get(self, payment_id: PaymentId) -> Payment | None: ...
    async def put_off(self, payment_id: PaymentId, job: None, *, due_ms: int) -> None: ...


class StripeHook:
    """Takes hints. One that is forged, repeated, late or wrong costs a question at the acquirer at most."""

    def __init__(
        self,
        is_signed: Callable[[str, bytes], bool],
        attempt_of: Callable[[bytes], str],
        store: HintStore,
        clock: Clock,
    ) -> None:
        self._is_signed = is_signed
        self._attempt_of = attempt_of
        self._store = store
        self._clock = clock

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route(
                "POST", "/api/webhooks/stripe", self.hint, "Stripe has news of a payment",
                {200: dict[str, bool]}, body=dict, params=(_SIGNATURE,),
                errors=(errors.StoreUnavailable, errors.Overloaded), auth=False, tag="webhooks", counted=False,
            )
        ]  # fmt: skip

    async def hint(self, request: web.Request) -> web.Response:
        """Answers 200 to every signed event, of interest or not: else Stripe would send it again for days."""
        body = await read_body(request)
        headers = request.headers.getall("Stripe-Signature", ())
        if len(headers) != 1 or not self._is_signed(headers[0], body):
            raise HttpRefused(400, "BAD_SIGNATURE", "Stripe-Signature does not hold for this body")
        payment_id = self._attempt_of(body).rpartition("-a")[0]
        payment = await self._store.get(PaymentId(payment_id)) if is_payment_id(payment_id) else None
        if payment is not None and payment.operation is not None:
            await self._store.put_off(payment.id, None, due_ms=self._clock())
        return reply(200, {"received": True})
