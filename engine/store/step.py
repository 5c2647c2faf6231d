"""A step: conditions, then commands, all or nothing, in one script.

Redis isolates a script but does not roll it back, so every condition is tested before the first write. What a
step means is written in Python where the step is made; the script only tests and executes. It is safe to send
a step twice: the first execution changes what the second one's conditions ask for.
"""

from __future__ import annotations

import hashlib
from typing import Final

SCRIPT: Final = """
local at = 1
local function take() at = at + 1; return ARGV[at - 1] end
for i = 1, tonumber(take()) do
  local kind, key, want = take(), KEYS[tonumber(take())], take()
  if kind == 'below' then
    local length = redis.call('XLEN', key)
    if length >= tonumber(want) then return {0, i, tostring(length)} end
  elseif kind == 'entry' then
    if #redis.call('XRANGE', key, want, want) == 0 then return {0, i, ''} end
  else
    local have = redis.call('GET', key) or ''
    local compared = have
    if kind == 'version' then compared = string.match(have, '^{"v":(%d+)') or '' end
    if compared ~= want then return {0, i, have} end
  end
end
local replies = {1}
for i = 1, tonumber(take()) do
  local name, key, count = take(), KEYS[tonumber(take())], tonumber(take())
  replies[i + 1] = redis.call(name, key, unpack(ARGV, at, at + count - 1))
  at = at + count
end
return replies
"""

SCRIPT_SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

Argument = str | bytes | int


class Step:
    """One atomic step on keys of one shard. Build it with `expect_*` and `do`, then give it to the batcher."""

    __slots__ = ("_checks", "_commands", "_keys", "_n_checks", "_n_commands")

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        self._checks: list[Argument] = []
        self._commands: list[Argument] = []
        self._n_checks = 0
        self._n_commands = 0

    def expect_version(self, key: str, version: int) -> None:
        """The JSON record at `key` must have this version; 0 means that there is none."""
        self._check("version", key, version or "")

    def expect_value(self, key: str, value: str) -> None:
        """The string at `key` must be this one; empty means that there is none."""
        self._check("value", key, value)

    def expect_below(self, key: str, entries_max: int) -> None:
        """The stream at `key` must hold fewer entries."""
        self._check("below", key, entries_max)

    def expect_entry(self, key: str, entry_id: str) -> None:
        """The stream at `key` must hold this entry."""
        self._check("entry", key, entry_id)

    def do(self, name: str, key: str, *arguments: Argument) -> int:
        """Run a command if all conditions hold. Returns the index of its reply."""
        self._commands += (name, self._key(key), len(arguments), *arguments)
        self._n_commands += 1
        return self._n_commands - 1

    def arguments(self) -> tuple[Argument, ...]:
        """What follows the script in `EVALSHA`."""
        return (len(self._keys), *self._keys, self._n_checks, *self._checks, self._n_commands, *self._commands)

    def _check(self, kind: str, key: str, want: Argument) -> None:
        self._checks += (kind, self._key(key), want)
        self._n_checks += 1

    def _key(self, key: str) -> int:
        return self._keys.setdefault(key, len(self._keys) + 1)


class Refusal:
    """A condition did not hold: which one (from 0, in the order of the `expect_*` calls), and what was found."""

    __slots__ = ("check", "found")

    def __init__(self, check: int, found: bytes) -> None:
        self.check = check
        self.found = found
