"""What each process tells of itself: one value a process, which is gone soon after the process is."""

from __future__ import annotations

from typing import Final

from engine.store.batch import Batcher
from engine.store.keys import PROCESS, PROCESSES
from engine.store.step import Step

TTL_S: Final = 10
PROCESSES_MAX: Final = 64
"""More are not read."""


class RedisProcesses:
    """The processes of a dataset, by their owners' names."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._told = b""

    async def tell(self, owner: str, body: bytes) -> None:
        """Say it, for the next ten seconds. Raises `StoreUnavailable`."""
        name = PROCESS + owner
        # What has not changed is not written to the append-only file again.
        if body == self._told and await self._batcher.command("PEXPIRE", name, TTL_S * 1000):
            await self._batcher.command("SADD", PROCESSES, owner)
            return
        step = Step()
        step.do("SET", name, body, "PX", TTL_S * 1000)
        step.do("SADD", PROCESSES, owner)
        await self._batcher.step(step)
        if not self._told:
            # Every start has a name of its own: without this, where nobody ever looks they would pile up.
            await self.all()
        self._told = body

    async def all(self) -> list[bytes]:
        """What those who live have told, in the order of their names. Raises `StoreUnavailable`."""
        owners = sorted(await self._batcher.command("SMEMBERS", PROCESSES))
        if not owners:
            return []
        bodies = await self._batcher.command("MGET", *(PROCESS + owner.decode() for owner in owners))
        if gone := [owner for owner, body in zip(owners, bodies, strict=True) if body is None]:
            # Whoever was only slow comes back: its next word names it again.
            await self._batcher.command("SREM", PROCESSES, *gone)
        return [body for body in bodies if body is not None][:PROCESSES_MAX]
