"""Who is asking: only tokens of our secret and algorithm, for as long as they live."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import make_mocked_request

from app.tokens import make_token
from engine.accepting import Caller
from handlers.auth import Authenticator, AuthSettings
from handlers.http import HttpRefused
from tests.support import SECRET

SETTINGS = AuthSettings(secret=SECRET)
HOUR_S = 3600


def a_token(
    secret: str = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    kept = {"sub": "user-1", "exp": int(time.time()) + HOUR_S, **claims}
    present = {name: value for name, value in kept.items() if value is not None}
    return jwt.encode(present, secret, algorithm=algorithm, headers=headers)


def raw_token(payload: bytes, header: dict[str, Any] | None = None) -> str:
    """A token with a good signature over any payload."""
    return jwt.api_jws.encode(payload, SECRET, algorithm="HS256", headers=header)


def forged(header: dict[str, Any], claims: dict[str, Any] | None = None, signature: str = "") -> str:
    parts = (header, claims or {"sub": "user-1", "exp": int(time.time()) + HOUR_S})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, signature])


def caller_of(authorization: str | None, authenticator: Authenticator | None = None) -> Caller:
    headers = {} if authorization is None else {"Authorization": authorization}

    async def ask() -> Caller:
        return await (authenticator or Authenticator(SETTINGS)).caller(make_mocked_request("GET", "/", headers=headers))

    return asyncio.run(ask())


def refused(authorization: str | None, authenticator: Authenticator | None = None) -> HttpRefused:
    with pytest.raises(HttpRefused) as error:
        caller_of(authorization, authenticator)
    assert (error.value.status, error.value.code) == (401, "UNAUTHORIZED")
    return error.value


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_good_token_names_its_caller(scheme: str) -> None:
    assert caller_of(f"{scheme} {a_token()}") == Caller("user-1", privileged=False)


@pytest.mark.parametrize(
    ("claims", "privileged"),
    [({}, False), ({"role": "service"}, True), ({"role": "admin"}, True), ({"role": "user"}, False),
     ({"roles": "service"}, True), ({"roles": ["user", "admin"]}, True), ({"roles": ["user"]}, False),
     ({"roles": []}, False), ({"roles": [], "role": "admin"}, False), ({"roles": {"admin": True}}, False),
     ({"roles": 7}, False), ({"roles": True}, False), ({"roles": [["admin"], 7, None]}, False),
     ({"roles": "Admin"}, False), ({"roles": "admin service"}, False), ({"role": ["service"]}, True),
     ({"sub": "admin"}, False), ({"admin": True, "privileged": True}, False)],
)  # fmt: skip
def test_only_the_roles_service_and_admin_act_for_others(claims: dict[str, Any], privileged: bool) -> None:
    assert caller_of(f"Bearer {a_token(**claims)}").privileged is privileged


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Token x", a_token()])
def test_without_a_bearer_token_one_is_asked_for(authorization: str | None) -> None:
    error = refused(authorization)
    assert error.headers == {"WWW-Authenticate": "Bearer"} and str(error) == "Access token required"


BAD: dict[str, str] = {
    "of nobody's making": "abc",
    "with two dots": "a.b.c",
    "with a blank before it": " " + a_token(),
    "without an algorithm": forged({"alg": "none", "typ": "JWT"}),
    "without an algorithm in capitals": forged({"alg": "NONE"}),
    "without an algorithm and somebody's signature": forged({"alg": "none"}, signature=a_token().rsplit(".", 1)[1]),
    "that says RS256": forged({"alg": "RS256"}, signature=a_token().rsplit(".", 1)[1]),
    "of an algorithm that is not configured": a_token(SECRET * 2, "HS512"),
    "without a header": forged({}),
    "with an algorithm that is no text": forged({"alg": ["HS256"]}),
    "signed with another secret": a_token("another-secret-another-secret-another-secret"),
    "signed with nothing": forged({"alg": "HS256"}),
    "with a changed payload": ".".join(
        [
            a_token().split(".")[0],
            forged({}, {"sub": "admin", "exp": 9999999999}).split(".")[1],
            a_token().split(".")[2],
        ]
    ),
    "that is not yet good": a_token(nbf=int(time.time()) + HOUR_S),
    "without an expiry": a_token(exp=None),
    "without a subject": a_token(sub=None),
    "with an empty subject": a_token(sub=""),
    "with a long subject": a_token(sub="x" * 129),
    "with a number as subject": raw_token(b'{"sub":7,"exp":9999999999}'),
    "with an expiry that is no number": raw_token(b'{"sub":"a","exp":"tomorrow"}'),
    "with an expiry of null": raw_token(b'{"sub":"a","exp":null}'),
    "with an infinite expiry": raw_token(b'{"sub":"a","exp":1e999}'),
    "with an expiry that is not a number": raw_token(b'{"sub":"a","exp":NaN}'),
    "with a list as expiry": raw_token(b'{"sub":"a","exp":[9999999999]}'),
    "of no object": raw_token(b"[]"),
    "of no json": raw_token(b"\xff"),
    "with letters of another script": "é" + a_token(),
    "with critical extensions": a_token(headers={"crit": ["b64"], "b64": False}),
}


@pytest.mark.parametrize("token", BAD.values(), ids=BAD)
def test_a_token_that_is_not_good_is_refused_without_a_reason(token: str) -> None:
    error = refused(f"Bearer {token}")
    assert error.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    assert str(error) == "the access token is not valid" and error.__cause__ is None


def test_an_expired_token_is_said_to_be_so() -> None:
    error = refused(f"Bearer {a_token(exp=int(time.time()) - 60)}")
    assert str(error) == "the access token has expired"
    assert error.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}


def test_clocks_may_differ_by_the_leeway() -> None:
    token = a_token(exp=int(time.time()) - 60)
    assert caller_of(f"Bearer {token}", Authenticator(AuthSettings(secret=SECRET, leeway_s=120))).subject == "user-1"


def test_a_token_that_is_too_long_is_not_even_read() -> None:
    assert str(refused(f"Bearer {a_token(more='x' * 8192)}")) == "the access token is too long"


def test_issuer_and_audience_must_be_ours_when_they_are_configured() -> None:
    ours = Authenticator(AuthSettings(secret=SECRET, issuer="us", audience="payments"))
    assert caller_of(f"Bearer {a_token(iss='us', aud='payments')}", ours).subject == "user-1"
    for token in (
        a_token(),
        a_token(iss="us"),
        a_token(aud="payments"),
        a_token(iss="them", aud="payments"),
        a_token(iss="us", aud="x"),
    ):
        refused(f"Bearer {token}", ours)
    assert caller_of(f"Bearer {a_token(iss='anybody', aud='anything')}").subject == "user-1"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_other_configured_algorithms_are_taken_instead(algorithm: Any) -> None:
    settings = AuthSettings(secret=SECRET * 2, algorithms=(algorithm,))
    assert caller_of(f"Bearer {a_token(SECRET * 2, algorithm)}", Authenticator(settings)).subject == "user-1"
    refused(f"Bearer {a_token(SECRET * 2)}", Authenticator(settings))


def test_without_authentication_everybody_is_one_privileged_caller() -> None:
    open_to_all = Authenticator(AuthSettings(mode="none"))
    assert (
        caller_of(None, open_to_all)
        == caller_of("Bearer nonsense", open_to_all)
        == Caller("anonymous", privileged=True)
    )


class Clock:
    """The time of the cache."""

    def __init__(self) -> None:
        self.now_s = time.time()

    def __call__(self) -> float:
        return self.now_s


def test_a_remembered_token_is_refused_once_it_has_expired() -> None:
    """Verified while it was good, it must not stay good because it is remembered."""
    clock = Clock()
    authenticator = Authenticator(AuthSettings(secret=SECRET, leeway_s=0), clock=clock)
    for life_s in (1, 2, 4, 8, 16):  # a slow machine may find a short life over before it has looked
        exp = int(time.time()) + life_s
        token = a_token(exp=exp)
        with contextlib.suppress(HttpRefused):
            assert caller_of(f"Bearer {token}", authenticator).subject == "user-1"
            break
    while time.time() < exp:
        time.sleep(0.02)
    clock.now_s = exp - 0.001
    assert caller_of(f"Bearer {token}", authenticator).subject == "user-1", "it was really remembered"
    clock.now_s = exp
    assert str(refused(f"Bearer {token}", authenticator)) == "the access token has expired"


def test_a_refused_token_is_not_remembered_as_a_good_one() -> None:
    authenticator = Authenticator(SETTINGS)
    bad = a_token("another-secret-another-secret-another-secret")
    for _ in range(2):
        refused(f"Bearer {bad}", authenticator)
    assert caller_of(f"Bearer {a_token()}", authenticator) == Caller("user-1", privileged=False)


def test_callers_are_not_confused_however_many_are_remembered() -> None:
    authenticator = Authenticator(SETTINGS)
    tokens = {f"user-{number}": a_token(sub=f"user-{number}") for number in range(50)}
    for _ in range(2):
        for subject, token in tokens.items():
            assert caller_of(f"Bearer {token}", authenticator).subject == subject


def test_the_settings_hide_the_secret() -> None:
    for text in (repr(SETTINGS), str(SETTINGS), f"{[SETTINGS]}"):
        assert SECRET not in text


@pytest.mark.parametrize(("role", "privileged"), [(None, False), ("service", True), ("user", False)])
def test_a_token_that_we_make_is_one_that_we_take(role: str | None, privileged: bool) -> None:
    settings = AuthSettings(secret=SECRET * 2, algorithms=("HS512", "HS256"), issuer="us", audience="payments")
    token = make_token(settings, subject="user-1", role=role, hours=1)
    assert caller_of(f"Bearer {token}", Authenticator(settings)) == Caller("user-1", privileged)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == HOUR_S


def test_no_token_is_made_without_a_secret() -> None:
    with pytest.raises(ValueError, match=r"auth\.secret"):
        make_token(AuthSettings(), subject="user-1", role=None, hours=1)
