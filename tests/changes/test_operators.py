"""Commands for operators: what they show, what they refuse, and what they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from engine.ids import rfc3339
from tests.api.world import TIME, payment_body
from tests.changes.shop import FAR_MS, Ran, Shop, running_shop, status, unknown

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR_MS = 3_600_000
ALWAYS = ("--from", "2000-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00+02:00")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shop() -> AsyncIterator[Shop]:
    """An engine that gives up on the acquirer early; at the end its books must be clean."""
    async with running_shop() as running:
        yield running
        await running.audit_is_clean()


async def resolve(shop: Shop, attempt: str, outcome: str, *more: str) -> Ran:
    """`unknown resolve`, with an actor and a reason."""
    return await shop.run(
        "unknown", "resolve", "--attempt", attempt, "--outcome", outcome, "--actor", "ann", "--reason", "phoned", *more
    )


async def test_unknown_attempts_are_listed_and_settled_by_an_operators_word(shop: Shop) -> None:
    """One charge approved, one declined; before `--yes` nothing changes; afterwards both are told to the world."""
    first, second = await shop.unknown_charge(), await shop.unknown_charge()
    listed = await shop.run("unknown", "list")
    assert listed.code == 0
    assert [line["payment"] for line in listed.lines] == [first["id"], second["id"]], "oldest first"
    line = listed.lines[0]
    assert line == {
        "payment": first["id"], "attempt": f"{first['id']}-a1", "kind": "charge", "acquirer": "card_acquirer",
        "amount_minor": 7548, "currency": "USD", "since": first["attempts"][0]["startedAt"], "asked": line["asked"],
    }  # fmt: skip
    assert line["asked"] >= 1

    written = await shop.world.at_rest()
    approving = ("approved", "--transaction", "txn-by-phone")
    asked, no_transaction = await asyncio.gather(
        resolve(shop, line["attempt"], *approving), resolve(shop, line["attempt"], "approved", "--yes")
    )
    assert asked.code == 1
    assert asked.lines[0]["done"] is False
    assert (asked.lines[0]["from"], asked.lines[0]["to"]) == ("processing", "completed")
    assert (no_transaction.code, no_transaction.out) == (2, "")
    assert "--transaction" in no_transaction.err
    assert shop.world.written() == written, "it changed something without --yes"

    done, declined = await asyncio.gather(
        resolve(shop, line["attempt"], *approving, "--yes"), resolve(shop, f"{second['id']}-a1", "declined", "--yes")
    )
    assert (done.code, declined.code) == (0, 0)
    assert done.lines == [
        {
            "attempt": line["attempt"], "outcome": "approved", "from": "processing", "to": "completed", "actor": "ann",
            "reason": "phoned", "done": True,
        }
    ]  # fmt: skip
    completed, failed = await shop.payment(first["id"]), await shop.payment(second["id"])
    assert (completed["status"], completed["transactionId"]) == ("completed", "txn-by-phone")
    assert (completed["attempts"][0]["outcome"], completed["attempts"][0]["settledBy"]) == ("approved", "ann: phoned")
    assert (failed["status"], failed["failureCode"]) == ("failed", "SETTLED_BY_OPERATOR")
    assert (failed["attempts"][0]["outcome"], failed["attempts"][0]["settledBy"]) == ("rejected", "ann: phoned")
    assert (await shop.published(first["id"], 1))[0]["value"]["event_type"] == "payment_completed"
    assert (await shop.published(second["id"], 1))[0]["value"]["event_type"] == "payment_failed"
    assert shop.balance(first["id"]) == {"acquirer:card_acquirer": 7548, "merchant:core": -7548}
    after = await shop.run("unknown", "list")
    assert (after.code, after.out) == (0, "")


async def test_an_unknown_refund_can_be_settled_and_the_next_one_goes_on(shop: Shop) -> None:
    """Declined by word: the reservation is free, and what waited behind it is sent."""
    payment = await shop.paid()
    await shop.block("/refunds")
    await shop.ask("refund", payment["id"], {"amount": 40})
    await shop.until(payment["id"], unknown)
    await shop.ask("refund", payment["id"], {"amount": 30})
    await shop.leave_alone(payment["id"])
    ran = await resolve(shop, f"{payment['id']}-a2", "declined", "--yes")
    assert ran.code == 0, ran
    await shop.sims.clear_faults(shop.sims.acquirer)
    first, second = await shop.until_refunds(payment["id"], "failed", "completed")
    assert (first["failureCode"], second["amount"]) == ("SETTLED_BY_OPERATOR", 30.0)
    assert (await shop.payment(payment["id"]))["refundedAmount"] == 30.0


async def test_what_is_not_unknown_or_not_there_cannot_be_resolved(shop: Shop) -> None:
    """Exit code 2, a reason, nothing changed: also for an attempt that is not the latest."""
    payment = await shop.paid()
    await shop.refunded(payment["id"], {"amount": 1})
    unknown = await shop.unknown_charge()
    written = await shop.world.at_rest()
    last = f"{payment['id']}-a2"
    refused = {
        "approved": resolve(shop, last, "approved", "--transaction", "t", "--yes"),
        "not its payment's latest": resolve(shop, f"{payment['id']}-a1", "declined", "--yes"),
        "no such attempt": resolve(shop, f"{unknown['id']}-a2", "declined", "--yes"),
        "--actor": shop.run("unknown", "resolve", "--attempt", last, "--outcome", "declined", "--yes"),
    }
    answers = []
    for pair in range(0, len(refused), 2):
        answers += await asyncio.gather(*list(refused.values())[pair : pair + 2])
    for why, ran in zip(refused, answers, strict=True):
        assert (ran.code, ran.out) == (2, ""), ran
        assert why in ran.err, ran
        assert "Traceback" not in ran.err
    assert shop.world.written() == written
    assert (await resolve(shop, f"{unknown['id']}-a1", "approved", "--transaction", "t-9", "--yes")).code == 0


async def statement_of(shop: Shop) -> list[str]:
    """The lines of the simulator's statement, the head first."""
    async with shop.sims.session.get(f"{shop.sims.acquirer}/statement.csv") as response:
        return (await response.text()).splitlines()


