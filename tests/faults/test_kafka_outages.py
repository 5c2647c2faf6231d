"""From HTTP to Kafka: what a consumer reads is what happened, also when the broker was away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from simulators import cards
from tests.faults.checker import Told
from tests.faults.side_by_side import side_by_side
from tests.faults.world import World, eventually, world
from tests.kafka_support import MockBrokers, RealBroker, new_topic, read_topic
from tests.store.servers import wait_until

STOP_S = 6.0


async def test_a_consumer_of_a_real_broker_reads_the_contracts_json_of_every_payment(
    kafka_broker: RealBroker, tmp_path: Path
) -> None:
    """Byte for byte what was committed, under the payment's key, with the CloudEvents headers, each once."""
    topic = new_topic()
    async with world(tmp_path, _kafka(kafka_broker.bootstrap, topic)) as w:
        w.told = _reader(kafka_broker.bootstrap, topic)
        await w.shop.load(60)
        one = await w.shop.insist(await w.shop.wish({"cardNumber": cards.LOST}))
        evidence = await w.judge()
        assert len(evidence.told) == 61
        failed = next(told for told in evidence.told if told.key == one.payment_id)
        assert failed.headers["ce_type"] == "payment_failed"
        assert b'"error_code":"LOST_CARD"' in failed.body
        assert await w.engine.metric("events_published_total") == 61


async def test_a_real_broker_killed_under_load_loses_no_event_and_stops_no_payment(
    kafka_broker: RealBroker, tmp_path: Path
) -> None:
    """kill -9 of the broker, some seconds without it, and the same data again."""
    topic = new_topic()
    async with world(tmp_path, _kafka(kafka_broker.bootstrap, topic)) as w:
        w.told = _reader(kafka_broker.bootstrap, topic)

        async def restart() -> None:
            await asyncio.to_thread(kafka_broker.restart)

        await _outage(w, kafka_broker.kill, restart)


@side_by_side
async def test_brokers_that_go_away_under_load_lose_no_event_and_stop_no_payment(folder: Path) -> None:
    """The same without Java: librdkafka's brokers drop all connections and take no new ones for some seconds."""
    brokers, topic = MockBrokers(), new_topic()
    try:
        async with world(folder, _kafka(brokers.bootstrap, topic)) as w:
            w.told = _reader(brokers.bootstrap, topic)

            def down() -> None:
                # Seen once on a slow machine: librdkafka aborted this whole process while its brokers dropped busy
                # connections. The real broker of the test above dies in the middle of them, in its own process.
                w.engine.signal(signal.SIGSTOP)
                try:
                    wait_until(brokers.quiet, "the brokers have answered everything")
                    brokers.down()
                finally:
                    w.engine.signal(signal.SIGCONT)

            async def up() -> None:
                brokers.up()

            await _outage(w, down, up)
    finally:
        brokers.close()


@side_by_side
async def test_sigterm_without_a_broker_ends_in_time_and_the_events_wait(folder: Path) -> None:
    """aiokafka would wait for ever; the events are in the outbox, and go out with the next process."""
    brokers, topic = MockBrokers(), new_topic()
    try:
        settings = {**_kafka(brokers.bootstrap, topic), "PAYMENTS__SERVER__STOP_S": str(STOP_S)}
        async with world(folder, settings) as w:
            w.told = _reader(brokers.bootstrap, topic)
            await w.shop.load(10)
            await w.healed()
            brokers.down()
            posted = await w.shop.insist(await w.shop.wish())
            assert (await w.engine.wait_status(posted.payment_id))["status"] == "completed"
            started = time.monotonic()
            w.engine.signal(signal.SIGTERM)
            # aiokafka would wait for ever; how long a process takes to end is a matter of the machine.
            assert await w.engine.ended(STOP_S + 20) == 0
            assert time.monotonic() - started < STOP_S + 20
            assert w.waiting()["outbox"] == 1
            brokers.up()
            await w.restart()
            evidence = await w.judge()
            assert len(evidence.payments) == 11
    finally:
        brokers.close()


async def _outage(w: World, take_down: Callable[[], None], bring_up: Callable[[], Awaitable[None]]) -> None:
    async with w.shop.buying():
        await eventually(lambda: _published(w, 40))
        accepted = len(w.shop.accepted)
        await asyncio.to_thread(take_down)
        await w.shop.until_accepted(accepted + 60)
    posted = await w.shop.insist(await w.shop.wish())
    assert (await w.engine.wait_status(posted.payment_id))["status"] == "completed"
    assert (await w.engine.ready_parts())[0] == 200
    # What was on its way may be counted until the first pass without the broker has ended.
    await eventually(lambda: _failing(w))
    before, published = w.waiting()["outbox"], await w.engine.metric("events_published_total")
    assert before > 0
    await asyncio.sleep(2.0)
    assert w.waiting()["outbox"] >= before
    assert await w.engine.metric("events_published_total") == published
    assert await w.engine.metric("outbox_depth") > 0
    await bring_up()
    evidence = await w.judge()
    assert evidence.payments.keys() == w.shop.accepted


def _kafka(bootstrap: str, topic: str) -> Mapping[str, str]:
    return {
        "PAYMENTS__KAFKA__BROKERS": bootstrap,
        "PAYMENTS__KAFKA__PUBLISH_TIMEOUT_S": "2",
        "PAYMENTS__KAFKA__START_TIMEOUT_S": "4",
        "PAYMENTS__EVENTS__TOPIC": topic,
    }


def _reader(bootstrap: str, topic: str) -> Callable[[], Awaitable[list[Told]]]:
    async def read() -> list[Told]:
        return [Told(each.key, each.value, dict(each.headers)) for each in await read_topic(bootstrap, topic)]

    return read


async def _failing(w: World) -> bool:
    return await w.engine.metric("event_publish_failures_total") > 0


async def _published(w: World, count: int) -> bool:
    return await w.engine.metric("events_published_total") >= count
