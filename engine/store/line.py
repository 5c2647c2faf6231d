"""A connection of the batcher's own: a batch leaves in one piece, and its replies are read one after the other.

redis-py's pipelines take a connection out of the pool for every batch, look it over, send in a task of its own and set
a timer for every reply; that costs more than everything that a step is made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from engine.store.step import Argument


class Line:
    """One connection to one server, or to whoever Sentinel says is the primary; one batch at a time.

    It connects when it is first used and after it was lost. Nothing is sent twice.
    """

    def __init__(self, client: Redis) -> None:
        # Not out of the pool, which would lend one the fewer for ever; made as the pool makes its own.
        self._pool: Any = client.connection_pool
        self._connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
        self._converted = client.response_callbacks
        self._timeout_s: float | None = self._connection.socket_timeout
        # The time is kept here, for the batch: redis-py's own timers cost as much as the reading.
        self._connection.socket_timeout = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now, as far as we know."""
        return bool(self._connection.is_connected)

    async def execute(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Send the commands; returns their replies, an error in its command's place.

        Raises whatever ended the connection; what was sent may then have run. A server may be silent as long as the
        client's `socket_timeout`, also between two replies.
        """
        loop = asyncio.get_running_loop()
        try:
            await self._ready()
            async with asyncio.timeout(self._timeout_s) as patience:
                await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
                replies = []
                sent_s = loop.time()
                for command in commands:
                    replies.append(await self._reply(command[0]))
                    if self._timeout_s and loop.time() - sent_s > self._timeout_s / 2:
                        sent_s = loop.time()
                        patience.reschedule(sent_s + self._timeout_s)
                return replies
        except BaseException:
            # What is still to come on it must never be taken for the reply to something else.
            await self.close()
            raise

    async def close(self) -> None:
        """Hang up. Safe to call twice, and when it was never used."""
        await self._connection.disconnect(nowait=True)

    async def _ready(self) -> None:
        if self._connection.is_connected and (self._is_replaced() or await self._connection.can_read()):
            # Or the server has hung up meanwhile, or says something that nobody has asked for.
            await self.close()
        if not self._connection.is_connected:
            # There is more to it than one reply, and redis-py gives each of them its time.
            self._connection.socket_timeout = self._timeout_s
            await self._connection.connect()
            self._connection.socket_timeout = None

    def _is_replaced(self) -> bool:
        """Whether Sentinel has named another primary meanwhile. The old one may live, and take what it will lose."""
        named = getattr(self._pool, "master_address", None)
        return named is not None and named != (self._connection.host, self._connection.port)

    async def _reply(self, name: Any) -> Any:
        try:
            reply = await self._connection.read_response()
        except ResponseError as error:
            return error
        # What redis-py makes of some commands' replies, as in its pipelines.
        convert = self._converted.get(name)
        return reply if convert is None else convert(reply)
