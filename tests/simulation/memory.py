"""Redis in memory, behind the interface of the batcher: exactly the commands that the store uses, and its troubles.

A command may be refused before it runs, lose its answer after it ran, or stall: then the client gives up, and the
command still runs later. Unknown commands and options break loudly.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from engine.errors import StoreUnavailable
from engine.store.batch import Batcher
from engine.store.step import Argument, Refusal, Step
from tests.simulation.loop import VirtualLoop

_TIMEOUT_S: Final = 2.0
StreamId = tuple[int, int]


@dataclass
class Pending:
    """An entry that a consumer has been given and has not acknowledged."""

    consumer: str
    since_ms: int


@dataclass
class Group:
    """A consumer group."""

    last: StreamId
    pending: dict[StreamId, Pending] = field(default_factory=dict)
    seen_ms: dict[str, int] = field(default_factory=dict)


class Stream:
    """Entries by id, oldest first, with the groups that read them."""

    def __init__(self) -> None:
        self.ids: list[StreamId] = []
        self.fields: dict[StreamId, dict[bytes, bytes]] = {}
        self.last: StreamId = (0, 0)
        self.groups: dict[str, Group] = {}

    def after(self, start: StreamId, count: int) -> list[StreamId]:
        place = bisect_right(self.ids, start)
        return self.ids[place : place + count]

    def entry(self, stream_id: StreamId) -> tuple[bytes, dict[bytes, bytes]]:
        return _id_text(stream_id), self.fields[stream_id]


class MemoryRedis:
    """The data and what can be done with it; every command runs at once and by itself."""

    def __init__(self, now_ms: Callable[[], int], written: Callable[[str, bytes | None, bytes], None]) -> None:
        """`written` is told of every record of a payment: key, what stood there, what stands there."""
        self._now_ms = now_ms
        self._written = written
        self._data: dict[str, Any] = {}
        self._expires_ms: dict[str, int] = {}
        self.entries_lost = 0

    def execute(self, command: tuple[Argument, ...]) -> Any:
        """Run one command. Raises `ResponseError` as Redis would."""
        name, *arguments = command
        method = getattr(self, f"_{_text(name).lower()}", None)
        assert method is not None, f"the simulated Redis has no {name!r}"
        return method(*arguments)

    def step(self, arguments: tuple[Argument, ...], *, ignored: tuple[str, ...] = ()) -> list[Any] | Refusal:
        """What the store's script does with its arguments. `ignored` kinds of conditions are not tested."""
        taken = iter(arguments)
        keys = [_text(next(taken)) for _ in range(_number(next(taken)))]
        for place in range(_number(next(taken))):
            kind, key, want = next(taken), keys[_number(next(taken)) - 1], _bytes(next(taken))
            if kind == "below":
                have = str(self._xlen(key)).encode()
                holds = int(have) < int(want)
            elif kind == "entry":
                have = b""
                holds = _id(want) in self._stream(key).fields
            else:
                have = self._get(key) or b""
                holds = (_version(have) if kind == "version" else have) == want
            if not holds and kind not in ignored:
                return Refusal(place, have)
        replies = []
        for _ in range(_number(next(taken))):
            name, key, count = next(taken), keys[_number(next(taken)) - 1], _number(next(taken))
            replies.append(self.execute((name, key, *(next(taken) for _ in range(count)))))
        return replies

    def names(self, kind: str) -> list[str]:
        """The keys of one kind, over all shards, in order."""
        return sorted(name for name in list(self._data) if name.split(":")[1] == kind and self._alive(name) is not None)

    def values(self) -> Iterator[bytes]:
        """Everything that is stored, as bytes."""
        for name, value in self._data.items():
            yield name.encode()
            if isinstance(value, Stream):
                for fields in value.fields.values():
                    yield from fields.values()
            elif isinstance(value, (list, dict)):
                yield from (_bytes(item) for item in value)
            else:
                yield value

    def _alive(self, key: str) -> Any:
        until = self._expires_ms.get(key)
        if until is not None and until <= self._now_ms():
            del self._expires_ms[key]
            self._data.pop(key, None)
        return self._data.get(key)

    # Strings.

    def _get(self, key: str) -> bytes | None:
        value: bytes | None = self._alive(key)
        assert value is None or isinstance(value, bytes)
        return value

    def _set(self, key: str, value: Argument, *options: Argument) -> bytes:
        assert not options or (options[0] == "PX" and len(options) == 2), options
        before = self._get(key)
        self._data[key] = _bytes(value)
        self._expires_ms.pop(key, None)
        if options:
            self._expires_ms[key] = self._now_ms() + _number(options[1])
        if ":payment:" in key:
            self._written(key, before, _bytes(value))
        return b"OK"

    def _del(self, *keys: str) -> int:
        return sum(self._alive(key) is not None and self._data.pop(key) is not None for key in keys)

    def _exists(self, key: str) -> int:
        return int(self._alive(key) is not None)

    def _pexpire(self, key: str, ms: Argument) -> int:
        if self._alive(key) is None:
            return 0
        self._expires_ms[key] = self._now_ms() + _number(ms)
        return 1

    # Lists and hashes.

    def _rpush(self, key: str, *values: Argument) -> int:
        kept: list[bytes] = self._data.setdefault(key, [])
        kept.extend(_bytes(value) for value in values)
        return len(kept)

    def _lrange(self, key: str, first: Argument, last: Argument) -> list[bytes]:
        assert (first, last) == (0, -1)
        return list(self._alive(key) or ())

    def _hincrby(self, key: str, name: Argument, by: Argument) -> int:
        kept: dict[bytes, int] = self._data.setdefault(key, {})
        kept[_bytes(name)] = kept.get(_bytes(name), 0) + _number(by)
        return kept[_bytes(name)]

    def _hgetall(self, key: str) -> dict[bytes, bytes]:
        return {name: str(value).encode() for name, value in (self._alive(key) or {}).items()}

    # Sorted sets: members with their scores.

    def _zadd(self, key: str, *arguments: Argument) -> int:
        only_there = arguments[0] == "XX"
        score, member = arguments[only_there:]
        kept: dict[bytes, float] = self._alive(key) or {}
        there = _bytes(member) in kept
        if only_there and not there:
            return 0
        kept[_bytes(member)] = float(score)
        self._data[key] = kept
        return int(not there)

    def _zrem(self, key: str, member: Argument) -> int:
        return int((self._alive(key) or {}).pop(_bytes(member), None) is not None)

    def _zscore(self, key: str, member: Argument) -> float | None:
        score: float | None = (self._alive(key) or {}).get(_bytes(member))
        return score

    def _zcard(self, key: str) -> int:
        return len(self._alive(key) or ())

    def _zrangebyscore(
        self, key: str, low: Argument, high: Argument, limit: str, first: Argument, count: Argument
    ) -> list[bytes]:
        assert (low, limit, first) == ("-inf", "LIMIT", 0)
        found = sorted((score, member) for member, score in (self._alive(key) or {}).items() if score <= float(high))
        return [member for _, member in found[: _number(count)]]

    def _zremrangebyscore(self, key: str, low: Argument, high: Argument) -> int:
        assert low == "-inf"
        kept: dict[bytes, float] = self._alive(key) or {}
        over = [member for member, score in kept.items() if score <= float(high)]
        for member in over:
            del kept[member]
        return len(over)

    def _zrevrangebylex(
        self, key: str, high: str, low: str, limit: str, first: Argument, count: Argument
    ) -> list[bytes]:
        assert (low, limit, first) == ("-", "LIMIT", 0)
        assert high == "+" or high.startswith("(")
        members: list[bytes] = sorted(self._alive(key) or (), reverse=True)
        return [member for member in members if high == "+" or member < high[1:].encode()][: _number(count)]

    # Streams.

    def _stream(self, key: str) -> Stream:
        stream: Stream = self._data.setdefault(key, Stream())
        return stream

    def _xadd(self, key: str, star: str, *pairs: Argument) -> bytes:
        assert star == "*"
        stream = self._stream(key)
        stream.last = max((self._now_ms(), 0), (stream.last[0], stream.last[1] + 1))
        stream.ids.append(stream.last)
        flat = [_bytes(item) for item in pairs]
        stream.fields[stream.last] = dict(zip(flat[::2], flat[1::2], strict=True))
        return _id_text(stream.last)

    def _xlen(self, key: str) -> int:
        stream: Stream | None = self._data.get(key)
        return len(stream.ids) if stream else 0

    def _xdel(self, key: str, *ids: str) -> int:
        stream, deleted = self._stream(key), 0
        for stream_id in map(_id, ids):
            if stream.fields.pop(stream_id, None) is not None:
                stream.ids.remove(stream_id)
                deleted += 1
        return deleted

    def _xrange(self, key: str, low: str, high: str, *count: Argument) -> list[tuple[bytes, dict[bytes, bytes]]]:
        stream = self._stream(key)
        if (low, high) != ("-", "+"):
            assert low == high, "one entry, or all"
            return [stream.entry(_id(low))] if _id(low) in stream.fields else []
        return [stream.entry(stream_id) for stream_id in stream.ids[: _number(count[1]) if count else None]]

    def _xread(self, *arguments: Argument) -> list[list[Any]]:
        assert (arguments[0], arguments[2]) == ("COUNT", "STREAMS")
        reply = []
        for key, start in _streams(arguments[3:]):
            stream = self._stream(key)
            if ids := stream.after(_id(start), _number(arguments[1])):
                reply.append([key.encode(), [stream.entry(stream_id) for stream_id in ids]])
        return reply

    def _xgroup(self, what: str, key: str, name: str, *arguments: str) -> Any:
        groups = self._stream(key).groups
        if what == "CREATE":
            assert arguments == ("0", "MKSTREAM")
            if name in groups:
                raise ResponseError("BUSYGROUP Consumer Group name already exists")
            groups[name] = Group((0, 0))
            return b"OK"
        assert what == "DELCONSUMER", what
        consumer = _text(arguments[0])
        groups[name].seen_ms.pop(consumer, None)
        owned = [stream_id for stream_id, pending in groups[name].pending.items() if pending.consumer == consumer]
        for stream_id in owned:
            del groups[name].pending[stream_id]
        return len(owned)

    def _xinfo(self, what: str, key: str, name: str) -> list[dict[bytes, Any]]:
        assert what == "CONSUMERS"
        group = self._group(key, name)
        owned = Counter(pending.consumer for pending in group.pending.values())
        return [
            {b"name": consumer.encode(), b"pending": owned[consumer], b"idle": self._now_ms() - seen_ms}
            for consumer, seen_ms in group.seen_ms.items()
        ]

    def _xreadgroup(self, *arguments: Argument) -> list[list[Any]]:
        assert (arguments[0], arguments[3], arguments[5]) == ("GROUP", "COUNT", "STREAMS")
        name, consumer, count = _text(arguments[1]), _text(arguments[2]), _number(arguments[4])
        reply = []
        for key, start in _streams(arguments[6:]):
            assert start == ">"
            stream, group = self._stream(key), self._group(key, name)
            group.seen_ms[consumer] = self._now_ms()
            if ids := stream.after(group.last, count):
                group.last = ids[-1]
                group.pending.update((stream_id, Pending(consumer, self._now_ms())) for stream_id in ids)
                reply.append([key.encode(), [stream.entry(stream_id) for stream_id in ids]])
        return reply

    def _xautoclaim(self, key: str, name: str, consumer: str, idle_ms: Argument, start: Any, *count: Any) -> list[Any]:
        assert _text(start) == "0-0"
        assert count == ("COUNT", 100)
        stream, group, now = self._stream(key), self._group(key, name), self._now_ms()
        group.seen_ms[consumer] = now
        idle = [i for i, pending in group.pending.items() if now - pending.since_ms >= _number(idle_ms)]
        lost = [stream_id for stream_id in idle if stream_id not in stream.fields]
        self.entries_lost += len(lost)
        for stream_id in idle:
            group.pending[stream_id] = Pending(consumer, now)
        for stream_id in lost:
            del group.pending[stream_id]
        taken = [stream.entry(stream_id) for stream_id in idle if stream_id in stream.fields]
        return [b"0-0", taken, [_id_text(stream_id) for stream_id in lost]]

    def _xack(self, key: str, name: str, *ids: str) -> int:
        pending = self._group(key, name).pending
        return sum(pending.pop(_id(text), None) is not None for text in ids)

    def _group(self, key: str, name: str) -> Group:
        group = self._stream(key).groups.get(name)
        if group is None:
            raise ResponseError("NOGROUP No such key or consumer group")
        return group

    def unacknowledged(self) -> int:
        """Entries that some consumer has been given and has not acknowledged."""
        streams = [value for value in self._data.values() if isinstance(value, Stream)]
        return sum(len(group.pending) for stream in streams for group in stream.groups.values())


