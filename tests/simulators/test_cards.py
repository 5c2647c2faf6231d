"""Every test card does what the table in `simulators/cards.py` says."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from simulators import cards
from simulators.acquirer import AcquirerSim
from simulators.bodies import Card
from simulators.server import serve
from tests.simulators.helpers import a_charge, call, charge, effects, eventually

CONSTANTS = {name: value for name, value in vars(cards).items() if isinstance(value, str) and value.isdecimal()}


@pytest.fixture
async def base() -> AsyncIterator[str]:
    """A served acquirer whose late card is not very late."""
    async with serve(AcquirerSim(None, late_s=0.8)) as url:
        yield url


async def known_status(http: aiohttp.ClientSession, base: str) -> str | None:
    """What the acquirer says when asked about the attempt."""
    answer = await call(http, "GET", f"{base}/charges/attempt-1")
    return answer.body["status"] if answer.status == 200 else None


async def is_known(http: aiohttp.ClientSession, base: str) -> bool:
    """Whether the acquirer has seen the attempt."""
    return await known_status(http, base) is not None


@pytest.mark.parametrize(
    "number",
    [cards.APPROVED, cards.APPROVED_VISA, cards.APPROVED_MASTERCARD, "378282246310005", "6011000990139424"],
)
async def test_any_other_luhn_valid_card_approves(http: aiohttp.ClientSession, base: str, number: str) -> None:
    answer = await charge(http, base, "attempt-1", a_charge(number))
    assert (answer.status, answer.body["status"]) == (200, "approved")
    assert len(await effects(http, base)) == 1


@pytest.mark.parametrize(
    ("number", "code", "reason", "retryable"),
    [
        ("4000000000000002", "card_declined", "Card declined", False),
        ("4000000000009995", "insufficient_funds", "Insufficient funds", False),
        ("4000000000009987", "lost_card", "Lost card", False),
        ("4000000000000069", "expired_card", "Expired card", False),
        (cards.DECLINED_TRY_AGAIN, "try_again_later", "Try again later", True),
    ],
)
async def test_a_declining_card_says_why_and_moves_nothing(
    http: aiohttp.ClientSession, base: str, number: str, code: str, reason: str, retryable: bool
) -> None:
    answer = await charge(http, base, "attempt-1", a_charge(number))
    assert answer.status == 402
    assert answer.body == {
        "id": answer.body["id"],
        "attempt": "attempt-1",
        "status": "declined",
        "decline_code": code,
        "reason": reason,
        "retryable": retryable,
    }
    asked = await call(http, "GET", f"{base}/charges/attempt-1")
    assert (asked.status, asked.body) == (200, answer.body)
    assert await charge(http, base, "attempt-1", a_charge(number)) == answer
    assert await effects(http, base) == []


async def test_the_silent_card_charges_once_and_only_a_query_tells(http: aiohttp.ClientSession, base: str) -> None:
    for _ in range(2):
        waiting = asyncio.create_task(charge(http, base, "attempt-1", a_charge(cards.SILENT_BUT_CHARGES)))
        await eventually(lambda: is_known(http, base))
        _, silent = await asyncio.wait([waiting], timeout=0.3)
        assert silent == {waiting}
        waiting.cancel()
    assert await known_status(http, base) == "approved"
    assert len(await effects(http, base)) == 1


async def test_the_late_card_charges_at_once_and_answers_late(http: aiohttp.ClientSession, base: str) -> None:
    async with serve(AcquirerSim(None, late_s=3600)) as very_late:
        waiting = asyncio.create_task(charge(http, very_late, "attempt-1", a_charge(cards.LATE)))
        await eventually(lambda: is_known(http, very_late))
        assert await known_status(http, very_late) == "approved" and not waiting.done()
        waiting.cancel()
    sent = time.monotonic()
    assert (await charge(http, base, "attempt-1", a_charge(cards.LATE))).status == 200
    assert time.monotonic() - sent >= 0.8
    assert len(await effects(http, base)) == 1


async def test_the_card_that_fails_after_charging_charges_once(http: aiohttp.ClientSession, base: str) -> None:
    for _ in range(2):
        answer = await charge(http, base, "attempt-1", a_charge(cards.ERROR_AFTER_CHARGE))
        assert (answer.status, answer.body) == (500, {"error": "failed after charging"})
    assert await known_status(http, base) == "approved"
    assert len(await effects(http, base)) == 1


async def test_the_card_that_fails_before_charging_leaves_nothing(http: aiohttp.ClientSession, base: str) -> None:
    answer = await charge(http, base, "attempt-1", a_charge(cards.ERROR_BEFORE_CHARGE))
    assert (answer.status, answer.body) == (500, {"error": "failed before charging"})
    assert await known_status(http, base) is None
    assert await effects(http, base) == []


def test_every_card_is_luhn_valid_has_sixteen_digits_and_is_in_the_table_of_the_module() -> None:
    assert len(CONSTANTS) == 12 == len(set(CONSTANTS.values()))
    assert cards.__doc__ is not None
    table = dict(re.findall(r"^\| (\d+) \| `(\w+)`", cards.__doc__, re.MULTILINE))
    assert table == {number: name for name, number in CONSTANTS.items()}
    assert all(len(number) == 16 and cards.luhn_valid(number) for number in CONSTANTS.values())


@pytest.mark.parametrize("number", ["4242424242424241", "4242424242424224", "4111111111111112"])
def test_a_wrong_check_digit_is_seen(number: str) -> None:
    assert not cards.luhn_valid(number)


@pytest.mark.parametrize(
    ("number", "brand"),
    [
        (cards.APPROVED, "visa"),
        (cards.APPROVED_MASTERCARD, "mastercard"),
        ("2223000048400011", "mastercard"),
        ("378282246310005", "amex"),
        ("6011000990139424", "other"),
    ],
)
def test_the_brand_follows_from_the_first_digits(number: str, brand: str) -> None:
    assert cards.brand_of(number) == brand


def test_a_card_hides_its_number_in_its_repr() -> None:
    card = Card(number=cards.APPROVED, expiry_month=12, expiry_year=2030, cvv="737")
    assert repr(card) == "Card(****4242)"
