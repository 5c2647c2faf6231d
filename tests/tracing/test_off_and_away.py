"""Off, tracing is not there at all; on, neither a missing package nor a collector is a riddle or a hindrance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from app.settings import ConfigError, load
from clients.otlp_settings import TracingSettings
from tests.support import CARD_KEYS, FINGERPRINT_SECRET, ROOT, EngineProcess, RedisServer, Sims, free_port, payment_body
from tests.tracing.collector import collecting

SECRET = "hush-hush-hush"
# Serves until it is ready, stops in order, and prints what it has loaded.
SERVE = """
import asyncio, sys
from app.process import run
from app.settings import ROLES, from_process
from engine.store.check import RedisCheck
from engine.store.connect import connect

async def main():
    settings = from_process(None)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)
    await run(settings, ROLES, stop=stop, create=True)

asyncio.run(main())
print(" ".join(sorted(sys.modules)))
"""


def _environment(redis: RedisServer, folder: Path, **settings: str) -> dict[str, str]:
    return {
        **os.environ,
        "PAYMENTS__CORE__PORT": str(free_port()),
        "PAYMENTS__REDIS__URL": redis.url,
        "PAYMENTS__CARDS__KEYS": CARD_KEYS,
        "PAYMENTS__CARDS__FINGERPRINT_SECRET": FINGERPRINT_SECRET,
        "PAYMENTS__EVENTS__FILE": str(folder / "events.jsonl"),
        "PAYMENTS__ACQUIRER__URL": "http://127.0.0.1:1",
        "PAYMENTS__USERS__URL": "http://127.0.0.1:1/{id}",
        "PAYMENTS__ORDERS__URL": "http://127.0.0.1:1/{id}",
        "JWT_SEC": "s" * 32,
        **settings,
    }


@pytest.fixture
def without_packages(tmp_path: Path) -> Path:
    """The packages of this environment but for OpenTelemetry's: what `make run` installs."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for each in Path(next(path for path in sys.path if path.endswith("site-packages"))).iterdir():
        if not each.name.startswith("opentelemetry"):
            (folder / each.name).symlink_to(each)
    return folder


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("enabled", "disabled", "there"), [("false", "", False), ("true", "", True), ("true", "True", False)]
)
def test_nothing_of_it_is_loaded_where_it_is_off(
    redis_server: RedisServer, tmp_path: Path, enabled: str, disabled: str, there: bool
) -> None:
    """Installed or not. (Where it is installed, redis-py loads a part of it for itself.)"""
    environment = _environment(redis_server, tmp_path, PAYMENTS__TRACING__ENABLED=enabled, OTEL_SDK_DISABLED=disabled)
    ran = _run(["-c", SERVE], environment)
    assert ran.returncode == 0, ran.stderr
    loaded = set(ran.stdout.splitlines()[-1].split())
    ours = {"clients.otlp", "opentelemetry.exporter.otlp", "opentelemetry.proto", "requests"}
    assert "app.process" in loaded
    assert loaded & ours == (ours if there else set())


def test_what_is_not_installed_is_not_missed_where_it_is_off(
    redis_server: RedisServer, tmp_path: Path, without_packages: Path
) -> None:
    ran = _run(["-S", "-c", SERVE], _environment(redis_server, tmp_path, PYTHONPATH=str(without_packages)))
    assert ran.returncode == 0, ran.stderr
    assert not [name for name in ran.stdout.splitlines()[-1].split() if name.startswith("opentelemetry")]


