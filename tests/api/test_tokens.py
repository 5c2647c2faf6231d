"""Bearer tokens: only those that the configured secret has signed with the configured algorithm, and in time."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from multidict import CIMultiDict

from tests.api.bad_input import ORDER, good
from tests.api.world import PAYMENTS, USER, World, as_json, running_world, token
from tests.support import SECRET

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR = 3600
GOOD_CLAIMS = {"sub": USER, "exp": 4_000_000_000, "role": "service"}


def part(value: object) -> str:
    """One part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(
    header: Mapping[str, Any],
    claims: object = GOOD_CLAIMS,
    secret: str | bytes | None = SECRET,
    digest: str = "sha256",
) -> str:
    """A token as no library makes it: any header, signed with an HMAC, or not at all."""
    both = f"{part(header)}.{part(claims)}"
    if secret is None:
        return f"{both}."
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{both}.{part(hmac.new(key, both.encode(), digest).digest())}"


def signed(claims: object) -> str:
    """A token with these claims and a good signature."""
    return forged({"alg": "HS256", "typ": "JWT"}, claims)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world() -> AsyncIterator[World]:
    """An engine that gives no time beyond a token's end, so that a test need not wait for it.

    No test of this file may leave anything behind.
    """
    async with running_world(PAYMENTS__AUTH__LEEWAY_S="0") as running:
        await running.sims.order(ORDER)
        async with running.nothing_written():
            yield running


def rsa_signed() -> str:
    """A token that is signed with a key of its own."""
    return jwt.encode(GOOD_CLAIMS, rsa.generate_private_key(65537, 2048), algorithm="RS256")


def hmac_with_public_key() -> str:
    """The key confusion attack: the public key of an RS256 set-up used as an HMAC secret."""
    public = rsa.generate_private_key(65537, 2048).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return forged({"alg": "HS256", "typ": "JWT"}, secret=pem)


BAD_TOKENS = {
    "alg none": forged({"alg": "none"}, secret=None),
    "alg None": forged({"alg": "None"}, secret=None),
    "alg none, signed": forged({"alg": "none"}),
    "no alg": forged({"typ": "JWT"}),
    "alg is a list": forged({"alg": ["HS256"]}),
    "alg in lower case": forged({"alg": "hs256"}),
    "unsigned": forged({"alg": "HS256"}, secret=None),
    "another secret": token(secret="another-secret-another-secret-another-1"),
    "empty secret": forged({"alg": "HS256"}, secret=""),
    "HS384 of the right secret": forged({"alg": "HS384"}, digest="sha384"),
    "HS512 of the right secret": forged({"alg": "HS512"}, digest="sha512"),
    "RS256 by name, HMAC by nature": forged({"alg": "RS256", "typ": "JWT"}),
    "ES256 by name, HMAC by nature": forged({"alg": "ES256", "typ": "JWT"}),
    "RS256 of an own key": rsa_signed(),
    "HMAC with a public key": hmac_with_public_key(),
    "a key of its own inside": forged({"alg": "HS256", "jwk": {"kty": "oct", "k": part(b"mine")}}, secret="mine"),
    "a key from elsewhere": forged({"alg": "HS256", "kid": "../../dev/null", "jku": "http://127.0.0.1/"}, secret=""),
    "an unknown critical header": forged({"alg": "HS256", "crit": ["exp2"], "exp2": 1}),
    "expired": token(hours=-1),
    "expired a minute ago": token(hours=-1 / 60),
    "not yet valid": signed({**GOOD_CLAIMS, "nbf": 3_900_000_000}),
    "no exp": signed({"sub": USER}),
    "exp null": signed({"sub": USER, "exp": None}),
    "exp a word": signed({"sub": USER, "exp": "never"}),
    "exp a list": signed({"sub": USER, "exp": [4_000_000_000]}),
    "exp below nothing": signed({"sub": USER, "exp": -1}),
    "exp infinite": forged({"alg": "HS256"}, b'{"sub": "u", "exp": Infinity}'),
    "exp beyond floats": forged({"alg": "HS256"}, b'{"sub": "u", "exp": 1e400}'),
    "exp not a number": forged({"alg": "HS256"}, b'{"sub": "u", "exp": NaN}'),
    "no sub": signed({"exp": 4_000_000_000, "role": "service"}),
    "sub empty": signed({**GOOD_CLAIMS, "sub": ""}),
    "sub a number": signed({**GOOD_CLAIMS, "sub": 1}),
    "sub a list": signed({**GOOD_CLAIMS, "sub": [USER]}),
    "sub null": signed({**GOOD_CLAIMS, "sub": None}),
    "sub too long": signed({**GOOD_CLAIMS, "sub": "x" * 5000}),
    "claims a list": signed([GOOD_CLAIMS]),
    "claims a word": signed("service"),
    "claims not JSON": forged({"alg": "HS256"}, b"\xff\xfe"),
    "header not JSON": f"{part(b'{')}.{part(GOOD_CLAIMS)}.{part(b'x')}",
    "two parts": "a.b",
    "four parts": token() + ".x",
    "empty parts": "..",
    "garbage": "garbage",
    "very long": signed({**GOOD_CLAIMS, "x": "y" * 5000}) + "y" * 100,
    "cut": token()[:-4],
    "other claims under an old signature": f"{token().split('.')[0]}.{part(GOOD_CLAIMS)}.{token().split('.')[2]}",
}


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_a_token_that_is_not_good_opens_nothing(world: World, name: str) -> None:
    bad = BAD_TOKENS[name]
    for answer in (
        await world.pay(as_json(good()), auth=bad),
        await world.get(f"{PAYMENTS}/user/{USER}", auth=bad),
    ):
        error = world.refused(answer, 401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert bad not in answer.text
        assert error["retry"] == "never"


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", f"Token {token()}", token(), f"Bearer{token()}",
        f"bearer: {token()}",
    ],
)  # fmt: skip
async def test_a_request_without_a_bearer_token_is_challenged(world: World, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await world.send("GET", f"{PAYMENTS}/user/{USER}", auth=None, headers=headers)
    world.refused(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", PAYMENTS),
        ("GET", f"{PAYMENTS}/pay-1"),
        ("GET", f"{PAYMENTS}/pay-1/events"),
        ("GET", f"{PAYMENTS}/user/{USER}"),
        ("GET", "/api/idempotency-keys/k"),
    ],
)
async def test_every_operation_on_payments_asks_for_a_token(world: World, method: str, path: str) -> None:
    world.refused(await world.send(method, path, auth=None), 401, "UNAUTHORIZED")


