"""The user service and the order service with what they stand on: Redis or a journal, Kafka or the event file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from clients.event_file import EventFile
from clients.event_tail import EventFileListener
from clients.kafka import KafkaPublisher
from clients.kafka_consumer import Handle, KafkaListener
from clients.kafka_settings import KafkaSettings
from engine.store.connect import RedisSettings, connect
from engine.store.records import RedisRecords
from simulators.neighbours import Neighbours
from simulators.orders import OrderServiceSim
from simulators.server import serve
from simulators.users import UserServiceSim

_GROUP: Final = "order-service"
_BATCH_MAX: Final = 200
_STOP_S: Final = 5.0


class Footing(NamedTuple):
    """What a service stands on. Nothing: in memory, and nobody is told."""

    journal: Path | None = None
    redis: RedisSettings | None = None
    kafka: KafkaSettings | None = None
    events: Path | None = None
    """The event file, where there is no Kafka."""


class Listener(Protocol):
    """Hears messages until it is stopped."""

    def stop(self) -> None: ...

    async def run(self) -> None: ...


@contextlib.asynccontextmanager
async def user_service(footing: Footing, host: str, port: int, *, topic: str, jwt_secret: str) -> AsyncIterator[str]:
    """Serve users until the block ends; gives the base URL. With a secret, tokens are asked for."""
    async with _records(footing, "users") as state, _publisher(footing, "user-service") as publisher:
        sim = UserServiceSim(footing.journal, state=state, publisher=publisher, topic=topic, jwt_secret=jwt_secret)
        async with serve(sim, host, port) as url:
            yield url


@contextlib.asynccontextmanager
async def order_service(
    footing: Footing, host: str, port: int, *, topic: str, payments_topic: str, neighbours: Neighbours
) -> AsyncIterator[str]:
    """Serve orders until the block ends, and hear what the engine says of their payments; gives the base URL."""
    async with _records(footing, "orders") as state, _publisher(footing, "order-service") as publisher:
        sim = OrderServiceSim(footing.journal, state=state, publisher=publisher, topic=topic, neighbours=neighbours)
        # It listens within what it serves: before that it has not read its orders.
        async with serve(sim, host, port) as url, _listening(_listener(footing, [payments_topic], sim.handle)):
            yield url


@contextlib.asynccontextmanager
async def _records(footing: Footing, name: str) -> AsyncIterator[RedisRecords | None]:
    if footing.redis is None:
        yield None
        return
    client = connect(footing.redis)
    try:
        yield RedisRecords(client, name)
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def _publisher(footing: Footing, client_id: str) -> AsyncIterator[KafkaPublisher | EventFile | None]:
    publisher: KafkaPublisher | EventFile
    if footing.kafka is not None:
        publisher = KafkaPublisher(msgspec.structs.replace(footing.kafka, client_id=client_id))
    elif footing.events is not None:
        publisher = EventFile(footing.events)
    else:
        yield None
        return
    try:
        yield publisher
    finally:
        await publisher.close()


def _listener(footing: Footing, topics: Sequence[str], handle: Handle) -> Listener | None:
    if footing.kafka is not None:
        return KafkaListener(footing.kafka, topics, handle, group=_GROUP, batch_max=_BATCH_MAX)
    if footing.events is not None:
        return EventFileListener(footing.events, topics, handle, group=_GROUP, batch_max=_BATCH_MAX)
    return None


@contextlib.asynccontextmanager
async def _listening(listener: Listener | None) -> AsyncIterator[None]:
    if listener is None:
        yield
        return
    task = asyncio.create_task(listener.run())
    try:
        yield
    finally:
        listener.stop()
        await asyncio.wait([task], timeout=_STOP_S)
        task.cancel()
        await asyncio.wait([task])
