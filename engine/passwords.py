"""Passwords as argon2id hashes (RFC 9106), made on threads of their own that stand back behind the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import argon2
from argon2.exceptions import VerifyMismatchError

from engine.accounts import Password
from engine.errors import Overloaded
from metrics.instruments import Instruments

T = TypeVar("T")

_NICE: Final = 19
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32


class Argon2Passwords:
    """Hashes at most `at_once` passwords, while at most `waiting_max` wait; one more is refused with `Overloaded`.

    A hash takes `memory_kib` of memory and `passes` times through it on `lanes` threads.
    """

    def __init__(
        self, instruments: Instruments, *, passes: int, memory_kib: int, lanes: int, at_once: int, waiting_max: int
    ) -> None:
        self._hasher = argon2.PasswordHasher(
            time_cost=passes, memory_cost=memory_kib, parallelism=lanes, salt_len=_SALT_BYTES, hash_len=_HASH_BYTES
        )
        self._instruments = instruments
        # Not the loop's own threads: those also look up names, and must not wait behind passwords.
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="passwords", initializer=_stand_back)
        self._under_way = 0
        self._under_way_max = at_once + waiting_max
        self.verified = 0
        """How many passwords were compared with a hash."""
        # Made of chance instead of a password: its work is a real one's, its result nobody's.
        salt, digest = (b64encode(os.urandom(size)).decode().rstrip("=") for size in (_SALT_BYTES, _HASH_BYTES))
        self.decoy = f"$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${digest}"

    async def hash(self, password: Password) -> str:
        """The hash, with its salt and its cost. Raises `Overloaded`."""
        return await self._on_a_thread(lambda: self._hasher.hash(password.reveal()))

    async def verify(self, password: Password, password_hash: str) -> bool:
        """Whether the hash is of this password. Raises `Overloaded`."""

        def verify() -> bool:
            try:
                return self._hasher.verify(password_hash, password.reveal())
            except VerifyMismatchError:
                return False

        right = await self._on_a_thread(verify)
        self.verified += 1
        return right

    def outdated(self, password_hash: str) -> bool:
        """Whether it was made at another cost than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    async def _on_a_thread(self, work: Callable[[], T]) -> T:
        if self._under_way >= self._under_way_max:
            self._instruments.rejections.labels("logins").inc()
            raise Overloaded("logins", retry_after_s=2.0)
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._under_way -= 1


def _stand_back() -> None:
    """Let the event loop go first: on a busy machine a login may take longer, a payment may not."""
    if sys.platform == "linux":
        # There a thread has a niceness of its own, and argon2's lanes inherit it.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
