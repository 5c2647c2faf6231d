"""Acquirers that charge after they were passed over, over real sockets; and the items that statements open."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import redis

from engine.ids import PaymentId
from engine.store.keys import Keys
from simulators import cards
from simulators.acquirer import AcquirerSim
from simulators.server import serve
from tests.api.world import TIME, eventually, payment_body
from tests.changes.shop import FAR_MS, QUICK, Shop, shop_around, unknown
from tests.changes.test_failover import effects_at, tries
from tests.support import Sims, free_port, simulators

PATIENCE = {name.replace("ACQUIRER", "FALLBACKS__BACKUP"): value for name, value in QUICK.items() if "ACQUIRER" in name}
SOON = {"PAYMENTS__WORKER__RECHECK_AFTER_S": "3"}
NEVER = {"PAYMENTS__WORKER__RECHECK_AFTER_S": "604800"}


class Late(NamedTuple):
    """A shop whose first acquirer is not reachable until it is served at its port; the second is always there."""

    shop: Shop
    port: int
    first: AcquirerSim
    door: str
    """Another way to the first acquirer, that the engine does not know."""
    backup: str

    @property
    def url(self) -> str:
        """Where the first acquirer is, once it is there."""
        return f"http://127.0.0.1:{self.port}"

    async def deliver(self, payment: dict[str, Any], *, number: str = cards.APPROVED, capture: bool = True) -> str:
        """What a box in the network had kept arrives at the first acquirer after all. Returns its transaction."""
        body: dict[str, Any] = {
            "amount_minor": round(payment["amount"] * 100), "currency": "USD", "reference": payment["id"],
            "card": {"number": number, "expiry_month": 12, "expiry_year": 2030, "cvv": "123"},
        }  # fmt: skip
        if not capture:
            body["capture"] = False
        headers = {"Idempotency-Key": f"{payment['id']}-a1"}
        async with self.shop.sims.session.post(f"{self.door}/charges", json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            return str((await response.json())["id"])

    async def statement(self, folder: Path, url: str = "") -> Path:
        """What the first acquirer states, as a file."""
        async with self.shop.sims.session.get(f"{url or self.url}/statement.csv") as response:
            file = folder / "statement.csv"
            file.write_text(await response.text())
        return file

    async def until_tries(self, payment_id: str, *states: str) -> dict[str, Any]:
        """The payment as soon as its attempts stand like this, in order."""

        def stands(payment: dict[str, Any]) -> bool:
            return [attempt["outcome"] for attempt in payment["attempts"]] == list(states)

        return await self.shop.until(payment_id, stands)

    async def open_items(self) -> list[dict[str, Any]]:
        """What `items list` shows."""
        ran = await self.shop.run("items", "list")
        assert ran.code == 0, ran
        return ran.lines


@contextlib.asynccontextmanager
async def late_world(settings: dict[str, str], backup: AcquirerSim | None = None) -> AsyncIterator[Late]:
    """An engine whose first acquirer refuses connections so far."""
    port = free_port()
    first = AcquirerSim(None)
    async with simulators() as sims, serve(backup or AcquirerSim(None)) as second, serve(first) as door:
        await sims.user()
        around = {
            "PAYMENTS__ACQUIRER__URL": f"http://127.0.0.1:{port}",
            "PAYMENTS__FALLBACKS__BACKUP__URL": second,
        }
        async with shop_around(sims, {**PATIENCE, **around, **settings}) as shop:
            yield Late(shop, port, first, door, second)


async def at(sims: Sims, url: str, payment_id: str) -> list[tuple[str, int]]:
    """What an acquirer did with the payment's money."""
    return await effects_at(sims, url, payment_id)