async def test_the_scheme_is_known_in_any_case(world: World) -> None:
    for scheme in ("bearer", "BEARER", "Bearer"):
        answer = await world.send(
            "GET", f"{PAYMENTS}/user/{USER}", auth=None, headers={"Authorization": f"{scheme} {token()}"}
        )
        assert answer.status == 200


async def test_of_two_tokens_the_second_opens_nothing(world: World) -> None:
    """A proxy and the engine must not take different ones for the caller's."""
    headers = CIMultiDict([("Authorization", f"Bearer {token('mallory')}"), ("Authorization", f"Bearer {token()}")])
    answer = await world.send("GET", f"{PAYMENTS}/user/{USER}", auth=None, headers=headers)
    assert answer.status in {401, 404}


@pytest.mark.parametrize("where", ["?access_token={}", "?token={}", "?authorization=Bearer%20{}"])
async def test_a_token_in_the_address_is_not_looked_at(world: World, where: str) -> None:
    answer = await world.send("GET", f"{PAYMENTS}/user/{USER}{where.format(token())}", auth=None)
    world.refused(answer, 401, "UNAUTHORIZED")


@pytest.mark.parametrize("role", [{"service": True}, ["user"], 1, True, "service,admin", "", None, [["service"]]])
async def test_a_role_of_another_form_is_no_role(world: World, role: object) -> None:
    mallory = signed({"sub": "mallory", "exp": int(time.time()) + HOUR, "role": role})
    answer = await world.get(f"{PAYMENTS}/user/{USER}", auth=mallory)
    assert answer.status in {401, 404}, answer
    world.refused(answer, answer.status)


async def test_a_token_is_refused_once_it_has_expired_however_often_it_was_good(world: World) -> None:
    """The engine may remember a token that it has verified, but not beyond its end."""
    for life_s in (1, 2, 4, 8, 16):  # a slow machine may find a short life over before it has asked
        short = signed({"sub": USER, "exp": time.time() + life_s})
        answer = await world.get(f"{PAYMENTS}/user/{USER}", auth=short)
        if answer.status == 200:
            break
    assert answer.status == 200
    last_good = time.monotonic()
    while (answer := await world.get(f"{PAYMENTS}/user/{USER}", auth=short)).status == 200:
        assert time.monotonic() - last_good < 60
        await asyncio.sleep(0.1)
    world.refused(answer, 401, "UNAUTHORIZED")