async def test_the_acquirers_statement_is_held_against_the_ledger(tmp_path: Path) -> None:
    """As it is: matched. Edited: every difference is named, with both sides; unreadable ones are refused by line."""
    async with running_shop() as shop:
        first, middle, refunded = [await shop.paid() for _ in range(3)]
        await shop.paid()
        await shop.refunded(refunded["id"], {"amount": 5})
        held = await shop.authorized()
        await shop.ask("capture", held["id"], {"amount": 70}, Prefer="wait=20")
        await shop.paid()
        lines = await statement_of(shop)
        assert len(lines) == 8

        async def reconcile(name: str, edit: Callable[[list[str]], list[str]]) -> Ran:
            file = tmp_path / f"{name}.csv"
            file.write_text("".join(f"{line}\n" for line in edit(list(lines))))
            return await shop.run("reconcile", "--statement", str(file))

        def line_of(payment: dict[str, Any], number: int = 1) -> str:
            return next(line for line in lines if line.startswith(f"{payment['id']}-a{number},"))

        def swapped(old: str, new: str) -> Callable[[list[str]], list[str]]:
            return lambda lines: [new if line == old else line for line in lines]

        ghost = line_of(first).replace(first["id"], "pay-00000000000000000000000000" + "00")
        charged, refund, capture = line_of(middle), line_of(refunded, 2), line_of(held, 2)
        whole, without, with_ghost, larger, less = await asyncio.gather(
            reconcile("whole", list),
            reconcile("missing-there", lambda lines: [line for line in lines if line != charged]),
            reconcile("missing-here", lambda lines: [*lines, ghost]),
            reconcile("larger-refund", swapped(refund, refund.replace(",500,", ",501,"))),
            reconcile("other-currency", swapped(capture, capture.replace(",USD,", ",EUR,"))),
        )
        counts = {"matched": 7, "missing_here": 0, "missing_there": 0, "different": 0, "items_opened": 0}
        assert (whole.code, whole.lines) == (0, [{"ok": True, **counts}])
        assert (without.code, without.lines) == (1, [
            {"what": "missing_there", "attempt": f"{middle['id']}-a1", "payment_id": middle["id"], "stated": "",
             "believed": "charge 7548 USD"},
            {"ok": False, **counts, "matched": 6, "missing_there": 1},
        ])  # fmt: skip
        assert (with_ghost.code, with_ghost.lines) == (1, [
            {"what": "missing_here", "attempt": ghost.split(",")[0], "payment_id": ghost.split(",")[1],
             "stated": "charge 7548 USD", "believed": "", "transaction_id": ghost.split(",")[5],
             "item": with_ghost.lines[0]["item"], "item_state": "new"},
            {"ok": False, **counts, "missing_here": 1},
        ])  # fmt: skip
        assert (larger.code, larger.lines[0]["stated"], larger.lines[0]["believed"]) == (
            1, "refund 501 USD", "refund 500 USD"
        )  # fmt: skip
        assert larger.lines[1] == {"ok": False, **counts, "matched": 6, "different": 1}
        assert (less.code, less.lines[0]["what"], less.lines[0]["stated"]) == (1, "different", "capture 7000 EUR")

        for name, edit, why in (
            (
                "twice",
                lambda lines: [*lines, charged],
                f"line 9 of the statement states {middle['id']}-a1 a second time",
            ),
            ("huge", lambda lines: [*lines, "x" * 200_000], "line 9 of the statement cannot be read"),
        ):
            ran = await reconcile(name, edit)
            assert (ran.code, ran.out) == (2, ""), (name, ran)
            assert why in ran.err, (name, ran)
            assert "Traceback" not in ran.err
        nothing = await shop.run("reconcile", "--statement", str(tmp_path / "not-there.csv"))
        assert nothing.code == 2


