"""The circuits of this process, and the orders about them that all processes follow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from app.settings import Settings
from engine.circuits import Action, CircuitOrder
from engine.errors import CircuitNotFound, Overloaded, StoreUnavailable
from engine.ids import Clock
from resilience.guard import Guard
from resilience.status import BreakerState, BreakerStatus

_FOLLOW_EVERY_S: Final = 0.5
_HELD: Final[Mapping[Action, BreakerState]] = {Action.FORCE_OPEN: "forced_open", Action.CLOSE: "forced_closed"}

log = structlog.get_logger(__name__)


class LocalGuards(Protocol):
    """The guards of this process, by their counterparties' names."""

    def find(self, name: str) -> Guard | None: ...
    def statuses(self) -> Mapping[str, BreakerStatus]: ...


class Orders(Protocol):
    """Where the orders are kept for all processes."""

    async def orders(self) -> Mapping[str, CircuitOrder]: ...
    async def give(self, order: CircuitOrder) -> Mapping[str, CircuitOrder]: ...
    async def log(self, *, limit: int) -> list[CircuitOrder]: ...


class Circuits:
    """Gives orders, and follows those that others have given. What was read last stands while nothing can be read."""

    def __init__(self, guards: LocalGuards, store: Orders, clock: Clock, *, configured: Sequence[str]) -> None:
        """`configured` are the counterparties of all processes: this one may not have the role that asks them."""
        self._guards = guards
        self._store = store
        self._clock = clock
        self._configured = tuple(configured)
        self._followed: dict[str, CircuitOrder] = {}
        self._unreadable = False
        # One at a time: what is read must not be older than what was just written here.
        self._turn = asyncio.Lock()

    def statuses(self) -> Mapping[str, BreakerStatus]:
        """The breakers of this process as of now, and those of others that are held by hand."""
        local = self._guards.statuses()
        held = {name: _elsewhere(order) for name, order in self._followed.items() if order.forces}
        return {**held, **local} if held.keys() - local.keys() else local

    def held(self) -> Mapping[str, CircuitOrder]:
        """The orders that hold a circuit now."""
        return {name: order for name, order in self._followed.items() if order.forces}

    def names(self) -> list[str]:
        """Every counterparty that an order may be about."""
        return sorted({*self._configured, *self._guards.statuses(), *self._followed})

    async def order(self, name: str, action: Action, *, actor: str, reason: str) -> CircuitOrder:
        """Give an order: in force here at once, elsewhere within a second.

        Raises `CircuitNotFound`, and `StoreUnavailable` when it is not known whether it was written.
        """
        if name not in self.names():
            raise CircuitNotFound("there is no counterparty of this name")
        wanted = CircuitOrder(counterparty=name, action=action, actor=actor, reason=reason, at_ms=self._clock())
        async with self._turn:
            orders = await self._store.give(wanted)
            self._follow(orders)
        log.warning("circuit ordered by hand", counterparty=name, action=action.value, actor=actor, reason=reason)
        return orders[name]

    async def log(self, *, limit: int) -> list[CircuitOrder]:
        """The orders given lately, the latest first. Raises `StoreUnavailable`."""
        return await self._store.log(limit=limit)

    async def follow(self) -> None:
        """Do what the orders say that are in force now."""
        async with self._turn:
            try:
                orders = await self._store.orders()
            except (StoreUnavailable, Overloaded):
                return
            except msgspec.DecodeError:
                # Looked at twice a second: said once.
                if not self._unreadable:
                    log.exception("the orders about circuits cannot be read")
                self._unreadable = True
                return
            self._unreadable = False
            self._follow(orders)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(_FOLLOW_EVERY_S)
            await self.follow()

    def _follow(self, orders: Mapping[str, CircuitOrder]) -> None:
        for name in self._followed.keys() - orders.keys():
            # The data were lost, and with them the order.
            self._do(name, Action.RESET)
        for name, order in orders.items():
            if self._followed.get(name) != order:
                self._do(name, order.action)
        self._followed = dict(orders)

    def _do(self, name: str, action: Action) -> None:
        guard = self._guards.find(name)
        if guard is None:
            return
        match action:
            case Action.FORCE_OPEN:
                guard.force_open()
            case Action.CLOSE:
                guard.force_close()
            case Action.RESET:
                guard.reset()


def counterparties(settings: Settings) -> list[str]:
    """Everybody whom some process with these settings asks through a circuit, whatever its roles."""
    names = [settings.acquirer.name, *settings.fallbacks]
    if settings.core.enabled:
        names += ["user_service", "order_service"]
    if settings.orders_api.enabled:
        names += ["gateway_users", "gateway_orders"]
    if settings.mpesa.base_url:
        names += ["mpesa", "mpesa_queries"]
    if settings.auth.jwks_url:
        names.append("signing_keys")
    return names


def _elsewhere(order: CircuitOrder) -> BreakerStatus:
    """What is known here of a circuit that only other processes have: that it is held."""
    return BreakerStatus(
        state=_HELD[order.action], failure_count=0, last_failure=None, retry_after_s=None, opened_at=None,
        window_calls=0, window_failure_rate=0.0, window_slow_rate=0.0, trials_in_flight=0, generation=0,
    )  # fmt: skip
