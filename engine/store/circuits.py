"""Orders about circuits: one small document that every process reads, and a list of those given lately."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from engine.circuits import CircuitOrder
from engine.errors import StoreUnavailable
from engine.store.batch import Batcher
from engine.store.keys import CIRCUIT_LOG, CIRCUITS
from engine.store.repeating import Repeating
from engine.store.step import Refusal, Step

LOG_MAX: Final = 200
"""Orders that are remembered; what is in force is kept whatever its age."""
_TRIES_MAX: Final = 8

_encode = msgspec.json.Encoder().encode
_decode_order = msgspec.json.Decoder(CircuitOrder).decode
_document = msgspec.json.Decoder(dict[str, CircuitOrder])


class RedisCircuits:
    """The latest order of each counterparty, by its name, and the log."""

    def __init__(self, batcher: Batcher, *, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        repeating = Repeating(batcher, sleep)
        self._run = repeating.step
        self._read = repeating.command

    async def orders(self) -> Mapping[str, CircuitOrder]:
        """What is in force. Raises `StoreUnavailable`, and `msgspec.DecodeError` for what is no such document."""
        raw = await self._read("GET", CIRCUITS)
        return _decode_orders(raw) if raw else {}

    async def give(self, order: CircuitOrder) -> Mapping[str, CircuitOrder]:
        """Write an order down; gives what is in force then. Raises `StoreUnavailable`: it may have been written."""
        found = await self._read("GET", CIRCUITS) or b""
        for _ in range(_TRIES_MAX):
            orders = _decode_orders(found) if found else {}
            generation = max((each.generation for each in orders.values()), default=0) + 1
            given = msgspec.structs.replace(order, generation=generation)
            orders = {**orders, order.counterparty: given}
            document, entry = _encode(orders), _encode(given)
            step = Step()
            step.expect_value(CIRCUITS, found.decode())
            step.do("SET", CIRCUITS, document)
            step.do("LPUSH", CIRCUIT_LOG, entry)
            step.do("LTRIM", CIRCUIT_LOG, 0, LOG_MAX - 1)
            refusal = await self._run(step)
            if not isinstance(refusal, Refusal):
                return orders
            found = refusal.found
            # Our own earlier try had run, and only its answer was lost. Since then somebody may have ordered otherwise.
            if found == document or entry in await self._read("LRANGE", CIRCUIT_LOG, 0, -1):
                return _decode_orders(found)
        raise StoreUnavailable("the orders about circuits change all the time")

    async def log(self, *, limit: int = LOG_MAX) -> list[CircuitOrder]:
        """The orders given lately, the latest first."""
        return [_decode_order(raw) for raw in await self._read("LRANGE", CIRCUIT_LOG, 0, limit - 1)]


def _decode_orders(raw: bytes) -> dict[str, CircuitOrder]:
    try:
        return _document.decode(raw)
    except UnicodeDecodeError as error:
        # Not of msgspec's own family: whoever follows the orders would die of it, and the process with him.
        raise msgspec.DecodeError("not UTF-8") from error
