"""What a new user does first: start the demo, paste the banner, stop it with Ctrl-C, and start it again."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support import CARD_KEYS, FINGERPRINT_SECRET, ROOT, SECRET, USER, free_port

USERS, ORDERS, ACQUIRER, GATEWAY = 3002, 3001, 3009, 3008
ENGINE_TOPICS = ("payment-service-events", "payment-events")
ADA = "550e8400-e29b-41d4-a716-446655440002"
# Where there is no curl, what is pasted still has to work: the little of it that the banner uses.
CURL = f"""#!{sys.executable}
import argparse, urllib.request
given = argparse.ArgumentParser()
given.add_argument("url"); given.add_argument("-s", action="store_true")
given.add_argument("-H", action="append", default=[]); given.add_argument("-d")
given = given.parse_args()
headers = dict(line.split(": ", 1) for line in given.H)
request = urllib.request.Request(given.url, given.d and given.d.encode(), headers)
print(urllib.request.urlopen(request).read().decode())
"""


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of somebody who has configured nothing."""
    ours = re.compile(r"PAYMENTS__|PAYMENT_SERVICE_PORT|GATEWAY_URL|KAFKA_|JWT_SEC|PROMETHEUS_MULTIPROC_DIR")
    return {name: value for name, value in os.environ.items() if not ours.match(name)} | more


