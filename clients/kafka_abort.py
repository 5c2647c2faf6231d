"""Ends an aiokafka producer that would not end by itself.

`AIOKafkaProducer.stop()` flushes first, and an idempotent batch never expires: while all brokers are down it waits for
ever, and cancelling it leaves its tasks and sockets behind. So whatever a producer runs is found and cancelled here,
and its sockets are dropped. This module knows aiokafka's insides so that no other has to; the tests count tasks and
file descriptors, and notice when those insides change.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from aiokafka import AIOKafkaProducer

_END_S = 1.0
_PASSES_MAX = 3


async def abort(producer: AIOKafkaProducer, broken: BaseException | None = None) -> None:
    """Cancels the producer's tasks and drops its connections, without a word to the broker.

    What it was still sending may or may not be delivered. `broken` is what `start()` raised, if it did.
    Everything is let go before the first await, so being cancelled here leaks nothing but in a race.
    """
    producer._closed = True  # else its __del__ complains that stop() was not called
    forgotten = _connections_in(broken)
    # Again: on Python 3.11 `asyncio.wait_for`, in which aiokafka waits for answers, swallows a cancellation that comes
    # together with one. The task then goes on, and what it was connecting is only there the next time.
    for _ in range(_PASSES_MAX):
        tasks = _tasks_of(producer)
        for task in tasks:
            task.cancel()
        connections = [*producer.client._conns.values(), *forgotten]
        closed = [future for each in connections if (future := each.close()) is not None and not future.done()]
        if not tasks and not closed:
            return
        await asyncio.wait([*tasks, *closed], timeout=_END_S)


def never_linger(producer: AIOKafkaProducer) -> None:
    """Has each connection dropped at once when aiokafka closes it, also after a time-out of its own.

    A plain close waits until the peer has read everything; one that stands still never does, and the sockets pile up.
    """
    client = producer.client
    forward = client._on_connection_closed

    def drop(connection: Any, reason: Any) -> None:
        transport = connection._protocol._transport
        if transport is not None:
            transport.abort()
        forward(connection, reason)

    client._on_connection_closed = drop


def _tasks_of(producer: AIOKafkaProducer) -> list[asyncio.Task[Any]]:
    """The tasks whose outermost call is a method of the producer's parts; aiokafka keeps no list of them."""
    parts = (producer._sender, producer._message_accumulator, producer.client)
    current = asyncio.current_task()
    found = []
    for task in asyncio.all_tasks():
        frame = getattr(task.get_coro(), "cr_frame", None)
        if task is not current and frame is not None:
            owner = frame.f_locals.get("self")
            if any(owner is part for part in parts):
                found.append(task)
    return found


def _connections_in(broken: BaseException | None) -> list[Any]:
    """The bootstrap connection that a cancelled `start()` forgot: only the traceback still knows it."""
    found = []
    while broken is not None:
        for frame, _ in traceback.walk_tb(broken.__traceback__):
            if frame.f_code.co_name == "bootstrap" and (connection := frame.f_locals.get("bootstrap_conn")):
                found.append(connection)
        # A time-out is raised while the cancellation that it caused is handled; only later Pythons name it the cause.
        broken = broken.__context__
    return found
