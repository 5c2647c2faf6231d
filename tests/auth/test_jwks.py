"""Tokens of another issuer, by the public keys that it publishes: a real socket, real keys, our own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer, make_mocked_request
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from prometheus_client import CollectorRegistry

from clients.http import HttpCounterparty, open_session
from clients.jwks import JwksKeys
from engine.accepting import Caller
from engine.errors import SigningKeysUnavailable
from handlers.auth import Authenticator, AuthSettings
from handlers.http import HttpRefused
from metrics.instruments import Instruments
from resilience.guard import Guard, GuardSettings
from tests.auth.issuer import PRIVATE, Issuer, public_jwk, signed

CACHE_S = 300.0
SETTINGS = AuthSettings(
    secret="s" * 32, algorithms=("HS256", "RS256", "ES256", "EdDSA"), jwks_url="http://set.by/the-test"
)
QUICK = GuardSettings(tries_max=1, failures_to_open=1000, window_calls_min=1000)


class Door:
    """An authenticator before an issuer, with a clock."""

    def __init__(self, issuer: Issuer, keys: JwksKeys, now: list[float]) -> None:
        self.issuer, self._now = issuer, now
        self._auth = Authenticator(SETTINGS, keys)

    async def caller(self, token: str) -> Caller:
        """Who the token's bearer is."""
        request = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {token}"})
        return await self._auth.caller(request)

    async def refuses(self, token: str) -> None:
        """Assert that it is not taken."""
        with pytest.raises(HttpRefused) as refused:
            await self.caller(token)
        assert refused.value.status == 401

    def later(self, seconds: float) -> None:
        """Let the keys grow older."""
        self._now[0] += seconds


@pytest_asyncio.fixture
async def door() -> AsyncIterator[Door]:
    issuer, now = Issuer(), [1000.0]
    async with TestServer(issuer.app()) as server, open_session(client_id="tests") as wire:
        guard = Guard("signing_keys", QUICK, Instruments(CollectorRegistry()))
        counterparty = HttpCounterparty(wire, guard, timeout_s=5.0)
        keys = JwksKeys(counterparty, str(server.make_url("/keys")), cache_s=CACHE_S, clock=lambda: now[0])
        yield Door(issuer, keys, now)


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_a_token_signed_with_a_published_key_names_its_caller(door: Door, algorithm: str) -> None:
    assert await door.caller(signed(algorithm, f"key-{algorithm}", role="admin")) == Caller("user-1", privileged=True)


async def test_the_keys_are_fetched_once_for_all(door: Door) -> None:
    await asyncio.gather(*(door.caller(signed("RS256", "key-RS256", sub=f"user-{n}")) for n in range(50)))
    assert door.issuer.asked == 1


async def test_another_key_of_the_same_name_is_not_taken(door: Door) -> None:
    forger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    await door.refuses(signed("RS256", "key-RS256", forger))


async def test_a_key_is_used_for_its_own_kind_only(door: Door) -> None:
    await door.refuses(signed("RS256", "key-ES256"))
    await door.refuses(signed("EdDSA", "key-RS256"))


async def test_a_public_key_does_not_pass_for_a_secret(door: Door) -> None:
    """The classic: sign with HS256, and the published key's text as the secret."""
    public = PRIVATE["RS256"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, json.dumps(public_jwk("RS256", "key-RS256")).encode()):
        head = jwt.utils.base64url_encode(b'{"alg":"HS256","kid":"key-RS256"}')
        body = jwt.utils.base64url_encode(b'{"sub":"admin","exp":9999999999}')
        mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(head + b"." + body, secret)
        await door.refuses(b".".join((head, body, jwt.utils.base64url_encode(mac))).decode())


async def test_a_new_key_is_found_by_its_name_and_a_made_up_one_does_not_hammer_the_issuer(door: Door) -> None:
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    await door.caller(signed("RS256", "key-RS256"))
    door.issuer.keys.append(public_jwk("RS256", "new", new))
    await door.refuses(signed("RS256", "new", new))
    assert door.issuer.asked == 1, "the keys are seconds old"
    door.later(11)
    assert (await door.caller(signed("RS256", "new", new))).subject == "user-1"
    for number in range(20):
        await door.refuses(signed("RS256", f"made-up-{number}"))
    assert door.issuer.asked == 2


async def test_a_withdrawn_key_is_worth_nothing_once_the_keys_are_fetched_again(door: Door) -> None:
    token = signed("RS256", "key-RS256")
    await door.caller(token)
    door.issuer.keys = [public_jwk("ES256", "key-ES256")]
    door.later(CACHE_S)
    await door.refuses(signed("RS256", "key-RS256", sub="user-2"))


async def test_keys_are_used_on_while_the_issuer_is_away(door: Door) -> None:
    await door.caller(signed("RS256", "key-RS256"))
    door.issuer.status = 503
    door.later(10 * CACHE_S)
    assert (await door.caller(signed("RS256", "key-RS256", sub="user-2"))).subject == "user-2"
    assert door.issuer.asked == 2


async def test_without_any_key_nobody_can_tell_and_that_is_said(door: Door) -> None:
    """401 would send a good client to sign in again."""
    door.issuer.status = 503
    with pytest.raises(SigningKeysUnavailable):
        await door.caller(signed("RS256", "key-RS256"))
    door.issuer.status = 200
    door.later(1)
    assert (await door.caller(signed("RS256", "key-RS256"))).subject == "user-1"


async def test_a_token_that_names_no_key_is_checked_with_the_only_one(door: Door) -> None:
    await door.refuses(signed("RS256", None))
    door.issuer.keys = [public_jwk("RS256", "only")]
    door.later(CACHE_S)
    assert (await door.caller(signed("RS256", None))).subject == "user-1"


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "bad"},
        {"kty": "RSA", "kid": "bad"},
        {"kty": "something new", "kid": "bad"},
        {"kid": "bad"},
        {**public_jwk("RS256", "bad"), "use": "enc"},
    ],
)
async def test_a_key_that_is_none_for_us_does_not_spoil_the_others(door: Door, entry: dict[str, Any]) -> None:
    door.issuer.keys = [entry, public_jwk("ES256", "key-ES256")]
    assert (await door.caller(signed("ES256", "key-ES256"))).subject == "user-1"
    await door.refuses(signed("RS256", "bad"))


async def test_shared_secrets_go_on_working_beside_them(door: Door) -> None:
    token = jwt.encode({"sub": "user-1", "exp": 9999999999}, "s" * 32, algorithm="HS256")
    assert (await door.caller(token)).subject == "user-1"
    assert door.issuer.asked == 0
