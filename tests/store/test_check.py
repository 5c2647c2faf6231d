"""The check: what is wrong with a Redis is said in words, before money is entrusted to it and while it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import StoreUnavailable
from engine.store.check import RedisCheck, StoreReport, _durable, _problems, _warnings
from engine.store.connect import RedisSettings, connect
from engine.store.keys import DATASET
from tests.store.datasets import Dataset, eventually, only, running, servers_only
from tests.store.making import NOW, SEALED, accepted, sending
from tests.store.servers import Cluster, ask, one_server, wheel_server
from tests.support import RedisServer, free_port

FIT: dict[str, Any] = {
    "redis_version": "7.0.15",
    "role": "master",
    "loading": 0,
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
}


@pytest.fixture(scope="module", params=["machine's", "wheel's"])
def configurable(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server whose configuration tests may spoil."""
    with one_server(wheel_server() if request.param == "wheel's" else None) as server:
        yield server
        # Redis does not end on SIGTERM while it writes the first append-only file after one was switched on.
        server.kill()


@pytest.fixture
def server(configurable: RedisServer) -> Iterator[RedisServer]:
    """The same, fit and empty."""
    client = configurable.client()
    ask(client, "REPLICAOF", "NO", "ONE")
    for name, value in (("maxmemory", "0"), ("maxmemory-policy", "noeviction"), ("appendonly", "yes")):
        ask(client, "CONFIG", "SET", name, value)
    client.flushall()
    yield configurable
    client.close()


@pytest.fixture
async def store_settings(server: RedisServer) -> RedisSettings:
    return RedisSettings(url=server.url)


async def _report(settings: RedisSettings, *, create: bool = False) -> StoreReport:
    client = connect(settings)
    try:
        check = RedisCheck(client, settings)
        if create:
            assert await check.create_dataset()
        return await check.report()
    finally:
        await client.aclose()


def _configure(server: RedisServer, *command: str) -> None:
    client = server.client()
    ask(client, *command)
    client.close()


def _only_problem(report: StoreReport) -> str:
    (problem,) = report.problems
    assert not report.ok
    return problem


async def test_a_fit_redis_with_a_dataset_has_no_problems(store_settings: RedisSettings) -> None:
    report = await _report(store_settings, create=True)
    assert report.problems == ()
    assert report.ok
    assert report.durable


async def test_a_replica_is_refused(
    server: RedisServer, store_settings: RedisSettings, shared_redis: RedisServer
) -> None:
    _configure(server, "REPLICAOF", "127.0.0.1", str(shared_redis.port))
    assert _only_problem(await _report(store_settings)) == (
        "redis: this is a replica: connect to the primary, or through Sentinel"
    )


