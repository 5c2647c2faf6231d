"""`python -m app keys rotate`: every stored card, and every webhook secret, under the first of the configured keys."""

from __future__ import annotations

import sys

import msgspec

from app.offline import dataset
from app.settings import ConfigError, Settings
from engine.ids import now_ms
from engine.sealing import AesGcmSealer, parse_keys
from engine.store.endpoints import EndpointScan, RedisEndpoints
from engine.store.vault import RedisVault
from engine.store.vault_scan import VaultScan
from engine.vault_rotation import Rotation
from engine.webhook_endpoints import WebhookSecrets
from engine.webhook_rotation import SecretRotation


async def rotate(settings: Settings) -> int:
    """Seal anew, and report as JSON. Exit code 1 when something still needs another key."""
    if not settings.cards.keys:
        raise ConfigError("cards.keys (PAYMENTS__CARDS__KEYS) is not set")
    async with dataset(settings) as data:
        vault = RedisVault(data.batcher, data.keys, outbox_max=settings.redis.outbox_max)
        sealer = AesGcmSealer(parse_keys(settings.cards.keys))
        rotated = await Rotation(VaultScan(data.client, vault), sealer).run()
        endpoints = EndpointScan(data.client, RedisEndpoints(data.batcher, data.keys))
        secrets = await SecretRotation(endpoints, WebhookSecrets(sealer), sealer.sealing_id, now_ms).run()
    done = rotated.done and not secrets.left
    report = {"ok": done, **msgspec.structs.asdict(rotated), "webhooks": secrets}
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0 if done else 1