@dataclass
class StoreWeather:
    """How likely a command meets which trouble, now."""

    refused: float = 0.0
    lost: float = 0.0
    stalled: float = 0.0


class StoreLink:
    """The way of one process to the store. Once `closed`, nothing reaches the store any more."""

    def __init__(
        self,
        loop: VirtualLoop,
        redis: MemoryRedis,
        weather: StoreWeather,
        chance: random.Random,
        fired: Counter[str],
        traced: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._redis = redis
        self._weather = weather
        self._chance = chance
        self._fired = fired
        self._traced = traced
        self._world = Context()
        self.closed = False

    def ask(self, name: str, run: Callable[[], Any]) -> asyncio.Future[Any]:
        """Have something run at the store, or not, and answer, or not."""
        if self.closed:
            raise StoreUnavailable("this process is dead")
        future = self._loop.create_future()
        chance, weather = self._chance, self._weather
        takes_s = 0.0002 + chance.random() * 0.003
        fate = chance.random()
        if fate < weather.refused:
            self._fired["store refused"] += 1
            self._later(takes_s, lambda: _fail(future, "refused"))
        elif fate < weather.refused + weather.lost:
            self._fired["store answer lost"] += 1
            self._later(takes_s, lambda: self._run(f"{name} (answer lost)", run))
            # A connection that breaks is noticed at once, one that only falls silent is not.
            noticed_s = chance.choice((takes_s, _TIMEOUT_S))
            self._later(noticed_s, lambda: _fail(future, "lost"))
        elif fate < weather.refused + weather.lost + weather.stalled:
            takes_s = chance.uniform(0.2, 4.0 * _TIMEOUT_S)
            self._fired["store stalled" if takes_s < _TIMEOUT_S else "store ran late"] += 1
            self._later(min(takes_s, _TIMEOUT_S), lambda: _fail(future, "timeout") if takes_s >= _TIMEOUT_S else None)
            self._later(takes_s, lambda: _answer(future, self._run(f"{name} (late)", run)))
        else:
            self._later(takes_s, lambda: _answer(future, self._run(name, run)))
        return future

    def _later(self, delay_s: float, callback: Callable[[], object]) -> None:
        self._loop.call_later(delay_s, callback, context=self._world)

    def _run(self, name: str, run: Callable[[], Any]) -> Any:
        try:
            result = run()
        except RedisError as error:
            result = error
        self._traced(f"{name} refused" if isinstance(result, Refusal) else name)
        return result


class MemoryBatcher(Batcher):
    """What the store classes of one process talk to."""

    ignored: tuple[str, ...] = ()
    """Kinds of conditions that are not tested: for planting bugs."""

    def __init__(self, link: StoreLink, redis: MemoryRedis) -> None:
        self._link = link
        self._redis = redis

    async def step(self, step: Step) -> list[Any] | Refusal:
        arguments = step.arguments()
        result: list[Any] | Refusal = await self._link.ask(
            f"step {_text(arguments[1])}", lambda: self._redis.step(arguments, ignored=self.ignored)
        )
        return result

    def command(self, *command: Argument) -> asyncio.Future[Any]:
        return self._link.ask(f"{_text(command[0])} {_text(command[1])}", lambda: self._redis.execute(command))


def _fail(future: asyncio.Future[Any], why: str, cause: RedisError | None = None) -> None:
    if not future.done():
        error = StoreUnavailable("the store did not confirm the step", reason=why)
        error.__cause__ = cause
        future.set_exception(error)


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if isinstance(result, RedisError):
        _fail(future, "response", result)
    elif not future.done():
        future.set_result(result)


def _bytes(value: Argument) -> bytes:
    return value if isinstance(value, bytes) else f"{value}".encode()


def _text(value: Argument) -> str:
    return value.decode() if isinstance(value, bytes) else f"{value}"


def _number(value: Argument) -> int:
    return int(value)


def _version(record: bytes) -> bytes:
    if not record.startswith(b'{"v":'):
        return b""
    return record[5 : 5 + len(record[5:25]) - len(record[5:25].lstrip(b"0123456789"))]


def _id(text: Argument) -> StreamId:
    ms, _, sequence = _text(text).partition("-")
    return int(ms), int(sequence)


def _id_text(stream_id: StreamId) -> bytes:
    return f"{stream_id[0]}-{stream_id[1]}".encode()


def _streams(arguments: tuple[Argument, ...]) -> list[tuple[str, str]]:
    half = len(arguments) // 2
    return [(_text(key), _text(start)) for key, start in zip(arguments[:half], arguments[half:], strict=True)]