async def test_what_an_unreachable_acquirer_took_after_all_goes_back_to_the_customer() -> None:
    """Charge, hold and failed payment; GET shows what became of each attempt, the metrics and the log tell it."""
    async with late_world(SOON, AcquirerSim(None, approves=())) as late:
        shop = late.shop
        charged, held = await shop.paid(), await shop.authorized()
        body = payment_body(await shop.world.order(), cardNumber=cards.DECLINED)
        failed = dict((await shop.world.pay(body, wait_s=20)).json)
        assert failed["status"] == "failed"
        await late.deliver(charged)
        await late.deliver(held, capture=False)
        await late.deliver(failed)
        async with serve(late.first, port=late.port):
            charged = await late.until_tries(charged["id"], "reversed", "approved", "approved")
            held = await late.until_tries(held["id"], "reversed", "approved", "approved")
            failed = await late.until_tries(failed["id"], "reversed", "rejected", "approved")
            assert [row[1:] for row in tries(charged)] == [
                ("charge", "card_acquirer", "reversed"),
                ("charge", "backup", "approved"),
                ("refund", "card_acquirer", "approved"),
            ]
            assert charged["attempts"][2]["reverses"] == f"{charged['id']}-a1"
            assert tries(held)[2] == ("a3", "void", "card_acquirer", "approved")
            assert (charged["status"], charged["outcome"]) == ("completed", "succeeded")
            assert (held["status"], failed["status"], failed["outcome"]) == ("authorized", "failed", "failed")
            money = [("charge", 7548), ("refund", 7548)]
            assert await at(shop.sims, late.url, charged["id"]) == money
            assert await at(shop.sims, late.url, failed["id"]) == money
            assert await at(shop.sims, late.url, held["id"]) == []
            assert shop.balance(charged["id"]) == {
                "acquirer:backup": 7548, "merchant:core": -7548, "acquirer:card_acquirer": 0, "suspense:late": 0,
            }  # fmt: skip
            await shop.refunded(charged["id"], {"amount": 5})
            assert await at(shop.sims, late.backup, charged["id"]) == [("charge", 7548), ("refund", 500)]
            for step in ("found", "reversed"):
                assert await shop.world.metric("late_successes_total", step=step) == 3
            found = [line for line in await shop.world.log_lines() if line["message"] == "late success"]
            assert {line["payment_id"] for line in found} == {charged["id"], held["id"], failed["id"]}
            assert {line["level"] for line in found} == {"error"}
            assert await late.open_items() == []
            closed = (await shop.run("items", "list", "--closed")).lines
            assert len(closed) == 3 and {item["closed_by"] for item in closed} == {"engine: reversed at the acquirer"}
            await shop.audit_is_clean()


async def test_a_statement_opens_items_and_sets_off_reversals(tmp_path: Path) -> None:
    """Without --yes it only tells; with it each is kept, once; what the engine can reverse it reverses and closes."""
    async with late_world(NEVER) as late:
        shop = late.shop
        charged = await shop.paid()
        body = payment_body(await shop.world.order(), cardNumber=cards.DECLINED, type="debit_card")
        await shop.paid()
        async with serve(late.first, port=late.port):
            failed = dict((await shop.world.pay(body, wait_s=20)).json)
            assert failed["status"] == "failed"
            await late.deliver(charged)
            stranger = {**charged, "id": "pay-of-somebody"}
            await late.deliver(stranger)
            file = await late.statement(tmp_path)
            written = await shop.world.at_rest()
            told = await shop.run("reconcile", "--statement", str(file))
            assert (told.code, told.lines[-1]["ok"], told.lines[-1]["missing_here"]) == (1, False, 2)
            assert {line["item_state"] for line in told.lines[:-1]} == {"new"}
            assert shop.world.written() == written, "it changed something without --yes"
            wrong = await shop.run("reconcile", "--statement", str(file), "--yes", "--acquirer", "card_acquire")
            assert (wrong.code, wrong.out) == (2, "")
            assert "no acquirer of ours" in wrong.err

            kept = await shop.run("reconcile", "--statement", str(file), "--yes")
            assert (kept.code, kept.lines[-1]["items_opened"]) == (1, 2)
            charged = await late.until_tries(charged["id"], "reversed", "approved", "approved")
            assert await at(shop.sims, late.url, charged["id"]) == [("charge", 7548), ("refund", 7548)]
            (item,) = await late.open_items()
            assert item == {
                "id": item["id"], "acquirer": "card_acquirer", "attempt": "pay-of-somebody-a1",
                "payment": "pay-of-somebody", "stated": "charge 7548 USD", "believed": "",
                "transaction": item["transaction"], "found_by": "statement", "since": item["since"], "attempt_now": "",
            }  # fmt: skip
            assert TIME.fullmatch(item["since"])

            again = await shop.run("reconcile", "--statement", str(file), "--yes")
            assert again.lines[-1]["items_opened"] == 0
            assert (again.lines[-1]["matched"], again.lines[-1]["missing_here"]) == (1, 1)
            assert await late.open_items() == [item]

            await until_gauge(shop, 1)
            await closing(shop, item["id"])
            await until_gauge(shop, 0)
            after = await shop.run("reconcile", "--statement", str(file), "--yes")
            assert [line.get("item_state") for line in after.lines] == ["closed", None]
            assert await late.open_items() == []
            whole = await shop.run("reconcile", "--statement", str(await late.statement(tmp_path)))
            assert whole.lines[-1]["matched"] == 2, "the charge and its reversal"
            await shop.audit_is_clean()


