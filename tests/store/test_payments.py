"""Payments in Redis: every change is one step, and whoever comes second is told what stands."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from engine.cards import SealedInstrument
from engine.changes import Change, Conflict, Job
from engine.errors import Overloaded, StoreUnavailable
from engine.facts import AttemptState, Status
from engine.idempotency import KeyRecord
from engine.ids import PaymentId
from engine.ledger import Transaction
from engine.payment import Payment
from engine.store.keys import ShardKeys
from engine.store.payments import RedisPayments
from tests.store.datasets import Dataset, Places, connected, only, running
from tests.store.making import (
    NOW,
    SEALED,
    USER,
    accepted,
    completed,
    failed,
    foreign_ids,
    left_open,
    order_in,
    sending,
)
from tests.store.proxy import Proxy, proxy_to

RACERS = 50
PROCESSES = 5


@pytest.fixture
async def processes(places: Places) -> AsyncIterator[list[Dataset]]:
    """Several processes on one dataset, each with connections of its own."""
    async with contextlib.AsyncExitStack() as opened:
        yield [await opened.enter_async_context(places.running()) for _ in range(PROCESSES)]


async def _created(store: Dataset, payment: Payment | None = None) -> Payment:
    """A payment that is there, with its job."""
    payment = payment or accepted()
    assert await store.payments().create(payment, SEALED, due_ms=NOW) == payment
    return payment


async def _begun(store: Dataset, payment: Payment | None = None) -> Payment:
    """A payment whose charge is being sent."""
    intent = sending(await _created(store, payment))
    assert await store.payments().begin(intent, due_ms=NOW) == SEALED
    return intent


def _shard(store: Dataset, payment: Payment) -> ShardKeys:
    return store.keys.of(payment.id)


async def _jobs_left(store: Dataset, payment: Payment) -> tuple[int, int]:
    """Jobs in the payment's shard, and how many of them a worker has."""
    stream = _shard(store, payment).jobs
    return await store.ask("XLEN", stream), (await store.ask("XPENDING", stream, "workers"))["pending"]


async def _taken_job(store: Dataset, payment: Payment) -> Job:
    """The payment's job, in the hands of a worker."""
    jobs = store.jobs("w")
    await jobs.open()
    (job,) = await jobs.read(16)
    assert job.payment_id == payment.id
    return job


# Create


async def test_a_new_payment_is_there_with_its_claim_its_secrets_its_job_and_its_place_in_all_lists(
    store: Dataset,
) -> None:
    payment = await _created(store)
    shard, payments = _shard(store, payment), store.payments()
    assert await payments.get(payment.id) == payment
    assert await store.ask("GET", shard.order(payment.order_id)) == payment.id.encode()
    assert await store.ask("GET", shard.card(payment.id)) == SEALED.body
    assert await store.ask("GET", shard.cvv(payment.id)) == SEALED.cvv
    assert await payments.of_user(USER, limit=10, before=None) == [payment]
    assert float(await store.ask("ZSCORE", shard.due, payment.id)) == NOW
    assert await payments.events_of(payment.id) == []
    job = await _taken_job(store, payment)
    assert job.hint == payment


async def test_all_keys_of_a_payment_lie_in_its_shard(store: Dataset) -> None:
    payment = await _begun(store)
    await store.payments().apply(completed(payment))
    shards_of = {name.partition(":")[0] for name in await store.names()}
    assert shards_of == {_shard(store, payment).tag}


async def test_of_fifty_racing_creates_for_one_order_one_wins(processes: list[Dataset]) -> None:
    wanted = [accepted(at_ms=NOW + number) for number in range(RACERS)]
    made = await asyncio.gather(
        *(
            processes[number % PROCESSES].payments().create(payment, SEALED, due_ms=NOW)
            for number, payment in enumerate(wanted)
        )
    )
    (winner,) = {payment.id for payment in made if payment is not None}
    assert made.count(None) == RACERS - 1
    store, payments = processes[0], processes[0].payments()
    assert [payment.id for payment in wanted if await payments.get(payment.id)] == [winner]
    assert [payment.id for payment in await payments.of_user(USER, limit=99, before=None)] == [winner]
    shard = store.keys.of(winner)
    assert await store.ask("XLEN", shard.jobs) == 1
    assert await store.ask("ZCARD", shard.due) == 1
    secrets = {name for name in await store.names() if ":card:" in name or ":cvv:" in name}
    assert secrets == {shard.card(winner), shard.cvv(winner)}