async def test_a_redis_that_evicts_is_refused_and_one_that_never_needs_to_is_not(
    server: RedisServer, store_settings: RedisSettings
) -> None:
    await _report(store_settings, create=True)
    _configure(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert (await _report(store_settings)).ok, "without a limit nothing is evicted"
    _configure(server, "CONFIG", "SET", "maxmemory", "100mb")
    assert _only_problem(await _report(store_settings)) == (
        "redis: maxmemory-policy is allkeys-lru: set it to noeviction, or payments vanish"
    )
    _configure(server, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert (await _report(store_settings)).ok


async def test_a_redis_without_an_append_only_file_is_refused_unless_loss_was_chosen(server: RedisServer) -> None:
    strict = RedisSettings(url=server.url)
    relaxed = RedisSettings(url=server.url, durability="relaxed")
    await _report(strict, create=True)
    _configure(server, "CONFIG", "SET", "appendonly", "no")
    assert _only_problem(await _report(strict)) == (
        'redis: appendonly is off: set `appendonly yes`, or redis.durability = "relaxed" to lose on a crash'
    )
    report = await _report(relaxed)
    assert report.problems == ()
    assert report.durable is False, "what was chosen is still told"


async def test_a_redis_that_does_not_answer_does_not_say_whether_it_is_durable() -> None:
    report = await _report(RedisSettings(url=f"redis://127.0.0.1:{free_port()}/0"))
    assert not report.ok
    assert report.durable is None


def test_an_append_only_file_that_cannot_be_written_or_a_missing_replica_is_not_durable() -> None:
    wanted = RedisSettings(durability="wait:1")
    assert _durable(FIT | {"connected_slaves": 1}, wanted)
    assert not _durable(FIT, wanted)
    assert not _durable(FIT | {"connected_slaves": 1, "aof_last_write_status": "err"}, wanted)


async def test_several_problems_are_all_said(
    server: RedisServer, store_settings: RedisSettings, shared_redis: RedisServer
) -> None:
    for command in (
        ("CONFIG", "SET", "appendonly", "no"),
        ("CONFIG", "SET", "maxmemory", "100mb"),
        ("CONFIG", "SET", "maxmemory-policy", "volatile-ttl"),
        ("REPLICAOF", "127.0.0.1", str(shared_redis.port)),
    ):
        _configure(server, *command)
    assert len((await _report(store_settings)).problems) == 3


async def test_a_missing_marker_is_a_problem_that_says_what_to_do(store_settings: RedisSettings) -> None:
    assert _only_problem(await _report(store_settings)) == (
        "redis: the dataset marker is missing: an empty or wrong Redis. For a new one run "
        "`python -m app init`; if there should be data, restore it first"
    )


async def test_another_number_of_shards_than_the_dataset_s_is_refused(server: RedisServer) -> None:
    await _report(RedisSettings(url=server.url, shards=16), create=True)
    assert _only_problem(await _report(RedisSettings(url=server.url, shards=32))) == (
        "redis: redis.shards is 32, but the dataset has 16, and it cannot change"
    )


async def test_a_marker_that_says_nothing_about_shards_is_a_problem_and_no_crash(
    server: RedisServer, store_settings: RedisSettings
) -> None:
    _configure(server, "HSET", DATASET, "id", "1234")
    assert not (await _report(store_settings)).ok
    _configure(server, "DEL", DATASET)
    _configure(server, "SET", DATASET, "not a hash")
    assert not (await _report(store_settings)).ok


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:{}", "redis+cluster://127.0.0.1:{}", "redis+sentinel://127.0.0.1:{}/mymaster", "unix:///no/{}"],
    ids=["redis", "cluster", "sentinel", "unix"],
)
async def test_a_redis_that_is_down_is_a_problem_and_no_exception(url: str) -> None:
    settings = RedisSettings(url=url.format(free_port()), timeout_s=5.0)
    report = await asyncio.wait_for(_report(settings), 30)
    assert _only_problem(report).startswith("redis does not answer (")


async def test_a_redis_that_went_down_is_noticed_and_its_return_as_well() -> None:
    with one_server() as server:
        settings = RedisSettings(url=server.url, timeout_s=30.0)
        client = connect(settings)
        check = RedisCheck(client, settings)
        await check.create_dataset()
        assert (await check.report()).ok
        server.kill()
        assert not (await check.report()).ok
        server.start()
        assert (await check.report()).ok, "with its marker: the append-only file was read"
        await client.aclose()


# Creating a dataset


@servers_only("the check asks for INFO, which fakeredis does not have")
async def test_a_dataset_is_created_once_in_an_empty_redis(store: Dataset) -> None:
    check = RedisCheck(store.client, RedisSettings(shards=16))
    assert await check.create_dataset() is True
    marker = await store.ask("HGETALL", DATASET)
    assert marker[b"shards"] == b"16"
    assert await check.create_dataset() is False
    assert await store.ask("HGETALL", DATASET) == marker, "its id stays"
    assert (await check.report()).ok


@servers_only("the check asks for INFO, which fakeredis does not have")
async def test_no_dataset_is_created_where_something_else_is(store: Dataset) -> None:
    """On whichever primary of a cluster it is."""
    check = RedisCheck(store.client, RedisSettings())
    for shard in store.keys.shards:
        await store.everywhere("FLUSHALL")
        await store.ask("SET", f"{shard.tag}:foreign", "1")
        with pytest.raises(ValueError, match="not empty"):
            await check.create_dataset()
    assert await store.ask("EXISTS", DATASET) == 0


@only("cluster", why="only a cluster has several primaries")
async def test_each_primary_of_a_cluster_is_checked_and_named(store: Dataset, cluster: Cluster) -> None:
    settings = RedisSettings()
    check = RedisCheck(store.client, settings)
    await check.create_dataset()
    nodes = cluster.nodes
    _configure(nodes[1], "CONFIG", "SET", "appendonly", "no")
    try:
        assert _only_problem(await check.report()).startswith(f"127.0.0.1:{nodes[1].port}: appendonly is off")
    finally:
        _configure(nodes[1], "CONFIG", "SET", "appendonly", "yes")


async def test_a_cluster_of_one_primary_is_checked_as_well(lone_primary: Cluster) -> None:
    settings = RedisSettings(url=lone_primary.url)
    assert (await _report(settings, create=True)).problems == ()
    _configure(lone_primary.nodes[0], "CONFIG", "SET", "appendonly", "no")
    assert "appendonly is off" in _only_problem(await _report(settings))


async def test_after_a_failover_of_a_cluster_the_check_lets_steps_work_again(
    primary_and_replica: tuple[Cluster, RedisServer],
) -> None:
    """Steps alone would ask the dead primary for ever: it is the check's question that finds the new one."""
    cluster, replica = primary_and_replica
    settings = RedisSettings(url=cluster.url, timeout_s=30.0)
    async with running(connect(settings)) as store:
        check = RedisCheck(store.client, settings)
        await check.create_dataset()
        payment = accepted()
        await store.payments().create(payment, SEALED, due_ms=NOW)
        cluster.nodes[0].kill()
        with pytest.raises(StoreUnavailable):
            await store.payments().get(payment.id)
        _configure(replica, "CLUSTER", "FAILOVER", "TAKEOVER")

        async def is_fit() -> bool:
            return (await check.report()).ok

        await eventually(is_fit)
        assert await store.payments().get(payment.id) == payment
        assert await store.payments().begin(sending(payment), due_ms=NOW) == SEALED


# Facts that a test cannot easily make a server tell


@pytest.mark.parametrize("version", ["5.0.14", "6.0.16", "6.1.0"])
def test_a_version_that_is_too_old_is_refused(version: str) -> None:
    assert _problems(FIT | {"redis_version": version}, RedisSettings()) == [
        f"version {version} is too old: 6.2 or newer is needed"
    ]


@pytest.mark.parametrize("version", ["6.2.0", "6.2.14", "7.0.15", "8.2", "10.0.1"])
def test_a_version_that_is_new_enough_is_taken(version: str) -> None:
    assert _problems(FIT | {"redis_version": version}, RedisSettings()) == []


def test_a_redis_that_is_still_loading_is_refused() -> None:
    assert _problems(FIT | {"loading": 1}, RedisSettings()) == ["still loading its data"]


def test_an_append_only_file_that_cannot_be_written_is_refused_unless_loss_was_chosen() -> None:
    facts = FIT | {"aof_last_write_status": "err"}
    assert _problems(facts, RedisSettings()) == ["writing the append-only file fails: look at its disk"]
    assert _problems(facts, RedisSettings(durability="relaxed")) == []


def test_a_single_copy_and_a_slow_disk_are_warned_of() -> None:
    facts = FIT | {"aof_pending_bio_fsync": 0, "connected_slaves": 0, "aof_delayed_fsync": 3}
    assert _warnings(facts) == [
        "no replica is connected: a lost disk is a lost dataset",
        "fsync was late 3 times: the disk is slow",
    ]
    assert _warnings(facts | {"connected_slaves": 1, "aof_delayed_fsync": 0}) == []


async def test_a_single_copy_that_syncs_once_a_second_is_warned_of(store_settings: RedisSettings) -> None:
    assert (await _report(store_settings, create=True)).warnings == (
        "redis: no replica is connected: a lost disk is a lost dataset",
        "redis: appendfsync is everysec: a power failure may cost the last second, `always` would not",
    )
