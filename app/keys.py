"""`python -m app keys rotate`: every stored card under the first of the configured keys."""

from __future__ import annotations

import sys

import msgspec

from app.offline import dataset
from app.settings import ConfigError, Settings
from engine.sealing import AesGcmSealer, parse_keys
from engine.store.vault import RedisVault
from engine.store.vault_scan import VaultScan
from engine.vault_rotation import Rotation


async def rotate(settings: Settings) -> int:
    """Seal anew, and report as JSON. Exit code 1 when some cards still need another key."""
    if not settings.cards.keys:
        raise ConfigError("cards.keys (PAYMENTS__CARDS__KEYS) is not set")
    async with dataset(settings) as data:
        vault = RedisVault(data.batcher, data.keys, outbox_max=settings.redis.outbox_max)
        sealer = AesGcmSealer(parse_keys(settings.cards.keys))
        rotated = await Rotation(VaultScan(data.client, vault), sealer).run()
    report = {"ok": rotated.done, **msgspec.structs.asdict(rotated)}
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0 if rotated.done else 1