async def closing(shop: Shop, item_id: str) -> None:
    """An item is closed once, by name and reason, and only with --yes."""
    who = ("--actor", "ann", "--reason", "another shop's")
    for missing in (("items", "close", item_id, "--yes", *who[:2]), ("items", "close", "--yes", *who)):
        refused = await shop.run(*missing)
        assert (refused.code, refused.out) == (2, "") and "items close needs" in refused.err
    nothing = await shop.run("items", "close", item_id[:-3] + "000", *who, "--yes")
    assert (nothing.code, nothing.err) == (2, "payments: there is no such item\n")
    asked = await shop.run("items", "close", item_id, *who)
    assert (asked.code, asked.lines[0]["done"]) == (1, False)
    done = await shop.run("items", "close", item_id, *who, "--yes")
    assert (done.code, done.lines[0]["done"]) == (0, True)
    twice = await shop.run("items", "close", item_id, *who, "--yes")
    assert twice.code == 2 and "by ann: another shop's" in twice.err
    (closed,) = [line for line in (await shop.run("items", "list", "--closed")).lines if line["id"] == item_id]
    assert closed["closed_by"] == "ann: another shop's" and TIME.fullmatch(closed["closed_at"])


async def until_gauge(shop: Shop, count: int) -> None:
    """The gauge of open items shows so many."""

    async def look() -> bool | None:
        return await shop.world.metric("open_items") == count or None

    await eventually(look, within_s=10)


async def test_what_the_acquirer_refuses_to_reverse_is_closed_by_people(tmp_path: Path) -> None:
    """A refund of an amount that ends in 13 is declined there. Until people have the money it stays in suspense."""
    async with late_world(NEVER) as late:
        shop = late.shop
        payment = await shop.paid(price=10.13)
        async with serve(late.first, port=late.port):
            await late.deliver(payment)
            file = await late.statement(tmp_path)
            assert (await shop.run("reconcile", "--statement", str(file), "--yes")).code == 1
            await late.until_tries(payment["id"], "late", "approved", "rejected")
            (item,) = await late.open_items()
            assert (item["attempt_now"], item["refused"]) == ("late", "refund_declined")
            assert shop.balance(payment["id"])["suspense:late"] == -1013
            assert (await shop.run("reconcile", "--statement", str(file), "--yes")).code == 0, "it is known here now"
            await shop.audit_is_clean()
            who = ("--actor", "ann", "--reason", "wired back", "--yes")
            assert (await shop.run("items", "close", item["id"], *who)).code == 0
            payment = await shop.payment(payment["id"])
            assert [row[3] for row in tries(payment)] == ["reversed", "approved", "rejected"]
            assert payment["attempts"][0]["settledBy"] == "ann: wired back"
            assert shop.balance(payment["id"])["suspense:late"] == 0
            assert await late.open_items() == []
            assert await shop.world.metric("late_successes_total", step="refused") == 1
            await shop.audit_is_clean()


async def test_what_is_on_its_way_back_cannot_be_closed_by_hand(tmp_path: Path) -> None:
    async with late_world(NEVER) as late:
        shop = late.shop
        payment = await shop.paid()
        async with serve(late.first, port=late.port):
            await late.deliver(payment)
            await shop.sims.fault(late.url, "status", status=503, path_contains="/refunds")
            file = await late.statement(tmp_path)
            await shop.run("reconcile", "--statement", str(file), "--yes")
            await late.until_tries(payment["id"], "late", "approved", "unknown")
            (item,) = await late.open_items()
            who = ("--actor", "ann", "--reason", "enough", "--yes")
            refused = await shop.run("items", "close", item["id"], *who)
            assert refused.code == 2 and "on its way back" in refused.err
            (listed,) = (await shop.run("unknown", "list")).lines
            assert (listed["attempt"], listed["kind"]) == (f"{payment['id']}-a3", "refund")
            assert (await shop.payment(payment["id"]))["outcome"] == "succeeded"
            await shop.sims.clear_faults(late.url)
            shop.look_again_at(payment["id"], 0)
            await late.until_tries(payment["id"], "reversed", "approved", "approved")
            await shop.audit_is_clean()


