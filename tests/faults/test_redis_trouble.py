"""Redis dies, or its connections do: nothing acknowledged is lost, and the engine finds back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from simulators import cards
from tests.faults.proxy import Fate
from tests.faults.side_by_side import side_by_side
from tests.faults.world import Wish, World, eventually, world

ACCEPTS = rb'\{"v":1,"id"'
INTENDS = rb'\{"v":2,"id"'
SETTLES = rb"payment_completed|payment_failed"
EVERYTHING = rb""


@side_by_side
async def test_redis_killed_under_load_loses_nothing_that_was_acknowledged(folder: Path) -> None:
    """AOF everysec: kill -9 takes the process, not the page cache. The engine is not restarted.

    Not while an fsync is under way: then Redis answers before it writes, and what it has answered in up to 2 s is
    gone with it. So the kill waits for a moment without one; `always` needs no such mercy.
    """
    async with world(folder) as w, w.shop.watching():
        await _survives_kills_of_redis(w, _until_no_fsync)


@side_by_side
async def test_redis_that_syncs_always_may_be_killed_at_any_moment(folder: Path) -> None:
    """`appendfsync always` answers after the disk, so there is no window at all."""
    async with world(folder, appendfsync="always") as w, w.shop.watching():
        await _survives_kills_of_redis(w, lambda _: asyncio.sleep(random.random() * 0.2))


async def _survives_kills_of_redis(w: World, moment: Callable[[World], Awaitable[None]]) -> None:
    async with w.shop.buying():
        for number in (1, 2):
            await w.shop.until_accepted(80 * number)
            await moment(w)
            w.redis.kill()
            await eventually(lambda: _ready(w, 503))
            status, parts = await w.engine.ready_parts()
            assert status == 503
            assert parts["store"] != "ok" and parts["process"] == "ok"
            await asyncio.to_thread(w.redis.start)
            await eventually(lambda: _ready(w, 200))
    evidence = await w.judge()
    code, report = await w.audit()
    assert code == 0, report
    assert evidence.payments.keys() == w.shop.accepted
    assert any(posted.outcome == "unknown" for posted in w.shop.posted)


async def _until_no_fsync(w: World) -> None:
    """No fsync is under way, and none begins: writes are held back, unanswered, as they may be at any moment."""
    with contextlib.closing(w.redis.client()) as client:
        client.client_pause(60_000, all=False)
        while True:
            facts: Any = client.info("persistence")
            if not facts["aof_pending_bio_fsync"] and not facts["aof_buffer_length"]:
                return
            await asyncio.sleep(0)


@side_by_side
async def test_connections_to_redis_cut_again_and_again_under_load_cost_nothing(folder: Path) -> None:
    """Cut at random moments, also in the middle of a reply."""
    chance = random.Random(7)
    async with world(folder, redis_proxy=True) as w:
        async with w.shop.buying():
            await w.shop.until_accepted(1)
            cuts, ends_at = 0, time.monotonic() + 120
            while cuts < 40 or w.proxy.fired["cut_now"] <= 5 or not w.proxy.fired["cut_after_bytes"]:
                w.proxy.cut_after_bytes = chance.randrange(1, 2_000) if chance.random() < 0.5 else None
                await asyncio.sleep(0.02 + chance.random() * 0.05)
                w.proxy.cut_now()
                cuts += 1
                assert time.monotonic() < ends_at, w.proxy.fired
            w.proxy.clear()
            w.proxy.cut_now()
        evidence = await w.judge()
        assert evidence.payments.keys() == w.shop.accepted


@side_by_side
async def test_a_step_whose_reply_is_lost_after_it_ran_is_not_done_twice(folder: Path) -> None:
    """The repeated step finds its own trace: one payment, one intent, one settlement, one event."""
    async with world(folder, redis_proxy=True) as w:
        for pattern in (ACCEPTS, INTENDS, SETTLES):
            rule = w.proxy.on(pattern, Fate.LOSE_REPLY, times=2)
            for number in (cards.APPROVED, cards.DECLINED):
                posted = await w.shop.insist(await w.shop.wish({"cardNumber": number}))
                await w.engine.wait_status(posted.payment_id)
            assert rule.fired == 2
        evidence = await w.judge()
        assert len(evidence.payments) == 6
        assert len(evidence.effects) == 3


@side_by_side
async def test_of_all_who_race_for_one_order_one_gets_it_though_replies_are_lost(folder: Path) -> None:
    """Each has a key of its own, so only the claim on the order keeps them apart; each is told which it was."""
    async with world(folder, redis_proxy=True) as w:
        rule = w.proxy.on(ACCEPTS, Fate.LOSE_REPLY, times=5)
        for _ in range(10):
            wish = await w.shop.wish()
            rivals = [wish._replace(key=f"{wish.key}-{number}") for number in range(4)]
            answers = await asyncio.gather(*(_decided(w, rival) for rival in rivals))
            assert sorted(answers) == ["409 PAY_003"] * 3 + ["ok"]
        assert rule.fired == 5
        evidence = await w.judge()
        assert len(evidence.payments) == 10


@side_by_side
async def test_an_accept_script_whose_reply_is_lost_does_not_revive_a_payment_that_has_failed_meanwhile(
    folder: Path,
) -> None:
    """The decline gives the order free; the repeated step must not take the free order for a new beginning."""
    async with world(folder, {"PAYMENTS__REDIS__TIMEOUT_S": "2"}, redis_proxy=True) as w:
        # No reset: the reply does not come, so the step is repeated after the time-out, long after the decline.
        rule = w.proxy.on(ACCEPTS, Fate.HOLD_REPLY)
        posting = asyncio.ensure_future(w.shop.post(await w.shop.wish({"cardNumber": cards.DECLINED})))
        await rule.seen()
        await eventually(lambda: w.waiting()["due"] == 0 and w.redis.client().dbsize() > 0)
        assert (await posting).outcome == "ok"
        evidence = await w.judge()
        assert [payment["status"] for payment in evidence.shown.values()] == ["failed"]


@side_by_side
async def test_a_redis_that_takes_a_tenth_of_a_second_slows_everything_and_breaks_nothing(folder: Path) -> None:
    """Every reply is 100 ms late."""
    async with world(folder, redis_proxy=True) as w:
        w.proxy.delay_s = 0.1
        accepted = await w.shop.load(60, concurrency=16)
        assert len(accepted) == 60
        assert w.proxy.fired["delay"] > 20
        await w.judge()


@side_by_side
async def test_a_redis_that_says_nothing_for_three_seconds_is_reported_and_then_used_again(folder: Path) -> None:
    """Silence is worse than a closed port: what was sent may run later, when nobody waits for it."""
    async with world(folder, redis_proxy=True) as w:
        async with w.shop.buying():
            await w.shop.until_accepted(60)
            rule = w.proxy.on(EVERYTHING, Fate.HOLD, times=None)
            await eventually(lambda: _ready(w, 503))
            await asyncio.sleep(3.0)
            w.proxy.clear()
            rule.released.set()
            await eventually(lambda: _ready(w, 200))
        assert rule.fired > 0
        evidence = await w.judge()
        assert evidence.payments.keys() == w.shop.accepted


@side_by_side
async def test_a_redis_without_memory_refuses_whole_steps_and_goes_on_when_it_has_some(folder: Path) -> None:
    """`noeviction` refuses writes; a step that is refused has written nothing, also in its middle."""
    async with world(folder) as w:
        async with w.shop.buying():
            await w.shop.until_accepted(60)
            with contextlib.closing(w.redis.client()) as client:
                client.config_set("maxmemory", "1mb")
                before = len(w.shop.posted)
                await eventually(lambda: len(w.shop.posted) >= before + 100)
                refused = [posted for posted in w.shop.posted[before:] if "STORE_UNAVAILABLE" in posted.detail]
                client.config_set("maxmemory", "0")
        assert len(refused) > 50
        evidence = await w.judge()
        assert evidence.payments.keys() == w.shop.accepted


@side_by_side
async def test_a_queue_to_redis_that_stays_full_refuses_work_and_the_engine_lives(folder: Path) -> None:
    """The bound is there to be reached: requests get 503, the background work waits, nothing falls over."""
    bound = "PAYMENTS__REDIS__STEPS_WAITING_MAX"
    async with world(folder, {bound: "16"}, redis_proxy=True) as w:
        accepted = [await w.shop.insist(await w.shop.wish()) for _ in range(3)]
        w.proxy.delay_s = 0.1
        wishes = [await w.shop.wish() for _ in range(40)]
        began = time.monotonic()
        refused = 0

        async def hammer(number: int) -> None:
            nonlocal refused
            # Every lease is renewed twice in four seconds.
            while time.monotonic() - began < 4.0 or (refused <= 100 and time.monotonic() - began < 60.0):
                answer = await w.engine.get(f"/api/payments/{accepted[number % 3].payment_id}")
                refused += answer.status == 503

        await asyncio.gather(*(hammer(number) for number in range(120)), *(w.shop.post(wish) for wish in wishes))
        w.proxy.clear()
        assert await w.engine.metric("rejections_total", bound="store_waiting") > 100
        assert any("OVERLOADED" in posted.detail for posted in w.shop.posted)
        await asyncio.gather(*(w.shop.insist(wish) for wish in wishes[:10]))
        await w.healed()
        assert await w.engine.stop() == 0
        # A list asks all shards at once, which is more than this bound allows.
        w.engine.environment[bound] = "1000"
        await w.restart()
        await w.judge()


async def _decided(w: World, wish: Wish) -> str:
    """What the client hears in the end, when it repeats what told it nothing."""
    while True:
        posted = await w.shop.post(wish)
        # A user or order service that did not answer in time has not decided either.
        if posted.outcome != "unknown" and not posted.detail.startswith("50"):
            return posted.detail or posted.outcome
        await asyncio.sleep(0.05)


async def _ready(w: World, status: int) -> bool:
    return (await w.engine.ready_parts())[0] == status
