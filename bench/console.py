"""What the console costs payments: the same engine, with somebody who watches and without, in turns.

A round has its own engine, so that what an earlier case has left behind does not count; and within it both kinds of
load take turns in an order that favours neither, because the machine is not the same from one moment to the next, and
an engine is slower in its first seconds.
"""

from __future__ import annotations

import contextlib
import threading
import urllib.request
from collections.abc import Iterator
from statistics import fmean
from typing import Final, NamedTuple

import msgspec

from bench import processes
from bench.engines import Engine, engine
from bench.loading import Wrong
from bench.rounds import Bench, Case, Measured, load_and_measure

WATCHED: Final = "full, watched"
UNWATCHED: Final = "full, unwatched"
CASE: Final = Case(WATCHED, "full watched")
_WARM_UP_S: Final = 2
_ORDER: Final = (True, False, False, True, False, True, True, False)


class _Kinds(NamedTuple):
    watched: list[Measured]
    unwatched: list[Measured]


def console_round(bench: Bench) -> list[Measured]:
    """Measure both, each as the mean of its turns. Raises `Wrong` when the viewer saw nothing."""
    port = processes.free_port()
    settings = {"PAYMENTS__OPS__PORT": str(port), "PAYMENTS__OPS__CONSOLE": "true"}
    kinds = _Kinds([], [])
    with (
        processes.redis_server(bench.folder) as store,
        processes.upstreams(bench.folder) as services,
        processes.upstreams(bench.folder) as acquirer,
        engine(
            bench.folder, store, services, acquirer,
            full=True, processes_count=1, kafka=bench.kafka, more=settings,
        ) as started,
    ):  # fmt: skip
        _turn(bench, started, port, seconds=_WARM_UP_S, watched=True)
        for watched in _ORDER:
            (kinds.watched if watched else kinds.unwatched).append(
                _turn(bench, started, port, seconds=max(1, bench.seconds // 2), watched=watched)
            )
    return [_mean(WATCHED, kinds.watched), _mean(UNWATCHED, kinds.unwatched)]


def _turn(bench: Bench, started: Engine, port: int, *, seconds: int, watched: bool) -> Measured:
    with _viewer(port) if watched else contextlib.nullcontext():
        return load_and_measure(bench, Case("", "full"), started, seconds=seconds)


@contextlib.contextmanager
def _viewer(port: int) -> Iterator[None]:
    """Somebody who reads the stream meanwhile, and at least one picture of it."""
    response = urllib.request.urlopen(f"http://127.0.0.1:{port}/console/stream", timeout=30)
    pictures = 0

    def read() -> None:
        nonlocal pictures
        with contextlib.suppress(OSError, ValueError, AttributeError):
            for line in response:
                pictures += line.startswith(b"data: ")

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    try:
        yield
    finally:
        # A close would wait for the reader, who waits for the next picture.
        response.fp.raw._sock.shutdown(2)
        reading.join(30)
        response.close()
    if not pictures:
        raise Wrong("the console has shown nothing")


def _mean(name: str, turns: list[Measured]) -> Measured:
    names = [field for field in Measured.__struct_fields__ if field not in {"case", "payments", "logins"}]
    means = {field: fmean(getattr(turn, field) for turn in turns) for field in names}
    return msgspec.structs.replace(turns[0], case=name, payments=sum(turn.payments for turn in turns), **means)
