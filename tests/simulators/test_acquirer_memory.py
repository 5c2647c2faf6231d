"""What the acquirer keeps across a restart, and what it must never keep."""

from __future__ import annotations

import json
import logging
import resource
from pathlib import Path

import aiohttp
import pytest

from simulators import cards
from simulators.acquirer import AcquirerSim
from simulators.server import serve
from tests.simulators.helpers import a_charge, call, charge, effects, summary, with_card


async def test_an_acquirer_that_ignores_keys_shows_every_effect_also_after_a_restart(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "acquirer.jsonl"
    async with serve(AcquirerSim(path, dedupe=False)) as base:
        first = await charge(http, base, "attempt-1")
        second = await charge(http, base, "attempt-1")
        other = await charge(http, base, "attempt-1", a_charge(amount_minor=1))
        assert [first.status, second.status, other.status] == [200] * 3
        assert len({first.body["id"], second.body["id"], other.body["id"]}) == 3
        assert (await call(http, "GET", f"{base}/charges/attempt-1")).body == other.body
    async with serve(AcquirerSim(path)) as base:
        assert [(row["seq"], row["attempt"], row["amount_minor"]) for row in await effects(http, base)] == [
            (1, "attempt-1", 7548),
            (2, "attempt-1", 7548),
            (3, "attempt-1", 1),
        ]
        found = await summary(http, base)
        assert (found["effects"], found["attempts_seen"]) == (3, 1)
        assert found["attempts_with_more_than_one_effect"] == ["attempt-1"]


async def test_a_restart_forgets_no_attempt_no_decline_and_no_body(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "acquirer.jsonl"
    declined_body = a_charge(cards.DECLINED_TRY_AGAIN)
    async with serve(AcquirerSim(path)) as base:
        approved = await charge(http, base, "attempt-1")
        declined = await charge(http, base, "attempt-2", declined_body)
        before = await effects(http, base)
    async with serve(AcquirerSim(path)) as base:
        assert await charge(http, base, "attempt-1") == approved
        again = await charge(http, base, "attempt-2", declined_body)
        assert (again.status, again.body) == (402, declined.body)
        assert (await charge(http, base, "attempt-1", a_charge(amount_minor=1))).status == 409
        assert await effects(http, base) == before
        await charge(http, base, "attempt-3")
        assert [row["seq"] for row in await effects(http, base)] == [1, 2]


async def test_a_charge_that_cannot_be_journalled_does_not_happen(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """The 500 must mean what it says, also for the attempt that comes next."""
    async with serve(AcquirerSim(tmp_path / "acquirer.jsonl")) as base:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
        try:
            answer = await charge(http, base, "attempt-1")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (answer.status, answer.body) == (500, {"error": "the simulator failed"})
        assert (await call(http, "GET", f"{base}/charges/attempt-1")).status == 404
        assert await effects(http, base) == []
        assert (await charge(http, base, "attempt-1")).status == 200


async def test_no_card_number_no_cvv_and_no_token_is_kept_logged_or_answered(
    http: aiohttp.ClientSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "acquirer.jsonl"
    answers = []
    canary = "5105105105105100"
    async with serve(AcquirerSim(path)) as base:
        answers.append(await charge(http, base, "attempt-1", with_card(number=canary, cvv="9173")))
        answers.append(await charge(http, base, "attempt-1", with_card(number=canary, cvv="9174")))
        answers.append(await charge(http, base, "attempt-2", with_card(number=canary, cvv="91735")))
        answers.append(await charge(http, base, "attempt-3", a_charge(card=None, wallet_token="tok-canary")))
        answers.append(await call(http, "GET", f"{base}/charges/attempt-1"))
        answers.append(await call(http, "GET", f"{base}/journal"))
    kept = path.read_text()
    assert '"brand":"mastercard","last4":"5100"' in kept
    for written in (kept, caplog.text, repr(answers)):
        assert canary not in written and canary[:-4] not in written
        assert '"9173"' not in written and "tok-canary" not in written
    assert "cvv" not in kept


async def test_two_charges_of_one_card_cannot_be_matched_in_the_journal(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Without a salt, whoever reads the file could try out card numbers against all lines at once."""
    path = tmp_path / "acquirer.jsonl"
    async with serve(AcquirerSim(path)) as base:
        await charge(http, base, "attempt-1")
        await charge(http, base, "attempt-2")
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["last4"] == second["last4"]
    assert first["fingerprint"] != second["fingerprint"]
