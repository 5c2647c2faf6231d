"""A pretend API gateway with its internal paths: it knows users 1 to 100 and orders 1 to 1000."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from simulators.base import Simulator
from simulators.wire import Refusal, reply

USERS_MAX: Final = 100
ORDERS_MAX: Final = 1000


def flat_error(code: str, message: str) -> object:
    """The error envelope of the gateway."""
    return {"error": message, "code": code}


class Nothing(msgspec.Struct, frozen=True):
    """What it keeps in its journal: it never changes."""


class InternalGatewaySim(Simulator[Nothing]):
    """The internal paths of the gateway: does this user exist, does this order exist."""

    def __init__(self, journal_path: Path | None, *, users_max: int = USERS_MAX, orders_max: int = ORDERS_MAX) -> None:
        super().__init__(journal_path, Nothing, flat_error)
        self._users_max, self._orders_max = users_max, orders_max

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/internal/users/{id}", self._user),
            web.get("/internal/orders/{id}", self._order),
        ]

    def _restore(self, records: list[Nothing]) -> None:
        """Nothing to restore."""

    async def _user(self, request: web.Request) -> web.Response:
        number = _number(request, self._users_max, "User not found")
        return reply(200, {"id": number, "email": f"user{number}@example.com", "username": f"user{number}"})

    async def _order(self, request: web.Request) -> web.Response:
        number = _number(request, self._orders_max, "Order not found")
        return reply(200, {"id": number, "userId": (number - 1) % self._users_max + 1, "status": "pending"})


def _number(request: web.Request, number_max: int, message: str) -> int:
    text = request.match_info["id"]
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0
    if not 1 <= number <= number_max:
        raise Refusal(404, "NOT_FOUND", message)
    return number