async def test_a_create_that_is_repeated_is_the_same_payment_and_one_job(store: Dataset) -> None:
    payment = await _created(store)
    before = await store.dump()
    assert await store.payments().create(payment, SEALED, due_ms=NOW + 1) == payment
    assert await store.dump() == before


async def test_a_create_that_is_repeated_does_not_take_back_what_came_after_it(store: Dataset) -> None:
    """Its first answer was lost, and a worker was quick: the payment is being charged, or has completed."""
    payment = await _created(store)
    intent = sending(payment)
    await store.payments().begin(intent, due_ms=NOW)
    for came_after in (None, completed(intent)):
        if came_after is not None:
            await store.payments().apply(came_after)
        before = await store.dump()
        stands = await store.payments().get(payment.id)
        assert await store.payments().create(payment, SEALED, due_ms=NOW) == stands != payment
        assert await store.dump() == before


async def test_a_create_that_is_repeated_does_not_bring_a_failed_payment_back_to_life(store: Dataset) -> None:
    """The failure has given the order free again, so the claim alone does not show that the payment was there."""
    payment = await _created(store)
    intent = sending(payment)
    await store.payments().begin(intent, due_ms=NOW)
    await store.payments().apply(failed(intent))
    before = await store.dump()
    stands = await store.payments().create(payment, SEALED, due_ms=NOW)
    assert await store.dump() == before
    assert stands is not None
    assert stands.status is Status.FAILED


async def test_a_payment_without_a_cvv_has_no_cvv_to_forget(store: Dataset) -> None:
    payment = accepted()
    await store.payments().create(payment, SealedInstrument(b"wallet", None), due_ms=NOW)
    assert await store.ask("EXISTS", _shard(store, payment).cvv(payment.id)) == 0
    assert await store.payments().begin(sending(payment), due_ms=NOW) == SealedInstrument(b"wallet", None)


async def test_the_cvv_expires_by_itself_and_nothing_else_does(store: Dataset) -> None:
    payment = accepted()
    await store.payments(cvv_ttl_s=90).create(payment, SEALED, due_ms=NOW)
    cvv = _shard(store, payment).cvv(payment.id)
    assert 80_000 < await store.ask("PTTL", cvv) <= 90_000
    assert [name for name, (_, expires) in (await store.dump()).items() if expires] == [cvv]


async def test_a_full_job_queue_refuses_new_payments_and_writes_nothing(store: Dataset) -> None:
    payments = store.payments(jobs_max=2 * 16)
    for _ in range(2):
        payment = accepted(order_in(3))
        assert await payments.create(payment, SEALED, due_ms=NOW) == payment
    before = await store.dump()
    with pytest.raises(Overloaded) as refused:
        await payments.create(accepted(order_in(3)), SEALED, due_ms=NOW)
    assert refused.value.bound == "jobs"
    assert await store.dump() == before
    elsewhere = accepted(order_in(4))
    assert await payments.create(elsewhere, SEALED, due_ms=NOW) == elsewhere, "the bound is a shard's"


async def test_a_full_outbox_refuses_new_payments_and_writes_nothing(store: Dataset) -> None:
    payments = store.payments(outbox_max=2 * 16)
    for _ in range(2):
        intent = await _begun(store, accepted(order_in(3)))
        # What is under way may end: its event is never refused.
        assert await payments.apply(completed(intent)) is None
    before = await store.dump()
    with pytest.raises(Overloaded) as refused:
        await payments.create(accepted(order_in(3)), SEALED, due_ms=NOW)
    assert refused.value.bound == "outbox"
    assert await store.dump() == before
    third = await _begun(store, accepted(order_in(3)))
    assert await payments.apply(completed(third)) is None


