"""Logging out, and how often one may try to log in."""

from __future__ import annotations

import pytest

from tests.gateway.world import PASSWORD, Gateway, Person, payment_body, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="package")

LIMITED = {
    "PAYMENTS__LIMITS__LOGIN_BY_ACCOUNT__REQUESTS": "3",
    "PAYMENTS__LIMITS__LOGIN_BY_ACCOUNT__WINDOW_S": "3600",
    "PAYMENTS__LIMITS__LOGIN_BY_ADDRESS__REQUESTS": "8",
    "PAYMENTS__LIMITS__LOGIN_BY_ADDRESS__WINDOW_S": "3600",
}


async def test_a_token_that_was_logged_out_opens_nothing_any_more(gateway: Gateway) -> None:
    person = await gateway.person()
    other = await gateway.login(person.email)
    answer = await person.post("/api/auth/logout")
    assert (answer.status, answer.json) == (200, {"message": "Logged out"})
    for refused in (
        await person.get("/api/auth/profile"),
        await person.get("/api/transactions"),
        await person.post("/api/payments", payment_body()),
        await person.post("/api/auth/logout"),
    ):
        assert gateway.refused(refused, 401, "UNAUTHORIZED")["message"] == "the access token was logged out"
    again = Person(gateway, person.email, other.json["token"], person.account)
    assert (await again.get("/api/auth/profile")).status == 200, "only this token was logged out"


async def test_who_is_not_logged_in_cannot_log_out(gateway: Gateway) -> None:
    gateway.refused(await gateway.post("/api/auth/logout"), 401, "UNAUTHORIZED")


async def test_a_token_of_the_gateways_is_taken_by_the_core_surface_and_logged_out_there_too(gateway: Gateway) -> None:
    """They share the secret, so they share who is signed in."""
    person = await gateway.person()
    mine = f"/api/payments/user/{person.id}"
    assert (await gateway.world.send("GET", mine, auth=person.token)).json == {"payments": [], "next_cursor": None}
    await person.post("/api/auth/logout")
    gateway.refused(await gateway.world.send("GET", mine, auth=person.token), 401, "UNAUTHORIZED")


async def test_an_account_is_not_tried_for_ever_however_it_is_spelt() -> None:
    """The right password does not help then, and others get in."""
    async with running_gateway(**LIMITED) as gateway:
        await gateway.register("ada@example.com")
        await gateway.register("bob@example.com")
        for spelling in ("ada@example.com", "Ada@Example.com", "ADA@example.com"):
            gateway.refused(await gateway.login(spelling, "wrong password"), 401, "INVALID_CREDENTIALS")
        answer = await gateway.login("ada@example.com", PASSWORD)
        gateway.refused(answer, 429, "RATE_LIMITED")
        assert 0 < int(answer.headers["Retry-After"]) <= 3600
        assert (answer.headers["RateLimit-Limit"], answer.headers["RateLimit-Remaining"]) == ("3", "0")
        assert (await gateway.login("bob@example.com")).status == 200


async def test_an_address_does_not_try_one_account_after_the_other() -> None:
    async with running_gateway(**LIMITED) as gateway:
        for number in range(8):
            gateway.refused(await gateway.login(f"nobody-{number}@example.com"), 401, "INVALID_CREDENTIALS")
        gateway.refused(await gateway.login("nobody-9@example.com"), 429, "RATE_LIMITED")


async def test_without_configuration_a_hundred_requests_in_a_quarter_of_an_hour_are_let_in() -> None:
    async with running_gateway(PAYMENTS__LIMITS__GATEWAY__REQUESTS="100") as gateway:
        answers = [await gateway.send("GET", "/api/transactions") for _ in range(101)]
        assert [answer.status for answer in answers] == [401] * 100 + [429]
        assert answers[0].headers["RateLimit-Limit"] == "100"
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 900
        assert (await gateway.send("GET", "/health")).status == 200
