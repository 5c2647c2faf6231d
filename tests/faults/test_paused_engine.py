"""An engine that is paused for longer than its lease, while another one works on the same data."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.faults.proxy import Fate
from tests.faults.side_by_side import side_by_side
from tests.faults.world import LEASE_S, STEADY, World, eventually, world

INTENDS = rb'\{"v":2,"id"'
SETTLES = rb"payment_completed"


@side_by_side
async def test_an_engine_paused_while_the_acquirer_is_silent_does_no_harm_when_it_wakes_up(folder: Path) -> None:
    """One charge was done and one was not; the other engine finds out and finishes both. No dedupe to help."""
    async with world(folder, STEADY, acquirer={"dedupe": False}) as w:
        wishes = [await w.shop.wish(), await w.shop.wish()]
        await w.sims.fault(w.sims.acquirer, "silence", times=1, method="POST")
        await w.sims.fault(w.sims.acquirer, "silence_after", times=1, method="POST")
        both = await asyncio.gather(*(w.shop.insist(wish) for wish in wishes))
        await eventually(lambda: _both_fired(w))
        w.engine.signal(signal.SIGSTOP)
        assert len(await w.sims.effects()) == 1
        other = w.another_engine()
        await other.start()
        ended = [await other.wait_status(posted.payment_id) for posted in both]
        assert [payment["status"] for payment in ended] == ["completed", "completed"]
        w.engine.signal(signal.SIGCONT)
        # Its requests have run into their time-out by now, and it settles what it believes.
        await asyncio.sleep(1.0)
        evidence = await w.judge()
        assert len(evidence.effects) == 2


@side_by_side
async def test_an_engine_paused_before_it_sends_does_not_send_when_its_lease_is_over(folder: Path) -> None:
    """It has written its intent and wakes up to find the reply; meanwhile the other engine has charged."""
    # Steady, so that it is the lease that stops it, not a time-out.
    async with world(folder, STEADY, redis_proxy=True, acquirer={"dedupe": False}) as w:
        answered, unsent = await w.shop.wish(), await w.shop.wish()
        settling = w.proxy.on(SETTLES, Fate.HOLD)
        first = await w.shop.insist(answered)
        await settling.seen()
        intending = w.proxy.on(INTENDS, Fate.HOLD_REPLY)
        second = await w.shop.insist(unsent)
        await intending.seen()
        await eventually(lambda: (w.record(second.payment_id) or {}).get("attempts"))
        w.engine.signal(signal.SIGSTOP)
        intending.released.set()
        assert len(await w.sims.effects()) == 1
        other = w.another_engine()
        await other.start()
        ended = [await other.wait_status(posted.payment_id) for posted in (first, second)]
        assert [payment["status"] for payment in ended] == ["completed", "completed"]
        # Its settlement of the first arrives late, and its wish to send the second is too old.
        settling.released.set()
        w.engine.signal(signal.SIGCONT)
        await asyncio.sleep(1.0)
        evidence = await w.judge()
        assert len(evidence.effects) == 2


@side_by_side
async def test_two_engines_under_load_charge_once_though_one_stands_still_for_longer_than_a_lease(folder: Path) -> None:
    """Requests go to both; those that the paused one swallows are repeated at the other. No dedupe to help."""
    async with world(folder, acquirer={"dedupe": False}) as w:
        other = w.another_engine()
        await other.start()
        w.shop.answer_timeout_s = 0.7
        async with w.shop.buying(customers=4):
            await w.shop.until_accepted(100)
            other.signal(signal.SIGSTOP)
            await w.shop.until_accepted(200)
        await asyncio.sleep(LEASE_S + 3.0)
        other.signal(signal.SIGCONT)
        w.shop.answer_timeout_s = 30.0
        evidence = await w.judge()
        assert evidence.payments.keys() == w.shop.accepted
        assert any(posted.outcome == "unknown" for posted in w.shop.posted)


async def _both_fired(w: World) -> bool:
    fired = (await w.sims.faults(w.sims.acquirer))["fired"]
    return bool(fired["silence"] and fired["silence_after"])
