"""Payments that wait to be asked for, and those of other surfaces than core, on every implementation of the store."""

from __future__ import annotations

import msgspec

from engine.accepting import Caller
from engine.changing import Changing
from engine.charging import Acquirers, Charging
from engine.facts import Status
from engine.idempotency import Fingerprints
from engine.payment import Payment
from engine.store.audit import Audit
from tests.engine.making import a_sealer
from tests.store.datasets import Dataset, servers_only
from tests.store.making import NOW, SEALED, USER, accepted

HELD_MS = 1_000
OWNER = Caller(USER, privileged=False)


class NoObserver:
    """Nobody looks."""

    def attempt(self, payment: Payment, outcome: str) -> None: ...

    def late_success(self) -> None: ...

    def settled(self, payment: Payment) -> None: ...


def held() -> Payment:
    """A payment of the gateway's: for no order, and not to be charged yet."""
    return msgspec.structs.replace(accepted(), surface="gateway", order_id="", held_until_ms=NOW + HELD_MS)


def changing(store: Dataset, surface: str = "gateway") -> Changing:
    return Changing(
        store.payments(), Fingerprints(b"f" * 32), lambda: "ref-1", lambda: NOW, lambda: None, surface=surface
    )


def charging(store: Dataset, now_ms: int) -> Charging:
    """Without an acquirer: whoever were charged would find none."""
    return Charging(
        store.payments(), Acquirers({}, {}), a_sealer(), NoObserver(), lambda: now_ms, lease_s=10, recheck_after_s=300
    )  # fmt: skip


async def _made(store: Dataset) -> Payment:
    payment = held()
    await store.payments().create(payment, SEALED, due_ms=payment.held_until_ms)
    await store.jobs("a").open()
    return payment


async def test_a_held_payment_has_no_job_and_is_due_when_its_time_is_over(store: Dataset) -> None:
    payment = await _made(store)
    assert (payment.status, payment.operation, payment.at_rest) == (Status.PENDING, None, False)
    assert await store.jobs("a").read(160) == []
    shard = store.keys.of(payment.id)
    assert await store.client.zscore(shard.due, payment.id) == NOW + HELD_MS
    assert await store.client.exists(shard.order("")) == 0, "it is for no order"


async def test_asking_for_it_makes_it_a_payment_like_any_other(store: Dataset) -> None:
    payment = await _made(store)
    asked = await changing(store).charge(payment.id, OWNER)
    assert (asked.payment.status, asked.replayed) == (Status.PROCESSING, False)
    assert [job.payment_id for job in await store.jobs("a").read(160)] == [payment.id]


async def test_asking_twice_asks_once(store: Dataset) -> None:
    payment = await _made(store)
    await changing(store).charge(payment.id, OWNER)
    again = await changing(store).charge(payment.id, OWNER)
    assert (again.payment.version, again.replayed) == (2, True)
    assert len(await store.jobs("a").read(160)) == 1


async def test_what_nobody_asks_for_is_let_go_with_its_card_and_not_before_its_time(store: Dataset) -> None:
    payment = await _made(store)
    due, jobs, payments = store.due(), store.jobs("a"), store.payments()
    for now, status in ((NOW, Status.PENDING), (NOW + HELD_MS, Status.CANCELLED)):
        await store.client.zadd(store.keys.of(payment.id).due, {payment.id: 0})
        assert await due.redrive(range(16), now_ms=now, again_ms=now + 1) == 1
        (job,) = await jobs.read(160)
        await charging(store, now).process(job)
        found = await payments.get(payment.id)
        assert found is not None
        assert found.status is status
    shard = store.keys.of(payment.id)
    assert await store.client.exists(shard.card(payment.id), shard.cvv(payment.id)) == 0
    (event,) = await payments.events_of(payment.id)
    told = msgspec.json.decode(event)
    assert told["event_type"] == "payment_cancelled"
    assert told["data"]["reason"] == "never processed"
    assert "order_id" not in told


@servers_only("the audit scans, which fakeredis does in another order")
async def test_the_audit_finds_nothing_wrong_with_any_of_it(store: Dataset) -> None:
    payment = await _made(store)
    assert [found async for found in Audit(store.client, store.batcher, store.keys).findings()] == []
    await changing(store).charge(payment.id, OWNER)
    assert [found async for found in Audit(store.client, store.batcher, store.keys).findings()] == []


async def test_equal_users_and_orders_of_two_surfaces_do_not_meet(store: Dataset) -> None:
    """User 1 of one surface is not user 1 of the other, and neither holds the other's order."""
    core = accepted("7", user_id="1")
    other = msgspec.structs.replace(accepted("orders|7", user_id="1"), surface="orders", order_id="7")
    payments = store.payments()
    assert await payments.create(core, SEALED, due_ms=NOW) == core
    assert await payments.create(other, SEALED, due_ms=NOW) == other
    assert [payment.id for payment in await payments.of_user("1", limit=9, before=None)] == [core.id]
    assert [payment.id for payment in await payments.of_user("orders|1", limit=9, before=None)] == [other.id]
