"""`audit --topic`: the topic, or the event file, against the histories of the payments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from engine.ids import PaymentId
from engine.store.keys import Keys
from tests.changes.shop import Ran, Shop, running_shop
from tests.kafka_support import RealBroker, new_topic


async def audited(shop: Shop, *more: str) -> tuple[Ran, dict[str, Any]]:
    """The command and its report."""
    ran = await shop.run("audit", "--topic", *more)
    assert ran.code in (0, 1), ran
    return ran, json.loads(ran.out)


async def bought(shop: Shop) -> list[str]:
    """Three payments with five events together, all told."""
    ids = [(await shop.paid())["id"] for _ in range(2)]
    held = await shop.authorized()
    await shop.ask("capture", held["id"], Prefer="wait=20")
    await shop.refunded(held["id"], {"amount": 5})
    await shop.world.at_rest()
    return [*ids, held["id"]]


def problems(report: dict[str, Any]) -> dict[str, str]:
    """What was found, by event."""
    return {finding["key"]: finding["problem"] for finding in report["findings"]}


async def test_the_event_file_is_held_against_the_histories() -> None:
    """Sound, told twice, and then everything that can be wrong with it, one by one."""
    async with running_shop() as shop:
        first, second, third = await bought(shop)
        ran, report = await audited(shop)
        assert (ran.code, report["ok"]) == (0, True)
        counts = {
            "waiting": 0, "parked": 0, "missing": 0, "events": 5, "records": 5, "distinct": 5, "duplicates": 0,
            "from_its_beginning": True,
        }  # fmt: skip
        assert report["topic"] == counts

        await shop.run("events", "replay", "--from", "2000-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z")
        ran, report = await audited(shop)
        assert (ran.code, report["topic"]) == (0, {**counts, "records": 10, "duplicates": 5})

        # As text: numbers that were read and written again are other bytes.
        sound = {
            json.loads(line)["headers"]["ce_id"]: line for line in shop.engine.events_file.read_text().splitlines()
        }

        async def with_lines(lines: Iterable[str]) -> dict[str, Any]:
            shop.engine.events_file.write_text("".join(f"{line}\n" for line in lines))
            ran, report = await audited(shop)
            assert (ran.code, report["ok"]) == (1, False), report
            return report

        gone = await with_lines(line for event_id, line in sound.items() if event_id != f"{third}-2")
        assert problems(gone) == {f"{third}-2": "is in the payment's history, but not in the topic"}
        assert gone["topic"]["missing"] == 1

        ghosts = [sound[f"{first}-1"].replace(f'"{first}-1"', f'"{name}"') for name in (f"{first}-2", "pay-1-1")]
        nobodys = "is in the topic, but in no payment's history"
        report = await with_lines([*sound.values(), *ghosts])
        assert problems(report) == {f"{first}-2": nobodys, "pay-1-1": nobodys}

        forged = dict(sound)
        for event_id, old, new in (
            (f"{first}-1", "75.48", "75.49"), (f"{third}-2", '"ce_prevhash":"', '"ce_prevhash":"0'),
            (f"{third}-3", '"ce_sequence":"3"', '"ce_sequence":"4"'), (f"{second}-1", f'"key":"{second}"', '"key":"x"'),
        ):  # fmt: skip
            assert old in forged[event_id]
            forged[event_id] = forged[event_id].replace(old, new)
        unlike = "differs in the topic from the history: "
        assert problems(await with_lines(forged.values())) == {
            f"{first}-1": unlike + "body", f"{third}-2": unlike + "ce_prevhash",
            f"{third}-3": unlike + "ce_sequence", f"{second}-1": unlike + "key",
        }  # fmt: skip

        shop.engine.events_file.write_bytes(b"")
        future = await audited(shop, "--since", "2100-01-01T00:00:00Z")
        assert (future[0].code, future[1]["topic"]["events"]) == (0, 0), "what is older need not be there any more"
        shop.engine.events_file.write_bytes(b"nonsense\n")
        broken = await shop.run("audit", "--topic")
        assert (broken.code, broken.out) == (2, "") and "Traceback" not in broken.err
        alone = await shop.run("audit", "--since", "2100-01-01T00:00:00Z")
        assert alone.code == 2 and "--topic" in alone.err


async def test_what_waits_or_is_parked_is_counted_apart() -> None:
    """It is in the history and not in the topic, and nothing is wrong with that."""
    async with running_shop() as shop:
        first, second, _ = await bought(shop)
        kept = shop.engine.events_file.read_bytes().splitlines(keepends=True)
        await shop.engine.stop()
        shop.engine.events_file.write_bytes(
            b"".join(line for line in kept if json.loads(line)["key"] not in (first, second))
        )
        client = shop.world.redis.client()
        for payment, stream in ((first, "outbox"), (second, "parked")):
            shard = Keys(16).of(PaymentId(payment))
            (body,) = client.lrange(shard.events(payment), 0, -1)
            fields: Any = {
                "p": payment,
                "f": "core",
                "y": "payment_completed",
                "s": 1,
                "t": 1,
                "h": "",
                "tp": "",
                "b": body,
            }
            client.xadd(getattr(shard, stream), fields)
        client.close()
        ran, report = await audited(shop)
        assert (ran.code, report["findings"]) == (0, [])
        counts = report["topic"]
        assert (counts["waiting"], counts["parked"], counts["missing"], counts["distinct"]) == (1, 1, 0, 3)


async def test_a_kafka_topic_is_read_from_all_its_partitions(kafka_broker: RealBroker) -> None:
    """Sound; then a foreign record; then a topic that is not there, which is not made by asking for it."""
    topic = new_topic()
    settings = {
        "PAYMENTS__KAFKA__BROKERS": kafka_broker.bootstrap,
        "PAYMENTS__KAFKA__PUBLISH_TIMEOUT_S": "2",
        "PAYMENTS__EVENTS__TOPIC": topic,
    }
    async with running_shop(settings) as shop:
        await bought(shop)
        ran, report = await audited(shop)
        assert (ran.code, report["findings"]) == (0, [])
        counts = report["topic"]
        assert (counts["records"], counts["distinct"], counts["from_its_beginning"]) == (5, 5, True)

        producer = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
        await producer.start()
        await producer.send_and_wait(topic, None, b"\xff", headers=[("ce_id", b"\xfe")])
        await producer.stop()
        ran, report = await audited(shop)
        assert (ran.code, len(report["findings"])) == (1, 1)
        assert report["findings"][0]["problem"] == "is in the topic, but in no payment's history"

        shop.engine.environment["PAYMENTS__EVENTS__TOPIC"] = absent = new_topic()
        for _ in range(2):
            nowhere = await shop.run("audit", "--topic")
            assert (nowhere.code, nowhere.out) == (2, "") and f"{absent}: there is none" in nowhere.err
        shop.engine.environment["PAYMENTS__EVENTS__TOPIC"] = topic


@pytest.mark.parametrize("where", ["kafka", "file"])
async def test_an_audit_while_payments_are_made_accuses_nobody(kafka_broker: RealBroker, where: str) -> None:
    """Events are told between the reading of the histories and the end of the topic."""
    settings = {"PAYMENTS__EVENTS__TOPIC": new_topic()}
    if where == "kafka":
        settings["PAYMENTS__KAFKA__BROKERS"] = kafka_broker.bootstrap
    async with running_shop(settings) as shop:
        stop = asyncio.Event()

        async def buy() -> None:
            while not stop.is_set():
                await shop.paid()

        buying = [asyncio.create_task(buy()) for _ in range(4)]
        try:
            for _ in range(3):
                ran, report = await audited(shop)
                assert (ran.code, report["findings"]) == (0, [])
            assert report["topic"]["distinct"] > 10
        finally:
            stop.set()
            await asyncio.gather(*buying)
