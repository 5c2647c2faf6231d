"""Two acquirers: the second one is asked only when it is certain that nothing moved at the first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from simulators import cards
from simulators.acquirer import AcquirerSim
from simulators.server import serve
from tests.api.world import TIME, payment_body
from tests.changes.shop import QUICK, Shop, running_shop, shop_around
from tests.support import Sims, free_port, simulators

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = {name.replace("ACQUIRER", "FALLBACKS__BACKUP"): value for name, value in QUICK.items() if "ACQUIRER" in name}


class TwoAcquirers(NamedTuple):
    """A shop whose engine knows a second acquirer, for credit cards."""

    shop: Shop
    backup: str

    async def at_backup(self, payment_id: str) -> list[tuple[str, int]]:
        """What the second acquirer did with the payment's money."""
        return await effects_at(self.shop.sims, self.backup, payment_id)

    async def pay(self, **card: str) -> dict[str, Any]:
        """A payment that has ended, or has not within the time."""
        body = payment_body(await self.shop.world.order(), **card)
        return dict((await self.shop.world.pay(body, wait_s=20)).json)


async def effects_at(sims: Sims, url: str, payment_id: str) -> list[tuple[str, int]]:
    """What this acquirer did with the payment's money."""
    async with sims.session.get(f"{url}/journal") as response:
        effects = (await response.json())["effects"]
    return [(each["kind"], each["amount_minor"]) for each in effects if each["reference"] == payment_id]


