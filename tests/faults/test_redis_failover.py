"""The Redis that keeps the money goes: its primary dies behind Sentinel, becomes a replica, or has no disk left."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.faults.side_by_side import side_by_side
from tests.faults.world import eventually, world
from tests.store.servers import ask, sentinel_of, wait_until
from tests.support import RedisServer, free_port

SERVICE = "payments"


@side_by_side
async def test_a_primary_lost_behind_sentinel_takes_nothing_with_it_that_was_acknowledged(folder: Path) -> None:
    """With `wait:1` a step counts only when the replica has it, and the replica becomes the primary."""
    with _replicated(folder) as (primary, replica), sentinel_of(primary.port, SERVICE) as port:
        _watchful(port)
        url = f"redis+sentinel://127.0.0.1:{port}/{SERVICE}"
        settings = {"PAYMENTS__REDIS__URL": url, "PAYMENTS__REDIS__DURABILITY": "wait:1"}
        async with world(folder, settings, server=primary) as w:
            async with w.shop.buying():
                await w.shop.until_accepted(60)
                primary.kill()
                await eventually(lambda: _role(replica) == "master" and _primary_of(port) == replica.port)
                w.redis = replica
                # The new primary has no replica: with `wait:1` nothing is accepted until there is one.
                primary.start()
                # Sentinel would do this by itself, after half a minute, and later on a machine that stumbles.
                with contextlib.closing(primary.client()) as client:
                    ask(client, "REPLICAOF", "127.0.0.1", replica.port)
                await eventually(lambda: _role(primary) == "slave" and _synced(primary))
                accepted = len(w.shop.accepted)
                await w.shop.until_accepted(accepted + 60)
            assert any(posted.outcome == "unknown" for posted in w.shop.posted), "nobody was there when it died"
            evidence = await w.judge()
            assert evidence.payments.keys() >= w.shop.accepted


@side_by_side
async def test_a_primary_that_becomes_a_replica_refuses_writes_and_the_engine_waits_for_it(folder: Path) -> None:
    """`READONLY`: somebody demoted it by hand. Nothing is accepted, `/ready` says why, and then it goes on."""
    async with world(folder) as w:
        async with w.shop.buying():
            await w.shop.until_accepted(60)
            with contextlib.closing(w.redis.client()) as client:
                ask(client, "REPLICAOF", "127.0.0.1", free_port())
                before = len(w.shop.posted)
                await eventually(lambda: len(w.shop.posted) >= before + 50)
                status, parts = await w.engine.ready_parts()
                assert (status, parts["store"] == "ok") == (503, False)
                demoted = [posted for posted in w.shop.posted[before + 10 :] if posted.outcome == "ok"]
                assert demoted == []
                ask(client, "REPLICAOF", "NO", "ONE")
        evidence = await w.judge()
        assert evidence.payments.keys() == w.shop.accepted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@side_by_side
async def test_a_full_disk_refuses_payments_and_loses_none(folder: Path) -> None:
    """`MISCONF`: writes that were answered stay in memory and reach the file when there is room again."""
    with _small_disk(folder / "disk") as disk:
        server = RedisServer(disk, {"auto-aof-rewrite-percentage": "0"})
        server.start()
        try:
            async with world(folder, server=server) as w:
                async with w.shop.buying():
                    await w.shop.until_accepted(30)
                    filler = disk / "filler"
                    _fill(filler)
                    await eventually(lambda: _aof_fails(server))
                    before = len(w.shop.posted)
                    await eventually(lambda: len(w.shop.posted) >= before + 50)
                    refused = [posted for posted in w.shop.posted[before:] if "STORE_UNAVAILABLE" in posted.detail]
                    assert len(refused) >= 30
                    filler.unlink()
                    await eventually(lambda: not _aof_fails(server))
                    accepted = len(w.shop.accepted)
                    await w.shop.until_accepted(accepted + 30)
                await w.healed()
                server.kill()
                server.start()
                evidence = await w.judge()
                assert evidence.payments.keys() == w.shop.accepted
        finally:
            server.stop()


@contextlib.contextmanager
def _replicated(folder: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary, and a replica that has all its data."""
    at_once = {"repl-diskless-sync-delay": "0", "min-replicas-max-lag": "1"}
    primary, replica = (RedisServer(folder / name, at_once) for name in ("primary", "replica"))
    for server in (primary, replica):
        server.folder.mkdir()
        server.start()
    try:
        with contextlib.closing(replica.client()) as client:
            ask(client, "REPLICAOF", "127.0.0.1", primary.port)
        wait_until(lambda: _synced(replica), "the replica has the data")
        yield primary, replica
    finally:
        for server in (primary, replica):
            server.stop()


def _watchful(sentinel_port: int) -> None:
    """Believe in a death after a second, not after thirty."""
    with contextlib.closing(redis.Redis(port=sentinel_port, decode_responses=True)) as client:
        ask(client, "SENTINEL", "SET", SERVICE, "down-after-milliseconds", "1000")
        ask(client, "SENTINEL", "SET", SERVICE, "failover-timeout", "5000")
        wait_until(lambda: bool(ask(client, "SENTINEL", "REPLICAS", SERVICE)), "the sentinel knows the replica")


def _primary_of(sentinel_port: int) -> int:
    """The port of the primary, as Sentinel tells it."""
    with contextlib.closing(redis.Redis(port=sentinel_port, decode_responses=True)) as client:
        return int(ask(client, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])


def _role(server: RedisServer) -> str:
    with contextlib.closing(server.client()) as client:
        return str(client.info("replication")["role"])


def _synced(server: RedisServer) -> bool:
    with contextlib.closing(server.client()) as client:
        return client.info("replication").get("master_link_status") == "up"


def _aof_fails(server: RedisServer) -> bool:
    with contextlib.closing(server.client()) as client:
        return bool(client.info("persistence")["aof_last_write_status"] != "ok")


@contextlib.contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _fill(file: Path) -> None:
    """Write until there is no room, also none that somebody else is about to take."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            out.write(b"x" * 4096)