async def test_the_holder_of_an_order_is_named_even_when_the_queue_is_full(store: Dataset) -> None:
    """A second payment for a paid order is a conflict, and not worth trying again later."""
    payments = store.payments(jobs_max=1)
    first = accepted()
    await payments.create(first, SEALED, due_ms=NOW)
    assert await payments.create(accepted(at_ms=NOW + 1), SEALED, due_ms=NOW) is None


# Begin


async def test_begin_writes_the_intent_and_hands_out_the_instrument(store: Dataset) -> None:
    payment = await _created(store)
    intent = sending(payment)
    assert await store.payments().begin(intent, due_ms=NOW + 99) == SEALED
    assert await store.payments().get(payment.id) == intent
    assert float(await store.ask("ZSCORE", _shard(store, payment).due, payment.id)) == NOW + 99


async def test_fifty_racing_intents_of_one_version_have_one_winner(processes: list[Dataset]) -> None:
    payment = await _created(processes[0])
    intents = [sending(payment, token=f"t{number}") for number in range(RACERS)]
    answers = await asyncio.gather(
        *(processes[number % PROCESSES].payments().begin(intent, due_ms=NOW) for number, intent in enumerate(intents))
    )
    winners = [intent for intent, answer in zip(intents, answers, strict=True) if answer == SEALED]
    assert len(winners) == 1
    assert [answer for answer in answers if answer != SEALED] == [Conflict(winners[0])] * (RACERS - 1)
    assert await processes[0].payments().get(payment.id) == winners[0]


async def test_begin_on_another_version_writes_nothing_and_shows_what_stands(store: Dataset) -> None:
    intent = await _begun(store)
    before = await store.dump()
    stale = sending(accepted(), token="late")
    stale = msgspec.structs.replace(stale, id=intent.id)
    assert await store.payments().begin(stale, due_ms=NOW + 5) == Conflict(intent)
    assert await store.dump() == before


async def test_begin_of_a_payment_that_is_not_there_is_a_conflict_with_nothing(store: Dataset) -> None:
    assert await store.payments().begin(sending(accepted()), due_ms=NOW) == Conflict(None)
    assert await store.dump() == {}


async def test_begin_hands_out_an_empty_body_when_the_instrument_is_gone(store: Dataset) -> None:
    payment = await _created(store)
    await store.ask("DEL", _shard(store, payment).card(payment.id))
    await store.ask("DEL", _shard(store, payment).cvv(payment.id))
    assert await store.payments().begin(sending(payment), due_ms=NOW) == SealedInstrument(b"", None)


# Apply


async def test_fifty_racing_changes_of_one_version_have_one_winner_and_one_effect(processes: list[Dataset]) -> None:
    store, intent = processes[0], await _begun(processes[0])
    changes = [
        completed(intent, f"tx-{number}") if number % 2 else failed(intent, at_ms=NOW + number)
        for number in range(RACERS)
    ]
    answers = await asyncio.gather(
        *(processes[number % PROCESSES].payments().apply(change) for number, change in enumerate(changes))
    )
    (winner,) = (change for change, answer in zip(changes, answers, strict=True) if answer is None)
    assert [answer for answer in answers if answer is not None] == [Conflict(winner.payment)] * (RACERS - 1)
    assert await store.payments().get(intent.id) == winner.payment
    assert await store.payments().events_of(intent.id) == [winner.events[0].body]
    assert await store.ask("XLEN", _shard(store, intent).outbox) == 1
    assert await store.ask("LLEN", _shard(store, intent).ledger(intent.id)) == len(winner.transactions)


async def test_a_change_that_is_repeated_is_recognised_as_its_own_and_written_once(store: Dataset) -> None:
    change = completed(await _begun(store))
    assert await store.payments().apply(change) is None
    before = await store.dump()
    assert await store.payments().apply(change) is None
    assert await store.dump() == before


async def test_a_conflict_writes_nothing_and_leaves_the_job(store: Dataset) -> None:
    intent = await _begun(store)
    job = await _taken_job(store, intent)
    assert await store.payments().apply(completed(intent, "tx-1")) is None
    before = await store.dump()
    late = failed(intent, at_ms=NOW + 1)
    assert await store.payments().apply(late, job) == Conflict(completed(intent, "tx-1").payment)
    assert await store.dump() == before
    assert await _jobs_left(store, intent) == (1, 1)


