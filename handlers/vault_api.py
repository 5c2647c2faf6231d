"""The vault surface: stored cards with a balance, and checkouts paid with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from engine import errors
from engine.vault_cards import VaultCards
from engine.vault_paying import VaultPayments
from handlers.auth import Authenticator
from handlers.envelopes import FLAT
from handlers.http import read_body, reply
from handlers.routes import ErrorTable, Route
from handlers.vault_types import (
    AddCreditCard,
    CardAnswer,
    Pay,
    PaymentAnswer,
    card_view,
    payment_view,
    wanted_card,
    wanted_payment,
)

ERRORS: Final[ErrorTable] = {
    errors.AmountRefused: 422,
    errors.PaymentMethodRefused: 422,
    errors.TotalMismatch: 422,
    errors.InsufficientFunds: 402,
    errors.NotYourUser: 403,
    errors.CardNotFound: 404,
    errors.PaymentNotFound: 404,
    errors.CardExists: 409,
    errors.CardInUse: 409,
    errors.CheckoutTaken: 409,
    errors.SigningKeysUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.Overloaded: 503,
}

HEALTH: Final[Mapping[str, str]] = {"status": "OK", "service": "payment-service"}
_BASE: Final = "/api/payment"
_STORE: Final = (errors.StoreUnavailable, errors.Overloaded)


class VaultApi:
    """Payment Service of the vault contract."""

    name = "vault"
    title = "Payment Service for stored cards"
    errors = ERRORS
    envelope = FLAT
    health = HEALTH

    def __init__(
        self,
        cards: VaultCards,
        payments: VaultPayments,
        auth: Authenticator,
        *,
        currency: str,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cards = cards
        self._payments = payments
        self._auth = auth
        self._currency = currency
        self._utc_now = utc_now

    def routes(self) -> list[Route]:
        """What it offers."""
        of_card = (errors.CardNotFound, *_STORE)
        of_payment = (errors.PaymentNotFound, *_STORE)
        return [
            Route(
                "POST", f"{_BASE}/add", self.add_card, "Store a credit card",
                {201: CardAnswer}, body=AddCreditCard, tag="cards",
                errors=(
                    errors.PaymentMethodRefused, errors.AmountRefused, errors.NotYourUser, errors.CardExists, *_STORE,
                ),
            ),
            Route(
                "GET", f"{_BASE}/get/{{card_id}}", self.get_card, "A stored card",
                {200: CardAnswer}, errors=of_card, tag="cards",
            ),
            Route(
                "DELETE", f"{_BASE}/delete-card/{{card_id}}", self.delete_card, "Delete a stored card",
                {200: CardAnswer}, errors=(errors.CardInUse, *of_card), tag="cards",
            ),
            Route(
                "POST", f"{_BASE}/pay/{{checkout_id}}", self.pay, "Pay a checkout with a stored card",
                {201: PaymentAnswer}, body=Pay,
                errors=(
                    errors.AmountRefused, errors.TotalMismatch, errors.PaymentMethodRefused, errors.InsufficientFunds,
                    errors.NotYourUser, errors.CheckoutTaken, *of_card,
                ),
            ),
            Route(
                "GET", f"{_BASE}/find/{{payment_id}}", self.find_payment, "A payment",
                {200: PaymentAnswer}, errors=of_payment,
            ),
            Route(
                "DELETE", f"{_BASE}/delete-payment/{{payment_id}}", self.delete_payment, "Hide a payment",
                {200: PaymentAnswer}, errors=of_payment,
            ),
        ]  # fmt: skip

    async def add_card(self, request: web.Request) -> web.Response:
        """`POST /add`."""
        caller = await self._auth.caller(request)
        now = self._utc_now()
        wanted = wanted_card(await read_body(request), self._currency, (now.year, now.month))
        card = await self._cards.add(wanted, caller)
        headers = {"Location": f"{_BASE}/get/{card.id}"}
        return reply(201, CardAnswer("Credit card added successfully", card_view(card)), headers)

    async def get_card(self, request: web.Request) -> web.Response:
        """`GET /get/{card_id}`."""
        caller = await self._auth.caller(request)
        card = await self._cards.find(request.match_info["card_id"], caller)
        return reply(200, CardAnswer("Credit card found", card_view(card)))

    async def delete_card(self, request: web.Request) -> web.Response:
        """`DELETE /delete-card/{card_id}`."""
        caller = await self._auth.caller(request)
        card = await self._cards.delete(request.match_info["card_id"], caller)
        return reply(200, CardAnswer("Credit card deleted successfully", card_view(card)))

    async def pay(self, request: web.Request) -> web.Response:
        """`POST /pay/{checkout_id}`."""
        caller = await self._auth.caller(request)
        wanted = wanted_payment(await read_body(request), request.match_info["checkout_id"], self._currency)
        payment, purchase, replayed = await self._payments.pay(wanted, caller)
        headers = {"Location": f"{_BASE}/find/{payment.id}"}
        if replayed:
            headers["Idempotent-Replayed"] = "true"
        return reply(201, PaymentAnswer("Payment completed successfully", payment_view(payment, purchase)), headers)

    async def find_payment(self, request: web.Request) -> web.Response:
        """`GET /find/{payment_id}`."""
        caller = await self._auth.caller(request)
        payment, purchase, _ = await self._payments.find(request.match_info["payment_id"], caller)
        return reply(200, PaymentAnswer("Payment found", payment_view(payment, purchase)))

    async def delete_payment(self, request: web.Request) -> web.Response:
        """`DELETE /delete-payment/{payment_id}`."""
        caller = await self._auth.caller(request)
        payment, purchase, _ = await self._payments.hide(request.match_info["payment_id"], caller)
        return reply(200, PaymentAnswer("Payment deleted successfully", payment_view(payment, purchase)))
