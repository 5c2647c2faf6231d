"""The acquirer's statement: one line per effect on money, nothing else."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest

from simulators import cards
from simulators.acquirer import AcquirerSim
from simulators.server import serve
from tests.simulators.helpers import HandClock, a_charge, call, charge, effects, follow_up, opened

HEADER = "attempt,reference,kind,amount_minor,currency,id,at\n"


@pytest.fixture
def clock() -> HandClock:
    """The acquirer's clock."""
    return HandClock()


@pytest.fixture
async def base(clock: HandClock) -> AsyncIterator[str]:
    """A served acquirer whose ids can be foretold."""
    ids = (f"txn-{n}" for n in range(1, 1000))
    async with serve(AcquirerSim(None, clock=clock, new_id=lambda: next(ids))) as url:
        yield url


async def statement(http: aiohttp.ClientSession, base: str, **bounds: str) -> str:
    """The statement as text."""
    response = await http.get(f"{base}/statement.csv", params=bounds)
    assert (response.status, response.content_type, response.charset) == (200, "text/csv", "utf-8")
    return await response.text()


async def attempts(http: aiohttp.ClientSession, base: str, **bounds: str) -> list[str]:
    """Whose effects the statement shows."""
    return [row["attempt"] for row in csv.DictReader(io.StringIO(await statement(http, base, **bounds)))]


async def test_an_acquirer_that_moved_nothing_sends_the_header_alone(http: aiohttp.ClientSession, base: str) -> None:
    assert await statement(http, base) == HEADER


async def test_the_statement_has_a_line_for_each_charge_capture_and_refund_and_for_nothing_else(
    http: aiohttp.ClientSession, base: str, clock: HandClock
) -> None:
    await opened(http, base, "a-1", reference="pay-1")
    await charge(http, base, "a-2", a_charge(cards.DECLINED, reference="pay-2"))
    await opened(http, base, "a-3", reference="pay-3", capture=False, currency="KES")
    await opened(http, base, "a-4", reference="pay-4", capture=False)
    clock.forward(1.5)
    await follow_up(http, base, "captures", "a-5", "txn-3", reference="pay-3", currency="KES", amount_minor=700)
    await follow_up(http, base, "voids", "a-6", "txn-4", reference="pay-4")
    await follow_up(http, base, "refunds", "a-7", "txn-1", reference="pay-1", amount_minor=548)
    await follow_up(http, base, "refunds", "a-8", "txn-1", reference="pay-1", amount_minor=7013)
    assert await statement(http, base) == (
        HEADER + "a-1,pay-1,charge,7548,USD,txn-1,2023-01-01T00:02:00.000Z\n"
        "a-5,pay-3,capture,700,KES,txn-5,2023-01-01T00:02:01.500Z\n"
        "a-7,pay-1,refund,548,USD,txn-7,2023-01-01T00:02:01.500Z\n"
    )


async def test_the_statement_says_what_the_journal_says_also_of_names_with_commas_and_quotes(
    http: aiohttp.ClientSession, base: str
) -> None:
    for n, name in enumerate(['a,b"c', "two\nlines", "plain", "Zoë"]):
        transaction = await opened(http, base, f'attempt,"{n}"', reference=name)
        await follow_up(http, base, "refunds", f"refund-{n}", transaction, reference=name, amount_minor=n + 1)
    rows = list(csv.DictReader(io.StringIO(await statement(http, base), newline="")))
    journal = await effects(http, base)
    assert rows == [{column: str(row[column]) for column in HEADER.strip().split(",")} for row in journal]
    assert len(rows) == 8


async def test_a_statement_has_bounds_from_on_and_before_to_so_that_two_in_a_row_share_no_line(
    http: aiohttp.ClientSession, base: str, clock: HandClock
) -> None:
    for n in range(1, 5):
        await opened(http, base, f"a-{n}")
        clock.forward(1)
    third = "2023-01-01T00:02:02Z"
    assert await attempts(http, base, to=third) == ["a-1", "a-2"]
    assert await attempts(http, base, **{"from": third}) == ["a-3", "a-4"]
    assert await attempts(http, base, **{"from": "2023-01-01T03:02:01.000+03:00", "to": third}) == ["a-2"]
    assert await attempts(http, base, **{"from": "2023-01-01T00:02:02.0005Z"}) == ["a-4"]
    assert await attempts(http, base, **{"from": third, "to": third}) == []
    assert await attempts(http, base) == ["a-1", "a-2", "a-3", "a-4"]


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize(
    "moment", ["", "yesterday", "2023-01-01", "2023-01-01T00:00:00", "20230101T000000Z", "1672531200", "%ff"]
)
async def test_a_bound_that_is_no_moment_is_400(http: aiohttp.ClientSession, base: str, name: str, moment: str) -> None:
    answer = await call(http, "GET", f"{base}/statement.csv?{name}={moment}")
    assert (answer.status, answer.body) == (400, {"error": f"{name} must be an RFC 3339 time with its offset"})


async def test_bounds_the_wrong_way_round_are_400_and_not_an_empty_statement(
    http: aiohttp.ClientSession, base: str
) -> None:
    bounds = "from=2023-01-02T00:00:00Z&to=2023-01-01T00:00:00Z"
    answer = await call(http, "GET", f"{base}/statement.csv?{bounds}")
    assert (answer.status, answer.body) == (400, {"error": "from is later than to"})