async def test_a_change_of_a_payment_that_is_not_there_writes_nothing(store: Dataset) -> None:
    assert await store.payments().apply(completed(sending(accepted()))) == Conflict(None)
    assert await store.dump() == {}


async def test_a_change_ends_its_job_with_it(store: Dataset) -> None:
    intent = await _begun(store)
    job = await _taken_job(store, intent)
    assert await _jobs_left(store, intent) == (1, 1)
    assert await store.payments().apply(completed(intent), job) is None
    assert await _jobs_left(store, intent) == (0, 0)


async def test_a_job_without_work_is_ended_alone_and_twice_is_once(store: Dataset) -> None:
    intent = await _begun(store)
    job = await _taken_job(store, intent)
    for _ in range(2):
        await store.payments().end_job(job)
        assert await _jobs_left(store, intent) == (0, 0)
    assert await store.payments().get(intent.id) == intent


async def test_an_outcome_writes_the_event_once_for_the_history_and_once_for_the_outbox(store: Dataset) -> None:
    intent = await _begun(store)
    change = completed(intent)
    await store.payments().apply(change)
    (event,) = change.events
    assert await store.payments().events_of(intent.id) == [event.body]
    ((_, fields),) = await store.ask("XRANGE", _shard(store, intent).outbox, "-", "+")
    assert fields == {
        b"p": intent.id.encode(),
        b"f": b"core",
        b"y": b"payment_completed",
        b"s": b"1",
        b"t": str(NOW).encode(),
        b"h": b"",
        b"tp": intent.traceparent.encode(),
        b"b": event.body,
    }


async def test_balances_are_the_sum_of_the_ledger_rows_and_each_transaction_sums_to_zero(store: Dataset) -> None:
    payments = [accepted(order_in(number % 4), minor=10**number) for number in range(1, 12)]
    for number, payment in enumerate(payments):
        intent = await _begun(store, payment)
        await store.payments().apply(completed(intent) if number % 3 else failed(intent))
    for shard in store.keys.shards[:4]:
        replayed: Counter[str] = Counter()
        for payment in payments:
            if store.keys.of(payment.id) is not shard:
                continue
            for raw in await store.ask("LRANGE", shard.ledger(payment.id), 0, -1):
                transaction = msgspec.json.decode(raw, type=Transaction)
                assert sum(row.minor for row in transaction.rows) == 0
                replayed.update({f"{row.account}|{row.currency}": row.minor for row in transaction.rows})
        balances = {name.decode(): int(text) for name, text in (await store.ask("HGETALL", shard.balances)).items()}
        assert balances == dict(replayed)
        assert sum(balances.values()) == 0
        assert len(balances) == 2, "the acquirer's account and the merchant's"


async def test_the_largest_amounts_are_added_exactly(store: Dataset) -> None:
    """2**53 and more: a Lua number would lose the last unit."""
    shard = store.keys.shards[5]
    await store.ask("HSET", shard.balances, "acquirer:card|USD", 2**53)
    await store.ask("HSET", shard.balances, "merchant:core|USD", -(2**53))
    intent = await _begun(store, accepted(order_in(5), minor=1))
    await store.payments().apply(completed(intent))
    assert await store.ask("HGET", shard.balances, "acquirer:card|USD") == str(2**53 + 1).encode()
    assert await store.ask("HGET", shard.balances, "merchant:core|USD") == str(-(2**53) - 1).encode()


@pytest.mark.parametrize("outcome", [completed, failed])
async def test_an_outcome_forgets_card_and_cvv(store: Dataset, outcome: Callable[[Payment], Change]) -> None:
    intent = await _begun(store)
    await store.payments().apply(outcome(intent))
    assert not [name for name in await store.names() if ":card:" in name or ":cvv:" in name]


