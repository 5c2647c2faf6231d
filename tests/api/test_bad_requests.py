"""Bodies that are no JSON, and fields that are missing or wrong: refused by name, nothing written, nothing quoted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.api.bad_input import (
    AMOUNT_CASES,
    BODY_CASES,
    CURRENCY_CASES,
    METHOD_CASES,
    SECRETS,
    TEXT_CASES,
    Case,
    good,
)
from tests.api.world import World, as_json

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.usefixtures("all_unwritten")]


def each(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """A test for each of them."""
    return pytest.mark.parametrize("case", cases, ids=[case.name.encode("unicode_escape").decode() for case in cases])


async def check(world: World, case: Case) -> dict[str, object]:
    """The case is refused as it says, and the refusal quotes no card."""
    answer = await world.pay(case.body)
    error = world.refused(answer, case.status, case.code or None)
    if case.field:
        assert error["details"]["field"] == case.field
    assert not any(answer.shows(secret) for secret in SECRETS)
    assert error["retry"] == "never"
    return error


@each(BODY_CASES)
async def test_a_body_that_is_no_json_object_is_refused(world: World, case: Case) -> None:
    await check(world, case)


@each(TEXT_CASES)
async def test_a_field_of_a_wrong_type_or_form_is_refused(world: World, case: Case) -> None:
    await check(world, case)


@each(CURRENCY_CASES)
async def test_a_currency_must_be_iso_4217_in_upper_case(world: World, case: Case) -> None:
    error = await check(world, case)
    assert error["code"] in {"INVALID_REQUEST", "INVALID_AMOUNT"}, "it is no currency at all"


@each(AMOUNT_CASES)
async def test_an_amount_that_cannot_be_charged_exactly_is_refused(world: World, case: Case) -> None:
    await check(world, case)


@each(METHOD_CASES)
async def test_a_card_that_cannot_be_right_is_pay_001(world: World, case: Case) -> None:
    await check(world, case)


async def test_a_refusal_quotes_none_of_what_stood_in_the_card(world: World) -> None:
    """Not even a number that is no card number: people mistype real ones."""
    for field, value in (
        ("cardNumber", "4539578763621487"),
        ("cardNumber", "4539 5787 6362 1486"),
        ("cvv", "73915"),
        ("cvv", "secret-cvv"),
        ("expiryYear", "20-thirty"),
        ("type", "4539578763621486"),
    ):
        body = good()
        body["paymentMethod"][field] = value
        answer = await world.pay(as_json(body))
        world.refused(answer, 422, "PAY_001")
        assert not answer.shows(value)
        assert value not in answer.text
