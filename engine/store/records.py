"""Records of a service beside the engine: one hash, and one writer at a time. Not part of the engine's dataset."""

from __future__ import annotations

import secrets
from typing import Any, Final

from redis.exceptions import RedisClusterException, RedisError

from engine.errors import StoreUnavailable
from engine.store.batch import RedisClient
from engine.store.step import SCRIPT, Step

_PAGE: Final = 1000
_TROUBLE: Final = (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError)
"""RuntimeError is uvloop's word for a connection that was reset a moment ago."""


class RedisRecords:
    """Keeps JSON records by id under `{companion:NAME}:…`. Every method raises `StoreUnavailable` for any trouble.

    Whoever opens last is the writer: what another process still has under way is refused, so that two who each
    remember all records never write over each other. Use a database without the engine's dataset: `init` refuses
    to mark one that holds anything.
    """

    def __init__(self, client: RedisClient, name: str) -> None:
        self._client = client
        tag = f"{{companion:{name}}}"
        self._records, self._writer = f"{tag}:records", f"{tag}:writer"
        self._name = secrets.token_hex(8)

    async def open(self) -> list[bytes]:
        """Become the writer; every record."""
        try:
            await self._client.set(self._writer, self._name)
        except _TROUBLE as error:
            raise _unavailable(error) from error
        return await self.read()

    async def read(self) -> list[bytes]:
        """Every record, a page at a time."""
        found: dict[bytes, bytes] = {}
        cursor = 0
        try:
            while True:
                answer: Any = await self._client.hscan(self._records, cursor, count=_PAGE)
                cursor, page = answer
                found |= page
                if not cursor:
                    return list(found.values())
        except _TROUBLE as error:
            raise _unavailable(error) from error

    async def put(self, record_id: str, record: bytes) -> None:
        """Keep a record instead of its last version, if this is still the writer."""
        step = Step()
        step.expect_value(self._writer, self._name)
        step.do("HSET", self._records, record_id, record)
        try:
            count, *arguments = step.arguments()
            answer: Any = await self._client.eval(SCRIPT, int(count), *arguments)
        except _TROUBLE as error:
            raise _unavailable(error) from error
        if answer[0] != 1:
            raise StoreUnavailable("another process keeps these records now")

    async def ready(self) -> bool:
        """Whether Redis answers, and this is still the writer."""
        try:
            return bool(await self._client.get(self._writer) == self._name.encode())
        except _TROUBLE as error:
            raise _unavailable(error) from error

    def connections(self) -> int:
        """How many are open."""
        # A cluster's client counts for itself.
        pool = getattr(self._client, "connection_pool", self._client)
        return sum(count for count, _ in getattr(pool, "get_connection_count", list)())


def _unavailable(error: BaseException) -> StoreUnavailable:
    # Only the kind: Redis's messages may quote arguments.
    return StoreUnavailable(f"redis does not keep the records now ({type(error).__name__})")
