"""The schedule of deliveries: in line, once at a time, leased, and never forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.delivering import Added, Delivery, Leased
from engine.errors import StoreUnavailable
from engine.ids import shard_of
from engine.store.deliveries import Deliveries
from tests.store.datasets import BOTH_PROTOCOLS, Dataset, only
from tests.store.making import NOW

LEASE = 30_000
LANES = [f"lane-{number}" for number in range(40)]


def queue(store: Dataset, **options: Any) -> Deliveries:
    """A schedule with small numbers."""
    given = {
        "queue": "told", "each_max": 2, "lease_ms": LEASE, "waiting_max": 50, "kept_max": 3, "keep_ms": 600_000,
        "remember_ms": 60_000, **options,
    }  # fmt: skip
    return Deliveries(store.batcher, store.keys, **given)


def one(name: str, *, lane: str = "lane", line: str = "line", due_ms: int = NOW) -> Delivery:
    """A delivery."""
    return Delivery(name, lane, line, f"item {name}".encode(), due_ms)


async def ids(told: Deliveries, now_ms: int = NOW, limit: int = 1600) -> list[str]:
    """What is due, leased."""
    return sorted(leased.id for leased in await told.due(now_ms, limit))


async def first(told: Deliveries, now_ms: int = NOW) -> Leased:
    """The only one that is due."""
    (leased,) = await told.due(now_ms, 1600)
    return leased


async def test_a_line_goes_out_in_its_order_one_at_a_time(store: Dataset) -> None:
    told = queue(store)
    await told.add([one("1"), one("2"), one("3")], now_ms=NOW)
    for name in ("1", "2", "3"):
        leased = await first(told)
        assert (leased.id, leased.item) == (name, f"item {name}".encode())
        assert await ids(told) == []
        assert await told.done(leased, b"over", now_ms=NOW)
    assert await ids(told, NOW + 10 * LEASE) == []


async def test_many_lanes_and_lines_are_given_out_each_once(store: Dataset) -> None:
    """Also to several that ask at the same time."""
    told = queue(store)
    given = [one(f"{lane}-{line}", lane=lane, line=line) for lane in LANES for line in "ab"]
    assert set(await told.add(given, now_ms=NOW)) == {Added.ADDED}
    pages = await asyncio.gather(*(ids(told) for _ in range(4)))
    assert sorted(name for page in pages for name in page) == sorted(delivery.id for delivery in given)


async def test_a_shard_that_does_not_answer_holds_up_no_other(store: Dataset) -> None:
    """Else what the others had leased meanwhile would wait for the end of its lease, again and again."""
    told = queue(store)
    broken = store.shard.tag
    others = [lane for lane in LANES if shard_of(lane, len(store.keys.shards)) != store.shard.shard]
    await store.ask("SET", f"{broken}:told:due", "not a set")
    await told.add([one(lane, lane=lane) for lane in others], now_ms=NOW)
    assert await ids(told) == sorted(others)
    with pytest.raises(StoreUnavailable):
        await told.due(NOW, 1600)


async def test_the_order_of_a_line_is_that_of_the_call_however_long_it_is(store: Dataset) -> None:
    told = queue(store, waiting_max=1000)
    names = [f"{number}" for number in range(450)]
    await told.add([one(name) for name in names], now_ms=NOW)
    listed = await told.page("lane", limit=1000)
    assert [each.id for each in reversed(listed)] == names
    assert (await first(told)).id == "0"


async def test_what_is_known_changes_nothing_while_it_waits_and_after_it_has_ended(store: Dataset) -> None:
    told = queue(store)
    assert await told.add([one("1")], now_ms=NOW) == [Added.ADDED]
    assert await told.add([one("1"), one("2")], now_ms=NOW) == [Added.KNOWN, Added.ADDED]
    assert (await told.depth()).waiting == 2
    await told.done(await first(told), b"over", now_ms=NOW)
    assert await told.add([one("1")], now_ms=NOW) == [Added.KNOWN]
    assert await told.find("lane", "1") == b"over"
    assert (await first(told)).id == "2"


async def test_a_failed_one_holds_up_its_line_and_no_other(store: Dataset) -> None:
    told = queue(store)
    await told.add([one("1"), one("2"), one("3", line="other")], now_ms=NOW)
    failed, other = sorted(await told.due(NOW, 1600), key=lambda leased: leased.id)
    assert (failed.id, other.id) == ("1", "3")
    assert await told.again(failed, b"item 1, tried", due_ms=NOW + 5000)
    await told.done(other, b"over", now_ms=NOW)
    assert await ids(told, NOW + 4999) == []
    again = await first(told, NOW + 5000)
    assert (again.id, again.item) == ("1", b"item 1, tried")


async def test_a_lane_has_no_more_under_way_than_it_may_whoever_asks(store: Dataset) -> None:
    told = queue(store)
    await told.add([one(name, line=name) for name in "abcde"], now_ms=NOW)
    taken = await told.due(NOW, 1600)
    assert len(taken) == 2
    assert await queue(store).due(NOW, 1600) == []
    await told.done(taken[0], b"over", now_ms=NOW)
    assert len(await queue(store).due(NOW, 1600)) == 1


async def test_a_lease_that_is_over_comes_back_and_its_old_holder_changes_nothing(store: Dataset) -> None:
    """The worker died, or slept: in both cases somebody else must go on, and only the one may write."""
    told = queue(store)
    await told.add([one("1"), one("2", line="other")], now_ms=NOW)
    lost = {leased.id: leased for leased in await told.due(NOW, 1600)}["1"]
    assert await ids(told, NOW + LEASE - 1) == []
    anew = {leased.id: leased for leased in await told.due(NOW + LEASE, 1600)}["1"]
    assert not await told.done(lost, b"from the dead", now_ms=NOW)
    assert not await told.again(lost, b"from the dead", due_ms=NOW)
    assert not await told.rest(lost, now_ms=NOW, until_ms=NOW)
    assert await told.find("lane", "1") == b"item 1"
    assert await told.done(anew, b"over", now_ms=NOW)
    assert not await told.done(anew, b"twice", now_ms=NOW)


async def test_a_lane_that_rests_is_not_looked_at_until_then_or_until_it_is_woken(store: Dataset) -> None:
    told = queue(store)
    await told.add([one("1"), one("2", line="other")], now_ms=NOW)
    for leased in await told.due(NOW, 1600):
        await told.rest(leased, now_ms=NOW, until_ms=NOW + 100_000)
    assert await ids(told, NOW + 99_999) == []
    assert await ids(told, NOW + 100_000) == ["1", "2"]
    other = queue(store, queue="woken")
    await other.add([one("1"), one("2", line="other", due_ms=NOW + 70_000)], now_ms=NOW)
    await other.rest(await first(other), now_ms=NOW, until_ms=NOW + 100_000)
    await other.wake("lane", now_ms=NOW)
    assert await ids(other) == ["1", "2"]
    await other.wake("lane", now_ms=NOW)
    assert await ids(other) == [], "woken, what is leased stays so"
    await other.wake("nobody", now_ms=NOW)


async def test_a_lane_takes_no_more_than_may_wait(store: Dataset) -> None:
    told = queue(store, waiting_max=2)
    assert await told.add([one(name) for name in "123"], now_ms=NOW) == [Added.ADDED, Added.ADDED, Added.FULL]
    assert await told.add([one("1", lane="another")], now_ms=NOW) == [Added.ADDED]
    await told.done(next(leased for leased in await told.due(NOW, 1600) if leased.lane == "lane"), b"over", now_ms=NOW)
    assert await told.add([one("3")], now_ms=NOW) == [Added.ADDED]


@only(*BOTH_PROTOCOLS, why="pairs look different in RESP2 and RESP3")
async def test_the_list_shows_the_latest_first_page_by_page(store: Dataset) -> None:
    told = queue(store)
    await told.add([one(name) for name in "12345"], now_ms=NOW)
    await told.done(await first(told), b"over", now_ms=NOW)
    await told.done(await first(told), b"over too", now_ms=NOW)
    page = await told.page("lane", limit=2)
    assert [(each.id, each.waits) for each in page] == [("5", True), ("4", True)]
    rest = await told.page("lane", limit=10, before=page[-1].number)
    assert [(each.id, each.item, each.waits) for each in rest] == [
        ("3", b"item 3", True), ("2", b"over too", False), ("1", b"over", False),
    ]  # fmt: skip
    assert await told.page("lane", limit=10, before=rest[-1].number) == []


async def test_only_the_last_of_what_has_ended_is_kept_and_the_rest_only_remembered(store: Dataset) -> None:
    told = queue(store, each_max=9)
    names = [f"{number}" for number in range(6)]
    await told.add([one(name) for name in names], now_ms=NOW)
    for _ in names:
        await told.done(await first(told), b"over", now_ms=NOW)
    assert [each.id for each in await told.page("lane", limit=10)] == ["5", "4", "3"]
    assert await told.find("lane", "2") is None
    assert set(await told.add([one(name) for name in names], now_ms=NOW)) == {Added.KNOWN}
    assert await ids(told) == []
    assert all(expires for name, (_, expires) in (await store.dump()).items()), "nothing stays for ever"


async def test_a_resent_one_goes_to_the_end_of_its_line(store: Dataset) -> None:
    told = queue(store)
    await told.add([one("1"), one("2")], now_ms=NOW)
    await told.done(await first(told), b"over", now_ms=NOW)
    assert not await told.resend("lane", "line", "1", known=b"else", item=b"once more", now_ms=NOW)
    for _ in range(2):
        # The second is that of a client, or of ours, that did not get the first one's answer.
        assert await told.resend("lane", "line", "1", known=b"over", item=b"once more", now_ms=NOW)
    for name, item in (("2", b"item 2"), ("1", b"once more")):
        leased = await first(told)
        assert (leased.id, leased.item) == (name, item)
        await told.done(leased, b"over", now_ms=NOW)
    assert await ids(told) == []


async def test_one_that_waits_for_its_next_try_is_resent_at_once(store: Dataset) -> None:
    told = queue(store)
    await told.add([one("1")], now_ms=NOW)
    await told.again(await first(told), b"tried", due_ms=NOW + 100_000)
    assert await told.resend("lane", "line", "1", known=b"tried", item=b"now", now_ms=NOW)
    assert (await first(told)).item == b"now"
    assert await ids(told) == []


async def test_a_dropped_lane_leaves_nothing(store: Dataset) -> None:
    told = queue(store)
    await told.add([one("1"), one("2"), one("3", line="other")], now_ms=NOW)
    leased = await told.due(NOW, 1600)
    await told.done(leased[0], b"over", now_ms=NOW)
    await told.drop("lane", ended_too=False)
    assert [each.waits for each in await told.page("lane", limit=9)] == [False]
    assert not await told.done(leased[1], b"over", now_ms=NOW)
    await told.drop("lane", ended_too=True)
    assert await store.names() == set()


async def test_the_depth_counts_what_waits_and_knows_the_oldest(store: Dataset) -> None:
    told = queue(store)
    assert await told.depth() == (0, 0)
    for at, lane in enumerate(LANES):
        await told.add([one("1", lane=lane)], now_ms=NOW + at)
    assert await told.depth() == (40, NOW)
    for leased in await told.due(NOW + 1000, 1600):
        if leased.lane == LANES[0]:
            await told.done(leased, b"over", now_ms=NOW)
    assert await told.depth() == (39, NOW + 1)


async def test_two_queues_do_not_meet(store: Dataset) -> None:
    mails, hooks = queue(store, queue="mails"), queue(store, queue="hooks")
    await mails.add([one("1")], now_ms=NOW)
    assert await hooks.add([one("1")], now_ms=NOW) == [Added.ADDED]
    await mails.drop("lane", ended_too=True)
    assert await ids(hooks) == ["1"]


@pytest.mark.parametrize("wrong", [one("1", lane="a|b"), Delivery("1", "lane", "line", b"", NOW)])
async def test_what_would_be_mistaken_for_something_else_is_refused(wrong: Delivery, store: Dataset) -> None:
    with pytest.raises(ValueError, match="lane"):
        await queue(store).add([wrong], now_ms=NOW)
    assert await store.names() == set()


@pytest.mark.parametrize("limit", [1, 3, 16, 17])
async def test_no_more_is_given_out_than_asked_for_and_every_lane_has_its_turn(limit: int, store: Dataset) -> None:
    """Also when fewer are asked for than there are shards."""
    told = queue(store)
    await told.add([one("1", lane=lane) for lane in LANES], now_ms=NOW)
    seen = list[str]()
    while taken := await told.due(NOW, limit):
        assert len(taken) <= limit
        seen += [leased.lane for leased in taken]
    assert sorted(seen) == sorted(LANES), "nothing is given out only when nothing is due"
    assert await told.due(NOW, 0) == []


async def test_whoever_asks_for_one_gets_the_only_one_in_whichever_shard_it_is(store: Dataset) -> None:
    told = queue(store)
    for lane in LANES[:16]:
        await told.add([one("1", lane=lane)], now_ms=NOW)
        (leased,) = await told.due(NOW, 1)
        assert leased.lane == lane
