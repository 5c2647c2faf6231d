"""Rotating the keys: every secret of webhooks under the first one, and none of them another than before."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from base64 import b64encode
from typing import Any

import msgspec

from engine.sealing import AesGcmSealer, key_id_of, parse_keys
from engine.store.endpoints import EndpointScan
from engine.webhook_endpoints import WebhookSecrets
from engine.webhook_rotation import SecretRotation, SecretsRotated
from engine.webhooks import Endpoint
from tests.support import CARD_KEYS, FINGERPRINT_SECRET, ROOT, RedisServer
from tests.webhooks.world import ADA, DAY_S, Clock, Hooks

NEW = AesGcmSealer({"k2": b"2" * 32, **parse_keys(CARD_KEYS)})
ONLY_NEW = WebhookSecrets(AesGcmSealer({"k2": b"2" * 32}))


def rotation(hooks: Hooks, sealer: AesGcmSealer = NEW) -> SecretRotation:
    """One run."""
    scan = EndpointScan(hooks.data.client, hooks.store)
    return SecretRotation(scan, WebhookSecrets(sealer), sealer.sealing_id, hooks.clock)


async def endpoint_of(hooks: Hooks, endpoint_id: str) -> Endpoint:
    endpoint = await hooks.store.get(endpoint_id)
    assert endpoint is not None
    return endpoint


async def test_all_secrets_are_sealed_anew_and_are_the_same(hooks: Hooks) -> None:
    endpoint_id, first = await hooks.made("http://127.0.0.1/")
    second, third, fourth = [(await hooks.endpoints.rotate_secret(endpoint_id, ADA)).secret.reveal() for _ in range(3)]
    await hooks.made("http://127.0.0.1/")
    assert await rotation(hooks).run() == SecretsRotated(endpoints=2, resealed=2)
    after = await endpoint_of(hooks, endpoint_id)
    assert [secret.reveal() for secret in ONLY_NEW.live(after, hooks.clock())] == [fourth, third, second, first]
    assert await rotation(hooks).run() == SecretsRotated(endpoints=2)
    assert await endpoint_of(hooks, endpoint_id) == after


async def test_a_secret_that_signs_no_more_is_forgotten(hooks: Hooks, clock: Clock) -> None:
    endpoint_id, _ = await hooks.made("http://127.0.0.1/")
    await hooks.endpoints.rotate_secret(endpoint_id, ADA)
    await hooks.endpoints.rotate_secret(endpoint_id, ADA)
    clock.move(DAY_S)
    assert await rotation(hooks).run() == SecretsRotated(endpoints=1, resealed=1)
    after = await endpoint_of(hooks, endpoint_id)
    assert (after.previous, after.older) == (b"", ())


async def test_one_that_cannot_be_opened_is_left_and_said(hooks: Hooks) -> None:
    endpoint_id, _ = await hooks.made("http://127.0.0.1/")
    await hooks.made("http://127.0.0.1/")
    endpoint = await endpoint_of(hooks, endpoint_id)
    await hooks.store.change(msgspec.structs.replace(endpoint, secret=b"\x02kx" + endpoint.secret[3:], version=2))
    assert await rotation(hooks).run() == SecretsRotated(endpoints=2, resealed=1, left=1)


def run(url: str, *command: str) -> bytes:
    """`python -m app …` with a new key before the old one. Returns what it prints."""
    environment = {
        **os.environ,
        "PAYMENTS__REDIS__URL": url,
        "PAYMENTS__CARDS__KEYS": f"k2:{b64encode(b'2' * 32).decode()},{CARD_KEYS}",
        "PAYMENTS__CARDS__FINGERPRINT_SECRET": FINGERPRINT_SECRET,
    }
    arguments = [sys.executable, "-m", "app", *command]
    return subprocess.run(arguments, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout


async def test_the_command_seals_them_anew(hooks: Hooks, redis_server: RedisServer) -> None:
    await asyncio.to_thread(run, redis_server.url, "init")
    endpoint_id, secret = await hooks.made("http://127.0.0.1/")
    report: dict[str, Any] = json.loads(await asyncio.to_thread(run, redis_server.url, "keys", "rotate"))
    assert (report["ok"], report["webhooks"]) == (True, {"endpoints": 1, "resealed": 1, "left": 0})
    after = await endpoint_of(hooks, endpoint_id)
    assert key_id_of(after.secret) == "k2"
    assert [each.reveal() for each in ONLY_NEW.live(after, hooks.clock())] == [secret]
