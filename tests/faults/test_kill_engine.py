"""kill -9 of the engine: at random moments under load, and at every named point of a payment's life."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
from pathlib import Path

import redis

from simulators import cards
from tests.faults.checker import Evidence, Posted, read_event_file, read_store
from tests.faults.proxy import Fate
from tests.faults.side_by_side import side_by_side
from tests.faults.world import STEADY, World, eventually, world

# What a step looks like on its way to Redis.
ACCEPTS = rb'\{"v":1,"id"'
INTENDS = rb'\{"v":2,"id"'
SETTLES = rb"payment_completed"
FORGETS_EVENTS = rb"XDEL\r\n\$\d+\r\n\{p..\}:outbox"

PAYMENTS = 1000
KILLS = 4


@side_by_side
async def test_every_payment_of_a_thousand_ends_once_though_the_engine_is_killed_again_and_again(folder: Path) -> None:
    """Clients repeat with their keys; nothing that was accepted is lost, and nothing is charged twice."""
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    async with world(folder) as w, w.shop.watching():
        buying = asyncio.ensure_future(w.shop.load(PAYMENTS, concurrency=16))
        kills = 0
        for number in range(1, KILLS + 1):
            await w.shop.until_accepted(PAYMENTS * number // (KILLS + 1))
            await asyncio.sleep(chance.random() * 0.1)
            kills += not buying.done()
            w.engine.kill()
            await asyncio.sleep(chance.random() * 0.3)
            await w.restart()
        accepted = await buying
        evidence = await w.judge()
        code, report = await w.audit()
        assert code == 0, report
        assert kills == KILLS, f"seed {seed}: the load was over before the last kill"
        assert len({posted.payment_id for posted in accepted}) == PAYMENTS == len(evidence.payments)
        assert any(posted.outcome == "unknown" for posted in w.shop.posted), "no request was cut off"


@side_by_side
async def test_killed_while_it_asks_the_order_service_it_has_written_nothing(folder: Path) -> None:
    """Before the checks are done there is neither a payment nor a claimed key; the repeated request makes one."""
    async with world(folder, STEADY) as w:
        wish = await w.shop.wish()
        await w.sims.fault(w.sims.orders, "silence", times=1)
        posting = asyncio.ensure_future(w.shop.post(wish))
        await _fired(w, w.sims.orders, "silence")
        w.engine.kill()
        assert (await posting).outcome == "unknown"
        await w.restart()
        answer = await w.engine.get(f"/api/idempotency-keys/{wish.key}")
        assert answer.status == 404
        await w.shop.insist(wish)
        evidence = await w.judge()
        assert _statuses(evidence) == ["completed"]


@side_by_side
async def test_killed_between_the_key_and_the_accept_script_the_retry_makes_the_very_payment_of_the_key(
    folder: Path,
) -> None:
    """The key was claimed with a minted id; nobody else can get it, and the retry finishes what was begun."""
    async with world(folder, STEADY, redis_proxy=True) as w:
        wish = await w.shop.wish()
        rule = w.proxy.on(ACCEPTS, Fate.HOLD)
        posting = asyncio.ensure_future(w.shop.post(wish))
        await rule.seen()
        w.engine.kill()
        assert (await posting).outcome == "unknown"
        await w.restart()
        key = await (await w.engine.get(f"/api/idempotency-keys/{wish.key}")).json()
        assert key["state"] == "claimed"
        assert w.record(key["paymentId"]) is None
        posted = await w.shop.insist(wish)
        assert posted.payment_id == key["paymentId"]
        await w.judge()


@side_by_side
async def test_killed_after_the_accept_script_the_payment_ends_and_the_retry_finds_it(folder: Path) -> None:
    """The client heard nothing, but the payment stands: it is charged without the client, and only once with it."""
    async with world(folder, STEADY, redis_proxy=True) as w:
        wish, unheard = await w.shop.wish(), await w.shop.wish()
        for count, each in enumerate((wish, unheard), start=1):
            rule = w.proxy.on(ACCEPTS, Fate.HOLD_REPLY)
            posting = asyncio.ensure_future(w.shop.post(each))
            await rule.seen()
            await _until_payments_in_redis(w, count)
            w.engine.kill()
            assert (await posting).outcome == "unknown"
            await w.restart()
        await w.shop.insist(wish)
        evidence = await w.judge()
        assert _statuses(evidence) == ["completed", "completed"]


@side_by_side
async def test_killed_before_the_intent_is_written_it_charges_after_the_restart(folder: Path) -> None:
    """Nothing was sent, so nothing has to be asked."""
    async with world(folder, STEADY, redis_proxy=True) as w:
        rule = w.proxy.on(INTENDS, Fate.HOLD)
        posted = await w.shop.insist(await w.shop.wish())
        await rule.seen()
        w.engine.kill()
        record = w.record(posted.payment_id)
        assert record is not None and "attempts" not in record
        assert await w.sims.effects() == []
        await w.restart()
        await w.judge()


@side_by_side
async def test_killed_after_the_intent_but_before_the_call_it_asks_and_then_charges(folder: Path) -> None:
    """The intent stands, the acquirer has never heard of it: only its own word makes sending again safe."""
    async with world(folder, STEADY, redis_proxy=True) as w:
        rule = w.proxy.on(INTENDS, Fate.HOLD_REPLY)
        posted = await w.shop.insist(await w.shop.wish())
        await rule.seen()
        await eventually(lambda: (w.record(posted.payment_id) or {}).get("attempts"))
        w.engine.kill()
        assert await w.sims.effects() == []
        await w.restart()
        evidence = await w.judge()
        assert len(evidence.effects) == 1


@side_by_side
async def test_killed_while_the_acquirer_is_silent_and_has_not_charged_it_charges_once(folder: Path) -> None:
    """From here it looks like a charge whose answer is late."""
    async with world(folder, STEADY) as w:
        await w.sims.fault(w.sims.acquirer, "silence", times=1, method="POST")
        posted = await w.shop.insist(await w.shop.wish())
        await _fired(w, w.sims.acquirer, "silence")
        w.engine.kill()
        assert _attempt_state(w, posted) == "sending"
        assert await w.sims.effects() == []
        await w.restart()
        evidence = await w.judge()
        assert len(evidence.effects) == 1


@side_by_side
async def test_killed_while_the_acquirer_is_silent_and_has_charged_it_does_not_charge_again(folder: Path) -> None:
    """The money has moved, and only the acquirer knows. It would charge again if it were sent again."""
    async with world(folder, STEADY, acquirer={"dedupe": False}) as w:
        await w.sims.fault(w.sims.acquirer, "silence_after", times=1, method="POST")
        posted = await w.shop.insist(await w.shop.wish())
        await _fired(w, w.sims.acquirer, "silence_after")
        w.engine.kill()
        assert _attempt_state(w, posted) == "sending"
        assert len(await w.sims.effects()) == 1
        # The next process does not hear what became of it before a client has looked.
        await w.sims.fault(w.sims.acquirer, "status", status=503, method="GET", path_contains="/charges")
        await w.restart()
        assert await w.shop.look(posted.payment_id) == "processing"
        await w.sims.clear_faults(w.sims.acquirer)
        await w.judge()


@side_by_side
async def test_killed_between_the_answer_and_the_settle_script_it_asks_what_became_of_it(folder: Path) -> None:
    """The answer died with the process; the acquirer still has it."""
    async with world(folder, STEADY, redis_proxy=True, acquirer={"dedupe": False}) as w:
        rule = w.proxy.on(SETTLES, Fate.HOLD)
        posted = await w.shop.insist(await w.shop.wish())
        await rule.seen()
        w.engine.kill()
        assert _attempt_state(w, posted) == "sending"
        assert len(await w.sims.effects()) == 1
        await w.restart()
        await w.judge()


@side_by_side
async def test_killed_after_the_settle_script_before_its_reply_everything_is_already_true(folder: Path) -> None:
    """State, ledger and event were written together; the next process only publishes."""
    async with world(folder, STEADY, redis_proxy=True) as w:
        rule = w.proxy.on(SETTLES, Fate.HOLD_REPLY)
        posted = await w.shop.insist(await w.shop.wish())
        await rule.seen()
        await eventually(lambda: _attempt_state(w, posted) == "approved")
        w.engine.kill()
        await w.restart()
        evidence = await w.judge()
        assert len(evidence.effects) == 1


@side_by_side
async def test_killed_after_settling_before_publishing_the_event_is_published_by_the_next(folder: Path) -> None:
    """The sink is blocked, so the event waits in the outbox, and survives there."""
    async with world(folder, STEADY) as w:
        with w.engine.events_file.open("ab") as blocked:
            fcntl.flock(blocked, fcntl.LOCK_EX)
            good, bad = await w.shop.wish(), await w.shop.wish({"cardNumber": cards.DECLINED})
            posted = [await w.shop.insist(good), await w.shop.insist(bad)]
            ended = [await w.engine.wait_status(each.payment_id) for each in posted]
            w.engine.kill()
        assert [each["status"] for each in ended] == ["completed", "failed"]
        assert w.waiting()["outbox"] == 2
        assert os.path.getsize(w.engine.events_file) == 0  # noqa: PTH202
        await w.restart()
        evidence = await w.judge()
        assert len(evidence.told) == 2


@side_by_side
async def test_killed_after_publishing_before_deleting_the_second_copy_has_the_same_id(folder: Path) -> None:
    """At least once: consumers drop the copy by its id."""
    async with world(folder, STEADY, redis_proxy=True) as w:
        rule = w.proxy.on(FORGETS_EVENTS, Fate.HOLD)
        await w.shop.insist(await w.shop.wish())
        await rule.seen()
        w.engine.kill()
        assert len(read_event_file(w.engine.events_file)) == 1
        assert w.waiting()["outbox"] == 1
        await w.restart()
        evidence = await w.judge()
        assert len(evidence.told) == 2
        assert len({told.headers["ce_id"] for told in evidence.told}) == 1


async def _until_payments_in_redis(w: World, count: int) -> None:
    def are_there() -> bool:
        evidence = Evidence()
        with contextlib.closing(redis.Redis(port=w.redis.port)) as client:
            read_store(client, evidence)
        return len(evidence.payments) == count

    await eventually(are_there)


def _attempt_state(w: World, posted: Posted) -> str:
    record = w.record(posted.payment_id)
    assert record is not None
    return str(record["attempts"][-1][2])


def _statuses(evidence: Evidence) -> list[str]:
    return sorted(payment["status"] for payment in evidence.shown.values())


async def _fired(w: World, base: str, kind: str) -> None:
    async def has() -> bool:
        return bool((await w.sims.faults(base))["fired"][kind])

    await eventually(has)
