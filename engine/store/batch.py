"""The batcher: what is asked of Redis in the same loop pass leaves as one pipeline.

A lone script costs three times the CPU of one in a pipeline. Nothing is retried here: a lost connection fails
what was on it with `StoreUnavailable`, and the caller, who knows whether repeating is safe, repeats.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisError

from engine.errors import Overloaded, StoreUnavailable
from engine.store.keys import FENCE
from engine.store.line import Line
from engine.store.step import SCRIPT, SCRIPT_SHA, Argument, Refusal, Step
from metrics.instruments import Instruments

RedisClient = Redis | RedisCluster
_Command = tuple[Argument, ...]
_STEP: Final = ("EVALSHA", SCRIPT_SHA)
_STEPS: Final = ("EVALSHA", "EVAL")


class Batcher:
    """Sends steps and plain commands in shared pipelines. `run()` must be running; it is safe to cancel.

    `waiting_max` bounds what may wait; beyond it `Overloaded` is raised at once. With `replicas`, a step counts only
    when so many replicas have it: too few within the time is an unknown outcome, like any lost answer.
    """

    def __init__(
        self,
        client: RedisClient,
        instruments: Instruments,
        *,
        waiting_max: int = 4096,
        batch_max: int = 128,
        pipelines_max: int = 2,
        replicas: int = 0,
        replicas_timeout_s: float = 1.0,
    ) -> None:
        self._client = client
        self._instruments = instruments
        self._waiting: deque[tuple[_Command, asyncio.Future[Any]]] = deque()
        self._wake: asyncio.Event = asyncio.Event()
        self._waiting_max = waiting_max
        self._batch_max = batch_max
        # A cluster's client knows which node has what, and follows what moves: there its pipelines are used.
        self._lines = [None if isinstance(client, RedisCluster) else Line(client) for _ in range(pipelines_max)]
        self._replicas = replicas
        self._replicas_timeout_ms = int(replicas_timeout_s * 1000)
        self._closed = False

    async def run(self) -> None:
        """Send until cancelled; whoever still waits then gets `StoreUnavailable`."""
        try:
            async with asyncio.TaskGroup() as senders:
                for line in self._lines:
                    senders.create_task(self._send(line))
                try:
                    # For ever, and here: the senders must see the end, for one may miss its own cancellation.
                    await asyncio.get_running_loop().create_future()
                finally:
                    self._closed = True
        finally:
            while self._waiting:
                _fail(self._waiting.popleft()[1], StoreUnavailable("the store is closed"))

    @property
    def connections(self) -> int:
        """Open connections, beside those of the client's pool."""
        return sum(line is not None and line.is_connected for line in self._lines)

    async def step(self, step: Step) -> list[Any] | Refusal:
        """Run a step. Returns the replies of its commands, or the condition that did not hold.

        Raises `StoreUnavailable` when Redis did not answer (the step may have run) or refused to write.
        """
        command = (*_STEP, *step.arguments())
        try:
            reply = await self.command(*command)
        except NoScriptError:
            # A restarted or promoted server has lost its scripts; EVAL brings this one back.
            reply = await self.command("EVAL", SCRIPT, *command[2:])
        if reply[0] == 1:
            return reply[1:]  # type: ignore[no-any-return]
        return Refusal(int(reply[1]) - 1, reply[2])

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        """Run one command; its first key decides where. Raises like `step`, and `Overloaded` at once."""
        if self._closed:
            # Nobody sends any more: without this, whoever gives back its leases at the end would wait for ever.
            raise StoreUnavailable("the store is closed")
        if len(self._waiting) >= self._waiting_max:
            self._instruments.rejections.labels("store_waiting").inc()
            raise Overloaded("store_waiting")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        self._wake.set()
        return future

    async def _send(self, line: Line | None) -> None:
        try:
            # redis-py may swallow a cancellation: on Python 3.11 `asyncio.wait_for` does, within which it connects.
            while not self._closed:
                await self._wake.wait()
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch_max))]
                if not self._waiting:
                    self._wake.clear()
                if batch:
                    await self._send_batch(line, batch)
        finally:
            if line is not None:
                await line.close()

    async def _send_batch(self, line: Line | None, batch: Sequence[tuple[_Command, asyncio.Future[Any]]]) -> None:
        self._instruments.store_batch.observe(len(batch))
        try:
            with self._instruments.store_pipeline.time():
                replies = await self._execute(line, [command for command, _ in batch])
        except Exception as error:
            # Not only Redis's own errors: uvloop answers a write to a connection that was reset a moment ago with
            # a RuntimeError. One broken batch must not end the sender, and with it the process.
            for _, future in batch:
                _fail(future, _unavailable(error))
        except BaseException as error:
            for _, future in batch:
                _fail(future, StoreUnavailable(f"the store was closed while it worked ({type(error).__name__})"))
            raise
        else:
            for (_, future), reply in zip(batch, replies, strict=True):
                if isinstance(reply, NoScriptError):
                    _fail(future, reply)
                elif isinstance(reply, BaseException):
                    _fail(future, _unavailable(reply))
                elif not future.done():
                    future.set_result(reply)

    async def _execute(self, line: Line | None, commands: list[_Command]) -> list[Any]:
        """Send the commands; with a fence, the steps among them count only when enough replicas have them."""
        if not self._replicas or not any(command[0] in _STEPS for command in commands):
            return await self._replies(line, commands)
        # WAIT asks about the writes of its own connection. Written here, the fence lies behind all that the steps
        # wrote and, for a step that is repeated, behind what its first execution wrote elsewhere.
        fence: list[_Command] = [("SET", FENCE, ""), ("WAIT", self._replicas, self._replicas_timeout_ms)]
        *replies, _, reached = await self._replies(line, commands + fence)
        if isinstance(reached, BaseException) or reached < self._replicas:
            raise TooFewReplicas(f"{reached} of {self._replicas}")
        return replies

    async def _replies(self, line: Line | None, commands: list[_Command]) -> list[Any]:
        if line is not None:
            return await line.execute(commands)
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies


class TooFewReplicas(RedisError):
    """Fewer replicas than asked for have confirmed a write in time."""


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _unavailable(error: BaseException) -> StoreUnavailable:
    # Only the kind and Redis's own first word: its messages may quote arguments.
    word = str(error).split(" ", 1)[0] if isinstance(error, RedisError) else ""
    wrapped = StoreUnavailable("the store did not confirm the step", reason=f"{type(error).__name__} {word}".strip())
    wrapped.__cause__ = error
    return wrapped