async def test_a_success_that_is_not_known_here_is_an_open_item(shop: Shop, tmp_path: Path) -> None:
    """The acquirer says that an unknown charge was made: named with what is believed here."""
    payment = await shop.unknown_charge()
    file = tmp_path / "statement.csv"
    lines = await statement_of(shop)
    own = next(line for line in lines if line.startswith(payment["id"]))
    file.write_text(f"{lines[0]}\n{own}\n")
    ran = await shop.run("reconcile", "--statement", str(file), "--yes")
    assert ran.code == 1
    item = ran.lines[0]["item"]
    assert ran.lines[0] == {
        "what": "missing_here", "attempt": f"{payment['id']}-a1", "payment_id": payment["id"],
        "stated": "charge 7548 USD", "believed": "charge 7548 USD, unknown", "transaction_id": own.split(",")[5],
        "item": item, "item_state": "open",
    }  # fmt: skip
    assert (ran.lines[-1]["ok"], ran.lines[-1]["items_opened"]) == (False, 1)
    await shop.until(payment["id"], status("completed"))  # it was asked about at once
    (line,) = (await shop.run("items", "list")).lines
    assert (line["id"], line["attempt_now"]) == (item, "approved")
    assert (await shop.run("items", "close", item, "--actor", "ann", "--reason", "settled", "--yes")).code == 0


async def test_events_are_told_again_with_the_same_ids_and_the_same_bytes(shop: Shop) -> None:
    """One payment's, within a time, and everybody's; nothing in Redis changes; the API tells each once."""
    payment = await shop.authorized()
    await shop.ask("capture", payment["id"], Prefer="wait=20")
    await shop.refunded(payment["id"], {"amount": 10.13})
    await shop.refunded(payment["id"], {"amount": 20})
    other = (await shop.world.pay(payment_body(await shop.world.order()), wait_s=20)).json
    lines, raw = await shop.published(payment["id"], 4), shop.raw_of(payment["id"])
    written = await shop.world.at_rest()

    one = await shop.run("events", "replay", *ALWAYS, "--payment", payment["id"])
    assert (one.code, one.lines) == (0, [{"published": 4}])
    assert shop.lines_of(payment["id"]) == lines + lines
    assert shop.raw_of(payment["id"]) == raw + raw
    assert len(shop.lines_of(other["id"])) == 1

    moment = lines[2]["headers"]["ce_time"]
    within = await shop.run("events", "replay", "--from", moment, "--to", moment, "--payment", payment["id"])
    same = [line for line in lines if line["headers"]["ce_time"] == moment]
    assert within.lines == [{"published": len(same)}]
    assert shop.lines_of(payment["id"])[8:] == same

    whole = await shop.run("events", "replay", *ALWAYS)
    assert whole.code == 0
    assert shop.lines_of(payment["id"])[8 + len(same) :] == lines
    assert len(shop.lines_of(other["id"])) == 2
    ids = {line["headers"]["ce_id"] for line in shop.lines_of(payment["id"])}
    assert ids == {f"{payment['id']}-{number}" for number in range(1, 5)}
    assert shop.world.written() == written


async def test_times_and_payments_that_are_not_are_refused_and_nothing_is_published(shop: Shop) -> None:
    payment = await shop.paid()
    await shop.published(payment["id"], 1)
    assert TIME.fullmatch(payment["completedAt"])
    before = shop.engine.events_file.read_bytes()
    now = payment["completedAt"]
    for given in (
        ("--from", "yesterday", "--to", now), ("--from", now, "--to", now[:-1]),
        ("--from", rfc3339(FAR_MS), "--to", now), (*ALWAYS, "--payment", "../../etc"),
    ):  # fmt: skip
        ran = await shop.run("events", "replay", *given)
        assert (ran.code, ran.out) == (2, ""), (given, ran)
        assert ran.err.startswith("payments: ")
        assert "Traceback" not in ran.err
    later = ("--from", rfc3339(FAR_MS), "--to", rfc3339(FAR_MS + HOUR_MS))
    assert (await shop.run("events", "replay", *later)).lines == [{"published": 0}]
    assert shop.engine.events_file.read_bytes() == before
