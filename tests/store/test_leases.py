"""Leases: every shard has one holder at a time, and never none for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from engine.errors import Overloaded
from engine.store.leases import ShardLeases
from tests.store.datasets import Dataset, Places, connected, eventually, running
from tests.store.making import NOW
from tests.support import free_port

SHARDS = 16
# Nobody waits for its end: the clocks are told, and so is Redis.
LONG_S = 3600.0


@pytest.fixture
async def two(places: Places) -> AsyncIterator[tuple[Dataset, Dataset]]:
    """Two processes on one dataset."""
    async with places.running() as one, places.running() as other:
        yield one, other


class FakeClock:
    """Monotonic seconds that move when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class FakeWallClock:
    """Milliseconds since 1970 that move when told."""

    def __init__(self) -> None:
        self.now_ms = NOW

    def __call__(self) -> int:
        return self.now_ms


def _counts(*leases: ShardLeases) -> list[int]:
    return [len(each.held()) for each in leases]


async def _renewed(*leases: ShardLeases, times: int = 3) -> None:
    for _ in range(times):
        for each in leases:
            await each.renew()


async def test_who_is_alone_holds_everything(store: Dataset) -> None:
    leases = store.leases("a")
    assert leases.held() == []
    await leases.renew()
    assert sorted(leases.held()) == list(range(SHARDS))


async def test_who_comes_second_gets_half_of_it(two: tuple[Dataset, Dataset]) -> None:
    first, second = two[0].leases("a"), two[1].leases("b")
    await first.renew()
    await second.renew()
    assert _counts(first, second) == [16, 0], "what is held is not taken away"
    await _renewed(first, second)
    assert _counts(first, second) == [8, 8]
    assert sorted(first.held() + second.held()) == list(range(SHARDS))


async def test_three_split_as_evenly_as_sixteen_can_be(store: Dataset) -> None:
    three = [store.leases(owner) for owner in "abc"]
    await _renewed(*three, times=4)
    assert sorted(_counts(*three)) == [4, 6, 6]
    assert sorted(shard for each in three for shard in each.held()) == list(range(SHARDS))


async def test_a_renewal_changes_nothing_between_those_who_have_their_share(two: tuple[Dataset, Dataset]) -> None:
    first, second = two[0].leases("a"), two[1].leases("b")
    await _renewed(first, second)
    before = first.held(), second.held()
    await _renewed(first, second, times=5)
    assert (first.held(), second.held()) == before


async def test_two_roles_do_not_share(store: Dataset) -> None:
    relay, reconcile = store.leases("a", role="relay"), store.leases("b", role="reconcile")
    await _renewed(relay, reconcile)
    assert _counts(relay, reconcile) == [16, 16]


async def test_no_shard_is_ever_held_twice_while_processes_come_and_go(two: tuple[Dataset, Dataset]) -> None:
    """One joins, another leaves, and all renew at the same time."""
    leases = [two[number % 2].leases(f"p{number}") for number in range(4)]
    leaves = [asyncio.Event() for _ in leases]
    held_twice: list[list[int]] = []

    async def keep(number: int) -> None:
        while not leaves[number].is_set():
            await leases[number].renew()
            await asyncio.sleep(0)
        await leases[number].release()

    async def watch() -> None:
        while True:
            held = [shard for each in leases for shard in each.held()]
            if len(held) != len(set(held)):
                held_twice.append(sorted(held))
            await asyncio.sleep(0)

    async def shared_by(*numbers: int) -> None:
        async def is_shared() -> bool:
            counts = _counts(*leases)
            return sum(counts) == SHARDS and all(bool(count) == (who in numbers) for who, count in enumerate(counts))

        await eventually(is_shared)

    watching = asyncio.create_task(watch())
    keeping = [asyncio.create_task(keep(0))]
    await shared_by(0)
    keeping += [asyncio.create_task(keep(1)), asyncio.create_task(keep(2))]
    await shared_by(0, 1, 2)
    # One leaves and another one joins in the same moment.
    leaves[1].set()
    keeping.append(asyncio.create_task(keep(3)))
    await shared_by(0, 2, 3)
    leaves[0].set()
    await shared_by(2, 3)
    for leave in leaves:
        leave.set()
    await asyncio.gather(*keeping)
    watching.cancel()
    assert not held_twice
    assert _counts(*leases) == [0, 0, 0, 0]