async def test_without_an_outcome_the_instrument_stays(store: Dataset) -> None:
    intent = await _begun(store)
    await store.payments().apply(left_open(intent, AttemptState.NOT_SENT))
    shard = _shard(store, intent)
    assert await store.ask("GET", shard.card(intent.id)) == SEALED.body
    assert await store.ask("GET", shard.cvv(intent.id)) == SEALED.cvv


async def test_a_failure_gives_the_order_free_for_another_payment(store: Dataset) -> None:
    intent = await _begun(store)
    await store.payments().apply(failed(intent))
    second = accepted(at_ms=NOW + 1)
    assert await store.payments().create(second, SEALED, due_ms=NOW) == second


async def test_a_completed_payment_keeps_its_order_for_ever(store: Dataset) -> None:
    intent = await _begun(store)
    await store.payments().apply(completed(intent))
    assert await store.payments().create(accepted(at_ms=NOW + 1), SEALED, due_ms=NOW) is None


async def test_a_payment_is_listed_as_unknown_from_the_lost_answer_until_somebody_knows(store: Dataset) -> None:
    intent, payments = await _begun(store), store.payments()
    unknown = _shard(store, intent).unknown
    opened = left_open(intent, AttemptState.UNKNOWN)
    await payments.apply(opened)
    assert await store.ask("ZRANGE", unknown, 0, -1) == [intent.id.encode()]
    assert float(await store.ask("ZSCORE", unknown, intent.id)) == NOW, "since its attempt began"
    again = left_open(opened.payment, AttemptState.UNKNOWN)
    await payments.apply(again)
    assert await store.ask("ZCARD", unknown) == 1
    await payments.apply(completed(again.payment))
    assert await store.ask("ZCARD", unknown) == 0


async def test_an_unknown_that_turns_out_not_to_have_been_sent_is_no_longer_listed(store: Dataset) -> None:
    intent, payments = await _begun(store), store.payments()
    opened = left_open(intent, AttemptState.UNKNOWN)
    await payments.apply(opened)
    resent = sending(opened.payment)
    await payments.begin(resent, due_ms=NOW)
    assert await store.ask("ZCARD", _shard(store, intent).unknown) == 1, "it may still have moved money"
    await payments.apply(left_open(resent, AttemptState.NOT_SENT))
    assert await store.ask("ZCARD", _shard(store, intent).unknown) == 0


async def test_a_payment_is_due_until_it_has_ended(store: Dataset) -> None:
    intent, payments = await _begun(store), store.payments()
    due = _shard(store, intent).due
    opened = left_open(intent, AttemptState.NOT_SENT, due_ms=NOW + 5000)
    await payments.apply(opened)
    assert float(await store.ask("ZSCORE", due, intent.id)) == NOW + 5000
    await payments.apply(completed(opened.payment))
    assert await store.ask("ZCARD", due) == 0


async def test_a_payment_that_is_put_off_is_due_later_and_its_job_is_gone(store: Dataset) -> None:
    intent = await _begun(store)
    job = await _taken_job(store, intent)
    await store.payments().put_off(intent.id, job, due_ms=NOW + 7000)
    assert float(await store.ask("ZSCORE", _shard(store, intent).due, intent.id)) == NOW + 7000
    assert await _jobs_left(store, intent) == (0, 0)


async def test_a_payment_that_has_ended_is_not_put_off(store: Dataset) -> None:
    intent = await _begun(store)
    await store.payments().apply(completed(intent))
    await store.payments().put_off(intent.id, None, due_ms=NOW + 7000)
    assert await store.ask("ZCARD", _shard(store, intent).due) == 0


# Asking for something


def _refund(payment: Payment, refund_id: str, minor: int = 1000) -> Change:
    return Change(payment.ask_refund(refund_id, minor, "broken", now_ms=NOW), NOW + 120_000)


async def _paid(store: Dataset, payment: Payment | None = None) -> Payment:
    """A completed payment whose job is done."""
    intent = await _begun(store, payment)
    change = completed(intent)
    assert await store.payments().apply(change, await _taken_job(store, intent)) is None
    return change.payment


