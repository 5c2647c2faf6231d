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
from tests.simulators.helpers import (
    HandClock,
    a_charge,
    call,
    charge,
    decline_code,
    effects,
    follow_up,
    opened,
    summary,
    with_card,
)

# Written by the acquirer of before captures, voids and refunds: approved, declined, and a wallet.
OLD_JOURNAL = """\
{"id":"txn-94f53e76da7a4f3366320ee0","attempt":"attempt-1","reference":"pay-456","status":"approved",\
"amount_minor":7548,"currency":"USD","brand":"visa","last4":"4242","salt":"621045dc3ba9b604be3b17f25f78b320",\
"fingerprint":"d386fd713ae16c0fcdbd1ea3e28a27d7","at":"2026-11-20T23:25:57.092Z"}
{"id":"txn-764dbbbfaddf91d1d00ba02f","attempt":"attempt-2","reference":"pay-456","status":"declined",\
"amount_minor":7548,"currency":"USD","brand":"visa","last4":"0002","salt":"fa68f8dd4cae2ac26566730bc8685313",\
"fingerprint":"1d88d880fa7ed5a41ff2ea96d1135727","at":"2026-11-20T23:25:57.095Z","decline_code":"card_declined",\
"reason":"Card declined"}
{"id":"txn-a46509904fdf696ccb77e129","attempt":"attempt-3","reference":"pay-3","status":"approved",\
"amount_minor":7548,"currency":"USD","brand":"wallet","last4":"","salt":"f252a72598b0591142e6375762cbc7ee",\
"fingerprint":"cd35f9cff4df99273c32db97c84ab88c","at":"2026-11-20T23:25:57.096Z"}
"""


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


async def test_a_journal_from_before_refunds_is_read_and_its_charges_can_be_refunded(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "acquirer.jsonl"
    path.write_text(OLD_JOURNAL)
    async with serve(AcquirerSim(path)) as base:
        first, declined, wallet = (json.loads(line)["id"] for line in OLD_JOURNAL.splitlines())
        rows = [(row["kind"], row["charge"], row["id"]) for row in await effects(http, base)]
        assert rows == [("charge", first, first), ("charge", wallet, wallet)]
        # The fingerprints still fit: the same bodies are known, others are not.
        assert (await charge(http, base, "attempt-1")).body["id"] == first
        assert (await charge(http, base, "attempt-2", a_charge(cards.DECLINED))).body["id"] == declined
        token = a_charge(card=None, wallet_token="tok-1", reference="pay-3")
        assert (await charge(http, base, "attempt-3", token)).body["id"] == wallet
        assert (await charge(http, base, "attempt-1", a_charge(capture=False))).status == 409
        codes = [
            decline_code(await follow_up(http, base, "refunds", f"refund-{n}", transaction, amount_minor=5000))
            for n, transaction in enumerate([first, first, declined, wallet])
        ]
        assert codes == [None, "amount_too_large", "charge_declined", None]
        before = await effects(http, base)
    assert path.read_text().startswith(OLD_JOURNAL)
    async with serve(AcquirerSim(path)) as base:
        assert await effects(http, base) == before


async def test_a_restart_between_any_two_steps_forgets_neither_holds_nor_captures_nor_refunds(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "acquirer.jsonl"
    steps = [
        ("captures", "held", 7549, "amount_too_large"),
        ("captures", "held", 5000, None),
        ("captures", "held", 1, "already_captured"),
        ("voids", "held", 7548, "already_captured"),
        ("refunds", "held", 3000, None),
        ("refunds", "held", 2001, "amount_too_large"),
        ("refunds", "held", 2000, None),
        ("refunds", "held", 1, "amount_too_large"),
        ("voids", "other", 7548, None),
        ("captures", "other", 7548, "authorization_voided"),
        ("refunds", "txn-nothing", 1, "unknown_charge"),
    ]
    async with serve(AcquirerSim(path)) as base:
        names = {name: await opened(http, base, name, capture=False) for name in ("held", "other")}
    answers = []
    for n, (step, name, amount_minor, code) in enumerate(steps):
        async with serve(AcquirerSim(path)) as base:
            transaction = names.get(name, name)
            answer = await follow_up(http, base, step, f"step-{n}", transaction, amount_minor=amount_minor)
            assert (step, decline_code(answer)) == (step, code)
            answers.append(answer)
    async with serve(AcquirerSim(path)) as base:
        for n, (step, name, amount_minor, _) in enumerate(steps):
            transaction = names.get(name, name)
            asked = await call(http, "GET", f"{base}/{step}/step-{n}")
            again = await follow_up(http, base, step, f"step-{n}", transaction, amount_minor=amount_minor)
            assert answers[n].body == asked.body == again.body
            other = await follow_up(http, base, step, f"step-{n}", transaction, amount_minor=42)
            assert other.status == 409
        rows = [(row["seq"], row["attempt"], row["kind"], row["charge"]) for row in await effects(http, base)]
        assert rows == [
            (1, "step-1", "capture", names["held"]),
            (2, "step-4", "refund", names["held"]),
            (3, "step-6", "refund", names["held"]),
        ]
        assert (await summary(http, base))["amount_minor_by_currency"] == {"USD": 0}


async def test_an_authorization_ends_when_it_was_promised_to_whatever_the_restarted_acquirer_grants(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path, clock = tmp_path / "acquirer.jsonl", HandClock()
    async with serve(AcquirerSim(path, clock=clock, authorized_for_s=10)) as base:
        body = a_charge(capture=False)
        held = await charge(http, base, "attempt-1", body)
        await charge(http, base, "declined", a_charge(cards.DECLINED, capture=False))
    kept = path.read_text()
    assert (kept.count('"kind":"authorize"'), kept.count('"authorized_until"')) == (2, 1)
    clock.forward(11)
    async with serve(AcquirerSim(path, clock=clock, authorized_for_s=3600)) as base:
        assert await charge(http, base, "attempt-1", body) == held
        late = await follow_up(http, base, "captures", "attempt-2", held.body["id"])
        assert decline_code(late) == "authorization_expired"


async def test_refunds_by_an_acquirer_that_ignores_keys_are_all_taken_off_after_a_restart(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "acquirer.jsonl"
    async with serve(AcquirerSim(path, dedupe=False)) as base:
        transaction = await opened(http, base)
        for _ in range(2):
            await follow_up(http, base, "refunds", "attempt-2", transaction, amount_minor=3000)
    async with serve(AcquirerSim(path)) as base:
        rest = await follow_up(http, base, "refunds", "attempt-3", transaction, amount_minor=1549)
        assert decline_code(rest) == "amount_too_large"
        assert (await summary(http, base))["attempts_with_more_than_one_effect"] == ["attempt-2"]


async def test_a_refund_that_cannot_be_journalled_does_not_happen(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "acquirer.jsonl"
    async with serve(AcquirerSim(path)) as base:
        transaction = await opened(http, base)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, hard))
        try:
            answer = await follow_up(http, base, "refunds", "attempt-2", transaction)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (answer.status, answer.body) == (500, {"error": "the simulator failed"})
        assert (await call(http, "GET", f"{base}/refunds/attempt-2")).status == 404
        assert len(await effects(http, base)) == 1
        assert decline_code(await follow_up(http, base, "refunds", "attempt-2", transaction)) is None
