"""Connections: the form of the URL says what is connected to, and nothing is ever sent twice behind our back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis
from redis.exceptions import RedisClusterException, RedisError

from engine.errors import StoreUnavailable
from engine.store.batch import RedisClient
from engine.store.connect import RedisSettings, connect, is_cluster
from tests.store.datasets import connected, running
from tests.store.proxy import Proxy, proxy_to
from tests.store.servers import Cluster, ask, one_server, sentinel_of
from tests.support import RedisServer, free_port, temporary_folder

SERVICE = "payments"


@contextlib.asynccontextmanager
async def _client(url: str, *, timeout_s: float = 30.0, connections_max: int = 8) -> AsyncIterator[RedisClient]:
    client = connect(RedisSettings(url=url, timeout_s=timeout_s, connections_max=connections_max))
    try:
        yield client
    finally:
        await client.aclose()


# Forms of URLs


async def test_a_plain_url_reaches_one_server_and_its_database(redis_server: RedisServer) -> None:
    base = f"redis://127.0.0.1:{redis_server.port}"
    async with _client(f"{base}/0") as first, _client(f"{base}/3") as other:
        await first.set("key", "zero")
        await other.set("key", "three")
        assert (await first.get("key"), await other.get("key")) == (b"zero", b"three")
        assert not is_cluster(first)
        await other.flushdb()


async def test_a_unix_url_reaches_a_socket() -> None:
    with temporary_folder() as folder, one_server(unixsocket=str(folder / "s")):
        async with _client(f"unix://{folder / 's'}") as client:
            assert await client.set("key", "value")


async def test_a_password_in_the_url_is_used() -> None:
    with one_server() as server:
        admin = server.client()
        admin.config_set("requirepass", "p@ss/word")
        admin.close()
        async with _client(f"redis://:p%40ss%2Fword@127.0.0.1:{server.port}/0") as client:
            assert await client.set("key", "value")
        with pytest.raises(RedisError):
            async with _client(server.url) as client:
                await client.get("key")


async def test_a_cluster_url_with_any_of_its_nodes_reaches_all_of_them(cluster: Cluster) -> None:
    cluster.flush()
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster.nodes[2].port}"
    async with _client(url) as client:
        assert is_cluster(client)
        for number in range(30):
            assert await client.set(f"key-{number}", number)
    sizes = []
    for node in cluster.nodes:
        with contextlib.closing(node.client()) as admin:
            sizes.append(admin.dbsize())
    assert all(sizes)


async def test_a_sentinel_url_reaches_the_primary_even_when_the_first_sentinel_is_down(
    redis_server: RedisServer,
) -> None:
    knocks = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as down:
        down_port = down.sockets[0].getsockname()[1]
        with sentinel_of(redis_server.port, SERVICE) as port:
            url = f"redis+sentinel://127.0.0.1:{down_port},127.0.0.1:{port}/{SERVICE}"
            async with running(connected(url), shards=4) as store:
                assert await store.batcher.command("INCR", "number") == 1
                assert not is_cluster(store.client)
        assert knocks <= 2, "a sentinel that is down is not asked ten times"
        with contextlib.closing(redis_server.client()) as admin:
            assert admin.get("number") == "1"


async def test_the_batcher_leaves_a_primary_that_sentinel_has_replaced(redis_server: RedisServer) -> None:
    """The old one may be alive, and take what it will lose when it hears of the new one."""
    with one_server() as promoted, sentinel_of(redis_server.port, SERVICE) as port:
        url = f"redis+sentinel://127.0.0.1:{port}/{SERVICE}"
        async with running(connected(url), shards=4, pipelines_max=1) as store:
            assert await store.batcher.command("SET", "kept-by", "the old one") is True
            with contextlib.closing(redis.Redis(port=port)) as sentinel:
                ask(sentinel, "SENTINEL", "REMOVE", SERVICE)
                ask(sentinel, "SENTINEL", "MONITOR", SERVICE, "127.0.0.1", promoted.port, 1)
            assert await store.ask("GET", "kept-by") is None, "a new connection hears who is the primary now"
            assert await store.batcher.command("INCR", "number") == 1
        with contextlib.closing(redis_server.client()) as old, contextlib.closing(promoted.client()) as new:
            assert (old.get("number"), new.get("number")) == (None, "1")


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost", "redis-cluster://x", "file:///tmp/x"])
def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis\.url must start with"):
        connect(RedisSettings(url=url))


def test_a_sentinel_url_without_the_service_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the service name"):
        connect(RedisSettings(url="redis+sentinel://127.0.0.1:26379"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"shards": 0}, {"shards": 257}, {"timeout_s": 0.0}, {"connections_max": 1}, {"steps_waiting_max": 1},
        {"jobs_max": 1}, {"outbox_max": 1}, {"parked_max": 1}, {"check_every_s": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_out_of_its_range_is_refused_by_name(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"redis\.{name} must be"):
        RedisSettings(**wrong)  # type: ignore[arg-type]


# Bounds


async def test_more_callers_than_connections_wait_for_one(redis_server: RedisServer) -> None:
    async with _client(redis_server.url, connections_max=2) as client:
        replies = await asyncio.gather(*(client.incr("number") for _ in range(50)))
    assert sorted(replies) == list(range(1, 51))


# Nothing is sent twice


@contextlib.asynccontextmanager
async def _lossy(server: RedisServer, url: str, *, listen_on: int = 0) -> AsyncIterator[tuple[Proxy, RedisClient]]:
    async with proxy_to(server.port, listen_on=listen_on) as proxy, _client(url.format(proxy.port)) as client:
        yield proxy, client


async def _increments_once(proxy: Proxy, client: RedisClient, server: RedisServer) -> None:
    """Alone and through the batcher: what the client sends is executed once, and the caller is told it failed."""
    assert await client.set("before", "the connection is up")
    proxy.lose_answers_to("INCR", times=99)
    with pytest.raises((RedisError, RedisClusterException)):
        await client.incr("alone")
    async with running(client) as store:
        with pytest.raises(StoreUnavailable):
            await store.batcher.command("INCR", "batched")
    assert proxy.lost == 2
    with contextlib.closing(server.client()) as admin:
        assert (admin.get("alone"), admin.get("batched")) == ("1", "1")


async def test_a_command_whose_answer_was_lost_was_executed_once(redis_server: RedisServer) -> None:
    async with _lossy(redis_server, "redis://127.0.0.1:{}/0") as (proxy, client):
        await _increments_once(proxy, client, redis_server)


async def test_a_command_to_a_cluster_whose_answer_was_lost_was_executed_once(
    cluster_elsewhere: tuple[Cluster, int],
) -> None:
    cluster, announced = cluster_elsewhere
    async with _lossy(cluster.nodes[0], "redis+cluster://127.0.0.1:{}", listen_on=announced) as (proxy, client):
        await _increments_once(proxy, client, cluster.nodes[0])


async def test_a_command_to_a_primary_behind_sentinel_whose_answer_was_lost_was_executed_once(
    redis_server: RedisServer,
) -> None:
    async with proxy_to(redis_server.port) as proxy:
        with sentinel_of(proxy.port, SERVICE) as port:
            async with _client(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}") as client:
                await _increments_once(proxy, client, redis_server)