async def test_what_is_asked_for_is_written_with_its_job_and_its_time(store: Dataset) -> None:
    paid = await _paid(store)
    change = _refund(paid, "ref-1")
    assert await store.payments().apply_and_enqueue(change) is None
    assert await store.payments().get(paid.id) == change.payment
    assert float(await store.ask("ZSCORE", _shard(store, paid).due, paid.id)) == NOW + 120_000
    (job,) = await store.jobs("w").read(10)
    assert (job.payment_id, job.hint) == (paid.id, change.payment)


async def test_asking_is_recognised_as_its_own_when_it_is_repeated(store: Dataset) -> None:
    change = _refund(await _paid(store), "ref-1")
    assert await store.payments().apply_and_enqueue(change) is None
    before = await store.dump()
    assert await store.payments().apply_and_enqueue(change) is None
    assert await store.dump() == before


async def test_fifty_racing_wishes_of_one_version_have_one_winner_and_one_job(processes: list[Dataset]) -> None:
    store, paid = processes[0], await _paid(processes[0])
    changes = [_refund(paid, f"ref-{number}", number + 1) for number in range(RACERS)]
    answers = await asyncio.gather(
        *(processes[number % PROCESSES].payments().apply_and_enqueue(each) for number, each in enumerate(changes))
    )
    (winner,) = (change for change, answer in zip(changes, answers, strict=True) if answer is None)
    assert [answer for answer in answers if answer is not None] == [Conflict(winner.payment)] * (RACERS - 1)
    assert await store.payments().get(paid.id) == winner.payment
    assert await store.ask("XLEN", _shard(store, paid).jobs) == 1


async def test_asking_of_a_payment_that_is_not_there_writes_nothing(store: Dataset) -> None:
    change = _refund(completed(sending(accepted())).payment, "ref-1")
    assert await store.payments().apply_and_enqueue(change) == Conflict(None)
    assert await store.dump() == {}


@pytest.mark.parametrize("bound", ["jobs", "outbox"])
async def test_a_full_queue_refuses_what_is_asked_for_and_writes_nothing(store: Dataset, bound: str) -> None:
    paid = await _paid(store, accepted(order_in(3)))
    if bound == "jobs":
        await _created(store, accepted(order_in(3)))
    payments = store.payments(**{f"{bound}_max": 16})
    before = await store.dump()
    with pytest.raises(Overloaded) as refused:
        await payments.apply_and_enqueue(_refund(paid, "ref-1"))
    assert refused.value.bound == bound
    assert await store.dump() == before


# Lost answers


@pytest.fixture
async def lossy(places: Places) -> AsyncIterator[tuple[Dataset, Proxy]]:
    """A dataset behind a line that loses answers."""
    port = int(places.url.rpartition(":")[2].partition("/")[0])
    async with proxy_to(port) as proxy, running(connected(f"redis://127.0.0.1:{proxy.port}/0")) as store:
        yield store, proxy


_one_server = only("redis", "redis-6.2", why="the proxy stands before one server")


@_one_server
async def test_a_create_whose_answer_was_lost_finds_itself(lossy: tuple[Dataset, Proxy]) -> None:
    store, proxy = lossy
    payment = accepted()
    proxy.lose_answers_to(payment.id, times=1)
    assert await store.payments().create(payment, SEALED, due_ms=NOW) == payment
    assert proxy.lost == 1
    assert await store.ask("XLEN", _shard(store, payment).jobs) == 1


@_one_server
async def test_an_intent_whose_answer_was_lost_finds_itself_and_its_instrument(lossy: tuple[Dataset, Proxy]) -> None:
    store, proxy = lossy
    intent = sending(await _created(store))
    proxy.lose_answers_to(intent.id, times=1)
    assert await store.payments().begin(intent, due_ms=NOW) == SEALED
    assert proxy.lost == 1
    assert await store.payments().get(intent.id) == intent


@_one_server
async def test_an_outcome_whose_answer_was_lost_is_written_once(lossy: tuple[Dataset, Proxy]) -> None:
    store, proxy = lossy
    intent = await _begun(store)
    proxy.lose_answers_to(intent.id, times=2)
    assert await store.payments().apply(completed(intent)) is None
    assert proxy.lost == 2
    shard = _shard(store, intent)
    assert len(await store.payments().events_of(intent.id)) == 1
    assert await store.ask("XLEN", shard.outbox) == 1
    assert await store.ask("HGET", shard.balances, "acquirer:card|USD") == b"7548"


