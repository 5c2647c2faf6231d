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
import stat
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer

from engine.events import OutgoingEvent

BROKER_SCRIPT = Path(__file__).parents[1] / "scripts" / "kafka" / "broker.py"

# Kafka's numbers for the requests and errors that tests speak of.
PRODUCE, METADATA, INIT_PRODUCER_ID = 0, 3, 22
UNKNOWN_TOPIC, NOT_LEADER, MESSAGE_TOO_LARGE, TOPIC_AUTHORIZATION_FAILED = 3, 6, 10, 29
OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH, UNKNOWN_PRODUCER_ID, INVALID_RECORD = 45, 47, 59, 87


class Record(NamedTuple):
    """A record as a consumer reads it."""

    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...]

    @property
    def event_id(self) -> str:
        """The id that consumers dedupe by."""
        return dict(self.headers)["ce_id"]


def make_event(topic: str, key: str, number: int, *, value: bytes | None = None) -> OutgoingEvent:
    """The event with this number in this payment's sequence."""
    headers = (("ce_id", f"{key}-{number}"), ("ce_type", "payment_completed"), ("ce_sequence", str(number)))
    return OutgoingEvent(topic, key, value or b'{"payment_id":"%s","n":%d}' % (key.encode(), number), headers)


def new_topic() -> str:
    """A topic that no other test uses."""
    return f"topic-{uuid.uuid4().hex[:12]}"


async def read_topic(bootstrap: str, topic: str) -> list[Record]:
    """Everything that is in the topic now; each partition, and so each key, in its order."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    records: list[Record] = []
    async with asyncio.timeout(60):
        await consumer.start()
        try:
            ends = await consumer.end_offsets(list(consumer.assignment()))
            while any([await consumer.position(each) < end for each, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=100)).values():
                    records += [_record(each) for each in batch]
        finally:
            await consumer.stop()
    return records


def _record(read: Any) -> Record:
    return Record(read.key.decode(), read.value, tuple((name, text.decode()) for name, text in read.headers))


@contextlib.asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Fails when the block leaves tasks, file descriptors or unclosed connections."""
    tasks, descriptors = asyncio.all_tasks(), _descriptors()
    yield
    if (current := asyncio.current_task()) is not None:  # a fixture is torn down by another task than it was set up
        tasks.add(current)
    for _ in range(1000):  # the other side closes its sockets a little later
        if asyncio.all_tasks() <= tasks and _descriptors() <= descriptors:
            break
        await asyncio.sleep(0.02)
    assert asyncio.all_tasks() - tasks == set()
    assert _descriptors() <= descriptors
    gc.collect()  # whatever complains when it is collected complains in this test


def _descriptors() -> int:
    """How many sockets, pipes and files are open. Devices do not count: uvloop keeps /dev/null as a reserve."""
    count = 0
    for number in os.listdir("/dev/fd"):  # noqa: PTH208 (iterdir would keep one more open)
        with contextlib.suppress(OSError):
            count += not stat.S_ISCHR(os.fstat(int(number)).st_mode)
    return count


