"""The world of the vault tests: an engine process with the vault surface, and a Redis of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from tests.api.world import Answer, eventually
from tests.orders.world import FlatWorld
from tests.support import USER, EngineProcess, RedisServer, Sims, free_port, simulators, temporary_folder, token

BASE = "/api/payment"
ADMIN = token("operator", role="admin")
PAN = "4242424242424242"


def luhn(start: str, length: int = 16) -> str:
    """A card number that begins like this."""
    body = start.ljust(length - 1, "0")
    doubled = [int(d) * 2 - 9 * (int(d) > 4) if place % 2 == 0 else int(d) for place, d in enumerate(reversed(body))]
    return body + str(-sum(doubled) % 10)


class VaultWorld(FlatWorld):
    """One running engine, seen through its vault surface."""

    def __init__(
        self, server: RedisServer, sims: Sims, engine: EngineProcess, session: aiohttp.ClientSession, core: str
    ) -> None:
        super().__init__(server, sims, engine, session)
        self.core = core
        self._numbered = itertools.count(1)

    def new_pan(self) -> str:
        """A card number that nobody has."""
        return luhn(f"4{next(self._numbered):011d}")

    def new_checkout(self) -> str:
        """A checkout that nobody has paid."""
        return f"checkout-{next(self._numbered)}"

    def card(self, **fields: Any) -> dict[str, Any]:
        """The body of a card to be stored."""
        return {
            "cardUserId": USER, "cardHolderName": "Jo Doe", "cardNumber": int(self.new_pan()),
            "expireDate": "12/30", "cvv": 123, "money": 500, **fields,
        }  # fmt: skip

    def wanted(self, card_id: str, **fields: Any) -> dict[str, Any]:
        """The body of a payment of 75.48."""
        return {
            "userId": USER, "basketId": "basket-1", "creditCardId": card_id, "shipmentId": "shipment-1",
            "products": [
                {"productId": "prod-1", "quantity": 2, "price": 29.99, "sellerId": "seller-1"},
                {"productId": "prod-2", "price": 15.5},
            ],
            "address": "1 High Street", "isGift": False, "totalPrice": 75.48, **fields,
        }  # fmt: skip

    async def post(self, path: str, body: Mapping[str, Any] | bytes, *, auth: str = "") -> Answer:
        """POST below the surface's base."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return await self.send("POST", BASE + path, body=raw, auth=auth, headers=headers)

    async def added(self, **fields: Any) -> dict[str, Any]:
        """A card that was stored."""
        answer = await self.post("/add", self.card(**fields), auth=ADMIN)
        assert answer.status == 201, answer
        card: dict[str, Any] = answer.json["card"]
        return card

    async def pays(self, card_id: str, checkout: str = "", *, auth: str = "", **fields: Any) -> Answer:
        """`POST /pay/:checkoutId`."""
        body = self.wanted(card_id, **fields)
        return await self.post(f"/pay/{checkout or self.new_checkout()}", body, auth=auth)

    async def bought(self, card_id: str, **fields: Any) -> dict[str, Any]:
        """A payment that was made."""
        answer = await self.pays(card_id, **fields)
        assert answer.status == 201, answer
        payment: dict[str, Any] = answer.json["payment"]
        return payment

    async def money(self, card_id: str) -> Any:
        """What is on the card."""
        return (await self.get(f"{BASE}/get/{card_id}", auth=ADMIN)).json["card"]["money"]

    async def payment(self, payment_id: str, *, auth: str = ADMIN) -> dict[str, Any]:
        """`GET /find/:paymentId`."""
        answer = await self.get(f"{BASE}/find/{payment_id}", auth=auth)
        assert answer.status == 200, answer
        payment: dict[str, Any] = answer.json["payment"]
        return payment

    async def told(self, payment_id: str, count: int) -> list[dict[str, Any]]:
        """The lines of the event file about this payment, as soon as there are so many; never more."""

        async def lines() -> list[dict[str, Any]] | None:
            path = self.engine.events_file
            everything = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            mine = [line for line in everything if line["value"].get("paymentId") == payment_id]
            return mine if len(mine) >= count else None

        found = await eventually(lines)
        assert len(found) == count
        return found

    async def sound(self) -> None:
        """Assert that the audit finds nothing once all is at rest."""
        await self.at_rest()
        report = self.audit()
        assert report["findings"] == []
        assert report["balances_compared"] is True


@contextlib.asynccontextmanager
async def vault_world(**settings: str) -> AsyncIterator[VaultWorld]:
    """Start everything; `settings` are environment variables of the engine."""
    async with simulators() as sims, contextlib.AsyncExitStack() as stack:
        await sims.user()
        folder = stack.enter_context(temporary_folder())
        server = RedisServer(folder)
        server.start()
        stack.callback(server.stop)
        engine, core = vault_engine(server.url, sims, folder, **settings)
        stack.push_async_callback(engine.close)
        await engine.start()
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(limit=0)
        )
        await stack.enter_async_context(session)
        yield VaultWorld(server, sims, engine, session, core)


def vault_engine(redis_url: str, sims: Sims, folder: Any, **settings: str) -> tuple[EngineProcess, str]:
    """An engine with the vault surface too, which is where its `base` leads; and where its core surface is."""
    port = free_port()
    engine = EngineProcess(
        redis_url, sims, folder, PAYMENTS__VAULT__ENABLED="true", PAYMENTS__VAULT__PORT=str(port), **settings
    )
    core, engine.base = engine.base, f"http://127.0.0.1:{port}"
    return engine, core


__all__ = ["ADMIN", "BASE", "PAN", "USER", "VaultWorld", "eventually", "luhn", "token", "vault_engine", "vault_world"]
