"""Connections that pack commands in C. redis-py's asyncio connections do it in Python, and a step has fifty arguments:
that alone cost twice as much as everything else about a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import hiredis
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelManagedConnection


class _PacksInC:
    """Overrides the two public packing methods of a redis-py connection."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """One command as the protocol's bytes."""
        return [_pack(args)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Several commands as one piece."""
        return [b"".join([_pack(tuple(command)) for command in commands])]


def _pack(command: tuple[Any, ...]) -> bytes:
    name = command[0]
    # redis-py's own methods name some commands in two words, which are two arguments.
    if isinstance(name, str) and " " in name:
        command = (*name.split(), *command[1:])
    packed: bytes = hiredis.pack_command(command)
    return packed


class TcpConnection(_PacksInC, Connection):
    """`redis://`."""


class TlsConnection(_PacksInC, SSLConnection):
    """`rediss://`."""


class UnixConnection(_PacksInC, UnixDomainSocketConnection):
    """`unix://`."""


class SentinelConnection(_PacksInC, SentinelManagedConnection):
    """The primary that Sentinel names."""


CONNECTION_BY_SCHEME: Final = {"redis": TcpConnection, "rediss": TlsConnection, "unix": UnixConnection}