def app(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m app` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=clean_environment(**environment), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@contextlib.contextmanager
def fixed_ports() -> Iterator[None]:
    """The simulators of the demo have ports of their own, so only one test on a machine may run a demo at a time."""
    with (Path(tempfile.gettempdir()) / "payments-demo-ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wait_until_free()
        yield


def wait_until_free(within_s: float = 120) -> None:
    """Wait until nobody listens on the simulators' ports."""
    ends_at = time.monotonic() + within_s
    while taken := [port for port in (USERS, ORDERS, ACQUIRER, GATEWAY) if answers(port)]:
        assert time.monotonic() < ends_at, f"somebody listens on {taken}: another demo?"
        time.sleep(0.5)


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Demo:
    """`python -m app demo` as a user runs it, and a shell to paste into."""

    def __init__(self, data: Path, port: int) -> None:
        self.data, self.port = data, port
        self.base = f"http://127.0.0.1:{port}"
        self.orders_port = free_port()
        self.ops_port = free_port()
        self._shell = clean_environment()
        if shutil.which("curl") is None:
            self._shell["PATH"] = f"{_curl_folder(data.parent)}{os.pathsep}{os.environ['PATH']}"

    @contextlib.contextmanager
    def running(self) -> Iterator[list[str]]:
        """Start it, wait until it is ready, and stop it with Ctrl-C; gives the banner's three lines to paste."""
        environment = clean_environment(
            PAYMENTS__CORE__PORT=str(self.port),
            PAYMENTS__ORDERS_API__PORT=str(self.orders_port),
            PAYMENTS__GATEWAY__PORT=str(free_port()),
            PAYMENTS__OPS__PORT=str(self.ops_port),
        )
        with (self.data.parent / "demo.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app", "demo", "--data", str(self.data)],
                env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        try:
            assert process.stdout is not None
            lines = self._banner(process)
            yield lines
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, "Ctrl-C is a normal end"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _banner(self, process: subprocess.Popen[str]) -> list[str]:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        assert any(self.base in line for line in lines), (lines, process.poll())
        assert any(line.startswith("Orders surface") and f":{self.orders_port} " in line for line in lines), lines
        assert f"Console          http://127.0.0.1:{self.ops_port}/console\n" in lines
        pasted = [line for line in lines if line.startswith(("TOKEN=", "curl "))]
        assert len(pasted) == 3, lines
        ends_at = time.monotonic() + 60
        while not self._ready():
            assert process.poll() is None, "the demo ended"
            assert time.monotonic() < ends_at
            time.sleep(0.05)
        return pasted

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def paste(self, *lines: str) -> Any:
        """What a shell prints for these lines, as JSON."""
        script = "\n".join(lines)
        done = subprocess.run(
            ["/bin/sh", "-ec", script], env=self._shell, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def post(self, url: str, body: dict[str, Any], *more: str) -> Any:
        """POST JSON with curl, as the banner does."""
        return self.paste(f"curl -s {url} -H 'Content-Type: application/json' -d '{json.dumps(body)}' {' '.join(more)}")

    def page(self, url: str) -> str:
        """What a browser gets."""
        with urllib.request.urlopen(url, timeout=30) as response:
            body: bytes = response.read()
            return body.decode()

    def get(self, path: str, token: str) -> Any:
        """GET with curl."""
        return self.paste(f"curl -s {self.base}{path} -H 'Authorization: Bearer {token}'")

    def events(self, *topics: str) -> list[dict[str, Any]]:
        """The file of events; those of the engine unless other topics are asked for."""
        path = self.data / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [event for event in events if event["topic"] in (topics or ENGINE_TOPICS)]


def _curl_folder(parent: Path) -> Path:
    folder = parent / "bin"
    folder.mkdir()
    (folder / "curl").write_text(CURL)
    (folder / "curl").chmod(0o755)
    return folder


def eventually_published(demo: Demo, payment_id: str) -> list[dict[str, Any]]:
    """The payment's events in the file, which come a moment after the payment has ended."""
    ends_at = time.monotonic() + 60
    while True:
        values = [event["value"] for event in demo.events() if event["key"] == payment_id]
        if values or time.monotonic() > ends_at:
            return values
        time.sleep(0.05)


def test_a_new_user_pastes_the_banner_and_finds_everything_again_after_ctrl_c(tmp_path: Path) -> None:
    demo = Demo(tmp_path / "data", free_port())
    with fixed_ports():
        with demo.running() as (token_line, order_line, pay_line):
            token = token_line.strip().removeprefix("TOKEN=")
            order = demo.paste(order_line)
            assert (order["status"], order["totalAmount"]) == ("pending", 75.48)
            payment = demo.paste(token_line, pay_line)
            assert payment.get("status") == "completed", payment
            assert (payment["orderId"], payment["amount"]) == (order["id"], 75.48)
            assert "<title>Payment console</title>" in demo.page(f"http://127.0.0.1:{demo.ops_port}/console")
            [event] = eventually_published(demo, payment["id"])
            assert event["event_type"] == "payment_completed"
            assert event["data"]["transaction_id"] == payment["transactionId"]
            assert notified(demo, payment["id"])["text"] == f"We received 75.48 USD for order {order['id']}."
            ada = a_payment_of_her_own(demo)
            confirmed = eventually_order(demo, ada["orderId"], status="confirmed")
            assert confirmed["paymentId"] == ada["id"]
        wait_until_free()
        with demo.running() as (_, order_line, pay_line):
            assert demo.get(f"/api/payments/{payment['id']}", token) == payment
            assert demo.get(f"/api/payments/{ada['id']}", token) == ada
            demo.paste(order_line)
            another = demo.paste(f"TOKEN={token}", pay_line)
            assert another["status"] == "completed"
            assert another["id"] not in {payment["id"], ada["id"]}
            [second] = eventually_published(demo, another["id"])
            assert second["payment_id"] == another["id"]
            of_an_order(demo, token)
            a_cancelled_order_is_refunded(demo, ada)
            assert demo.get(f"/api/payments/{ada['id']}", token)["status"] == "refunded"
    *core, recorded, refunded = demo.events()
    assert [event["key"] for event in core] == [payment["id"], ada["id"], another["id"]]
    assert (refunded["key"], refunded["value"]["event_type"]) == (ada["id"], "payment_refunded")
    told = [event["value"]["event_type"] for event in demo.events("order-events") if event["key"] == ada["orderId"]]
    assert told == ["order_created", "order_confirmed", "order_cancelled"]
    assert [event["key"] for event in demo.events("user-events")] == [USER, ADA]
    assert (recorded["topic"], recorded["value"]["eventType"]) == ("payment-events", "payment.created")


def eventually_order(demo: Demo, order_id: str, **wanted: Any) -> Any:
    """An order, as soon as its fields are these."""
    ends_at = time.monotonic() + 60
    while True:
        order = demo.paste(f"curl -s http://127.0.0.1:{ORDERS}/api/orders/{order_id}")
        if all(order.get(name) == value for name, value in wanted.items()):
            return order
        assert time.monotonic() < ends_at, order
        time.sleep(0.05)


def a_cancelled_order_is_refunded(demo: Demo, payment: dict[str, Any]) -> None:
    """Cancelled after a restart, the order is known, and its money goes back."""
    order_id = payment["orderId"]
    cancelled = demo.post(f"http://127.0.0.1:{ORDERS}/api/orders/{order_id}/cancel", {})
    assert cancelled.keys() == {"id", "status", "cancelledAt"}
    assert (cancelled["id"], cancelled["status"]) == (order_id, "cancelled")
    ends_at = time.monotonic() + 60
    while not (found := [each for each in demo.events() if each["value"].get("event_type") == "payment_refunded"]):
        assert time.monotonic() < ends_at, "it was not refunded"
        time.sleep(0.05)
    assert found[0]["value"]["payment_id"] == payment["id"]


def notified(demo: Demo, payment_id: str) -> dict[str, Any]:
    """The line that tells the payment's user."""
    ends_at = time.monotonic() + 60
    while True:
        lines = [json.loads(line) for line in (demo.data.parent / "demo.log").read_text().splitlines()]
        found = [line for line in lines if line["message"] == "notification" and line["subject"] == payment_id]
        if found:
            [told] = found
            return dict(told)
        assert time.monotonic() < ends_at, "nobody was told"
        time.sleep(0.05)


def of_an_order(demo: Demo, token: str) -> None:
    """The first request of the orders contract, as its curl line has it."""
    url = f"http://127.0.0.1:{demo.orders_port}/api/payments"
    header = f"-H 'Authorization: Bearer {token}'"
    made = demo.post(url, {"userId": 1, "orderId": 1, "amount": 99.99}, header)
    assert made["message"] == "Payment created successfully"
    assert made["payment"]["paymentId"] == 1
    ends_at = time.monotonic() + 15
    while len(demo.events()) < 4:
        assert time.monotonic() < ends_at, "its event is not in the file"
        time.sleep(0.05)


def a_payment_of_her_own(demo: Demo) -> dict[str, Any]:
    """A user and an order created at the simulators, paid with a token of that user's own."""
    user = {
        "id": ADA, "email": "ada@example.com", "username": "ada", "password": "password123",
        "first_name": "Ada", "last_name": "L", "phone": "+1234567890",
    }  # fmt: skip
    assert demo.post(f"http://127.0.0.1:{USERS}/api/users", user)["is_active"] is True
    items = [{"productId": "prod-9", "quantity": 3, "price": 0.1}]
    order = demo.post(f"http://127.0.0.1:{ORDERS}/api/orders", {"userId": ADA, "items": items})
    token = app("token", ADA, "--data", str(demo.data)).stdout.strip()
    card = {"cardNumber": "5555555555554444", "expiryMonth": "1", "expiryYear": "2040", "cvv": "999"}
    body = {
        "orderId": order["id"], "userId": ADA, "amount": 0.3, "currency": "USD",
        "paymentMethod": {"type": "debit_card", **card},
    }  # fmt: skip
    headers = (f"-H 'Authorization: Bearer {token}'", "-H 'Prefer: wait=5'")
    payment: dict[str, Any] = demo.post(f"{demo.base}/api/payments", body, *headers)
    assert (payment["status"], payment["amount"]) == ("completed", 0.3), payment
    assert eventually_published(demo, payment["id"])
    return payment


def test_a_token_is_signed_with_the_contracts_secret() -> None:
    made = app("token", ADA, "--role", "service", "--hours", "2", JWT_SEC=SECRET)
    claims = jwt.decode(made.stdout.strip(), SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["role"]) == (ADA, "service")
    assert 7000 < claims["exp"] - time.time() < 7300


def test_a_token_cannot_be_made_without_a_secret(tmp_path: Path) -> None:
    refused = app("token", ADA, "--data", str(tmp_path))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "JWT_SEC" in refused.stderr


def test_the_version_is_printed() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", app("version").stdout)


CONFIGURED = {
    "PAYMENTS__REDIS__URL": "redis://:hidden-password@127.0.0.1:1/0",
    "PAYMENTS__CARDS__KEYS": CARD_KEYS,
    "PAYMENTS__CARDS__FINGERPRINT_SECRET": FINGERPRINT_SECRET,
    "PAYMENTS__USERS__URL": "http://127.0.0.1:1/api/users/{id}",
    "PAYMENTS__ORDERS__URL": "http://127.0.0.1:1/api/orders/{id}",
    "PAYMENTS__ACQUIRER__URL": "http://127.0.0.1:1",
    "PAYMENTS__EVENTS__FILE": "events.jsonl",
    "JWT_SEC": SECRET,
}


def test_check_config_shows_the_settings_and_no_secret() -> None:
    shown = app("check-config", **CONFIGURED, PAYMENT_SERVICE_PORT="4003")
    assert shown.returncode == 0, shown.stderr
    settings = json.loads(shown.stdout)
    assert settings["core"]["port"] == 4003
    for secret in (SECRET, CARD_KEYS, CARD_KEYS.partition(":")[2], FINGERPRINT_SECRET, "hidden-password"):
        assert secret not in shown.stdout + shown.stderr


@pytest.mark.parametrize(("command", "code"), [("serve", 2), ("check-config", 1)])
def test_without_any_configuration_every_key_that_is_needed_is_named(command: str, code: int) -> None:
    refused = app(command)
    assert refused.returncode == code
    needed = {".".join(name.lower().split("__")[1:]) for name in CONFIGURED if "__" in name} - {"events.file"}
    for key in needed | {"auth.secret", "JWT_SEC", "kafka.brokers", "PAYMENTS__REDIS__URL"}:
        assert key in refused.stderr
    assert "Traceback" not in refused.stderr


def test_one_setting_that_is_left_out_is_named_alone() -> None:
    refused = app("serve", **{name: value for name, value in CONFIGURED.items() if "ACQUIRER" not in name})
    assert refused.returncode == 2
    assert "acquirer.url" in refused.stderr
    assert not re.search(r"redis|cards|users|orders|auth|kafka", refused.stderr)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("PAYMENTS__CORE__PROT", "1", "prot"),
        ("PAYMENTS__AUTH__ALGORITHMS", '["none"]', "auth.algorithms"),
        ("JWT_SEC", "short", "auth.secret"),
    ],
)
def test_a_setting_that_is_unknown_or_out_of_range_is_refused_by_name(name: str, value: str, named: str) -> None:
    refused = app("serve", **{**CONFIGURED, name: value})
    assert refused.returncode == 2
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_store_that_cannot_be_reached_is_said_in_words() -> None:
    refused = app("serve", **CONFIGURED)
    assert refused.returncode == 2
    assert "redis" in refused.stderr.lower()
    assert "hidden-password" not in refused.stderr
    assert "Traceback" not in refused.stderr
