"""All processes as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from engine.circuits import CircuitOrder
from handlers.console.snapshot import OUTCOMES, RECENTS_MAX, SECONDS_MAX, CircuitTold, DepthTold, PaymentLine, Snapshot
from handlers.core_breakers import CircuitOrderView, order_view

_WORST_FIRST: Final = ("forced_open", "open", "half_open", "forced_closed", "closed")
_NOTHING: Final = CircuitTold("closed")


class CircuitPicture(msgspec.Struct):
    """A circuit over all processes that have it. Rates are over the calls of all of them."""

    name: str
    state: str
    """The worst one."""
    states: dict[str, int]
    failure_count: int
    last_failure_ms: int
    retry_at_ms: int
    window_calls: int
    window_failure_rate: float
    window_slow_rate: float
    trials_in_flight: int
    held: CircuitOrderView | None


class ProcessPicture(msgspec.Struct):
    """A process."""

    owner: str
    host: str
    pid: int
    roles: tuple[str, ...]
    version: str
    started_ms: int
    lag_ms: int
    unfit: dict[str, str]


class Picture(msgspec.Struct):
    """What the page shows. `seconds` are the last two minutes, one row of `outcomes` each, up to the last whole one."""

    at_ms: int
    stale: bool
    """The store does not answer: only the process that serves the page is in here."""
    outcomes: tuple[str, ...]
    seconds: list[list[int]]
    circuits: list[CircuitPicture]
    depths: dict[str, DepthTold]
    processes: list[ProcessPicture]
    recents: list[PaymentLine]
    orders: list[CircuitOrderView]


def picture(
    snapshots: Sequence[Snapshot],
    held: Mapping[str, CircuitOrder],
    orders: Sequence[CircuitOrder],
    names: Sequence[str],
    *,
    now_ms: int,
    stale: bool = False,
) -> Picture:
    """Merge what the processes told; `names` are the counterparties that an order may be about."""
    return Picture(
        at_ms=now_ms,
        stale=stale,
        outcomes=OUTCOMES,
        seconds=_seconds(snapshots, now_ms // 1000),
        circuits=_circuits(snapshots, held, names),
        depths=next((each.depths for each in snapshots if each.depths), {}),
        processes=[
            ProcessPicture(
                each.owner, each.host, each.pid, each.roles, each.version, each.started_ms, each.lag_ms, each.unfit
            )
            for each in snapshots
        ],
        recents=_recents(snapshots),
        orders=[order_view(order) for order in orders],
    )


def _seconds(snapshots: Sequence[Snapshot], now_s: int) -> list[list[int]]:
    rows = [[0] * len(OUTCOMES) for _ in range(SECONDS_MAX)]
    # The second that has not ended, and the one before it that not everybody has told of yet, would look like a drop.
    first = now_s - SECONDS_MAX - 1
    for second, *counts in (row for each in snapshots for row in each.seconds):
        if 0 <= second - first < SECONDS_MAX:
            row = rows[second - first]
            for place, count in enumerate(counts[: len(row)]):
                row[place] += count
    return rows


def _circuits(
    snapshots: Sequence[Snapshot], held: Mapping[str, CircuitOrder], names: Sequence[str]
) -> list[CircuitPicture]:
    told: dict[str, list[CircuitTold]] = {name: [] for name in names}
    for each in snapshots:
        for name, circuit in each.circuits.items():
            told.setdefault(name, []).append(circuit)
    return [_circuit(name, told[name], held.get(name)) for name in sorted(told)]


def _circuit(name: str, told: Sequence[CircuitTold], order: CircuitOrder | None) -> CircuitPicture:
    states: dict[str, int] = {}
    for each in told:
        states[each.state] = states.get(each.state, 0) + 1
    calls = sum(each.window_calls for each in told)

    def rate(rates: Sequence[float]) -> float:
        shares = zip(rates, told, strict=True)
        return sum(share * each.window_calls for share, each in shares) / calls if calls else 0.0

    return CircuitPicture(
        name=name,
        state=next((state for state in _WORST_FIRST if state in states), _NOTHING.state),
        states=states,
        failure_count=max((each.failure_count for each in told), default=0),
        last_failure_ms=max((each.last_failure_ms for each in told), default=0),
        retry_at_ms=min((each.retry_at_ms for each in told if each.retry_at_ms), default=0),
        window_calls=calls,
        window_failure_rate=rate([each.window_failure_rate for each in told]),
        window_slow_rate=rate([each.window_slow_rate for each in told]),
        trials_in_flight=sum(each.trials_in_flight for each in told),
        held=order_view(order) if order else None,
    )


def _recents(snapshots: Sequence[Snapshot]) -> list[PaymentLine]:
    """The newest word on each payment, the latest first: several processes may have worked on it."""
    newest: dict[str, PaymentLine] = {}
    for line in (line for each in snapshots for line in each.recents):
        if line.id not in newest or newest[line.id].version < line.version:
            newest[line.id] = line
    return sorted(newest.values(), key=lambda line: (line.changed_ms, line.id), reverse=True)[:RECENTS_MAX]
