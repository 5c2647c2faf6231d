"""Two live secrets: while keys rotate, nobody who is signed in notices."""

from __future__ import annotations

import time

import jwt
import pytest

from app.settings import ConfigError, load
from app.tokens import make_token
from handlers.auth import Authenticator, AuthSettings
from tests.auth.test_tokens import a_token, caller_of, refused

OLD, NEW, THIRD = "old-" * 10, "new-" * 10, "third-" * 10
ROTATING = AuthSettings(secret=NEW, secret_id="2026-11", previous_secret=OLD, previous_secret_id="2026-05")


@pytest.mark.parametrize("kid", [None, "2026-05", "2026-11", "somebody-else's"])
@pytest.mark.parametrize("secret", [OLD, NEW])
def test_tokens_of_both_secrets_are_taken_whatever_key_they_name(secret: str, kid: str | None) -> None:
    """The id is a hint; what counts is the signature."""
    token = a_token(secret, headers={"kid": kid} if kid else None)
    assert caller_of(f"Bearer {token}", Authenticator(ROTATING)).subject == "user-1"


@pytest.mark.parametrize("kid", [None, "2026-05", "2026-11", ""])
def test_a_third_secret_is_not_taken(kid: str | None) -> None:
    refused(f"Bearer {a_token(THIRD, headers={'kid': kid} if kid is not None else None)}", Authenticator(ROTATING))


def test_an_id_that_is_no_text_is_refused() -> None:
    refused(f"Bearer {a_token(NEW, headers={'kid': 'x'}).replace('.', '..', 1)}", Authenticator(ROTATING))


def test_after_the_rotation_the_old_secret_is_worth_nothing() -> None:
    refused(f"Bearer {a_token(OLD)}", Authenticator(AuthSettings(secret=NEW)))


def test_no_previous_secret_is_not_an_empty_one() -> None:
    header, payload, _ = a_token(NEW).split(".")
    empty = jwt.api_jws.encode(b"{}", "x" * 32, algorithm="HS256")
    refused(f"Bearer {header}.{payload}.{empty.rsplit('.', 1)[1]}", Authenticator(AuthSettings(secret=NEW)))


def test_what_we_sign_names_the_new_key() -> None:
    token = make_token(ROTATING, subject="user-1", role=None, hours=1)
    assert jwt.get_unverified_header(token)["kid"] == "2026-11"
    assert jwt.decode(token, NEW, algorithms=["HS256"])["exp"] > time.time()


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("PAYMENTS__AUTH__PREVIOUS_SECRET", "short", "auth.previous_secret"),
        ("PAYMENTS__AUTH__JWKS_URL", "https://issuer.example/keys", "auth.jwks_url"),
        ("PAYMENTS__AUTH__ALGORITHMS", '["RS256"]', "auth.jwks_url"),
        ("PAYMENTS__AUTH__ALGORITHMS", '["none"]', "auth.algorithms"),
        ("PAYMENTS__AUTH__JWKS_CACHE_S", "0", "auth.jwks_cache_s"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(name: str, value: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load(None, {name: value})


def test_neither_secret_is_shown() -> None:
    assert OLD not in repr(ROTATING) and NEW not in repr(ROTATING)
