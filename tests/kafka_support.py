"""Brokers for tests: librdkafka's mock cluster in this process, and a real Apache Kafka beside it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib.util
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

BROKER_SCRIPT = Path(__file__).parents[1] / "scripts" / "kafka" / "broker.py"

# Kafka's numbers for the requests and errors that tests speak of.
PRODUCE, METADATA, INIT_PRODUCER_ID = 0, 3, 22
UNKNOWN_TOPIC, NOT_LEADER, REQUEST_TIMED_OUT, MESSAGE_TOO_LARGE = 3, 6, 7, 10
TOPIC_AUTHORIZATION_FAILED, OUT_OF_ORDER_SEQUENCE, INVALID_EPOCH, UNKNOWN_PRODUCER_ID = 29, 45, 47, 59


class Record(NamedTuple):
    """A record as a consumer reads it."""

    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...]

    @property
    def event_id(self) -> str:
        """The id that consumers dedupe by."""
        return dict(self.headers)["ce_id"]


async def read_topic(bootstrap: str, topic: str) -> list[Record]:
    """Everything that is in the topic now, each partition in its order."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in await _partitions(consumer, topic)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[Record] = []
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                for read in await consumer.getmany(partition, timeout_ms=200):
                    pass
                for each in (await consumer.getmany(partition, timeout_ms=200)).get(partition, []):
                    records.append(_record(each))
        return records
    finally:
        await consumer.stop()


def _record(read: Any) -> Record:
    return Record(read.key.decode(), read.value, tuple((name, text.decode()) for name, text in read.headers))


class MockBrokers:
    """A cluster that speaks Kafka's protocol, with faults on order. It keeps no promises about idempotence."""