async def test_a_statement_about_one_acquirer_does_not_disturb_an_unknown_outcome_at_the_other(tmp_path: Path) -> None:
    """The second may have charged and does not say; that the first did must not make anybody forget it."""
    async with late_world(NEVER) as late:
        shop = late.shop
        await shop.sims.fault(late.backup, "silence_after", path_contains="/charges", method="POST", times=1)
        await shop.sims.fault(late.backup, "status", status=503, path_contains="/charges", method="GET")
        accepted = (await shop.world.pay(payment_body(await shop.world.order()))).json
        payment = await shop.until(accepted["id"], unknown)
        shop.look_again_at(payment["id"], FAR_MS)
        await late.deliver(payment)
        async with serve(late.first, port=late.port):
            file = await late.statement(tmp_path)
            ran = await shop.run("reconcile", "--statement", str(file), "--yes")
            assert ran.lines[-1]["items_opened"] == 1
            # Asked once more at once, and still unknown.
            await shop.until(payment["id"], unknown)
            shop.look_again_at(payment["id"], FAR_MS)
            assert [line["payment"] for line in (await shop.run("unknown", "list")).lines] == [payment["id"]]
            assert [row[3] for row in tries(payment)] == ["not_sent", "unknown"]
            await shop.sims.clear_faults(late.backup)
            shop.look_again_at(payment["id"], 0)
            payment = await late.until_tries(payment["id"], "reversed", "approved", "approved")
            assert payment["status"] == "completed"
            assert await at(shop.sims, late.url, payment["id"]) == [("charge", 7548), ("refund", 7548)]
            assert await at(shop.sims, late.backup, payment["id"]) == [("charge", 7548)]
            await shop.audit_is_clean()


async def test_the_audit_sees_late_successes_that_are_not_kept_as_promised() -> None:
    """Spoiled one by one: suspense, the mark of the attempt, the item, its place in the index."""
    async with late_world(SOON) as late:
        shop = late.shop
        payment = await shop.paid(price=10.13)
        await late.deliver(payment)
        async with serve(late.first, port=late.port):
            await late.until_tries(payment["id"], "late", "approved", "rejected")
            await shop.audit_is_clean()
            (item,) = await late.open_items()
        shard = Keys(16).of(PaymentId(payment["id"]))
        client = redis.Redis(port=shop.world.redis.port)
        for name, spoil, said in (
            (shard.payment(payment["id"]), lambda old: old.replace(b'"late"', b'"reversed"', 1), "given back 0 times"),
            (shard.payment(payment["id"]), lambda old: old.replace(b'"late"', b'"not_sent"', 1), "took money too late"),
            (shard.item(item["id"]), lambda _: None, "does not exist"),
            (shard.item(item["id"]), lambda old: old[:-1] + b',"closed_ms":7}', "is closed, but still listed"),
            (shard.items, lambda _: None, "is open, but not listed"),
        ):  # fmt: skip
            kept = client.dump(name) or b""
            changed = spoil(client.get(name)) if name != shard.items else spoil(None)
            if changed is None:
                client.delete(name)
            else:
                client.set(name, changed)
            ran = await shop.run("audit")
            problems = [finding["problem"] for finding in json.loads(ran.out)["findings"]]
            assert ran.code == 1 and any(said in problem for problem in problems), (said, problems)
            client.restore(name, 0, kept, replace=True)
        client.close()
        await shop.audit_is_clean()


async def test_a_statement_without_a_line_is_refused(tmp_path: Path) -> None:
    """A file that was cut off behind its head would match everything."""
    async with simulators() as sims, shop_around(sims, {}) as shop:
        head = "attempt,reference,kind,amount_minor,currency,id,at\n"
        for text, why in (("", "has no column"), (head, "states nothing"), (f"{head}\n\n", "states nothing")):
            file = tmp_path / "empty.csv"
            file.write_text(text)
            ran = await shop.run("reconcile", "--statement", str(file))
            assert (ran.code, ran.out) == (2, ""), ran
            assert why in ran.err
