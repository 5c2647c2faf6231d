"""Is this Redis fit to hold money? Asked at the start, and again and again while running."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final, NamedTuple

from redis.exceptions import RedisClusterException, RedisError, ResponseError

from engine.store.batch import RedisClient
from engine.store.connect import RedisSettings, is_cluster
from engine.store.keys import DATASET

VERSION_MIN: Final = (6, 2)
_FORMAT: Final = "1"
_SKEW_MAX_S: Final = 1.0


class StoreReport(NamedTuple):
    """What is wrong (refuse to work) and what is doubtful (say it)."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    durable: bool | None = None
    """Whether it keeps what it is given over a crash; None: it did not tell."""

    @property
    def ok(self) -> bool:
        """Whether the store may be used."""
        return not self.problems


class RedisCheck:
    """Asks every primary what it is and how it keeps what it is given."""

    def __init__(self, client: RedisClient, settings: RedisSettings) -> None:
        self._client = client
        self._settings = settings

    async def report(self) -> StoreReport:
        """The state of the store now. Never raises for trouble with Redis: that is a problem too."""
        problems: list[str] = []
        warnings: list[str] = []
        durable: bool | None = None
        try:
            facts_by_name = await self._facts()
            durable = all(_durable(facts, self._settings) for facts in facts_by_name.values())
            for name, facts in facts_by_name.items():
                problems += [f"{name}: {text}" for text in _problems(facts, self._settings)]
                warnings += [f"{name}: {text}" for text in _warnings(facts)]
            if not problems:
                problems += await self._dataset_problems()
            warnings += await self._clock_warnings()
            warnings += await self._fsync_warnings()
        except (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError) as error:
            # RuntimeError is uvloop's word for a connection that was reset a moment ago.
            problems.append(f"redis does not answer ({type(error).__name__})")
        return StoreReport(tuple(problems), tuple(warnings), durable)

    async def create_dataset(self) -> bool:
        """Write the dataset marker into an empty Redis. False if there is one; raises `ValueError` if not empty."""
        if await self._client.exists(DATASET):
            return False
        if await self._keys_in_all():
            raise ValueError("this Redis is not empty and has no dataset marker: it is not ours, or it lost data")
        marker: dict[Any, Any] = {"id": secrets.token_hex(8), "format": _FORMAT, "shards": str(self._settings.shards)}
        await self._client.hset(DATASET, mapping=marker)
        return True

    async def _keys_in_all(self) -> int:
        if is_cluster(self._client):
            # Asked without names, the client counts the keys of one node only.
            return int(await self._client.dbsize(target_nodes=self._client.PRIMARIES))  # type: ignore[union-attr]
        return int(await self._client.dbsize())

    async def _facts(self) -> dict[str, dict[str, Any]]:
        if is_cluster(self._client):
            facts: dict[str, dict[str, Any]] = await self._client.info(target_nodes=self._client.PRIMARIES)  # type: ignore[union-attr]
            # The only primary of a cluster answers for itself, without its name.
            return facts if "redis_version" not in facts else {"redis": facts}
        one: dict[str, Any] = await self._client.info()
        return {"redis": one}

    async def _dataset_problems(self) -> list[str]:
        marker: dict[Any, Any] = await self._client.hgetall(DATASET)
        if not marker:
            return [
                "redis: the dataset marker is missing: an empty or wrong Redis. For a new one run "
                "`python -m app init`; if there should be data, restore it first"
            ]
        shards = marker.get(b"shards", b"an unknown number").decode()
        if shards != str(self._settings.shards):
            return [
                f"redis: redis.shards is {self._settings.shards}, but the dataset has {shards}, and it cannot change"
            ]
        return []

    async def _fsync_warnings(self) -> list[str]:
        if is_cluster(self._client) or self._settings.durability == "relaxed":
            return []
        try:
            policy: Any = (await self._client.config_get("appendfsync")).get("appendfsync")
        except ResponseError:
            return []  # a managed Redis does not tell
        text = policy.decode() if isinstance(policy, bytes) else policy
        if text in (None, "always"):
            return []
        return [f"redis: appendfsync is {text}: a power failure may cost the last second, `always` would not"]

    async def _clock_warnings(self) -> list[str]:
        if is_cluster(self._client):
            return []
        seconds, micros = await self._client.time()
        skew = abs(time.time() - (seconds + micros / 1e6))
        return [f"redis: clocks differ by {skew:.1f} s"] if skew > _SKEW_MAX_S else []


def _problems(facts: dict[str, Any], settings: RedisSettings) -> list[str]:
    found = []
    version = tuple(int(part) for part in str(facts["redis_version"]).split(".")[:2])
    if version < VERSION_MIN:
        found.append(f"version {facts['redis_version']} is too old: 6.2 or newer is needed")
    if facts.get("role") != "master":
        found.append("this is a replica: connect to the primary, or through Sentinel")
    if facts.get("loading"):
        found.append("still loading its data")
    if facts.get("maxmemory") and facts.get("maxmemory_policy") != "noeviction":
        found.append(f"maxmemory-policy is {facts.get('maxmemory_policy')}: set it to noeviction, or payments vanish")
    if facts.get("connected_slaves", 0) < settings.replicas:
        found.append(f"redis.durability is {settings.durability}, but {facts.get('connected_slaves', 0)} are connected")
    if settings.durability != "relaxed":
        if not facts.get("aof_enabled"):
            found.append('appendonly is off: set `appendonly yes`, or redis.durability = "relaxed" to lose on a crash')
        elif facts.get("aof_last_write_status", "ok") != "ok":
            found.append("writing the append-only file fails: look at its disk")
    return found


def _durable(facts: dict[str, Any], settings: RedisSettings) -> bool:
    """What is so, and not what `redis.durability` asks for: who chose "relaxed" shall see what it means."""
    written = facts.get("aof_enabled") and facts.get("aof_last_write_status", "ok") == "ok"
    return bool(written) and facts.get("connected_slaves", 0) >= settings.replicas


def _warnings(facts: dict[str, Any]) -> list[str]:
    found = []
    if facts.get("aof_enabled") and "aof_pending_bio_fsync" in facts and not facts.get("connected_slaves"):
        found.append("no replica is connected: a lost disk is a lost dataset")
    if facts.get("aof_delayed_fsync"):
        found.append(f"fsync was late {facts['aof_delayed_fsync']} times: the disk is slow")
    return found
