"""A token that is logged out is taken no more: at once where it was, within a second everywhere else."""

from __future__ import annotations

import time

import pytest
from aiohttp.test_utils import make_mocked_request

from engine.errors import StoreUnavailable
from engine.store.revocations import RedisRevocations
from handlers.auth import Authenticator, AuthSettings
from handlers.http import HttpRefused
from tests.auth.test_tokens import SETTINGS, Clock, a_token
from tests.store.datasets import Dataset


def request(token: str):  # type: ignore[no-untyped-def]  # aiohttp's own stub names a private type
    return make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {token}"})


async def refused(authenticator: Authenticator, token: str) -> HttpRefused:
    with pytest.raises(HttpRefused) as error:
        await authenticator.caller(request(token))
    return error.value


class Process:
    """One process's authenticator, with a clock of its own."""

    def __init__(self, store: Dataset) -> None:
        self.clock = Clock()
        self.auth = Authenticator(SETTINGS, None, RedisRevocations(store.batcher), clock=self.clock)


async def test_logging_out_ends_the_token_here_at_once_and_elsewhere_within_a_second(store: Dataset) -> None:
    here, there = Process(store), Process(store)
    token, other = a_token(jti="one"), a_token(jti="two")
    for process in (here, there):
        await process.auth.caller(request(token))
    await here.auth.log_out(request(token))
    error = await refused(here.auth, token)
    assert (error.status, str(error)) == (401, "the access token was logged out")
    there.clock.now_s += 1.0
    await refused(there.auth, token)
    await refused(there.auth, token)
    for process in (here, there):
        assert (await process.auth.caller(request(other))).subject == "user-1"


async def test_it_is_remembered_only_as_long_as_the_token_lives(store: Dataset) -> None:
    process = Process(store)
    token = a_token(jti="one", exp=int(time.time()) + 600)
    await process.auth.log_out(request(token))
    (name,) = [name async for name in store.client.scan_iter(match="payments:revoked:*")]
    assert b"one" not in name
    assert 590_000 < await store.client.pttl(name) <= 605_000


async def test_a_token_is_out_until_its_own_end_also_when_it_is_verified_anew_sooner(store: Dataset) -> None:
    """With public keys a token is kept no longer than they are; its logging out must last."""
    settings = AuthSettings(
        secret=SETTINGS.secret, algorithms=("HS256", "RS256"), jwks_url="http://nobody.asks", jwks_cache_s=60
    )
    auth = Authenticator(settings, None, RedisRevocations(store.batcher))
    token = a_token(jti="one", exp=int(time.time()) + 600)
    await auth.log_out(request(token))
    (name,) = [name async for name in store.client.scan_iter(match="payments:revoked:*")]
    assert await store.client.pttl(name) > 590_000


async def test_a_token_without_an_id_cannot_be_logged_out_and_stays_good(store: Dataset) -> None:
    process = Process(store)
    token = a_token()
    with pytest.raises(HttpRefused) as error:
        await process.auth.log_out(request(token))
    assert error.value.status == 422
    await process.auth.caller(request(token))


async def test_nobody_else_can_log_a_token_out(store: Dataset) -> None:
    """A forged token of the same id is refused before anything is written."""
    process = Process(store)
    with pytest.raises(HttpRefused):
        await process.auth.log_out(request(a_token("f" * 40, jti="one")))
    await process.auth.caller(request(a_token(jti="one")))


class Away:
    """A store that does not answer."""

    async def revoke(self, token_id: str, *, seconds: float) -> None:
        raise StoreUnavailable("away")

    async def is_revoked(self, token_id: str) -> bool:
        raise StoreUnavailable("away")


async def test_while_nobody_can_tell_a_token_with_an_id_is_not_taken() -> None:
    auth = Authenticator(SETTINGS, None, Away())
    with pytest.raises(StoreUnavailable):
        await auth.caller(request(a_token(jti="one")))
    assert (await auth.caller(request(a_token()))).subject == "user-1", "one without has nothing to ask for"
