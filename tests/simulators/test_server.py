"""Serving: JSON errors everywhere, a quick stop, and state that outlives the process."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from simulators import cards
from simulators.acquirer import AcquirerSim
from simulators.base import Simulator
from simulators.daraja import DarajaSim
from simulators.journal import JournalDamaged
from simulators.orders import OrderServiceSim
from simulators.server import serve
from simulators.users import UserServiceSim
from simulators.wire import BODY_BYTES_MAX
from tests.simulators.helpers import (
    a_charge,
    a_user,
    call,
    charge,
    effects,
    eventually,
    has_charged,
    has_fired,
    script,
)

# How long a stop takes that a request holds up: so long that no slow machine is taken for it.
HELD_UP_S = 60.0
Make = Callable[[Path | None], Simulator]  # type: ignore[type-arg]  # each has its own record
EVERY_SIM = pytest.mark.parametrize("make", [UserServiceSim, OrderServiceSim, AcquirerSim, DarajaSim])


def error_text(body: dict[str, object]) -> str:
    """The message of any error envelope."""
    error = body.get("error", body.get("errorMessage"))
    return str(error["message"]) if isinstance(error, dict) else str(error)


@EVERY_SIM
async def test_every_simulator_is_healthy(http: aiohttp.ClientSession, make: Make) -> None:
    async with serve(make(None)) as base:
        answer = await call(http, "GET", f"{base}/health")
    assert (answer.status, answer.body) == (200, {"status": "healthy"})


@EVERY_SIM
async def test_an_unknown_path_and_a_wrong_method_are_json_errors(http: aiohttp.ClientSession, make: Make) -> None:
    async with serve(make(None)) as base:
        unknown = await call(http, "GET", f"{base}/nowhere")
        wrong = await call(http, "PATCH", f"{base}/_faults")
    assert (unknown.status, error_text(unknown.body)) == (404, "Not Found")
    assert (wrong.status, error_text(wrong.body)) == (405, "Method Not Allowed")
    assert {"GET", "POST", "DELETE"} <= set(wrong.headers["Allow"].split(","))


@EVERY_SIM
async def test_a_body_over_the_limit_is_413_and_at_the_limit_is_read(http: aiohttp.ClientSession, make: Make) -> None:
    async with serve(make(None)) as base:
        over = await http.post(f"{base}/_faults", data=b" " * (BODY_BYTES_MAX + 1))
        at = await http.post(f"{base}/_faults", data=b'{"kind": "reset"}'.ljust(BODY_BYTES_MAX))
        assert (over.status, error_text(await over.json())) == (413, "Request Entity Too Large")
        assert at.status == 201


@EVERY_SIM
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"kind": "\xff"}'])
async def test_a_body_that_is_not_json_is_400(http: aiohttp.ClientSession, make: Make, body: bytes) -> None:
    async with serve(make(None)) as base:
        answer = await http.post(f"{base}/_faults", data=body)
        assert (answer.status, error_text(await answer.json())) == (400, "the body is not JSON")


async def test_a_charge_that_was_answered_survives_kill_minus_nine(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    journal = tmp_path / "acquirer.jsonl"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.simulators.serving", str(journal), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        base = (await process.stdout.readline()).decode().strip()
        answers = [(await charge(http, base, f"attempt-{n}")).body for n in range(20)]
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async with serve(AcquirerSim(journal)) as base:
        for n, answer in enumerate(answers):
            assert (await call(http, "GET", f"{base}/charges/attempt-{n}")).body == answer
        assert [row["id"] for row in await effects(http, base)] == [answer["id"] for answer in answers]


async def test_a_simulator_in_memory_remembers_when_it_is_served_again_on_the_same_port(
    http: aiohttp.ClientSession,
) -> None:
    sim = UserServiceSim(None)
    async with serve(sim) as first:
        user = (await call(http, "POST", f"{first}/api/users", a_user())).body
    async with serve(sim, port=int(first.rpartition(":")[2])) as again:
        assert again == first
        assert (await call(http, "GET", f"{again}/api/users/{user['id']}")).body["email"] == "user@example.com"


async def test_a_simulator_with_a_journal_counts_nothing_twice_when_it_is_served_again(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    sim = AcquirerSim(tmp_path / "acquirer.jsonl")
    async with serve(sim) as base:
        await charge(http, base, "attempt-1")
    async with serve(sim) as base:
        await charge(http, base, "attempt-2")
        assert [row["attempt"] for row in await effects(http, base)] == ["attempt-1", "attempt-2"]


async def test_a_simulator_with_a_damaged_journal_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "acquirer.jsonl"
    path.write_bytes(b"nonsense\n")
    with pytest.raises(JournalDamaged):
        async with serve(AcquirerSim(path)):
            pass


async def test_a_client_that_leaves_does_not_stop_the_handler(http: aiohttp.ClientSession) -> None:
    class Slow:
        def __init__(self) -> None:
            self.started, self.finished = asyncio.Event(), asyncio.Event()

        def app(self) -> web.Application:
            app = web.Application()
            app.router.add_get("/", self._handle)
            return app

        async def _handle(self, _: web.Request) -> web.Response:
            self.started.set()
            await asyncio.sleep(0.2)
            self.finished.set()
            return web.Response()

    slow = Slow()
    async with serve(slow) as base:
        asking = asyncio.create_task(call(http, "GET", base))
        await slow.started.wait()
        asking.cancel()
        async with asyncio.timeout(30):
            await slow.finished.wait()


@pytest.mark.parametrize("kind", ["silence", "silence_after", "delay"])
async def test_a_fault_that_waits_does_not_hold_up_the_stop(http: aiohttp.ClientSession, kind: str) -> None:
    async with serve(AcquirerSim(None), shutdown_timeout_s=HELD_UP_S) as base:
        await script(http, base, kind=kind, delay_s=3600)
        waiting = asyncio.create_task(charge(http, base, "attempt-1"))
        await eventually(lambda: has_fired(http, base))
        stop_asked = time.monotonic()
    assert time.monotonic() - stop_asked < HELD_UP_S / 2
    if kind == "delay":
        assert (await waiting).status == 200
    else:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await waiting


@pytest.mark.parametrize("number", [cards.SILENT_BUT_CHARGES, cards.LATE])
async def test_a_card_that_waits_does_not_hold_up_the_stop(http: aiohttp.ClientSession, number: str) -> None:
    async with serve(AcquirerSim(None, late_s=3600), shutdown_timeout_s=HELD_UP_S) as base:
        waiting = asyncio.create_task(charge(http, base, "attempt-1", a_charge(number)))
        await eventually(lambda: has_charged(http, base))
        stop_asked = time.monotonic()
    assert time.monotonic() - stop_asked < HELD_UP_S / 2
    await asyncio.wait([waiting])
    assert (waiting.exception() is None) == (number == cards.LATE)


async def test_a_silent_request_ends_when_its_client_leaves(http: aiohttp.ClientSession) -> None:
    async with serve(AcquirerSim(None)) as base:
        before = len(asyncio.all_tasks())
        await script(http, base, kind="silence")
        waiting = asyncio.create_task(charge(http, base, "attempt-1"))
        await eventually(lambda: has_fired(http, base))
        assert len(asyncio.all_tasks()) > before
        waiting.cancel()

        async def at_rest() -> bool:
            return len(asyncio.all_tasks()) == before

        await eventually(at_rest)


async def test_there_is_no_access_log(http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serve(AcquirerSim(None)) as base:
        await charge(http, base, "attempt-1")
    assert caplog.records == []
