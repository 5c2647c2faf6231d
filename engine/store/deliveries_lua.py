"""The scripts of `deliveries.py`. All keys that one of them touches begin with `prefix`, so they share a hash tag.

They branch on what they find (is there a next in this line? is the lane full?), which a `Step` cannot; like a step
they look first and write last, and may be sent twice.
"""

from __future__ import annotations

import hashlib
from typing import Final


class Script:
    """A script, and the name that Redis knows it by."""

    def __init__(self, body: str) -> None:
        self.text = _SHARED + body
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# KEYS[1] is the shard's set of lanes. `next_look` writes when a lane is to be looked at next: at its earliest line,
# or, when it has no room, at the end of the first lease; `finish` and `again` call it as soon as there is room.
_SHARED: Final = """
local prefix, lane, each_max = ARGV[1], ARGV[2], tonumber(ARGV[3])
local function key(kind, of) return prefix .. kind .. ':' .. of end
local function next_look(of)
  local busy = key('busy', of)
  local full = redis.call('ZCARD', busy) >= each_max
  local first = redis.call('ZRANGE', full and busy or key('lines', of), 0, 0, 'WITHSCORES')
  if #first == 0 then redis.call('ZREM', KEYS[1], of) else redis.call('ZADD', KEYS[1], first[2], of) end
end
local function head(line) return redis.call('LINDEX', key('line', lane .. '|' .. line), 0) end
local function item_key(id) return key('item', lane .. '|' .. id) end
"""

ADD: Final = Script("""
local now, waiting_max, numbers_ms = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local replies, earliest = {}, nil
local open = key('open', lane)
for at = 7, #ARGV, 4 do
  local line, id, item, due = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if redis.call('EXISTS', item_key(id)) == 1 then
    replies[#replies + 1] = 0
  elseif redis.call('ZCARD', open) >= waiting_max then
    replies[#replies + 1] = -1
  else
    redis.call('SET', item_key(id), item)
    redis.call('ZADD', open, redis.call('INCR', key('numbers', lane)), id)
    redis.call('ZADD', prefix .. 'waiting', now, lane .. '|' .. id)
    redis.call('RPUSH', key('line', lane .. '|' .. line), id)
    redis.call('ZADD', key('lines', lane), 'NX', due, line)
    replies[#replies + 1] = 1
  end
end
redis.call('PEXPIRE', key('numbers', lane), numbers_ms)
next_look(lane)
return replies
""")

TAKE: Final = Script("""
local now, till, limit = ARGV[4], ARGV[5], tonumber(ARGV[6])
local taken = {}
for _, of in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, limit)) do
  lane = of
  local lines, busy = key('lines', lane), key('busy', lane)
  redis.call('ZREMRANGEBYSCORE', busy, '-inf', now)
  local free = math.min(each_max - redis.call('ZCARD', busy), limit - #taken / 4)
  if free > 0 then
    for _, line in ipairs(redis.call('ZRANGEBYSCORE', lines, '-inf', now, 'LIMIT', 0, free)) do
      local id = head(line)
      local item = id and redis.call('GET', item_key(id))
      if item then
        redis.call('ZADD', lines, till, line)
        redis.call('ZADD', busy, till, line)
        for _, value in ipairs({lane, line, id, item}) do taken[#taken + 1] = value end
      else
        redis.call('ZREM', lines, line)
      end
    end
  end
  next_look(lane)
end
return taken
""")

# Whoever has lost its lease to another changes nothing: the lease's end is also its name.
_MINE: Final = """
local line, id, till = ARGV[4], ARGV[5], ARGV[6]
local leased = redis.call('ZSCORE', key('busy', lane), line)
if not leased or tonumber(leased) ~= tonumber(till) or head(line) ~= id then return 0 end
"""

