"""A real Prometheus scrapes a busy engine, and every panel and every alert is asked there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from metrics.dashboards import DASHBOARDS
from tests.kafka_support import RealBroker
from tests.metrics.prometheus import NotUnderstood, Prometheus
from tests.metrics.runbook import commands
from tests.metrics.world import Busy, busy_engine
from tests.support import service_token
from tests.test_operations_files import alert_rules

pytestmark = pytest.mark.asyncio(loop_scope="module")

ZERO: Final = {
    "Late successes": "no acquirer is passed over here",
    "Open items": "the same",
    "Age of the oldest open item": "the same",
    "Broken rules": "the engine is right",
    "Entries lost": "nobody deletes streams",
    "Taken over and lost": "no worker dies here",
    "Bounds": "nothing is full",
    "Refused by a full bulkhead": "nothing is full",
    "Slow and late": "counterparties answer at once, or not at all",
    "Not counted": "Redis answers the limiter",
    "Failures": "Kafka is well",
    "Publish failures": "Kafka is well",
    "Parked events": "Kafka takes everything",
    "Parked": "the same",
    "Parked by reason": "the same",
}
"""The panels that may show nothing but zeros here, and why. All others show something that has happened."""

PANELS: Final[dict[str, dict[str, Any]]] = {
    f"{tree['uid']}: {panel['title']} {panel['id']}": panel
    for tree in DASHBOARDS
    for panel in tree["panels"]
    if panel["type"] != "row"
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def busy(kafka_broker: RealBroker) -> AsyncIterator[Busy]:
    """The engine, after everything has happened."""
    async with busy_engine(kafka_broker) as running:
        yield running


@pytest.fixture
def prometheus(busy: Busy) -> Prometheus:
    """Who has watched."""
    return busy.prometheus


@pytest.mark.parametrize("name", PANELS)
async def test_a_panel_has_data(name: str, prometheus: Prometheus) -> None:
    """Each of its expressions gives numbers, and one of them more than zeros unless it is said why not."""
    panel = PANELS[name]
    values = [await prometheus.ever(target["expr"]) for target in panel["targets"]]
    assert all(values), [target["expr"] for target, found in zip(panel["targets"], values, strict=True) if not found]
    assert panel["title"] in ZERO or any(any(found) for found in values), "nothing but zeros"


async def test_what_stays_zero_is_a_panel() -> None:
    assert ZERO.keys() <= {panel["title"] for panel in PANELS.values()}


async def test_an_expression_that_makes_no_sense_or_asks_for_nothing_known_is_found(prometheus: Prometheus) -> None:
    """The test above can fail."""
    assert await prometheus.ever("sum(rate(payments_procesed_total[$__rate_interval]))") == []
    with pytest.raises(NotUnderstood):
        await prometheus.ever("sum by (status (payments_processed_total)")


async def test_every_alert_is_evaluated_without_error(prometheus: Prometheus) -> None:
    """By Prometheus itself, again and again, and on the series of a real engine."""
    loaded = await prometheus.rules()
    assert loaded.keys() == {rule["alert"] for rule in alert_rules()}
    assert {name: rule["lastError"] for name, rule in loaded.items() if rule["health"] == "err"} == {}
    assert {rule["health"] for rule in loaded.values()} == {"ok"}
    for rule in alert_rules():
        await prometheus.now(rule["expr"])


async def test_the_alert_for_a_store_that_forgets_does_not_fire_for_a_durable_one(prometheus: Prometheus) -> None:
    assert await prometheus.now("store_fit") == [1, 1], "of the engine, and of the notification worker"
    assert await prometheus.now("store_durable") == [1, 1], "of the engine, and of the notification worker"


async def test_promtool_finds_nothing_wrong_with_the_scrape(busy: Busy) -> None:
    """Names, units, help texts, labels."""
    tool = shutil.which("promtool")
    assert tool is not None, "it comes with prometheus, and that is here"
    text = await (await busy.engine.get("/metrics")).text()
    ran = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")
    wrong = subprocess.run(
        [tool, "check", "metrics"], input="someCounter 1\n", capture_output=True, text=True, check=False
    )
    assert wrong.returncode != 0, "it would have said so"


async def test_the_load_has_met_every_surface_and_told_what_came_back(busy: Busy) -> None:
    assert busy.load.returncode == 0, busy.load.stderr
    kinds = ("pay", "refund", "authorize", "mistakes", "record", "checkout", "gateway", "phone")
    for kind in kinds:
        assert f"\n  {kind} " in busy.load.stdout, busy.load.stdout
    assert "no answer" not in busy.load.stdout
    assert " 500: " not in busy.load.stdout
    for surface in ("core", "orders", "vault", "gateway", "mpesa"):
        assert await busy.prometheus.now(f'sum(http_requests_total{{surface="{surface}", status=~"2.."}}) > 0'), surface


@pytest.mark.parametrize("command", sorted({*commands("curl"), *commands("redis-cli")}))
async def test_a_command_of_the_runbook_shows_something(busy: Busy, command: str) -> None:
    """Run as it stands, against the busy engine: what `grep` looks for is there."""
    shown = {"ENGINE": busy.engine.base, "NOTIFY": busy.notify, "REDIS": busy.redis.url, "ENDPOINT": busy.endpoint}
    environment = {**os.environ, **shown, "TOKEN": service_token()}
    ran = subprocess.run(
        ["/bin/bash", "-ec", command.replace("curl -s", "curl -sf")],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() or "SLOWLOG" in command
    assert not ran.stdout.startswith("ERR"), ran.stdout