@pytest.mark.parametrize("arguments", [["-m", "app", "serve"], ["-m", "app", "check-config"], ["-c", SERVE]])
def test_enabled_and_not_installed_is_refused_by_key_name(
    redis_server: RedisServer, tmp_path: Path, without_packages: Path, arguments: list[str]
) -> None:
    """Also where nobody has looked for what is missing, as in the demo."""
    environment = _environment(redis_server, tmp_path, PYTHONPATH=str(without_packages))
    environment["PAYMENTS__TRACING__ENABLED"] = "true"
    ran = _run(["-S", *arguments], environment)
    assert ran.returncode == (2 if "serve" in arguments else 1), ran.stdout + ran.stderr
    assert "tracing.enabled (PAYMENTS__TRACING__ENABLED)" in ran.stderr and "make tracing" in ran.stderr
    assert "ConfigError" in ran.stderr if SERVE in arguments else "Traceback" not in ran.stderr


@pytest.mark.parametrize("behave", ["away", "hang"])
async def test_a_collector_that_does_not_answer_holds_up_neither_payments_nor_the_stop(
    redis_server: RedisServer, sims: Sims, tmp_path: Path, behave: str
) -> None:
    """Each batch alone could take a minute here, and the stop only a part of that."""
    async with collecting() as collector:
        collector.behave = behave
        url = f"http://127.0.0.1:{free_port()}/v1/traces" if behave == "away" else collector.url
        settings = {
            "PAYMENTS__TRACING__ENABLED": "true",
            "PAYMENTS__TRACING__ENDPOINT": url,
            "PAYMENTS__TRACING__TIMEOUT_S": "60",
            "PAYMENTS__TRACING__QUEUE_MAX": "30",
            "PAYMENTS__SERVER__STOP_S": "1",
        }
        engine = EngineProcess(redis_server.url, sims, tmp_path, **settings)
        await engine.start()
        try:
            await sims.user()
            for number in range(5):
                await sims.order(f"order-{number}")
                answer = await engine.post(payment_body(f"order-{number}"), wait_s=20)
                assert (await answer.json())["status"] == "completed"
            metrics = await (await engine.get("/metrics")).text()
            dropped = next(line for line in metrics.splitlines() if line.startswith('trace_spans_total{outcome="drop'))
            assert float(dropped.rpartition(" ")[2]) > 0
        finally:
            code = await engine.stop(timeout_s=40)
        assert code == 0
        assert behave == "away" or collector.asked
        lines = [json.loads(line) for line in engine.log.read_text().splitlines()]
        assert [line for line in lines if line["level"] in ("error", "critical")] == []
        assert [line["message"] for line in lines if "spans" in line["message"]] == ["spans lost"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint", "collector:4318"), ("endpoint", ""), ("endpoint", "ftp://collector"), ("endpoint", "http://"),
        ("endpoint", "http://me:" + SECRET + "@collector/v1/traces"), ("service_name", ""), ("service_name", "a\n"),
        ("sample_ratio", -0.1), ("sample_ratio", 1.1), ("sample_ratio", float("nan")), ("queue_max", 0),
        ("timeout_s", 0), ("headers", SECRET), ("headers", f"a={SECRET}\r\nB: c"), ("headers", f"a b={SECRET}"),
        ("headers", f"a={SECRET},"), ("headers", f"a={SECRET}ü"), ("unknown", 1),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_key_name(tmp_path: Path, key: str, value: object) -> None:
    """And never with a word of what may be a secret."""
    path = tmp_path / "config.toml"
    path.write_text(f"[tracing]\n{key} = {json.dumps(value) if value == value else 'nan'}\n")  # noqa: PLR0124
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    assert key in str(refused.value) and SECRET not in str(refused.value)


def test_headers_are_read_as_they_are_meant_and_shown_nowhere() -> None:
    settings = TracingSettings(headers=f"Authorization=Basic {SECRET}==, X-Team=a b")
    assert settings.header_pairs() == {"Authorization": f"Basic {SECRET}==", "X-Team": "a b"}
    assert SECRET not in repr(settings)
    environment = {**os.environ, "PAYMENTS__TRACING__HEADERS": settings.headers}
    ran = _run(["-m", "app", "check-config"], environment)
    assert SECRET not in ran.stdout + ran.stderr
    assert json.loads(ran.stdout)["tracing"]["headers"] == "set"
