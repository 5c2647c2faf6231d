"""`GET /api/payments/user/{user_id}`: newest first, page by page, and only one's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.api.world import PAYMENTS, World, payment_body, service_token, token

pytestmark = pytest.mark.asyncio(loop_scope="package")

PAYMENTS_MADE = 23


async def test_users_of_other_surfaces_are_nobody_here(world: World) -> None:
    """Theirs are kept under names with a bar."""
    for caller in (service_token(), token("orders|1")):
        world.refused(await world.get(f"{PAYMENTS}/user/orders%7C1", auth=caller), 404, "PAYMENT_NOT_FOUND")


class Shopper:
    """A user with many payments."""

    def __init__(self, world: World, user_id: str) -> None:
        self.world, self.user_id, self.auth = world, user_id, token(user_id)
        self.made: list[dict[str, Any]] = []

    async def buy(self, count: int) -> None:
        """Make payments at the same time, so that some are made in the same millisecond."""
        orders = [await self.world.order(user_id=self.user_id) for _ in range(count)]
        bodies = [payment_body(order, user_id=self.user_id) for order in orders]
        answers = await asyncio.gather(*[self.world.pay(body, auth=self.auth) for body in bodies])
        assert {answer.status for answer in answers} == {201}
        self.made += [answer.json for answer in answers]

    async def page(self, query: str = "") -> dict[str, Any]:
        """One page, which must be there."""
        answer = await self.world.get(f"{PAYMENTS}/user/{self.user_id}{query}", auth=self.auth)
        assert answer.status == 200, answer
        page: dict[str, Any] = answer.json
        assert set(page) == {"payments", "next_cursor"}
        return page

    async def pages(self, limit: int) -> list[list[dict[str, Any]]]:
        """All pages of this size."""
        pages, cursor = [], ""
        while True:
            page = await self.page(f"?limit={limit}{cursor}")
            pages.append(page["payments"])
            if page["next_cursor"] is None:
                return pages
            cursor = f"&cursor={page['next_cursor']}"
            assert len(pages) <= 100, "the pages never end"


@pytest_asyncio.fixture(loop_scope="package", scope="module")
async def shopper(world: World) -> AsyncIterator[Shopper]:
    """A user with settled payments."""
    made = Shopper(world, await world.user())
    await made.buy(PAYMENTS_MADE)
    for payment in made.made:
        await world.ended(payment["id"])
    yield made


async def test_a_page_has_ten_payments_unless_asked_otherwise(shopper: Shopper) -> None:
    page = await shopper.page()
    assert len(page["payments"]) == 10
    assert isinstance(page["next_cursor"], str)


async def test_the_list_shows_payments_as_reading_one_does(shopper: Shopper) -> None:
    [payment] = (await shopper.page("?limit=1"))["payments"]
    answer = await shopper.world.get(f"{PAYMENTS}/{payment['id']}", auth=shopper.auth)
    assert payment == answer.json
    assert payment["status"] == "completed"


@pytest.mark.parametrize("limit", [1, 2, 7, 22, 23, 24, 100])
async def test_pages_of_any_size_hold_every_payment_once(shopper: Shopper, limit: int) -> None:
    pages = await shopper.pages(limit)
    assert sorted(payment["id"] for page in pages for payment in page) == sorted(p["id"] for p in shopper.made)
    assert all(len(page) == limit for page in pages[:-1])


async def test_the_newest_payment_comes_first(world: World) -> None:
    patient = Shopper(world, await world.user())
    for _ in range(5):
        await patient.buy(1)
    [page] = await patient.pages(10)
    assert [payment["id"] for payment in page] == [payment["id"] for payment in reversed(patient.made)]
    times = [payment["createdAt"] for payment in page]
    assert times == sorted(times, reverse=True)


async def test_payments_made_between_two_pages_move_nothing(world: World) -> None:
    growing = Shopper(world, await world.user())
    await growing.buy(6)
    first = await growing.page("?limit=4")
    await growing.buy(5)
    second = await growing.page(f"?limit=4&cursor={first['next_cursor']}")
    seen = [payment["id"] for payment in first["payments"] + second["payments"]]
    assert sorted(seen) == sorted(payment["id"] for payment in growing.made[:6])
    assert second["next_cursor"] is None


async def test_a_user_without_payments_has_an_empty_list(world: World) -> None:
    nobody = Shopper(world, await world.user())
    assert await nobody.page() == {"payments": [], "next_cursor": None}


@pytest.mark.parametrize(
    "limit", ["0", "-1", "101", "1000000000000000000000", "abc", "1.5", "", "1e1", "%31%00", "%D9%A3"]
)
async def test_a_limit_out_of_range_is_refused(shopper: Shopper, limit: str) -> None:
    answer = await shopper.world.get(f"{PAYMENTS}/user/{shopper.user_id}?limit={limit}", auth=shopper.auth)
    error = shopper.world.refused(answer, 422, "INVALID_REQUEST")
    assert "limit" in error["message"]


@pytest.mark.parametrize("cursor", ["x", "!!", "AAAA", "%00", "-1", "0", "null", "%F0%9F%92%B3", "x" * 2000])
async def test_a_cursor_that_was_never_given_out_is_refused(shopper: Shopper, cursor: str) -> None:
    answer = await shopper.world.get(f"{PAYMENTS}/user/{shopper.user_id}?cursor={cursor}", auth=shopper.auth)
    error = shopper.world.refused(answer, 422, "INVALID_REQUEST")
    assert "cursor" in error["message"]


async def test_a_cursor_of_another_users_list_shows_none_of_their_payments(world: World, shopper: Shopper) -> None:
    other = Shopper(world, await world.user())
    await other.buy(3)
    cursor = (await shopper.page("?limit=5"))["next_cursor"]
    answer = await world.get(f"{PAYMENTS}/user/{other.user_id}?cursor={cursor}", auth=other.auth)
    if answer.status == 200:
        assert {payment["userId"] for payment in answer.json["payments"]} <= {other.user_id}
    else:
        world.refused(answer, 422, "INVALID_REQUEST")


async def test_the_list_of_somebody_else_is_404(world: World, shopper: Shopper) -> None:
    answer = await world.get(f"{PAYMENTS}/user/{shopper.user_id}", auth=token(await world.user()))
    world.refused(answer, 404)
    assert not any(payment["id"] in answer.text for payment in shopper.made)


async def test_a_service_lists_anybodys_payments(world: World, shopper: Shopper) -> None:
    answer = await world.get(f"{PAYMENTS}/user/{shopper.user_id}?limit=100", auth=service_token())
    assert len(answer.json["payments"]) == PAYMENTS_MADE
