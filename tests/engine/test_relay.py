"""The relay: an event leaves the outbox only when the broker has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from engine.errors import StoreUnavailable
from engine.events import Answer, OutgoingEvent, Refused
from engine.relay import NotAcknowledged, OutboxEntry, Parking, Relay
from metrics.instruments import Instruments


def an_entry(shard: int, number: int, event_type: str = "payment_completed") -> OutboxEntry:
    headers = (("ce_id", f"pay-{shard}-{number}"), ("ce_type", event_type))
    return OutboxEntry(shard, f"{number}-0", OutgoingEvent("topic", f"pay-{shard}", b"{}", headers))


class FakeOutbox:
    """Entries by shard, oldest first."""

    def __init__(self, *entries: OutboxEntry) -> None:
        self.entries = list(entries)
        self.counts: list[int] = []
        self.parked: list[tuple[str, str]] = []
        self.parking_room = 10
        self.error: Exception | None = None

    async def read(self, after: Mapping[int, str], *, count: int) -> list[OutboxEntry]:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.counts.append(count)
        assert set(after.values()) <= {"0-0"}
        return [entry for shard in after for entry in [e for e in self.entries if e.shard == shard][:count]]

    async def delete(self, entries: Sequence[OutboxEntry]) -> None:
        await asyncio.sleep(0)
        self.entries = [entry for entry in self.entries if entry not in entries]

    async def park(self, parking: Sequence[Parking]) -> int:
        await asyncio.sleep(0)
        kept = parking[: self.parking_room]
        self.parked += [(each.entry.event.event_id, each.reason) for each in kept]
        self.entries = [entry for entry in self.entries if entry not in [each.entry for each in kept]]
        return len(kept)


class FakeBroker:
    """Takes every event but the refused ones, and remembers the order."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.refused: set[str] = set()
        self.never: set[str] = set()
        self.crash: BaseException | None = None

    async def publish(self, events: Sequence[OutgoingEvent]) -> list[Answer]:
        await asyncio.sleep(0)
        taken = [self._answer(event.event_id) for event in events]
        self.published += [event.event_id for event, ok in zip(events, taken, strict=True) if ok]
        if self.crash is not None:
            raise self.crash
        return taken

    def _answer(self, event_id: str) -> Answer:
        return Refused("message_too_large") if event_id in self.never else event_id not in self.refused


class FakeLeases:
    """Some shards."""

    def __init__(self, *shards: int) -> None:
        self.shards = list(shards)
        self.renewed = 0
        self.released = False

    def held(self) -> list[int]:
        return self.shards

    async def renew(self) -> None:
        self.renewed += 1

    async def release(self) -> None:
        self.released = True


class Post:
    """A relay with everything around it."""

    def __init__(self, *entries: OutboxEntry, shards: Sequence[int] = (0, 1), batch_max: int = 256) -> None:
        self.outbox = FakeOutbox(*entries)
        self.broker = FakeBroker()
        self.leases = FakeLeases(*shards)
        self.instruments = Instruments(CollectorRegistry())
        self.relay = Relay(
            self.outbox, self.broker, self.leases, self.instruments,
            batch_max=batch_max, idle_s=0.001, failure_pause_s=0.002, renew_every_s=0.001,
        )  # fmt: skip

    def count(self, name: str, **labels: str) -> float | None:
        return self.instruments.registry.get_sample_value(name, labels)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_what_the_broker_has_taken_leaves_the_outbox_and_is_counted() -> None:
    post = Post(an_entry(0, 1), an_entry(1, 1, "payment_failed"), an_entry(0, 2))
    assert await post.relay.pass_once() == 3
    assert post.outbox.entries == [] and sorted(post.broker.published) == ["pay-0-1", "pay-0-2", "pay-1-1"]
    assert post.count("events_published_total", event_type="payment_completed") == 2
    assert post.count("events_published_total", event_type="payment_failed") == 1


async def test_what_will_never_be_taken_is_parked_and_the_rest_goes_on(
    log_lines: list[MutableMapping[str, Any]],
) -> None:
    """Two ways: the broker says so, or there is nowhere to send it; only the second is not even tried."""
    homeless = an_entry(1, 1)._replace(unsendable="no_topic")
    post = Post(an_entry(0, 1), an_entry(0, 2), homeless, an_entry(1, 2))
    post.broker.never, post.broker.refused = {"pay-0-1"}, {"pay-0-2"}
    assert await post.relay.pass_once() == 3, "one was taken, two are parked; what waited behind them is no failure"
    assert post.outbox.parked == [("pay-1-1", "no_topic"), ("pay-0-1", "message_too_large")]
    post.broker.refused = set()
    assert await post.relay.pass_once() == 1
    assert post.broker.published == ["pay-1-2", "pay-0-2"] and post.outbox.entries == []
    assert post.count("events_parked_total", reason="no_topic") == 1
    assert post.count("events_parked_total", reason="message_too_large") == 1
    told = [(line["log_level"], line["event_id"], line["reason"]) for line in log_lines]
    assert told == [("error", "pay-1-1", "no_topic"), ("error", "pay-0-1", "message_too_large")]


async def test_with_no_room_to_park_an_event_stays_where_it_is_and_counts_as_not_published() -> None:
    post = Post(an_entry(0, 1))
    post.broker.never, post.outbox.parking_room = {"pay-0-1"}, 0
    with pytest.raises(NotAcknowledged):
        await post.relay.pass_once()
    assert len(post.outbox.entries) == 1 and post.count("event_publish_failures_total") == 1


@pytest.mark.parametrize(("shards", "count"), [([0], 8), ([0, 1], 4), (range(16), 1), ([], 8)])
async def test_a_batch_is_shared_by_the_shards(shards: Sequence[int], count: int) -> None:
    post = Post(shards=shards, batch_max=8)
    assert await post.relay.pass_once() == 0
    assert post.outbox.counts == [count] and post.broker.published == []


async def test_a_relay_keeps_its_leases_and_gives_them_back_when_it_ends() -> None:
    post = Post(an_entry(0, 1))
    running = asyncio.create_task(post.relay.run())
    await until(lambda: post.leases.renewed > 2 and not post.outbox.entries)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled() and post.leases.released


async def test_a_relay_survives_trouble_and_says_so_once(log_lines: list[MutableMapping[str, Any]]) -> None:
    post = Post(an_entry(0, 1))
    post.broker.refused = {"pay-0-1"}
    running = asyncio.create_task(post.relay.run())
    await until(lambda: (post.count("event_publish_failures_total") or 0) >= 2)
    post.outbox.error = StoreUnavailable("away")
    await asyncio.sleep(0.01)
    post.outbox.error = None
    post.broker.refused = set()
    await until(lambda: not post.outbox.entries)
    await until(lambda: len(log_lines) == 2)
    running.cancel()
    await asyncio.wait([running])
    assert [line["event"] for line in log_lines] == ["events wait in the outbox", "events are published again"]


async def test_a_bug_ends_the_relay_and_still_gives_the_leases_back() -> None:
    """The process ends with it, loudly, rather than to run without publishing."""
    post = Post(an_entry(0, 1))
    post.broker.crash = ZeroDivisionError()
    with pytest.raises(ExceptionGroup):
        await post.relay.run()
    assert post.leases.released
