"""The worker as operators run it: beside an engine, on the event file, stopped, killed, replayed to."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.notifying import settings_of
from app.settings import ConfigError, load
from tests.faults.world import eventually
from tests.notify.making import body_of, event, publish
from tests.notify.post_office import post_office
from tests.notify.process import NotifyProcess
from tests.support import ROOT, USER, EngineProcess, RedisServer, Sims, payment_body

TOPIC = "payment-service-events"


def app(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m app` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


async def test_a_payment_is_told_by_log_and_mail_and_a_replay_tells_nothing_again(
    engine: EngineProcess, redis_server: RedisServer, sims: Sims, tmp_path: Path
) -> None:
    """From the request to the mailbox: engine, event file and worker in their own processes."""
    async with post_office() as office, NotifyProcess(
        redis_server, tmp_path,
        PAYMENTS__NOTIFY__CHANNELS='["log", "mail"]',
        PAYMENTS__NOTIFY__SMTP__HOST="localhost",
        PAYMENTS__NOTIFY__SMTP__PORT=str(office.port),
        PAYMENTS__NOTIFY__SMTP__TLS="none",
        PAYMENTS__NOTIFY__SMTP__SENDER="shop@example.com",
        PAYMENTS__USERS__URL=f"{sims.users}/api/users/{{id}}",
    ) as worker:  # fmt: skip
        await worker.start()
        for order_id, card in (("order-1", {}), ("order-2", {"cardNumber": "4000000000009995"})):
            await sims.order(order_id)
            answer = await engine.post(payment_body(order_id, **card), wait_s=20)
            assert answer.status == 201
        await eventually(lambda: len(worker.ids) >= 2 and len(office.mails) >= 2)
        code = await asyncio.to_thread(
            app, "events", "replay", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z",
            **engine.environment,
        )  # fmt: skip
        assert json.loads(code.stdout) == {"published": 2}
        await worker.counts("notifications_total", 2, channel="record", outcome="repeated")
        await worker.counts("notifications_total", 2, channel="mail", outcome="sent")
        assert await worker.stop() == 0
    done, failed = sorted(worker.lines(), key=lambda line: line["type"])
    assert (done["type"], done["text"]) == ("payment_completed", "We received 75.48 USD for order order-1.")
    assert (failed["type"], failed["user_id"]) == ("payment_failed", USER), "its body names no user: the payment does"
    assert len(done["trace_id"]) == 32
    assert {mail["Subject"] for mail in office.mails} == {"Payment completed", "Payment failed"}
    assert {mail["To"] for mail in office.mails} == {f"{USER}@example.com"}


@pytest.fixture
def marked(redis_server: RedisServer) -> RedisServer:
    """The shared Redis with an empty dataset."""
    assert app("init", PAYMENTS__REDIS__URL=redis_server.url).returncode == 0
    return redis_server


async def test_a_worker_goes_on_where_it_was_stopped_and_tells_what_came_meanwhile(
    marked: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    await publish(path, *(event(f"pay-{number}-1", topic=TOPIC) for number in range(3)))
    async with NotifyProcess(marked, tmp_path) as worker:
        await worker.start()
        await eventually(lambda: len(worker.ids) == 3)
        assert await worker.stop() == 0
        await publish(path, event("pay-3-1", topic=TOPIC), event("pay-3-2", body_of("something_new"), topic=TOPIC))
        await publish(path, event("pay-4-1", {"event_type": "payment_completed"}, topic=TOPIC))
        user = {"event_type": "user_created", "user_id": "u", "data": {}}
        await publish(path, event("user-1", user, topic="user-events"))
        await worker.start()
        await eventually(lambda: len(worker.ids) == 5)
        await worker.counts("notifications_total", 1, outcome="ignored")
        await worker.counts("notifications_parked_total", 1, reason="malformed")
        await eventually(worker.is_behind)
        assert await worker.stop() == 0
    assert worker.ids == ["pay-0-1", "pay-1-1", "pay-2-1", "pay-3-1", "user-1"]
    [letter] = [json.loads(line) for line in (tmp_path / "events.dead.jsonl").read_text().splitlines()]
    assert (letter["topic"], letter["headers"]["reason"]) == (f"{TOPIC}.dead", "malformed")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"NOTIFY__CHANNELS": '["mail"]', "NOTIFY__SMTP__HOST": "mail.example.com"}, "notify.smtp.sender"),
        ({"NOTIFY__CHANNELS": '["pigeon"]'}, "notify.channels"),
        ({"NOTIFY__KEEP_DAYS": "6"}, "notify.keep_days"),
        ({"NOTIFY__SMTP__SENDER": "a@b\r\nBcc: c@d"}, "notify.smtp.sender"),
        ({"NOTIFY__SMTP__SENDER": "zoë@example.com"}, "notify.smtp.sender"),
        ({"NOTIFY__SMTP__USER": "shop"}, "notify.smtp.password"),
        (
            {"NOTIFY__SMTP__USER": "shop", "NOTIFY__SMTP__PASSWORD": "hunter2", "NOTIFY__SMTP__TLS": "none"},
            "notify.smtp.user",
        ),
        ({"NOTIFY__MAIL_RETRY_S": "[]"}, "notify.mail_retry_s"),
        ({"EVENTS__FILE": "events.jsonl"}, "redis.url"),
        ({"REDIS__URL": "redis://127.0.0.1:1/0"}, "events.file"),
        (
            {
                "REDIS__URL": "redis://127.0.0.1:1/0", "EVENTS__FILE": "events.jsonl", "NOTIFY__CHANNELS": '["mail"]',
                "NOTIFY__SMTP__HOST": "mail.example.com", "NOTIFY__SMTP__SENDER": "shop@example.com",
            },
            "users.url",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_or_missing_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings_of(load(None, {f"PAYMENTS__{name}": value for name, value in environment.items()}))


def test_the_mail_servers_password_is_not_shown() -> None:
    secret = {"PAYMENTS__NOTIFY__SMTP__USER": "shop", "PAYMENTS__NOTIFY__SMTP__PASSWORD": "hunter2-hunter2"}
    ran = app("check-config", **secret)
    assert "hunter2" not in ran.stdout + ran.stderr
    assert json.loads(ran.stdout)["notify"]["smtp"]["password"] == "set"
