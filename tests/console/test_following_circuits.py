"""What a process does with orders: it follows the latest, whatever becomes of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from app.circuits import Circuits, counterparties
from app.settings import load
from app.surfaces import surfaces
from app.wiring import Guards, Parts
from clients.http import open_session
from engine.circuits import Action, CircuitOrder
from engine.errors import CircuitNotFound, StoreUnavailable
from metrics.instruments import Instruments
from resilience.errors import BreakerOpen, Unreachable
from resilience.settings import GuardSettings
from simulators.daraja import MERCHANT
from tests.support import CARD_KEYS, FINGERPRINT_SECRET, SECRET


class Memory:
    """Orders of several processes, in this one."""

    def __init__(self) -> None:
        self.kept: dict[str, CircuitOrder] = {}
        self.away = False

    async def orders(self) -> Mapping[str, CircuitOrder]:
        if self.away:
            raise StoreUnavailable("away")
        return dict(self.kept)

    async def give(self, order: CircuitOrder) -> Mapping[str, CircuitOrder]:
        if self.away:
            raise StoreUnavailable("away")
        generation = max((each.generation for each in self.kept.values()), default=0) + 1
        self.kept[order.counterparty] = msgspec.structs.replace(order, generation=generation)
        return dict(self.kept)

    async def log(self, *, limit: int) -> list[CircuitOrder]:
        return list(self.kept.values())[:limit]


class Process:
    """The circuits of one process that asks the bank."""

    def __init__(self, store: Memory, *names: str) -> None:
        self.guards = Guards(Instruments(CollectorRegistry()))
        for name in names:
            self.guards.add(name, GuardSettings(tries_max=1, failures_to_open=2))
        self.circuits = Circuits(self.guards, store, lambda: 1, configured=("bank", "shop"))

    def state(self, name: str = "bank") -> str:
        return self.circuits.statuses()[name].state

    async def fail(self, name: str = "bank") -> None:
        async def unreachable() -> None:
            raise Unreachable(name, "nobody there")

        guard = self.guards.find(name)
        assert guard is not None
        with pytest.raises((Unreachable, BreakerOpen)):
            await guard.call(unreachable)


async def order(process: Process, action: Action, name: str = "bank") -> CircuitOrder:
    return await process.circuits.order(name, action, actor="ada", reason="tests")


async def test_the_last_order_stands_while_the_store_is_away() -> None:
    store = Memory()
    here, there = Process(store, "bank"), Process(store, "bank")
    await order(here, Action.FORCE_OPEN)
    await there.circuits.follow()
    store.away = True
    await there.circuits.follow()
    with pytest.raises(StoreUnavailable):
        await order(there, Action.RESET)
    assert (here.state(), there.state()) == ("forced_open", "forced_open")


async def test_a_reset_empties_the_counts_everywhere_and_a_second_one_does_so_again() -> None:
    store = Memory()
    here, there = Process(store, "bank"), Process(store, "bank")
    for _ in range(2):
        await there.fail()
        await there.fail()
        assert there.state() == "open"
        await order(here, Action.RESET)
        await there.circuits.follow()
        assert (there.state(), there.circuits.statuses()["bank"].failure_count) == ("closed", 0)


async def test_an_order_that_was_followed_is_not_followed_again() -> None:
    """Else every poll would empty the counts, and no circuit would ever open by itself."""
    store = Memory()
    process = Process(store, "bank")
    await order(process, Action.RESET)
    await process.fail()
    await process.circuits.follow()
    assert process.circuits.statuses()["bank"].failure_count == 1


async def test_what_is_held_shows_also_where_nobody_asks_the_counterparty() -> None:
    store = Memory()
    door, worker = Process(store, "shop"), Process(store, "bank")
    await order(door, Action.FORCE_OPEN)
    await worker.circuits.follow()
    assert worker.state() == "forced_open"
    assert {name: door.state(name) for name in door.circuits.statuses()} == {"bank": "forced_open", "shop": "closed"}
    await order(door, Action.RESET)
    assert set(door.circuits.statuses()) == {"shop"}


async def test_an_unknown_counterparty_is_refused() -> None:
    with pytest.raises(CircuitNotFound):
        await order(Process(Memory(), "bank"), Action.FORCE_OPEN, "nobody")


async def test_a_store_that_has_lost_the_order_lets_the_circuit_go() -> None:
    store = Memory()
    process = Process(store, "bank")
    await order(process, Action.FORCE_OPEN)
    store.kept.clear()
    await process.circuits.follow()
    assert process.state() == "closed"


async def test_what_cannot_be_read_changes_nothing() -> None:
    class Broken(Memory):
        """Has a document of a later version, perhaps."""

        broken = False

        async def orders(self) -> Mapping[str, CircuitOrder]:
            if self.broken:
                raise msgspec.DecodeError
            return await super().orders()

    store = Broken()
    process = Process(store, "bank")
    await order(process, Action.FORCE_OPEN)
    store.broken = True
    await process.circuits.follow()
    assert process.state() == "forced_open"
    store.broken = False
    store.kept.clear()
    await process.circuits.follow()
    assert process.state() == "closed"


async def test_a_poll_cannot_undo_an_order_that_was_given_while_it_read() -> None:
    class Slow(Memory):
        """Reads, and answers later."""

        def __init__(self) -> None:
            super().__init__()
            self.go = asyncio.Event()

        async def orders(self) -> Mapping[str, CircuitOrder]:
            read = dict(self.kept)
            await self.go.wait()
            return read

    store = Slow()
    process = Process(store, "bank")
    polling = asyncio.create_task(process.circuits.follow())
    await asyncio.sleep(0)
    ordering = asyncio.create_task(order(process, Action.FORCE_OPEN))
    await asyncio.sleep(0)
    store.go.set()
    await asyncio.gather(polling, ordering)
    assert process.state() == "forced_open"


async def test_every_counterparty_of_a_process_with_everything_is_known_to_those_with_less() -> None:
    """An order comes to a door, and may be about somebody whom only the workers ask."""
    settings = load(
        None,
        {
            "JWT_SEC": SECRET,
            "PAYMENTS__REDIS__URL": "fake://",
            "PAYMENTS__CARDS__KEYS": CARD_KEYS,
            "PAYMENTS__CARDS__FINGERPRINT_SECRET": FINGERPRINT_SECRET,
            **{f"PAYMENTS__{name}__ENABLED": "true" for name in ("ORDERS_API", "GATEWAY", "VAULT", "MPESA")},
            "PAYMENTS__MPESA__BASE_URL": "http://127.0.0.1:1",
            **{f"PAYMENTS__MPESA__{name.upper()}": value for name, value in MERCHANT._asdict().items()},
            "PAYMENTS__MPESA__CALLBACK_BASE_URL": "http://127.0.0.1:1",
            "PAYMENTS__MPESA__CALLBACK_SECRET": "callback-secret-0123456789",
            "PAYMENTS__AUTH__JWKS_URL": "http://127.0.0.1:1",
            "PAYMENTS__AUTH__ALGORITHMS": '["HS256", "RS256"]',
            "PAYMENTS__ACQUIRER__URL": "http://127.0.0.1:1",
            "PAYMENTS__FALLBACKS__OTHER_BANK__URL": "http://127.0.0.1:1",
            "PAYMENTS__EVENTS__FILE": "unused",
        },
    )
    from app.embedded import FakeCheck, fake_client

    client = fake_client()
    async with open_session(client_id="tests") as wire:
        parts = Parts(settings, ("http", "worker"), client, wire, FakeCheck())
        assert len(surfaces(parts, ("http",))) == 5
        assert sorted(parts.guards.statuses()) == sorted(counterparties(settings)) == parts.circuits.names()
        await parts.limiting.aclose()
    await client.aclose()