@_one_server
async def test_a_key_claim_whose_answer_was_lost_is_still_ours(lossy: tuple[Dataset, Proxy]) -> None:
    store, proxy = lossy
    ours = KeyRecord(accepted().id, "fingerprint", NOW)
    proxy.lose_answers_to(ours.payment_id, times=1)
    assert await store.payments().claim_key("d1", ours) == ours
    assert proxy.lost == 1


@_one_server
async def test_a_store_that_never_answers_is_said_to_be_unavailable(lossy: tuple[Dataset, Proxy]) -> None:
    """Three tries, and then the caller must not assume either way: here it had worked at the first."""
    store, proxy = lossy
    payment = accepted()
    proxy.lose_answers_to(payment.id, times=3)
    with pytest.raises(StoreUnavailable):
        await store.payments().create(payment, SEALED, due_ms=NOW)
    assert proxy.lost == 3
    assert await store.payments().get(payment.id) == payment


# Lists and keys


async def test_a_payment_of_another_dataset_is_just_unknown(store: Dataset) -> None:
    for payment_id in foreign_ids():
        assert await store.payments().get(payment_id) is None


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_pages_of_a_user_s_payments_are_newest_first_and_miss_and_repeat_none(store: Dataset, limit: int) -> None:
    """Over all shards, with many payments in one millisecond, which a page may cut anywhere."""
    payments = store.payments()
    made = [accepted(f"ord-{number}", at_ms=NOW + number // 20) for number in range(60)]
    others = [accepted(f"other-{number}", user_id="somebody-else", at_ms=NOW) for number in range(10)]
    await asyncio.gather(*(payments.create(payment, SEALED, due_ms=NOW) for payment in (*made, *others)))
    seen: list[Payment] = []
    before: PaymentId | None = None
    while page := await payments.of_user(USER, limit=limit, before=before):
        assert len(page) <= limit
        seen += page
        assert len(seen) <= len(made)
        before = page[-1].id
    assert [payment.id for payment in seen] == sorted((payment.id for payment in made), reverse=True)
    times = [payment.created_ms for payment in seen]
    assert times == sorted(times, reverse=True)


async def test_a_payment_that_comes_while_pages_are_read_shifts_none_of_the_later_pages(store: Dataset) -> None:
    payments = store.payments()
    made = [await _created(store, accepted(f"ord-{number}", at_ms=NOW + number)) for number in range(6)]
    first = await payments.of_user(USER, limit=3, before=None)
    await _created(store, accepted("ord-new", at_ms=NOW + 99))
    second = await payments.of_user(USER, limit=3, before=first[-1].id)
    assert [*first, *second] == made[::-1]


async def test_a_user_without_payments_has_an_empty_list(store: Dataset) -> None:
    assert await store.payments().of_user("nobody", limit=10, before=None) == []


async def test_fifty_racing_claims_of_one_key_agree_on_one_record(processes: list[Dataset]) -> None:
    claims = [KeyRecord(accepted(f"ord-{number}").id, f"fingerprint-{number}", NOW) for number in range(RACERS)]
    stands = await asyncio.gather(
        *(processes[number % PROCESSES].payments().claim_key("digest", claim) for number, claim in enumerate(claims))
    )
    (winner,) = set(stands)
    assert winner in claims
    assert await processes[0].payments().key("digest") == winner


async def test_a_key_that_nobody_has_used_stands_for_nothing(store: Dataset) -> None:
    assert await store.payments().key("unused") is None


async def test_keys_lie_in_shards_of_their_own_and_never_expire(store: Dataset) -> None:
    payments: RedisPayments = store.payments()
    for number in range(64):
        await payments.claim_key(f"digest-{number}", KeyRecord(accepted().id, "f", NOW))
    dump = await store.dump()
    assert len({name.partition(":")[0] for name in dump}) > 8
    assert not any(expires for _, expires in dump.values())
