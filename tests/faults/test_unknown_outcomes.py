"""When nobody knows whether money moved: said so, asked about, and never reported as failed."""

from __future__ import annotations

from pathlib import Path

from simulators import cards
from tests.faults.proxy import Fate, Proxy
from tests.faults.side_by_side import side_by_side
from tests.faults.world import World, eventually, world
from tests.support import free_port

CHARGES = rb"POST /charges"


@side_by_side
async def test_what_nobody_knows_is_processing_until_the_acquirer_tells_and_then_exactly_that(folder: Path) -> None:
    """While the acquirer cannot even be asked, nothing is failed; the metric shows how many wait, and goes back."""
    async with world(folder, acquirer={"late_s": 3.0}) as w:
        await w.sims.fault(w.sims.acquirer, "status", status=503, method="GET", path_contains="/charges")
        await w.sims.fault(w.sims.acquirer, "error_before", method="POST", times=1)
        await w.sims.fault(w.sims.acquirer, "wrong_json", method="POST", times=1)
        for _ in range(2):
            await w.shop.insist(await w.shop.wish())
        await eventually(lambda: _unknown_ever(w, 2))  # the two faults above are used up
        for number in (cards.SILENT_BUT_CHARGES, cards.ERROR_AFTER_CHARGE, cards.LATE):
            await w.shop.insist(await w.shop.wish({"cardNumber": number}))
        ids = [posted.payment_id for posted in w.shop.posted]
        async with w.shop.watching(every_s=0.01):
            await eventually(lambda: _unknown_now(w, len(ids)))
            assert {await w.shop.look(payment_id) for payment_id in ids} == {"processing"}
            assert (await w.audit())[0] == 0
            fired = (await w.sims.faults(w.sims.acquirer))["fired"]
            assert fired["error_before"] == fired["wrong_json"] == 1 and fired["status"] > 0
            await w.sims.clear_faults(w.sims.acquirer)
            evidence = await w.judge()
        assert {payment["status"] for payment in evidence.shown.values()} == {"completed"}
        assert len(evidence.effects) == len(ids)
        assert {seen.status for seen in w.shop.seen} == {"processing", "completed"}
        await eventually(lambda: _unknown_now(w, 0))


@side_by_side
async def test_an_acquirer_that_fails_before_charging_for_ever_never_makes_a_payment_failed(folder: Path) -> None:
    """It says 500 and has never seen the attempt: we may send again, but may not say that it failed."""
    async with world(folder) as w:
        posted = await w.shop.insist(await w.shop.wish({"cardNumber": cards.ERROR_BEFORE_CHARGE}))
        await eventually(lambda: _unknown_ever(w, 3))
        assert await w.shop.look(posted.payment_id) == "processing"
        evidence = await w.judge(still_open=[posted.payment_id])
        assert evidence.effects == []
        record = evidence.payments[posted.payment_id]
        assert [attempt[0] for attempt in record["attempts"]] == [1], "sent again under another attempt id"


@side_by_side
async def test_a_charge_cut_off_on_its_way_is_asked_about_and_never_sent_twice_in_effect(folder: Path) -> None:
    """The connection breaks after sending: once with the charge done, once with it lost. This acquirer dedupes not."""
    async with world(folder, acquirer_proxy=True, acquirer={"dedupe": False}) as w:
        assert w.acquirer_proxy is not None
        for fate, effects in ((Fate.LOSE_REPLY, 1), (Fate.RESET, 0)):
            # Nobody hears what became of it before it was looked at.
            await w.sims.fault(w.sims.acquirer, "status", status=503, method="GET", path_contains="/charges")
            before = len(await w.sims.effects())
            rule = w.acquirer_proxy.on(CHARGES, fate)
            posted = await w.shop.insist(await w.shop.wish())
            await rule.seen()
            await _until_unknown(w, posted.payment_id)
            assert len(await w.sims.effects()) == before + effects
            assert await w.shop.look(posted.payment_id) == "processing"
            await w.sims.clear_faults(w.sims.acquirer)
        evidence = await w.judge()
        assert len(evidence.effects) == 2


@side_by_side
async def test_an_acquirer_that_cannot_be_reached_is_tried_again_until_it_is_back(folder: Path) -> None:
    """Nothing was sent, so it is not unknown, and it is no reason to fail."""
    port = free_port()
    async with world(folder, {"PAYMENTS__ACQUIRER__URL": f"http://127.0.0.1:{port}"}) as w:
        posted = [await w.shop.insist(await w.shop.wish()) for _ in range(3)]
        await eventually(lambda: _not_sent(w, 3))
        assert {await w.shop.look(each.payment_id) for each in posted} == {"processing"}
        assert await w.engine.metric("payment_attempts_total", outcome="unknown") == 0
        async with Proxy(int(w.sims.acquirer.rpartition(":")[2]), listen=port):
            evidence = await w.judge()
        assert len(evidence.effects) == 3


async def _unknown_now(w: World, count: int) -> bool:
    return await w.engine.metric("unknown_attempts") == count


async def _unknown_ever(w: World, count: int) -> bool:
    return await w.engine.metric("payment_attempts_total", outcome="unknown") >= count


async def _not_sent(w: World, count: int) -> bool:
    return await w.engine.metric("payment_attempts_total", outcome="not_sent") >= count


async def _until_unknown(w: World, payment_id: str) -> None:
    def is_unknown() -> bool:
        record = w.record(payment_id) or {}
        return "attempts" in record and record["attempts"][-1][2] == "unknown"

    await eventually(is_unknown)
