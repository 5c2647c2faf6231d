"""The round of the notification worker: events that wait in the event file, or in Kafka, are told by log lines."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import redis
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench import processes
from bench.loading import Wrong
from bench.measuring import Others, used
from bench.processes import Server, info
from bench.rounds import Bench, Case, Measured

_EVENTS_A_SECOND: Final = 5_000
"""So many for each second of load that is asked for."""
_PARTITIONS: Final = 6
_TIME: Final = "2026-01-01T00:00:00.000Z"
_WITHIN_S: Final = 120.0
_TOLD: Final = re.compile(rb'^notifications_total\{channel="log",outcome="told",[^}]*\} ([0-9.e+]+)$', re.MULTILINE)


def notify_round(bench: Bench, case: Case) -> Measured:
    """Measure from the first notification to the last. Raises `Wrong` when one is missing, or was told twice."""
    count, mark = _EVENTS_A_SECOND * bench.seconds, uuid.uuid4().hex[:8]
    with processes.redis_server(bench.folder) as store:
        port, path = processes.free_port(), bench.folder / f"events-{mark}.jsonl"
        settings = _settings(bench, store, port, path, mark)
        if bench.kafka:
            asyncio.run(_send(bench.kafka, f"events-{mark}", count))
        else:
            path.write_text("".join(_lines(f"events-{mark}", count)))
        subprocess.run(
            [sys.executable, "-m", "app", "init"],
            env=processes.environment(settings), cwd=bench.folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with processes.server(("app", "notify"), port, "/health", bench.folder, settings) as worker:
            measured = _measure(case, store, worker, count)
        _check_lines(bench.folder / f"app-{port}.log", count)
    return measured


def _settings(bench: Bench, store: redis.Redis, port: int, path: Path, mark: str) -> dict[str, str]:
    topics = {
        f"PAYMENTS__{name}__TOPIC": f"events-{mark}" for name in ("EVENTS", "ORDERS_API", "GATEWAY", "MPESA", "VAULT")
    }
    where = {"KAFKA_BROKER": bench.kafka} if bench.kafka else {"PAYMENTS__EVENTS__FILE": str(path)}
    return {
        "PAYMENTS__REDIS__URL": processes.redis_url(store),
        "PAYMENTS__NOTIFY__PORT": str(port),
        "PAYMENTS__NOTIFY__TOPICS": "[]",
        "PAYMENTS__NOTIFY__GROUP": mark,
        **topics,
        **where,
    }


def _events(count: int) -> Iterator[tuple[str, dict[str, str], dict[str, object]]]:
    for number in range(count):
        name = f"pay-{number:026d}00"
        trace = f"00-{number + 1:032x}-{number + 1:016x}-01"
        headers = {
            "ce_specversion": "1.0", "ce_id": f"{name}-1", "ce_type": "payment_completed",
            "ce_source": "/payments/core", "ce_time": _TIME, "ce_subject": name, "ce_sequence": "1",
            "ce_prevhash": "", "content-type": "application/json", "traceparent": trace,
        }  # fmt: skip
        data = {"amount": 75.48, "currency": "USD", "transaction_id": f"txn-{number}", "completed_at": _TIME}
        body: dict[str, object] = {
            "event_type": "payment_completed", "payment_id": name, "order_id": f"order-{number}",
            "user_id": f"user-{number % 1000}", "data": data,
        }  # fmt: skip
        yield name, headers, body


def _lines(topic: str, count: int) -> Iterator[str]:
    for key, headers, body in _events(count):
        yield json.dumps({"topic": topic, "key": key, "headers": headers, "value": body}) + "\n"


async def _send(kafka: str, topic: str, count: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, _PARTITIONS, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=20) as producer:
        for key, headers, body in _events(count):
            kept = [(name, text.encode()) for name, text in headers.items()]
            await producer.send(topic, json.dumps(body).encode(), key.encode(), headers=kept)
        await producer.flush()


def _measure(case: Case, store: redis.Redis, worker: Server, count: int) -> Measured:
    redis_pid = info(store, "server")["process_id"]
    # The dataset's marker is a key, too.
    while (there := store.dbsize() - 1) < 1:
        time.sleep(0.002)
    began_at = time.monotonic()
    before, redis_before, others = used(worker.pid), used(redis_pid), Others(worker.pid, redis_pid)
    while (told := _told(worker)) < count:
        if time.monotonic() > began_at + _WITHIN_S:
            raise Wrong(f"{told} of {count} events were told; {worker.last_words()}")
        time.sleep(0.02)
    ended_at, after = time.monotonic(), used(worker.pid)
    if (events := count - there) < count / 2:
        raise Wrong("it was over before it could be measured")
    return Measured(
        case=case.name,
        payments=events,
        per_second=events / (ended_at - began_at),
        p50_ms=0.0,
        p99_ms=0.0,
        cpu_us=(after.cpu_s - before.cpu_s) * 1e6 / events,
        redis_us=(used(redis_pid).cpu_s - redis_before.cpu_s) * 1e6 / events,
        upstreams_us=0.0,
        rss_mib=after.rss_mib,
        rss_peak_mib=after.rss_peak_mib,
        redis_bytes=info(store, "memory")["used_memory"] / count,
        drain_s=0.0,
        foreign=others.share(),
    )


def _told(worker: Server) -> int:
    return sum(int(float(found)) for found in _TOLD.findall(processes.fetch(f"{worker.base}/metrics")))


def _check_lines(log: Path, count: int) -> None:
    ids = re.findall(r'"notification_id":"([^"]+)"', log.read_text())
    if len(ids) != count or len(set(ids)) != count:
        raise Wrong(f"{len(ids)} lines tell of {len(set(ids))} of {count} events")
