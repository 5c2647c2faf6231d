"""What customers do at the other doors: recorded payments, stored cards, accounts, phones."""

from __future__ import annotations

import random
import secrets
from typing import Final

from app.load.asking import Asker, Doors

CLIENT: Final = "550e8400-e29b-41d4-a716-446655440000"
PACKAGE: Final = "660e8400-e29b-41d4-a716-446655440001"
"""What `make run` can be asked to pay over M-Pesa."""
USERS_MAX, ORDERS_MAX = 100, 1000
"""Whom the demo's gateway knows."""
_PHONES: Final = ("5678", "5678", "5678", "0001", "1032", "7001", "7006")
"""Mostly those who pay: simulators/daraja_phones.py."""
_CARD_LASTS: Final = 8
"""Checkouts that a stored card is used for; the last ones find too little on it."""


class OtherCustomer:
    """Somebody at the other surfaces. `service` is a token that acts for everybody."""

    def __init__(self, asker: Asker, doors: Doors, chance: random.Random, *, user: str, service: str) -> None:
        self._asker, self._doors, self._chance = asker, doors, chance
        self._user, self._service = user, service
        self._card, self._card_left = "", 0
        self._account = ""

    async def recorded(self) -> None:
        """Record a payment that was settled outside; some are cancelled again."""
        url = self._doors.orders + "/api/payments"
        wish = {"userId": self._number(USERS_MAX), "orderId": self._number(ORDERS_MAX), "amount": 99.99}
        made = await self._asker.ask("record", "POST", url, token=self._service, body=wish)
        if made.status == 201 and self._chance.random() < 0.3:
            changed = f"{url}/{made.body['payment']['paymentId']}/status"
            await self._asker.ask("record", "PUT", changed, token=self._service, body={"status": "cancelled"})

    async def stored_card(self) -> None:
        """Pay a checkout with a stored card; it is stored first when there is none, or it is empty."""
        if not self._card_left and not await self._store_card():
            return
        self._card_left -= 1
        body = {
            "userId": self._user, "basketId": "basket-1", "creditCardId": self._card, "shipmentId": "shipment-1",
            "products": [
                {"productId": "prod-1", "quantity": 2, "price": 29.99},
                {"productId": "prod-2", "quantity": 1, "price": 15.5},
            ],
            "address": "1 High Street", "isGift": False, "totalPrice": 75.48,
        }  # fmt: skip
        url = f"{self._doors.vault}/api/payment/pay/checkout-{secrets.token_hex(6)}"
        await self._asker.ask("checkout", "POST", url, token=self._service, body=body)

    async def _store_card(self) -> bool:
        body = {
            "cardUserId": self._user, "cardHolderName": "Jo Doe", "cardNumber": int(_card_number(self._chance)),
            "expireDate": "12/30", "cvv": 123, "money": 500,
        }  # fmt: skip
        url = self._doors.vault + "/api/payment/add"
        added = await self._asker.ask("checkout", "POST", url, token=self._service, body=body)
        if added.status != 201:
            return False
        self._card, self._card_left = added.body["card"]["id"], _CARD_LASTS
        return True

    async def account(self) -> None:
        """Create a payment with an account of the gateway, and process it; the first one registers."""
        if not self._account and not await self._register():
            return
        url = self._doors.gateway + "/api/payments"
        card = {"cardNumber": "4242424242424242", "expiryMonth": "12", "expiryYear": "2030", "cvv": "123"}
        wish = {"amount": 75.48, "payment_method": "credit_card", "details": card}
        made = await self._asker.ask("gateway", "POST", url, token=self._account, body=wish)
        if made.status == 201:
            body = {"paymentId": made.body["id"]}
            await self._asker.ask("gateway", "POST", url + "/process", token=self._account, body=body)

    async def _register(self) -> bool:
        email, password = f"load-{secrets.token_hex(6)}@example.com", secrets.token_hex(12)
        url = self._doors.gateway + "/api/auth"
        body = {"name": "Load", "email": email, "password": password}
        await self._asker.ask("gateway", "POST", url + "/register", body=body)
        body = {"email": email, "password": password}
        logged_in = await self._asker.ask("gateway", "POST", url + "/login", body=body)
        self._account = str(logged_in.body.get("token", ""))
        return bool(self._account)

    async def phone(self) -> None:
        """Have a phone asked for the price of the demo's package, and ask how it stands."""
        url = self._doors.mpesa + "/api/v1/payments"
        number = f"+2547{self._chance.randrange(10_000):04}{self._chance.choice(_PHONES)}"
        wish = {"client_id": CLIENT, "package_id": PACKAGE, "phone_number": number, "description": "Load"}
        asked = await self._asker.ask("phone", "POST", url + "/initiate", body=wish)
        if checkout := asked.body.get("checkout_id"):
            body = {"client_id": CLIENT, "checkout_id": checkout}
            await self._asker.ask("phone", "POST", url + "/status", body=body)

    def _number(self, most: int) -> int:
        return self._chance.randint(1, most)


def _card_number(chance: random.Random) -> str:
    """A card number that nobody has stored before, most likely: its last digit is Luhn's."""
    start = f"4242{chance.randrange(10**11):011d}"
    doubled = [int(d) * 2 - 9 * (int(d) > 4) if place % 2 == 0 else int(d) for place, d in enumerate(reversed(start))]
    return start + str(-sum(doubled) % 10)
