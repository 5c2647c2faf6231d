"""Connections to Redis: one server, a primary behind Sentinel, or a cluster, by the form of the URL."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis, SentinelConnectionPool
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from engine.store.batch import RedisClient
from engine.store.packing import CONNECTION_BY_SCHEME, SentinelConnection


class RedisSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the dataset is and what is asked of it.

    `url`: `redis://host:6379/0`, `rediss://…` (TLS), `unix:///path.sock`,
    `redis+sentinel://host:26379,host2:26379/service`, `redis+cluster://host:7000,host2:7001`.
    """

    url: str = ""
    """`redis://`, `rediss://` (TLS), `unix://`, `redis+sentinel://` or `redis+cluster://`."""
    durability: Annotated[str, msgspec.Meta(pattern=r"^(strict|relaxed|wait:[1-9])\Z")] = "strict"
    """`strict` asks for an append-only file, `relaxed` does not, `wait:N` also waits for N replicas at every step."""
    shards: int = 16
    """Fixed when the dataset is made; 1 to 256."""
    timeout_s: float = 2.0
    """Time of one command."""
    connections_max: int = 8
    """Connections of one process."""
    steps_waiting_max: int = 4096
    """Steps that may wait for Redis in one process."""
    jobs_max: int = 100_000
    """Jobs that may wait in the dataset."""
    outbox_max: int = 200_000
    """Events that may wait in the dataset."""
    parked_max: int = 10_000
    """Events that may be parked in the dataset; one more stays in the outbox."""
    check_every_s: float = 2.0
    """How often the start-up check is repeated, for `/ready`."""

    @property
    def replicas(self) -> int:
        """How many replicas must have a step before it counts."""
        return int(self.durability.removeprefix("wait:")) if self.durability.startswith("wait:") else 0

    def __post_init__(self) -> None:
        if self.replicas and urlsplit(self.url).scheme == "redis+cluster":
            raise ValueError("redis.durability = wait:N is not available on a cluster")
        for key, low, high in (
            ("shards", 1, 256),
            ("timeout_s", 0.05, 60),
            ("connections_max", 2, 1000),
            ("steps_waiting_max", 16, 1_000_000),
            ("jobs_max", 16, 100_000_000),
            ("outbox_max", 16, 100_000_000),
            ("parked_max", 16, 100_000_000),
            ("check_every_s", 0.1, 60),
        ):
            if not low <= getattr(self, key) <= high:
                raise ValueError(f"redis.{key} must be {low} to {high}")

    def __repr__(self) -> str:
        return f"RedisSettings({self.url.rpartition('@')[2]!r}, durability={self.durability!r})"


def connect(settings: RedisSettings) -> RedisClient:
    """A client that retries nothing: a lost answer to a write is an unknown outcome, and the store decides.

    Opens no connection yet; the caller closes it. Raises `ValueError` for a URL of an unknown form.
    """
    # redis-py's own default is ten retries of every command, writes too.
    retry = Retry(NoBackoff(), 0)
    scheme = urlsplit(settings.url).scheme
    if scheme in CONNECTION_BY_SCHEME:
        pool = BlockingConnectionPool.from_url(
            settings.url,
            connection_class=CONNECTION_BY_SCHEME[scheme],
            max_connections=settings.connections_max,
            timeout=settings.timeout_s,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=retry,
        )
        return Redis.from_pool(pool)
    if scheme == "redis+sentinel":
        return _sentinel(settings, retry)
    if scheme == "redis+cluster":
        return _cluster(settings, retry)
    raise ValueError("redis.url must start with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")


def is_cluster(client: RedisClient) -> bool:
    """Whether keys live on several nodes, so that one command may not ask several shards."""
    return isinstance(client, RedisCluster)


class _SentinelPool(SentinelConnectionPool):
    """Closes the connections to the sentinels as well when its client is closed: redis-py leaves them open."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def _sentinel(settings: RedisSettings, retry: Retry) -> Redis:
    parts = urlsplit(settings.url)
    service = parts.path.strip("/")
    if not service:
        raise ValueError("redis.url needs the service name: redis+sentinel://host:26379/mymaster")
    timeouts = {"socket_timeout": settings.timeout_s, "socket_connect_timeout": settings.timeout_s}
    # A sentinel that is down is not asked again and again, for four seconds: the next one knows as well.
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        _hosts(settings.url, 26379), sentinel_kwargs={**timeouts, "retry": retry}
    )
    pool = _SentinelPool(  # type: ignore[no-untyped-call]
        service,
        sentinel,
        connection_class=SentinelConnection,
        max_connections=settings.connections_max,
        retry=retry,
        **timeouts,
        **_login(settings.url),
    )
    return Redis.from_pool(pool)


def _cluster(settings: RedisSettings, retry: Retry) -> RedisCluster:
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in _hosts(settings.url, 7000)],
        max_connections=settings.connections_max,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        retry=retry,
        **_login(settings.url),
    )


def _hosts(url: str, port: int) -> list[tuple[str, int]]:
    hosts = urlsplit(url).netloc.rpartition("@")[2]
    return [(host.rpartition(":")[0] or host, int(host.rpartition(":")[2] or port)) if ":" in host else (host, port)
            for host in hosts.split(",")]  # fmt: skip


def _login(url: str) -> dict[str, Any]:
    user, _, password = urlsplit(url).netloc.rpartition("@")[0].partition(":")
    given = {"username": unquote(user), "password": unquote(password)}
    return {key: value for key, value in given.items() if value}
