"""`python -m app events parked …`: what the broker would not take, and putting it back once that has changed."""

from __future__ import annotations

import argparse
import sys

import msgspec

from app.offline import dataset
from app.settings import ConfigError, Settings
from engine.ids import rfc3339
from engine.store.parked import Parked, RedisParked


async def list_parked(settings: Settings) -> int:
    """Print every parked event, a JSON line each."""
    async with dataset(settings) as data:
        async for parked in RedisParked(data.batcher, data.keys).all():
            _print(_about(parked))
    return 0


async def retry_parked(settings: Settings, given: argparse.Namespace) -> int:
    """Put parked events back behind the others in the outbox, all or those named. Changes nothing without --yes."""
    wanted = set(given.id or ())
    async with dataset(settings) as data:
        store = RedisParked(data.batcher, data.keys)
        # The list first: an event that is refused again comes back, and must not be met a second time.
        chosen = [parked async for parked in store.all() if not wanted or parked.id in wanted]
        if unknown := wanted - {parked.id for parked in chosen}:
            raise ConfigError(f"not parked: {', '.join(sorted(unknown))}")
        if not given.yes:
            for parked in chosen:
                _print({**_about(parked), "done": False})
            _print({"put_back": 0, "hint": "add --yes to do it"})
            return 1
        put_back = 0
        for parked in chosen:
            done = await store.put_back(parked)
            put_back += done
            _print({**_about(parked), "done": done})
    _print({"put_back": put_back})
    return 0


def _about(parked: Parked) -> dict[str, object]:
    return {
        "id": parked.id, "payment": parked.payment, "type": parked.type, "surface": parked.surface,
        "reason": parked.reason, "since": rfc3339(parked.since_ms), "body_bytes": parked.body_bytes,
    }  # fmt: skip


def _print(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
