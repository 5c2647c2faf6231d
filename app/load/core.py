"""What customers do on the core surface: pay, wait, repeat, get something back, and make mistakes."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping
from typing import Any, Final

from app.load.asking import Answer, Asker, Doors

APPROVED: Final = ("4242424242424242", "4111111111111111", "5555555555554444")
DECLINED: Final = ("4000000000000002", "4000000000009987", "4000000000000069")
INSUFFICIENT_FUNDS: Final = "4000000000009995"
TELLS_NOTHING: Final = "4009730000000302"
"""Charges, and answers 500: the outcome is unknown until the acquirer is asked."""


class CoreCustomer:
    """A user of the demo. `token` is the user's, `service` may refund for everybody."""

    def __init__(self, asker: Asker, doors: Doors, chance: random.Random, *, user: str, token: str, service: str):
        self._asker, self._doors, self._chance = asker, doors, chance
        self._user, self._token, self._service = user, token, service

    async def approved(self) -> None:
        """Pay; most wait for the outcome, some look it up; one in four wants something back."""
        wait_s = 5 if self._chance.random() < 0.7 else 0
        paid = await self._pay("pay", self._chance.choice(APPROVED), wait_s=wait_s)
        if paid.status != 201:
            return
        await self._asker.ask("look", "GET", self._payment(paid), token=self._token)
        if paid.body.get("status") == "completed" and self._chance.random() < 0.25:
            amount = self._chance.choice((5.0, 10.0, 75.48))
            await self._change("refund", paid, {"amount": amount, "reason": "Order cancelled"})
            await self._asker.ask("look", "GET", self._payment(paid) + "/refunds", token=self._token)

    async def declined(self) -> None:
        """Pay with a card that is declined."""
        await self._pay("pay, declined", self._chance.choice(DECLINED), wait_s=5)

    async def insufficient_funds(self) -> None:
        """Pay with a card that has too little on it."""
        await self._pay("pay, insufficient funds", INSUFFICIENT_FUNDS, wait_s=5)

    async def told_nothing(self) -> None:
        """Pay with a card whose charge is never confirmed."""
        await self._pay("pay, unknown outcome", TELLS_NOTHING)

    async def in_two_steps(self) -> None:
        """Authorize; then most capture all or some, others cancel."""
        paid = await self._pay("authorize", APPROVED[0], more={"capture": "manual"}, wait_s=5)
        if paid.body.get("status") != "authorized":
            return
        what, body = self._chance.choice((("capture", {}), ("capture", {"amount": 20.0}), ("cancel", {})))
        await self._change(what, paid, body)

    async def twice(self) -> None:
        """Send the same request twice, as after a lost answer."""
        order, key = await self._order(), secrets.token_hex(8)
        for _ in range(2):
            await self._post("pay, repeated", self._wish(order, APPROVED[0]), Idempotency_Key=key)

    async def mistaken(self) -> None:
        """Send what must be refused: no JSON, no token, no such order, another amount, no card number."""
        wish = self._wish("order-that-nobody-made", APPROVED[0])
        match self._chance.randrange(5):
            case 0:
                await self._post("mistakes", b'{"orderId": ')
            case 1:
                await self._asker.ask("mistakes", "POST", self._payments, body=wish)
            case 2:
                await self._post("mistakes", wish)
            case 3:
                await self._post("mistakes", {**self._wish(await self._order(), APPROVED[0]), "amount": 1.0})
            case _:
                await self._post("mistakes", self._wish("order-1", "4242424242424241"))

    async def looking(self) -> None:
        """Look at what there is."""
        path = self._chance.choice((f"/api/payments/user/{self._user}?limit=10", "/api/circuit-breaker/status"))
        await self._asker.ask("look", "GET", self._doors.core + path, token=self._token)

    async def _pay(self, kind: str, card: str, *, more: Mapping[str, Any] | None = None, wait_s: int = 0) -> Answer:
        order = await self._order()
        headers = {"Idempotency_Key": order} | ({"Prefer": f"wait={wait_s}"} if wait_s else {})
        return await self._post(kind, {**self._wish(order, card), **(more or {})}, **headers)

    async def _order(self) -> str:
        items = [
            {"productId": "prod-1", "quantity": 2, "price": 29.99},
            {"productId": "prod-2", "quantity": 1, "price": 15.50},
        ]
        order = f"order-{secrets.token_hex(6)}"
        body = {"id": order, "userId": self._user, "items": items}
        await self._asker.ask("order", "POST", self._doors.order_service, body=body)
        return order

    def _wish(self, order: str, card: str) -> dict[str, Any]:
        method = {"type": "credit_card", "cardNumber": card, "expiryMonth": "12", "expiryYear": "2030", "cvv": "123"}
        return {"orderId": order, "userId": self._user, "amount": 75.48, "currency": "USD", "paymentMethod": method}

    async def _post(self, kind: str, body: Any, **headers: str) -> Answer:
        return await self._asker.ask(kind, "POST", self._payments, token=self._token, body=body, **headers)

    async def _change(self, what: str, paid: Answer, body: Any) -> None:
        url, headers = f"{self._payment(paid)}/{what}", {"Idempotency_Key": secrets.token_hex(8)}
        await self._asker.ask(what, "POST", url, token=self._service, body=body, **headers)

    def _payment(self, paid: Answer) -> str:
        return f"{self._payments}/{paid.body['id']}"

    @property
    def _payments(self) -> str:
        return self._doors.core + "/api/payments"
