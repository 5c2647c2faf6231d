"""Bodies and small calls that the simulator tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from simulators import cards

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One whole answer of a simulator."""

    status: int
    body: Any
    headers: dict[str, str] = field(compare=False)
    """Not compared: the date of a repeated answer may be a second later."""


async def call(http: aiohttp.ClientSession, method: str, url: str, body: Any = None, **options: Any) -> Answer:
    """One request, its JSON answer."""
    async with http.request(method, url, json=body, **options) as response:
        return Answer(response.status, await response.json(), dict(response.headers))


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2023, 1, 1, 0, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


async def charge(http: aiohttp.ClientSession, base: str, attempt: str, body: Json | None = None) -> Answer:
    """Send one charge for an attempt."""
    return await call(http, "POST", f"{base}/charges", body or a_charge(), headers={"Idempotency-Key": attempt})


async def opened(http: aiohttp.ClientSession, base: str, attempt: str = "attempt-1", **changes: Any) -> str:
    """Charge, or with `capture=False` authorize, and give the id that captures, voids and refunds name."""
    answer = await charge(http, base, attempt, a_charge(**changes))
    assert answer.status == 200, answer
    transaction: str = answer.body["id"]
    return transaction


async def follow_up(
    http: aiohttp.ClientSession, base: str, path: str, attempt: str, transaction: str, **changes: Any
) -> Answer:
    """Send one capture, void or refund of a charge; `path` says which."""
    body = {"charge": transaction, "amount_minor": 7548, "currency": "USD", "reference": "pay-456", **changes}
    return await call(http, "POST", f"{base}/{path}", body, headers={"Idempotency-Key": attempt})


def decline_code(answer: Answer) -> str | None:
    """Why it was declined, None when it was approved."""
    assert (answer.status, answer.body["status"]) in {(200, "approved"), (402, "declined")}, answer
    code: str | None = answer.body.get("decline_code")
    return code


async def effects(http: aiohttp.ClientSession, base: str) -> list[Json]:
    """The acquirer's own journal of money effects."""
    found: list[Json] = (await call(http, "GET", f"{base}/journal?after=0")).body["effects"]
    return found


async def summary(http: aiohttp.ClientSession, base: str) -> Json:
    """The acquirer's own summary of its journal."""
    found: Json = (await call(http, "GET", f"{base}/journal/summary")).body
    return found


async def script(http: aiohttp.ClientSession, base: str, **fault: Any) -> Json:
    """Switch a fault on."""
    answer = await call(http, "POST", f"{base}/_faults", fault)
    assert answer.status == 201, answer
    view: Json = answer.body
    return view


async def fired(http: aiohttp.ClientSession, base: str) -> dict[str, int]:
    """The kinds of fault that ever fired, with how often."""
    totals: dict[str, int] = (await call(http, "GET", f"{base}/_faults")).body["fired"]
    return {kind: times for kind, times in totals.items() if times}


async def has_charged(http: aiohttp.ClientSession, base: str) -> bool:
    """Whether money moved at the acquirer."""
    return bool(await effects(http, base))


async def has_fired(http: aiohttp.ClientSession, base: str) -> bool:
    """Whether any fault was taken by a request."""
    return bool(await fired(http, base))


async def eventually(claim: Callable[[], Awaitable[bool]], *, within_s: float = 30.0) -> None:
    """Wait until a claim holds; on a busy machine a fixed sleep is either too short or too long."""
    async with asyncio.timeout(within_s):
        while not await claim():  # noqa: ASYNC110 - what happens, happens behind HTTP
            await asyncio.sleep(0.01)


def a_charge(number: str = cards.APPROVED, **changes: Any) -> Json:
    """The body of a charge."""
    card = {"number": number, "expiry_month": 12, "expiry_year": 2030, "cvv": "737"}
    return {"amount_minor": 7548, "currency": "USD", "reference": "pay-456", "card": card, **changes}


def with_card(**changes: Any) -> Json:
    """The body of a charge whose card differs."""
    body = a_charge()
    return {**body, "card": {**body["card"], **changes}}


def a_user(**changes: Any) -> Json:
    """The body of a new user, as in the contract."""
    return {
        "email": "user@example.com",
        "username": "username",
        "password": "password123",
        "first_name": "John",
        "last_name": "Doe",
        "phone": "+1234567890",
        **changes,
    }


def an_order(**changes: Any) -> Json:
    """The body of a new order, as in the contract."""
    return {
        "userId": "550e8400-e29b-41d4-a716-446655440001",
        "items": [
            {"productId": "prod-1", "quantity": 2, "price": 29.99},
            {"productId": "prod-2", "quantity": 1, "price": 15.50},
        ],
        **changes,
    }
