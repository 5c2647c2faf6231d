"""`python -m app load`: for a demo on this machine, for a while. What it does there is in test_prometheus.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app import demo
from app.__main__ import _parser
from app.load import USER
from app.load.asking import doors_of
from app.load.others import CLIENT, ORDERS_MAX, PACKAGE, USERS_MAX
from app.settings import ConfigError, load
from simulators import internal_gateway
from tests.support import ROOT, SECRET, free_port

OTHERS = [
    "10.0.0.1", "example.com", "127.0.0.1.example.com", "localhost.example.com", "0.0.0.0", "[2001:db8::1]",
    "127.0.0.1@example.com",
]  # fmt: skip


@pytest.mark.parametrize("host", OTHERS)
def test_it_goes_to_no_other_machine(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        doors_of(load(None, {}), host)


def test_orders_are_made_on_no_other_machine(tmp_path: Path) -> None:
    """The order service may be configured, and may be a real one."""
    settings = load(None, {"PAYMENTS__ORDERS__URL": "https://orders.example.com/api/orders/{id}"})
    with pytest.raises(ConfigError, match=r"orders\.example\.com"):
        doors_of(settings, "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3", "[::1]"])
def test_it_goes_to_this_one(host: str) -> None:
    assert doors_of(load(None, {"PAYMENTS__CORE__PORT": "4003"}), host).core == f"http://{host}:4003"


def test_without_a_demo_it_says_so_and_fails() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "app", "load", "--seconds", "1"],
        env={"JWT_SEC": SECRET, "PAYMENTS__CORE__PORT": str(free_port())},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, "start `make run` first" in ran.stdout) == (1, True), ran


@pytest.mark.parametrize(
    "wrong", ["--seconds=0", "--seconds=3601", "--rate=-1", "--rate=201", "--rate=nan", "--rate=x"]
)
def test_it_is_bounded(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["load", wrong])
    assert "at most" in capsys.readouterr().err


def test_it_knows_what_the_demo_knows() -> None:
    assert (demo._USER, demo._CLIENT, demo._PACKAGE) == (USER, CLIENT, PACKAGE)
    assert (internal_gateway.USERS_MAX, internal_gateway.ORDERS_MAX) == (USERS_MAX, ORDERS_MAX)