def tries(payment: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The attempts of a view, their times checked: number, kind, acquirer, outcome."""
    for attempt in payment["attempts"]:
        assert TIME.fullmatch(attempt["startedAt"])
        assert TIME.fullmatch(attempt["endedAt"])
        assert payment["createdAt"] <= attempt["startedAt"] <= attempt["endedAt"]
        assert attempt["id"].startswith(f"{payment['id']}-a")
    return [
        (each["id"].rpartition("-")[2], each["kind"], each["acquirer"], each["outcome"]) for each in payment["attempts"]
    ]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def two() -> AsyncIterator[TwoAcquirers]:
    """An engine with two acquirers; at the end its books must be clean."""
    async with serve(AcquirerSim(None)) as backup:
        settings = {
            "PAYMENTS__FALLBACKS__BACKUP__URL": backup,
            "PAYMENTS__FALLBACKS__BACKUP__METHODS": '["credit_card"]',
        }
        async with running_shop({**PATIENCE, **settings}) as shop:
            yield TwoAcquirers(shop, backup)
            await shop.audit_is_clean()


async def test_an_approval_of_the_first_is_the_end_of_it(two: TwoAcquirers) -> None:
    payment = await two.pay()
    assert tries(payment) == [("a1", "charge", "card_acquirer", "approved")]
    assert await two.at_backup(payment["id"]) == []


async def test_a_decline_that_may_be_tried_elsewhere_is_tried_at_the_second(two: TwoAcquirers) -> None:
    """This card is declined like this everywhere: two attempts, then failed for good, one event."""
    payment = await two.pay(cardNumber=cards.DECLINED_TRY_AGAIN)
    assert (payment["status"], payment["failureCode"]) == ("failed", "TRY_AGAIN_LATER")
    assert tries(payment) == [("a1", "charge", "card_acquirer", "rejected"), ("a2", "charge", "backup", "rejected")]
    await two.shop.published(payment["id"], 1)
    assert await two.shop.effects(payment["id"]) == await two.at_backup(payment["id"]) == []


async def test_a_decline_for_good_is_not_tried_elsewhere(two: TwoAcquirers) -> None:
    payment = await two.pay(cardNumber=cards.DECLINED)
    assert tries(payment) == [("a1", "charge", "card_acquirer", "rejected")]
    assert payment["status"] == "failed"


async def test_a_method_that_the_second_does_not_take_stays_with_the_first(two: TwoAcquirers) -> None:
    payment = await two.pay(cardNumber=cards.DECLINED_TRY_AGAIN, type="debit_card")
    assert tries(payment) == [("a1", "charge", "card_acquirer", "rejected")]


@pytest.mark.parametrize("fault", ["silence_after", "error_after", "reset_after", "wrong_json"])
async def test_after_an_unknown_outcome_the_second_is_never_asked(two: TwoAcquirers, fault: str) -> None:
    """The first has charged and does not say so. It is asked until it does; one effect over both."""
    acquirer = two.shop.sims.acquirer
    await two.shop.sims.fault(acquirer, fault, path_contains="/charges", method="POST", times=1)
    payment = await two.pay()
    assert payment["status"] == "completed"
    assert tries(payment) == [("a1", "charge", "card_acquirer", "approved")]
    assert await two.shop.effects(payment["id"]) == [("charge", 7548)]
    assert await two.at_backup(payment["id"]) == []


async def test_a_request_that_was_lost_is_sent_again_to_the_first_until_it_has_decided(two: TwoAcquirers) -> None:
    """It says that it has never seen the attempt; a copy may still be on its way, and will hear the same decision."""
    for number, expected in (
        (cards.APPROVED, [("a1", "charge", "card_acquirer", "approved")]),
        (cards.DECLINED, [("a1", "charge", "card_acquirer", "rejected")]),
        (cards.DECLINED_TRY_AGAIN, [
            ("a1", "charge", "card_acquirer", "rejected"), ("a2", "charge", "backup", "rejected"),
        ]),
    ):  # fmt: skip
        await two.shop.sims.fault(two.shop.sims.acquirer, "silence", path_contains="/charges", method="POST", times=1)
        assert tries(await two.pay(cardNumber=number)) == expected


async def test_a_decline_that_is_learned_by_asking_is_tried_elsewhere_too() -> None:
    """The first has declined without a word; asked, it says that another may approve: the second takes the money."""
    methods = {"PAYMENTS__FALLBACKS__BACKUP__METHODS": '["credit_card"]'}
    async with (
        serve(AcquirerSim(None, approves={cards.DECLINED_TRY_AGAIN})) as backup,
        running_shop({**PATIENCE, **methods, "PAYMENTS__FALLBACKS__BACKUP__URL": backup}) as shop,
    ):
        two = TwoAcquirers(shop, backup)
        await shop.sims.fault(shop.sims.acquirer, "silence_after", path_contains="/charges", method="POST", times=1)
        payment = await two.pay(cardNumber=cards.DECLINED_TRY_AGAIN)
        assert payment["status"] == "completed"
        assert tries(payment) == [
            ("a1", "charge", "card_acquirer", "rejected"),
            ("a2", "charge", "backup", "approved"),
        ]
        assert (await shop.effects(payment["id"]), await two.at_backup(payment["id"])) == ([], [("charge", 7548)])
        await shop.audit_is_clean()


async def test_when_the_first_cannot_be_reached_the_second_charges_and_all_that_follows_goes_there() -> None:
    """One effect overall; capture and refund go to whoever holds the money; so do the ledger rows."""
    async with simulators() as sims:
        await sims.user()
        settings = {
            "PAYMENTS__ACQUIRER__URL": f"http://127.0.0.1:{free_port()}",
            "PAYMENTS__FALLBACKS__BACKUP__URL": sims.acquirer,
        }
        async with shop_around(sims, {**PATIENCE, **settings}) as shop:
            payment = await shop.paid()
            assert tries(payment) == [
                ("a1", "charge", "card_acquirer", "not_sent"),
                ("a2", "charge", "backup", "approved"),
            ]
            await shop.refunded(payment["id"], {"amount": 5})
            held = await shop.authorized()
            await shop.ask("capture", held["id"], {"amount": 60}, Prefer="wait=20")
            held = await shop.payment(held["id"])
            assert tries(held) == [
                ("a1", "authorize", "card_acquirer", "not_sent"),
                ("a2", "authorize", "backup", "approved"),
                ("a3", "capture", "backup", "approved"),
            ]
            assert await shop.effects(payment["id"]) == [("charge", 7548), ("refund", 500)]
            assert await shop.effects(held["id"]) == [("capture", 6000)]
            assert shop.balance(held["id"]) == {"acquirer:backup": 6000, "merchant:core": -6000}
            assert await shop.world.metric("unknown_attempts") == 0
            await shop.audit_is_clean()
