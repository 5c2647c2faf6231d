"""`python -m bench.listening --kafka HOST:PORT`: how many messages a second the refund listeners of one engine take.

Cards, payments and messages are there before the engine starts; then it is measured from the first effect to the
last. Each message refunds one product of a payment: ledger, event and balance in one step, its offset committed after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

import redis
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from prometheus_client import CollectorRegistry

from app.settings import Settings
from bench import processes
from bench.loading import Wrong
from bench.measuring import Others, used
from bench.processes import info
from engine.accepting import Caller
from engine.cards import Pan
from engine.context import RequestContext
from engine.ids import PaymentIds, now_ms
from engine.money import Money
from engine.payment import Payment
from engine.purchase import Line
from engine.sealing import AesGcmSealer
from engine.store.batch import Batcher
from engine.store.connect import RedisSettings, connect
from engine.store.keys import Keys
from engine.store.payments import RedisPayments
from engine.store.vault import RedisVault
from engine.turns import Turns
from engine.vault_card import CardMarks
from engine.vault_cards import AddCard, VaultCards
from engine.vault_paying import PayCheckout, VaultPayments
from metrics.instruments import Instruments

_CARDS: Final = 500
_QUANTITY: Final = 5
_PARTITIONS: Final = 6
_CALLER: Final = Caller("bench", privileged=True)
_KEY: Final = "YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtMzI="
_ACCOUNT: Final = "merchant:vault|USD"
_WITHIN_S: Final = 120.0


def main() -> int:
    """Run it and print one JSON line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.listening", description=main.__doc__)
    parser.add_argument("--kafka", required=True, metavar="HOST:PORT", help="a broker")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--roles", default="worker", help="the engine's; with relay its events go to Kafka too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="payments-bench-") as name:
        folder = Path(name)
        with processes.redis_server(folder) as store:
            port, topic = processes.free_port(), f"refunds-{uuid.uuid4().hex[:8]}"
            settings = _settings(store, given.kafka, port, topic)
            with processes.engine(folder, port, ("--roles", "reconcile"), settings):
                ids = asyncio.run(_prepare(processes.redis_url(store), given.messages // _QUANTITY))
            asyncio.run(_send(given.kafka, topic, ids))
            print(json.dumps(_measure(folder, store, given, settings, port)))
    return 0


def _settings(store: redis.Redis, kafka: str, port: int, topic: str) -> dict[str, str]:
    return {
        "PAYMENTS__OPS__PORT": str(port),
        "PAYMENTS__REDIS__URL": processes.redis_url(store),
        "PAYMENTS__REDIS__OUTBOX_MAX": "10000000",
        "PAYMENTS__CARDS__KEYS": f"bench:{_KEY}",
        "PAYMENTS__CARDS__FINGERPRINT_SECRET": _KEY,
        "PAYMENTS__ACQUIRER__URL": "http://127.0.0.1:1",
        "PAYMENTS__VAULT__ENABLED": "true",
        "PAYMENTS__VAULT__PRODUCT_REFUNDED_TOPIC": topic,
        "PAYMENTS__VAULT__ORDER_REFUNDED_TOPIC": f"{topic}-all",
        "PAYMENTS__VAULT__GROUP": topic,
        "KAFKA_BROKER": kafka,
    }


class _Silent:
    """Is told, and says nothing."""

    def recorded(self, payment: Payment) -> None:
        """Nothing."""


async def _prepare(url: str, count: int) -> list[str]:
    """Payments of five of one product each; gives their ids."""
    client = connect(RedisSettings(url=url))
    batcher = Batcher(client, Instruments(CollectorRegistry()))
    batching = asyncio.create_task(batcher.run())
    keys = Keys(Settings().redis.shards)
    vault, ids, turns = RedisVault(batcher, keys, outbox_max=10_000_000), PaymentIds(), Turns()
    payments = RedisPayments(batcher, keys, jobs_max=1, outbox_max=1, cvv_ttl_s=1)
    cards = VaultCards(
        vault, payments, AesGcmSealer({"bench": b"0" * 32}), CardMarks(b"0" * 32), ids, turns, now_ms, lambda: None
    )
    paying = VaultPayments(vault, ids, turns, _Silent(), now_ms, lambda: None)
    try:
        stored = [
            await cards.add(AddCard("bench", "Jo Doe", _pan(n), 12, 2099, Money(10**9, "USD")), _CALLER)
            for n in range(_CARDS)
        ]
        made = []
        for number in range(count):
            card = stored[number % _CARDS]
            wanted = PayCheckout(
                f"c-{number}", "bench", "b-1", card.id, "s-1", (Line("p", _QUANTITY, 100),), "1 High Street", False,
                Money(_QUANTITY * 100, "USD"), RequestContext("r", ""),
            )  # fmt: skip
            made.append((await paying.pay(wanted, _CALLER)).payment.id)
        return list(made)
    finally:
        batching.cancel()
        await asyncio.wait([batching])
        await client.aclose()


def _pan(number: int) -> Pan:
    digits = f"4{number:014d}"
    doubled = [int(d) * 2 - 9 * (int(d) > 4) if at % 2 == 0 else int(d) for at, d in enumerate(reversed(digits))]
    return Pan(f"{digits}{-sum(doubled) % 10}")


async def _send(kafka: str, topic: str, ids: list[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(each, _PARTITIONS, 1) for each in (topic, f"{topic}-all")])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=20) as producer:
        for _ in range(_QUANTITY):
            for payment_id in ids:
                body = json.dumps({"productId": "p", "price": 1, "quantity": 1, "paymentId": payment_id}).encode()
                await producer.send(topic, body, payment_id.encode())
        await producer.flush()


def _measure(
    folder: Path, store: redis.Redis, given: argparse.Namespace, settings: dict[str, str], port: int
) -> dict[str, object]:
    redis_pid = info(store, "server")["process_id"]
    owed = _balance(store)
    with processes.engine(folder, port, ("--roles", given.roles), settings) as server:
        redis_before, others = used(redis_pid), Others(server.pid, redis_pid)
        began_at, before = time.monotonic(), used(server.pid)
        while _balance(store) > owed - 100 and time.monotonic() < began_at + _WITHIN_S:
            began_at, before = max(began_at, time.monotonic() - 0.005), used(server.pid)
            time.sleep(0.005)
        ends_at = began_at + _WITHIN_S
        while _balance(store) > 0:
            if time.monotonic() > ends_at:
                raise Wrong(f"{_balance(store)} of {owed} is not refunded; {server.last_words()}")
            time.sleep(0.01)
        took_s, after = time.monotonic() - began_at, used(server.pid)
        messages = owed // 100
        return {
            "messages": messages,
            "per_second": round(messages / took_s),
            "cpu_us": round((after.cpu_s - before.cpu_s) * 1e6 / messages),
            "redis_us": round((used(redis_pid).cpu_s - redis_before.cpu_s) * 1e6 / messages),
            "rss_mib": round(after.rss_mib),
            "foreign": round(others.share(), 2),
        }


def _balance(store: redis.Redis) -> int:
    """What the merchant is owed by now."""
    with store.pipeline(transaction=False) as pipeline:
        for shard in range(16):
            pipeline.hget(f"{{p{shard:02x}}}:balances", _ACCOUNT)
        return -sum(int(balance or 0) for balance in pipeline.execute())


if __name__ == "__main__":
    raise SystemExit(main())
