"""`python -m app simulate`: services as processes, killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from app.__main__ import main
from tests.faults.world import eventually
from tests.simulators.helpers import a_user, call
from tests.support import ROOT, SECRET, RedisServer, token

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PAYMENTS__")}


@contextlib.contextmanager
def simulated(*arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A simulator as a process, on a free port; killed at the end if it still runs."""
    command = [sys.executable, "-m", "app", "simulate", *arguments, "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "simulator at http://127.0.0.1:" in said, process.communicate()[1]
        try:
            yield said.split()[-1], process
        finally:
            process.kill()
            process.communicate()


async def test_after_kill_minus_nine_the_state_is_there_and_the_event_is_told(
    http: aiohttp.ClientSession, redis_server: RedisServer, tmp_path: Path
) -> None:
    """While the event file cannot be written, the event waits with its user."""
    (tmp_path / "file").write_text("")
    url = redis_server.url.replace("/0", "/1")
    with simulated("users", "--redis", url, "--events", str(tmp_path / "file" / "nowhere.jsonl")) as (base, process):
        user = (await call(http, "POST", f"{base}/api/users", a_user())).body
        process.send_signal(signal.SIGKILL)
    events = tmp_path / "events.jsonl"
    with simulated("users", "--redis", url, "--events", str(events)) as (base, process):
        assert (await call(http, "GET", f"{base}/api/users/{user['id']}")).body["email"] == user["email"]
        await eventually(lambda: events.exists() and events.read_bytes().endswith(b"\n"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    [line] = [json.loads(line) for line in events.read_text().splitlines()]
    assert (line["topic"], line["value"]["event_type"], line["key"]) == ("user-events", "user_created", user["id"])
    with contextlib.closing(redis_server.client()) as client:
        assert client.dbsize() == 0, "the engine's database is left alone"


async def test_the_user_service_asks_for_tokens_when_told_to(http: aiohttp.ClientSession) -> None:
    with simulated("users", "--tokens", JWT_SEC=SECRET) as (base, _):
        user = (await call(http, "POST", f"{base}/api/users", a_user())).body["id"]
        assert (await call(http, "GET", f"{base}/api/users/{user}")).status == 401
        headers = {"Authorization": f"Bearer {token(user)}"}
        assert (await call(http, "GET", f"{base}/api/users/{user}", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("users", "--tokens"), "JWT_SEC"),
        (("orders", "--users-url", "http://127.0.0.1:1/"), "{id}"),
        (("users", "--redis", "redis://127.0.0.1:1/1"), "redis"),
    ],
)
def test_what_cannot_be_started_is_said_in_words(arguments: tuple[str, ...], said: str) -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "JWT_SEC"}
    command = [sys.executable, "-m", "app", "simulate", *arguments]
    refused = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert said in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("users", "--redis", "redis://127.0.0.1:1/1", "--journal", "f"), "not allowed with"),
        (("users", "--kafka", "127.0.0.1:1", "--events", "f"), "not allowed with"),
        (("acquirer", "--kafka", "127.0.0.1:1"), "unrecognized"),
        (("users", "--port", "65536"), "0 to 65535"),
        (("nobody",), "invalid choice"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", *arguments])
    assert said in capsys.readouterr().err