FINISH: Final = Script(
    _MINE
    + """
local item, now, keep_ms, remember_ms, kept_max = ARGV[7], ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11])
local open, ended, list = key('open', lane), key('ended', lane), key('line', lane .. '|' .. line)
local number = redis.call('ZSCORE', open, id)
if kept_max > 0 and number then
  redis.call('SET', item_key(id), item, 'PX', keep_ms)
  redis.call('ZADD', ended, number, id)
  redis.call('PEXPIRE', ended, keep_ms)
  for _, old in ipairs(redis.call('ZRANGE', ended, 0, -(kept_max + 1))) do
    redis.call('SET', item_key(old), '', 'PX', remember_ms)
    redis.call('ZREM', ended, old)
  end
else
  redis.call('SET', item_key(id), '', 'PX', remember_ms)
end
redis.call('ZREM', open, id)
redis.call('ZREM', prefix .. 'waiting', lane .. '|' .. id)
redis.call('LPOP', list)
redis.call('ZREM', key('busy', lane), line)
if redis.call('LLEN', list) > 0 then
  redis.call('ZADD', key('lines', lane), now, line)
else
  redis.call('ZREM', key('lines', lane), line)
end
next_look(lane)
return 1
"""
)

AGAIN: Final = Script(
    _MINE
    + """
redis.call('SET', item_key(id), ARGV[7])
redis.call('ZADD', key('lines', lane), ARGV[8], line)
redis.call('ZREM', key('busy', lane), line)
next_look(lane)
return 1
"""
)

REST: Final = Script(
    _MINE
    + """
redis.call('ZADD', key('lines', lane), ARGV[7], line)
redis.call('ZREM', key('busy', lane), line)
redis.call('ZADD', KEYS[1], ARGV[8], lane)
return 1
"""
)

WAKE: Final = Script("""
local lines = key('lines', lane)
if redis.call('EXISTS', lines) == 0 then return 0 end
for _, line in ipairs(redis.call('ZRANGE', lines, 0, -1)) do
  if not redis.call('ZSCORE', key('busy', lane), line) then redis.call('ZADD', lines, ARGV[4], line) end
end
next_look(lane)
return 1
""")

RESEND: Final = Script("""
local line, id, known, item, now, waiting_max = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local lines, open = key('lines', lane), key('open', lane)
local there = redis.call('GET', item_key(id))
if there == item then return 1 end
if there ~= known then return -2 end
if redis.call('ZSCORE', open, id) then
  if head(line) == id and not redis.call('ZSCORE', key('busy', lane), line) then
    redis.call('SET', item_key(id), item)
    redis.call('ZADD', lines, now, line)
    next_look(lane)
  end
  return 1
end
if redis.call('ZCARD', open) >= waiting_max then return -1 end
redis.call('SET', item_key(id), item)
redis.call('ZREM', key('ended', lane), id)
redis.call('ZADD', open, redis.call('INCR', key('numbers', lane)), id)
redis.call('ZADD', prefix .. 'waiting', now, lane .. '|' .. id)
redis.call('RPUSH', key('line', lane .. '|' .. line), id)
redis.call('ZADD', lines, 'NX', now, line)
next_look(lane)
return 1
""")

DROP: Final = Script("""
for _, id in ipairs(redis.call('ZRANGE', key('open', lane), 0, -1)) do
  redis.call('DEL', item_key(id))
  redis.call('ZREM', prefix .. 'waiting', lane .. '|' .. id)
end
for _, line in ipairs(redis.call('ZRANGE', key('lines', lane), 0, -1)) do
  redis.call('DEL', key('line', lane .. '|' .. line))
end
redis.call('DEL', key('open', lane), key('lines', lane), key('busy', lane))
redis.call('ZREM', KEYS[1], lane)
if ARGV[4] == 'all' then
  for _, id in ipairs(redis.call('ZRANGE', key('ended', lane), 0, -1)) do redis.call('DEL', item_key(id)) end
  redis.call('DEL', key('ended', lane), key('numbers', lane))
end
return 1
""")
