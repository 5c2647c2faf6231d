"""Events become notifications, once each, whatever comes twice, breaks off or is no event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from clients.event_tail import EventFileListener
from engine.errors import StoreUnavailable
from engine.ids import from_rfc3339, now_ms
from engine.notifications import Notification
from engine.notifying import Notice
from engine.store.notifications import RedisNotifications
from tests.notify.making import TRACE, WEEK_S, Kept, Lines, Worker, body_of, counted, event, message, publish
from tests.store.datasets import Dataset
from tests.store.making import SEALED, accepted

YEAR_2026_MS = 1_767_225_600_000


async def test_an_event_becomes_one_notification_with_one_line(dataset: Dataset, tmp_path: Path) -> None:
    worker = Worker(dataset, tmp_path)
    await worker.hears(message("pay-1-1", ce_subject="pay-1", traceparent=f"00-{TRACE}-b7ad6b7169203331-01"))
    [line] = worker.said.lines
    expected = {
        "notification_id": "pay-1-1", "user_id": "user-1", "type": "payment_completed", "subject": "pay-1",
        "title": "Payment completed", "text": "We received 75.48 USD for order order-1.",
        "happened_at": "2026-01-01T00:00:00.000Z", "trace_id": TRACE, "level": "info", "message": "notification",
    }  # fmt: skip
    assert {name: line[name] for name in expected} == expected
    found = await worker.store.get("pay-1-1")
    assert found is not None
    assert found[0].text == line["text"]
    assert found[1] == {"log": "told"}
    assert counted(dataset, type="payment_completed", channel="log", outcome="told") == 1


async def test_an_event_that_comes_again_is_told_once(dataset: Dataset, tmp_path: Path) -> None:
    """In the same batch, in a later one, and at another worker after a replay."""
    first, second, sink = Worker(dataset, tmp_path), Worker(dataset, tmp_path), Kept()
    await first.hears(message("pay-1-1"), message("pay-1-1"), message("pay-1-2"))
    await first.hears(message("pay-1-1"))
    await second.hears(message("pay-1-1"), message("pay-1-2"))
    assert (first.said.ids, second.said.ids) == (["pay-1-1", "pay-1-2"], [])
    again = Worker(dataset, tmp_path, sinks=[sink])
    await again.hears(message("pay-1-1"))
    assert [notice.id for notice in sink.notices] == ["pay-1-1"], "a sink knows by the id what it has taken"


async def test_who_died_before_the_line_was_noted_tells_it_again_and_a_second_record_there_is_none(
    dataset: Dataset, tmp_path: Path
) -> None:
    dying, next_one = Worker(dataset, tmp_path), Worker(dataset, tmp_path)
    dying.said.broken = True
    with pytest.raises(BrokenPipeError):
        await dying.hears(message("pay-1-1"))
    assert (await next_one.store.get("pay-1-1") or (None, None))[1] == {}, "kept, and told by nobody"
    await next_one.hears(message("pay-1-1"))
    assert next_one.said.ids == ["pay-1-1"]
    assert counted(dataset, channel="record", outcome="repeated") == 1


async def test_equal_ids_of_two_sources_are_two_events(dataset: Dataset, tmp_path: Path) -> None:
    """A user 1 and an order 1 both begin with an event `1-1`."""
    worker, sink = Worker(dataset, tmp_path), Kept()
    user = {"event_type": "user_created", "user_id": "1", "data": {}}
    order = {"event_type": "order_created", "order_id": "1", "user_id": "1", "data": {}}
    worker = Worker(dataset, tmp_path, sinks=[sink])
    for _ in range(2):
        await worker.hears(message("1-1", user, ce_source="/users"), message("1-1", order, ce_source="/orders"))
    assert worker.said.ids == ["users:1-1", "orders:1-1"]
    assert {notice.id for notice in sink.notices} == {"users:1-1", "orders:1-1"}


async def test_a_notification_lives_for_its_time_and_no_longer(dataset: Dataset, tmp_path: Path) -> None:
    worker = Worker(dataset, tmp_path)
    await worker.hears(message("pay-1-1"))
    [key] = await dataset.client.keys("*notification*")
    left = await dataset.client.ttl(key)
    assert WEEK_S - 60 < left <= WEEK_S


async def test_a_channel_that_is_switched_on_later_does_not_tell_what_is_old(dataset: Dataset, tmp_path: Path) -> None:
    """Else the first replay after mail was switched on would mail last month."""
    silent, loud = Worker(dataset, tmp_path, channels=[]), Worker(dataset, tmp_path)
    await silent.hears(message("pay-1-1"))
    await loud.hears(message("pay-1-1"), message("pay-1-2"))
    assert loud.said.ids == ["pay-1-2"]


@pytest.mark.parametrize("event_type", ["payment_failed", "order_confirmed"])
async def test_an_event_without_a_user_is_its_payments_users(event_type: str, dataset: Dataset, tmp_path: Path) -> None:
    worker, sink = Worker(dataset, tmp_path), Kept()
    payment = accepted()
    assert await dataset.payments().create(payment, SEALED, due_ms=now_ms())
    body = body_of("payment_failed", payment_id=payment.id)
    if event_type == "order_confirmed":
        body = {"event_type": event_type, "order_id": "o", "data": {"payment_id": payment.id}}
    worker = Worker(dataset, tmp_path, sinks=[sink])
    await worker.hears(message("e-1", body), message("e-2", body_of("payment_failed", payment_id="pay-nobody")))
    assert [(line["notification_id"], line["user_id"]) for line in worker.said.lines] == [("e-1", payment.user_id)]
    assert [notice.user_id for notice in sink.notices] == [payment.user_id, ""], "sinks hear of both"
    assert counted(dataset, channel="record", outcome="no_user") == 1


def parked(dataset: Dataset, reason: str) -> float | None:
    """How many were put aside for it; None when that is not shown, for then an alert would miss the first."""
    return dataset.instruments.registry.get_sample_value("notifications_parked_total", {"reason": reason})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (message("e-1", b"no JSON"), "not_json"),
        (message("e-1", b"[1]"), "not_json"),
        (message("e-1", b'{"event_type": "payment_completed", "x": "\xff"}'), "not_json"),
        (message("e-1", b'{"a":' * 100_000), "not_json"),
        (message(""), "no_id"),
        (message("with blank"), "no_id"),
        (message("x" * 201), "no_id"),
        (message("e-1", {"event": "payment_completed"}), "no_type"),
        (message("e-1", {"event_type": 7}), "no_type"),
        (message("e-1", {"event_type": "payment_completed"}), "malformed"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
async def test_what_nobody_understands_is_put_aside_and_stops_nobody(
    given: Any, reason: str, dataset: Dataset, tmp_path: Path
) -> None:
    worker = Worker(dataset, tmp_path)
    assert parked(dataset, reason) == 0
    await worker.hears(given, message("pay-1-1"))
    assert worker.said.ids == ["pay-1-1"]
    [letter] = worker.letters()
    assert letter["topic"] == "t.dead"
    assert (letter["headers"]["reason"], letter["headers"]["source"]) == (reason, "t-0-0")
    assert parked(dataset, reason) == 1


async def test_a_dead_letter_has_no_card_number_and_bounded_headers(dataset: Dataset, tmp_path: Path) -> None:
    worker = Worker(dataset, tmp_path)
    poison = message("4242424242424242", b"card 4242 4242 4242 4242", note="4242424242424242", long="x" * 20_000)
    await worker.hears(poison)
    [letter] = worker.letters()
    assert "4242424242424242" not in str(letter)
    assert letter["value"] == "card 0000000000004242"
    assert set(letter["headers"]) == {"ce_id", "reason", "source"}


@pytest.mark.parametrize(
    "said",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "yesterday",
        "2026-01-01T00:00:00",
    ],
)
async def test_a_time_that_is_none_is_the_time_when_we_heard(said: str, dataset: Dataset, tmp_path: Path) -> None:
    worker, before = Worker(dataset, tmp_path), now_ms()
    await worker.hears(message("pay-1-1", ce_time=said))
    [line] = worker.said.lines
    assert before <= from_rfc3339(line["happened_at"]) <= now_ms()


async def test_an_event_that_breaks_what_tells_of_it_is_put_aside_alone(dataset: Dataset, tmp_path: Path) -> None:
    """A bug of ours, or of a sink's, must not stop everybody else's events for ever."""

    class Brittle(Kept):
        async def take(self, notices: Sequence[Notice]) -> None:
            if any(notice.id == "pay-2-1" for notice in notices):
                raise ValueError("a bug")
            await super().take(notices)

    sink = Brittle()
    worker = Worker(dataset, tmp_path, sinks=[sink])
    assert parked(dataset, "broke") == 0
    await worker.hears(*(message(f"pay-{number}-1") for number in range(4)))
    assert [notice.id for notice in sink.notices] == ["pay-0-1", "pay-1-1", "pay-3-1"]
    assert len(worker.said.ids) == len(set(worker.said.ids)) == 4
    [letter] = worker.letters()
    assert (letter["headers"]["ce_id"], letter["headers"]["reason"]) == ("pay-2-1", "broke: ValueError")
    assert parked(dataset, "broke") == 1


async def test_types_that_others_add_are_ignored_and_counted(dataset: Dataset, tmp_path: Path) -> None:
    worker, sink = Worker(dataset, tmp_path), Kept()
    await worker.hears(message("e-1", {"event_type": "loyalty_points_added", "user_id": "user-1"}))
    assert (worker.said.lines, worker.letters(), sink.notices) == ([], [], [])
    assert counted(dataset, type="unknown", outcome="ignored") == 1


async def test_while_the_store_is_away_everything_waits_and_nothing_is_put_aside(
    dataset: Dataset, tmp_path: Path
) -> None:
    """The sink fails twice; the line is written once, for its state is kept."""

    class Unwilling(Kept):
        left = 2

        async def take(self, notices: Sequence[Notice]) -> None:
            if self.left:
                self.left -= 1
                raise StoreUnavailable("away")
            await super().take(notices)

    sink = Unwilling()
    worker = Worker(dataset, tmp_path, sinks=[sink])
    handling = asyncio.create_task(worker.hears(message("pay-1-1", ce_time="")))
    while not handling.done():
        assert worker.listener.lag_s() < 600
        await asyncio.sleep(0.01)
    await handling
    assert [notice.id for notice in sink.notices] == ["pay-1-1"]
    assert worker.said.ids == ["pay-1-1"]
    assert worker.letters() == []


async def test_a_line_whose_note_was_lost_is_not_written_again_by_the_same_worker(
    dataset: Dataset, tmp_path: Path
) -> None:
    """The store went away between the two; the worker knows what it has told."""

    class Forgetful(RedisNotifications):
        failures = 2

        async def note_first(self, channel: str, states: Mapping[str, str]) -> None:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("away")
            await super().note_first(channel, states)

    store = Forgetful(dataset.batcher, dataset.keys, kept_s=WEEK_S)
    worker = Worker(dataset, tmp_path, store=store)
    await worker.hears(message("pay-1-1"), message("pay-1-2"))
    assert store.failures == 0
    assert worker.said.ids == ["pay-1-1", "pay-1-2"]
    assert (await store.get("pay-1-1") or (None, {}))[1] == {"log": "told"}
    assert counted(dataset, channel="log", outcome="told") == 2


async def test_two_workers_with_the_same_events_at_once_keep_one_record_each(dataset: Dataset, tmp_path: Path) -> None:
    """Both may write the line, for neither can know that the other will; the records are one each."""
    workers = [Worker(dataset, tmp_path) for _ in range(2)]
    messages = [message(f"pay-{number}-1") for number in range(50)]
    await asyncio.gather(*(worker.hears(*messages) for worker in workers))
    assert len(await dataset.client.keys("*notification*")) == 50
    assert counted(dataset, channel="record", outcome="written") == 50
    assert set(workers[0].said.ids) | set(workers[1].said.ids) == {each.id for each in messages}


async def test_the_age_of_what_is_in_hand_is_told(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[float] = []

    class Looking:
        name = "log"

        def wants(self, _: str) -> bool:
            return True

        async def take(self, notifications: Sequence[Notification]) -> list[str]:
            seen.append(worker.listener.lag_s())
            return ["told"] * len(notifications)

    worker = Worker(dataset, tmp_path, channels=[Looking()])
    assert worker.listener.lag_s() == 0
    await worker.hears(message("pay-1-1"))
    assert seen[0] == pytest.approx((now_ms() - YEAR_2026_MS) / 1000, abs=600)


async def test_the_age_of_the_last_batch_is_told_for_some_seconds_and_then_forgotten(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Whoever is hours behind is so between two batches, too; whoever got nothing for seconds has caught up."""
    now, ignored = YEAR_2026_MS + 3_600_000, message("e-1", {"event_type": "loyalty_points_added"})
    worker = Worker(dataset, tmp_path, clock=lambda: now)
    await worker.hears(message("pay-1-1", ce_time="2026-01-01T00:30:00Z"), message("pay-1-2"))
    assert worker.listener.lag_s() == 3600
    now += 9_000
    await worker.hears(ignored)
    assert worker.listener.lag_s() == 3600, "no older, for it was told; and of what is ignored no time is read"
    now += 1_000
    assert worker.listener.lag_s() == 0
    await worker.hears(message("pay-1-3", ce_time="2026-01-01T01:00:00Z"))
    assert worker.listener.lag_s() == 10


async def test_a_batch_that_failed_was_in_hand_too(dataset: Dataset, tmp_path: Path) -> None:
    """It comes again, so its events are not told of."""
    worker = Worker(dataset, tmp_path)
    worker.said.broken = True
    with pytest.raises(BrokenPipeError):
        await worker.hears(message("pay-1-1"))
    assert worker.listener.lag_s() > 300


async def test_a_worker_that_is_behind_in_the_event_file_says_so_between_two_batches(
    dataset: Dataset, tmp_path: Path
) -> None:
    worker, path = Worker(dataset, tmp_path), tmp_path / "events.jsonl"
    await publish(path, *(event(f"pay-{number}-1", topic="t") for number in range(50)))
    listener = EventFileListener(path, ("t",), worker.listener.handle, group="g", batch_max=5)
    task = asyncio.create_task(listener.run())
    lags = await worker.lags(lambda: len(worker.said.ids) == 50)
    listener.stop()
    await task
    assert min(lags) > 300


def test_lines_break_on_purpose() -> None:
    """The fake above really fails when it is told to."""
    lines = Lines()
    lines.broken = True
    with pytest.raises(BrokenPipeError):
        lines.write("{}\n")
