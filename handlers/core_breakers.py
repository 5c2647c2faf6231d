"""Circuits by hand: who may hold one open or closed, and what is asked for it."""

from __future__ import annotations

import re
from typing import Annotated, Final, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta

from engine import errors
from engine.circuits import REASON_LENGTH_MAX, Action, CircuitOrder
from engine.ids import rfc3339
from handlers.auth import Authenticator
from handlers.core_types import Time
from handlers.http import decode, read_body, reply
from handlers.routes import Handler, Route

# Whoever pastes from a ticket may paste a card number, and a reason is logged and shown.
_CARD_LIKE: Final = re.compile(r"\d(?:[ -]?\d){11,18}")
_SUMMARY: Final = {
    Action.FORCE_OPEN: "Hold a circuit open: nothing goes to the counterparty",
    Action.CLOSE: "Hold a circuit closed: everything goes to the counterparty",
    Action.RESET: "Leave a circuit to itself again, with empty counts",
}

Reason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=REASON_LENGTH_MAX,
        pattern=r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$",
        examples=["the bank asked us to stop"],
    ),
]


class OrderCircuit(msgspec.Struct):
    """Why the circuit is touched; kept, logged and shown to operators."""

    reason: Reason


class CircuitOrderView(msgspec.Struct):
    """An order that is in force: here at once, in every other process within a second."""

    counterparty: str
    action: Action
    actor: str
    reason: str
    at: Time
    generation: int


class OrderedCircuits(Protocol):
    """Gives orders that all processes follow."""

    async def order(self, name: str, action: Action, *, actor: str, reason: str) -> CircuitOrder: ...


class CoreBreakers:
    """`POST /api/circuit-breaker/{name}/force-open|close|reset`, for the role `admin`."""

    def __init__(self, circuits: OrderedCircuits, auth: Authenticator) -> None:
        self._circuits = circuits
        self._auth = auth
        self._decoder = msgspec.json.Decoder(OrderCircuit)

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route(
                "POST", f"/api/circuit-breaker/{{name}}/{action}", self._handler(action), _SUMMARY[action],
                {200: CircuitOrderView}, body=OrderCircuit, tag="operations",
                errors=(
                    errors.RoleRequired, errors.CircuitNotFound, errors.FieldRefused, errors.StoreUnavailable,
                    errors.Overloaded,
                ),
            )
            for action in Action
        ]  # fmt: skip

    def _handler(self, action: Action) -> Handler:
        async def give(request: web.Request) -> web.Response:
            caller = await self._auth.administrator(request)
            wanted = decode(await read_body(request), self._decoder)
            check_reason(wanted.reason)
            name = request.match_info["name"]
            order = await self._circuits.order(name, action, actor=caller.subject, reason=wanted.reason)
            return reply(200, order_view(order))

        return give


def check_reason(text: str, *, field: str = "reason") -> None:
    """Raises `FieldRefused` for what looks like a card number."""
    if _CARD_LIKE.search(text):
        raise errors.FieldRefused(f"{field} must not contain a card number", field=field)


def order_view(order: CircuitOrder) -> CircuitOrderView:
    """An order as operators see it."""
    return CircuitOrderView(
        order.counterparty, order.action, order.actor, order.reason, rfc3339(order.at_ms), order.generation
    )