async def test_the_shards_of_the_dead_are_taken_over_when_their_time_is_over(two: tuple[Dataset, Dataset]) -> None:
    clock, wall_clock = FakeClock(), FakeWallClock()

    def of(store: Dataset, owner: str) -> ShardLeases:
        return ShardLeases(
            store.batcher, store.keys, role="relay", owner=owner, ttl_s=LONG_S, clock=clock, wall_clock=wall_clock
        )

    dead, living = of(two[0], "dead"), of(two[1], "living")
    await _renewed(dead, living)
    assert _counts(dead, living) == [8, 8]
    names = [two[0].keys.shards[number].lease("relay") for number in dead.held()]

    clock.now_s += 0.8 * LONG_S
    wall_clock.now_ms += int(0.8 * LONG_S * 1000)
    await _renewed(living)
    assert _counts(dead, living) == [8, 8], "too early: the other may be alive"

    clock.now_s += 0.3 * LONG_S
    wall_clock.now_ms += int(0.3 * LONG_S * 1000)
    assert dead.held() == []
    await _renewed(living)
    assert len(living.held()) == 8, "still too early: Redis has the last word"
    for name in names:
        assert 0 < await two[0].ask("PTTL", name) <= LONG_S * 1000, "it does end by itself"
        await two[0].ask("PEXPIRE", name, 1)

    async def has_taken_over() -> bool:
        await living.renew()
        return len(living.held()) == SHARDS

    await eventually(has_taken_over)


async def test_what_is_released_is_free_at_once(two: tuple[Dataset, Dataset]) -> None:
    first, second = two[0].leases("a"), two[1].leases("b")
    await _renewed(first, second)
    await first.release()
    assert first.held() == []
    await second.renew()
    assert sorted(second.held()) == list(range(SHARDS))


async def test_a_release_leaves_the_leases_of_others_alone(two: tuple[Dataset, Dataset]) -> None:
    """A process that slept past the end of its leases gives back nothing that another holds by now."""
    sleeper, other = two[0].leases("sleeper"), two[1].leases("other")
    await sleeper.renew()
    for shard in two[0].keys.shards:
        await two[0].ask("DEL", shard.lease("relay"))
    await two[0].ask("DEL", "payments:members:relay")
    await other.renew()
    await sleeper.release()
    assert sorted(other.held()) == list(range(SHARDS))
    owners = {await two[0].ask("GET", shard.lease("relay")) for shard in two[0].keys.shards}
    assert owners == {b"other"}


async def test_a_renewal_does_not_prolong_what_another_holds(two: tuple[Dataset, Dataset]) -> None:
    sleeper, other = two[0].leases("sleeper"), two[1].leases("other")
    await sleeper.renew()
    for shard in two[0].keys.shards:
        await two[0].ask("DEL", shard.lease("relay"))
    await two[0].ask("DEL", "payments:members:relay")
    await other.renew()
    await sleeper.renew()
    assert not set(sleeper.held()) & set(other.held())


async def test_who_was_paused_stops_before_redis_lets_the_next_one_start(store: Dataset) -> None:
    """By his own clock, without asking anybody."""
    clock = FakeClock()
    leases = ShardLeases(store.batcher, store.keys, role="relay", owner="a", ttl_s=LONG_S, clock=clock)
    await leases.renew()
    left_ms = await store.ask("PTTL", store.shard.lease("relay"))
    clock.now_s += 0.89 * LONG_S
    assert len(leases.held()) == SHARDS
    clock.now_s += 0.02 * LONG_S
    assert leases.held() == []
    assert left_ms > 0.92 * LONG_S * 1000, "the lease in Redis lasts longer"


async def test_trouble_with_the_store_costs_the_leases_and_raises_nothing() -> None:
    async with running(connected(f"redis://127.0.0.1:{free_port()}/0")) as store:
        leases = store.leases("a")
        await leases.renew()
        assert leases.held() == []
        await leases.release()


async def test_a_store_with_too_much_to_do_costs_the_leases_and_raises_nothing(places: Places) -> None:
    """Many requests at once fill the batcher; that must not end the relay."""
    client = places.client()
    full = Dataset(client, shards=SHARDS, waiting_max=16, batch_max=1, pipelines_max=1)
    with contextlib.suppress(Overloaded):
        while True:
            full.batcher.command("EXISTS", "key")
    leases = full.leases("a")
    await leases.renew()
    assert leases.held() == []
    await leases.release()
    await client.aclose()
