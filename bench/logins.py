"""People who log in at the gateway while payments are taken at the core surface, so many a second."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bench.loading import Wrong

_ACCOUNT: Final = {"name": "Ada", "email": "ada@example.com", "password": "correct horse battery"}
_AT_ONCE_MAX: Final = 32


class Logins:
    """How many were let in, and how many were told to come again."""

    def __init__(self) -> None:
        self.done = 0
        self.refused = 0


@contextlib.contextmanager
def logging_in(base: str, per_second: int) -> Iterator[Logins]:
    """Log in while the block runs, whether the last ones are answered or not. Raises `Wrong` if nobody got in."""
    logins = Logins()
    if not per_second:
        yield logins
        return
    with contextlib.suppress(urllib.error.HTTPError):  # registered by an earlier round of this engine
        _post(f"{base}/api/auth/register")
    ended = threading.Event()
    with ThreadPoolExecutor(_AT_ONCE_MAX + 1) as threads:
        pacing = threads.submit(_pace, threads, base, 1 / per_second, logins, ended)
        try:
            yield logins
        finally:
            ended.set()
    pacing.result()
    if not logins.done:
        raise Wrong(f"nobody could log in, {logins.refused} were refused")


def _pace(threads: ThreadPoolExecutor, base: str, pause_s: float, logins: Logins, ended: threading.Event) -> None:
    at = time.monotonic()
    while not ended.is_set():
        threads.submit(_log_in, base, logins)
        at += pause_s
        ended.wait(max(0.0, at - time.monotonic()))


def _log_in(base: str, logins: Logins) -> None:
    try:
        _post(f"{base}/api/auth/login")
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        logins.refused += 1
    else:
        logins.done += 1


def _post(url: str) -> None:
    request = urllib.request.Request(url, json.dumps(_ACCOUNT).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).close()
