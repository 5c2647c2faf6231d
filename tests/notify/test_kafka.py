"""The worker on a real Kafka: members that come and go, kill -9, poison, and events that are sent again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from clients.kafka import KafkaPublisher, KafkaSettings
from clients.kafka_consumer import KafkaListener
from engine.messages import Message
from tests.faults.world import eventually
from tests.kafka_support import RealBroker, read_topic
from tests.notify.making import Worker, body_of, counted, message
from tests.notify.process import NotifyProcess
from tests.notify.test_process import app
from tests.store.datasets import Dataset
from tests.support import RedisServer

PARTITIONS = 6


class Topic:
    """A topic and a group that no other test uses."""

    def __init__(self, broker: RealBroker) -> None:
        self.bootstrap = broker.bootstrap
        self.name = f"events-{uuid.uuid4().hex[:8]}"
        self.settings = KafkaSettings(brokers=self.bootstrap)

    @property
    def environment(self) -> dict[str, str]:
        """How a worker is told to read this one alone."""
        surfaces = ("EVENTS", "ORDERS_API", "GATEWAY", "MPESA", "VAULT")
        return {
            "KAFKA_BROKER": self.bootstrap,
            "PAYMENTS__NOTIFY__TOPICS": "[]",
            "PAYMENTS__NOTIFY__GROUP": self.name,
            "PAYMENTS__NOTIFY__BATCH_MAX": "20",
            **{f"PAYMENTS__{name}__TOPIC": self.name for name in surfaces},
        }

    async def make(self) -> Topic:
        """With several partitions, so that two members have something to divide."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            names = (self.name, f"{self.name}.dead")
            await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
        finally:
            await admin.close()
        return self

    async def send(self, messages: Sequence[Message]) -> None:
        """Spread over the partitions."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        try:
            for number, each in enumerate(messages):
                await producer.send(self.name, each.value, headers=list(each.headers), partition=number % PARTITIONS)
            await producer.flush()
        finally:
            await producer.stop()

    @contextlib.asynccontextmanager
    async def member(self, handle: Any) -> AsyncIterator[None]:
        """A member of the group, that leaves in order."""
        listener = KafkaListener(self.settings, (self.name,), handle, group=self.name, batch_max=20)
        task = asyncio.create_task(listener.run())
        try:
            yield
        finally:
            listener.stop()
            await asyncio.wait_for(task, 60)


@pytest.fixture
async def topic(kafka_broker: RealBroker) -> Topic:
    """A new topic."""
    return await Topic(kafka_broker).make()


async def test_members_that_come_and_go_write_each_notification_once(
    dataset: Dataset, topic: Topic, tmp_path: Path
) -> None:
    first, second = Worker(dataset, tmp_path), Worker(dataset, tmp_path)
    numbers, sent = itertools.count(), set[str]()

    async def send(count: int) -> None:
        messages = [message(f"pay-{next(numbers)}-1") for _ in range(count)]
        sent.update(each.id for each in messages)
        await topic.send(messages)

    async def divided() -> bool:
        await send(PARTITIONS)
        return bool(second.said.ids)

    def all_told() -> bool:
        return {*first.said.ids, *second.said.ids} == sent

    async with topic.member(first.listener.handle):
        await send(80)
        await eventually(all_told)
        async with topic.member(second.listener.handle):
            await eventually(divided, every_s=0.1)
            await send(80)
            await eventually(all_told)
            await topic.send([message(f"pay-{number}-1") for number in range(80)])
            await eventually(lambda: counted(dataset, channel="record", outcome="repeated") >= 80)
        await send(80)
        await eventually(all_told)
    assert counted(dataset, channel="record", outcome="written") == len(sent)
    assert len(await dataset.client.keys("*:notification:*")) == len(sent)


async def test_a_worker_that_is_behind_says_so_between_two_batches(
    dataset: Dataset, topic: Topic, tmp_path: Path
) -> None:
    """While it commits and polls it has nothing in hand, and has not caught up."""
    worker = Worker(dataset, tmp_path)
    await topic.send([message(f"pay-{number}-1") for number in range(200)])
    async with topic.member(worker.listener.handle):
        lags = await worker.lags(lambda: len(worker.said.ids) == 200)
    assert min(lags) > 300


async def test_a_poisoned_event_lies_in_the_dead_topic_and_those_behind_it_are_told(
    dataset: Dataset, topic: Topic, tmp_path: Path
) -> None:
    publisher = KafkaPublisher(topic.settings)
    worker = Worker(dataset, tmp_path, publisher=publisher)
    poison = message("e-1", b"card 4242424242424242")
    async with topic.member(worker.listener.handle):
        await topic.send([poison] * PARTITIONS)
        await topic.send([message(f"pay-{number}-1") for number in range(12)])
        await eventually(lambda: len(worker.said.ids) == 12)
        await eventually(lambda: dataset.metric("notifications_parked_total", reason="not_json") == PARTITIONS)
    await publisher.close()
    letters = await read_topic(topic.bootstrap, f"{topic.name}.dead")
    assert len(letters) == PARTITIONS
    assert {letter.value for letter in letters} == {b"card 0000000000004242"}
    assert {dict(letter.headers)["reason"] for letter in letters} == {"not_json"}
    assert len({dict(letter.headers)["source"] for letter in letters}) == PARTITIONS


async def test_a_worker_killed_with_9_leaves_nothing_out_and_keeps_each_once(
    redis_server: RedisServer, topic: Topic, tmp_path: Path
) -> None:
    """It dies in the middle of the stream; its lines may repeat one batch, its records none."""
    assert app("init", PAYMENTS__REDIS__URL=redis_server.url).returncode == 0
    worker = NotifyProcess(redis_server, tmp_path, **topic.environment)
    messages = [message(f"pay-{number}-1", body_of("payment_completed")) for number in range(600)]
    ids = {each.id for each in messages}
    async with worker:
        await worker.start()
        sending = asyncio.create_task(topic.send(messages[:400]))
        await eventually(lambda: worker.ids)
        worker.kill()
        await sending
        await worker.start()
        await topic.send(messages[400:])
        await eventually(lambda: set(worker.ids) == ids)
        before = len(worker.ids)
        await topic.send(messages[:200])

        async def repeated() -> bool:
            return await worker.metric("notifications_total", channel="record", outcome="repeated") >= 200

        await eventually(repeated)
        assert len(worker.ids) == before, "what is sent again is not told again"
        assert await worker.stop() == 0
    assert before - len(ids) <= 20, "at most the batch that was in hand"
    with contextlib.closing(redis_server.client()) as client:
        keys = client.keys("*:notification:*")
        assert len(keys) == 600
        assert {json.loads(str(client.hget(key, "n")))["title"] for key in keys} == {"Payment completed"}