class MockBrokers:
    """librdkafka's mock cluster: real wire protocol, faults on order, but no promises about idempotence."""

    def __init__(self, brokers: int = 3) -> None:
        self._library = _librdkafka()
        self._ids = range(1, brokers + 1)
        said = ctypes.create_string_buffer(256)
        settings = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(settings, b"log_level", b"0", said, len(said))
        self._client = self._library.rd_kafka_new(0, settings, said, len(said))
        assert self._client, said.value
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def create_topic(self, name: str, partitions: int) -> None:
        """Topics that are not created have four partitions."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)

    def refuse_topic(self, name: str, error: int) -> None:
        """From now on the topic answers with this error; 0 heals it."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), error)

    def push_errors(self, request: int, *errors: int) -> None:
        """The next requests of this kind, on whichever broker, are answered with these errors."""
        codes = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, request, len(errors), codes)

    def delay_next(self, request: int, seconds: float) -> None:
        """The next request of this kind on each broker takes effect at once and is answered late."""
        for each in self._ids:
            late = (ctypes.c_int(0), ctypes.c_int(int(seconds * 1000)))
            self._library.rd_kafka_mock_broker_push_request_error_rtts(
                self._cluster, each, ctypes.c_int16(request), ctypes.c_size_t(1), *late
            )

    def set_round_trip(self, seconds: float) -> None:
        """Every answer takes this long from now on."""
        for each in self._ids:
            self._library.rd_kafka_mock_broker_set_rtt(self._cluster, each, int(seconds * 1000))

    def quiet(self) -> bool:
        """Whether nothing lies in their sockets, neither a request to be read nor an answer on its way."""
        ours = {int(each.rpartition(":")[2]) for each in self.bootstrap.split(",")}
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return all(line[4] == "00000000:00000000" for line in lines if int(line[1].rpartition(":")[2], 16) in ours)

    def down(self) -> None:
        """All brokers drop their connections and take no new ones."""
        for each in self._ids:
            self._library.rd_kafka_mock_broker_set_down(self._cluster, each)

    def up(self) -> None:
        """All brokers take connections again."""
        for each in self._ids:
            self._library.rd_kafka_mock_broker_set_up(self._cluster, each)

    def close(self) -> None:
        """Ends the cluster and its threads."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def _librdkafka() -> ctypes.CDLL:
    """The library that the confluent-kafka wheel brings along."""
    package = importlib.util.find_spec("confluent_kafka")
    assert package is not None and package.origin is not None, "confluent-kafka is not installed"
    home = Path(package.origin).parent
    found = [*home.parent.glob("confluent_kafka.libs/librdkafka*"), *home.glob(".dylibs/librdkafka*")]
    library = ctypes.CDLL(str(found[0]))
    pointers = ["rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"]
    for name in pointers:
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    arguments: dict[str, list[Any]] = {
        "rd_kafka_conf_set": [pointer, text, text, text, ctypes.c_size_t],
        "rd_kafka_new": [number, pointer, text, ctypes.c_size_t],
        "rd_kafka_destroy": [pointer],
        "rd_kafka_mock_cluster_new": [pointer, number],
        "rd_kafka_mock_cluster_destroy": [pointer],
        "rd_kafka_mock_cluster_bootstraps": [pointer],
        "rd_kafka_mock_topic_create": [pointer, text, number, number],
        "rd_kafka_mock_topic_set_error": [pointer, text, number],
        "rd_kafka_mock_push_request_errors_array": [pointer, ctypes.c_int16, ctypes.c_size_t, pointer],
        # The C function takes pairs of error and milliseconds after the count; one pair is enough here.
        "rd_kafka_mock_broker_push_request_error_rtts": [
            pointer, ctypes.c_int32, ctypes.c_int16, ctypes.c_size_t, number, number,
        ],
        "rd_kafka_mock_broker_set_rtt": [pointer, ctypes.c_int32, number],
        "rd_kafka_mock_broker_set_down": [pointer, ctypes.c_int32],
        "rd_kafka_mock_broker_set_up": [pointer, ctypes.c_int32],
    }  # fmt: skip
    for name, types in arguments.items():
        getattr(library, name).argtypes = types
    return library


class RealBroker:
    """One real Kafka node in its own process; the data outlives `kill` and `restart`."""

    def __init__(self, directory: Path) -> None:
        self.port = _quiet_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._directory = directory
        self._script: subprocess.Popen[str] | None = None
        self._java_pid = 0

    def start(self) -> str | None:
        """Waits until the broker answers. Returns what the machine lacks, if that is why it cannot run."""
        where = ["--dir", str(self._directory), "--port", str(self.port), "--with-parent"]
        self._script = subprocess.Popen(
            [sys.executable, str(BROKER_SCRIPT), "start", *where],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops the broker in order
        )
        assert self._script.stdout is not None
        ready = re.match(r"READY \S+ pid=(\d+)", self._script.stdout.readline())
        if ready is None:
            said = self._script.communicate()[1].strip()
            lacking = self._script.returncode == 2
            self._script = None
            if lacking:
                return said
            raise RuntimeError(said)
        self._java_pid = int(ready.group(1))
        return None

    def kill(self) -> None:
        """kill -9: the broker has no chance to say good-bye."""
        self._end(self._java_pid, signal.SIGKILL)

    def pause(self) -> None:
        """The broker stands still; its connections stay open and the kernel still takes bytes for it."""
        os.kill(self._java_pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Goes on after `pause`."""
        os.kill(self._java_pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stops the broker in order."""
        if self._script is not None:
            self._end(self._script.pid, signal.SIGTERM)

    def restart(self) -> None:
        """Starts again on the same port with the same data; stops first if it runs."""
        self.stop()
        assert self.start() is None

    def _end(self, pid: int, how: signal.Signals) -> None:
        assert self._script is not None, "the broker does not run"
        os.kill(pid, how)
        self._script.communicate(timeout=30)
        self._script = None


def _quiet_port() -> int:
    """A free port below the ephemeral ones: there, a client that knocks on a closed port can meet itself."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def real_broker_or_reason(directory: Path) -> RealBroker | str:
    """A running broker, or what this machine lacks to run one."""
    broker = RealBroker(directory)
    return broker.start() or broker


@pytest.fixture
def mock_brokers() -> Iterator[MockBrokers]:
    """A fresh mock cluster for one test."""
    brokers = MockBrokers()
    yield brokers
    brokers.close()


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """One real Kafka for the whole run; whoever kills it restarts it.

    Where Java or Maven is missing its tests are skipped, unless REQUIRE_KAFKA=1 says that this must not happen.
    """
    broker = real_broker_or_reason(tmp_path_factory.mktemp("kafka"))
    if isinstance(broker, str):
        if os.environ.get("REQUIRE_KAFKA") == "1":
            pytest.fail(f"REQUIRE_KAFKA=1, but no real Kafka: {broker}")
        pytest.skip(f"no real Kafka here: {broker}")
    yield broker
    broker.stop()
