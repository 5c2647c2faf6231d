"""Accounts on every implementation of the store: one address, one account, and nothing tells who has one."""

from __future__ import annotations

import asyncio
from typing import Any

import argon2
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from engine.accounts import Account, Accounts, Password
from engine.errors import AccountNotFound, EmailTaken, Overloaded, StoreUnavailable, WrongCredentials
from engine.idempotency import Fingerprints
from engine.ids import PaymentIds
from engine.passwords import Argon2Passwords
from engine.store.accounts import RedisAccounts
from engine.store.batch import Batcher
from engine.store.step import Refusal, Step
from metrics.instruments import Instruments
from tests.store.datasets import Dataset
from tests.store.making import NOW

ADA = "ada@example.com"
RIGHT, WRONG = Password("correct horse battery"), Password("wrong horse battery")


def passwords(*, passes: int = 1, memory_kib: int = 64, at_once: int = 2, waiting_max: int = 99) -> Argon2Passwords:
    """Real hashes, cheap ones."""
    return Argon2Passwords(
        Instruments(CollectorRegistry()),
        passes=passes, memory_kib=memory_kib, lanes=1, at_once=at_once, waiting_max=waiting_max,
    )  # fmt: skip


def accounts(store: Dataset, hasher: Argon2Passwords | None = None, batcher: Any = None) -> Accounts:
    """The use case on this dataset."""
    kept = RedisAccounts(batcher or store.batcher, store.keys, sleep=_no_pause)
    return Accounts(
        kept, hasher or passwords(), Fingerprints(b"f" * 32), PaymentIds().mint_account, lambda: NOW, lambda: None
    )


async def _no_pause(_: float) -> None: ...


async def ada(users: Accounts) -> Account:
    """Ada, registered."""
    return await users.register(name="Ada", email=ADA, password=RIGHT)


async def test_an_account_is_found_by_id_and_by_login_however_the_address_is_spelt(store: Dataset) -> None:
    users = accounts(store)
    account = await ada(users)
    assert await users.find(account.id) == account
    assert await users.login(email="ADA@Example.COM", password=RIGHT) == account


async def test_a_second_account_of_one_address_is_refused_and_changes_nothing(store: Dataset) -> None:
    users = accounts(store)
    first = await ada(users)
    with pytest.raises(EmailTaken):
        await users.register(name="Eve", email="Ada@example.com", password=WRONG)
    assert await users.login(email=ADA, password=RIGHT) == first


async def test_of_racing_registrations_one_wins_and_the_losers_leave_nothing(store: Dataset) -> None:
    users = accounts(store)
    made = await asyncio.gather(*(ada(users) for _ in range(20)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in made) == ["Account"] + ["EmailTaken"] * 19
    kept = [name async for name in store.client.scan_iter(match="{p*}:account:*")]
    assert len(kept) == 1


class LosesAnswers:
    """A connection that breaks after the first steps have run and before their answers are here."""

    def __init__(self, batcher: Batcher, lost: int) -> None:
        self._batcher, self._lost = batcher, lost

    async def step(self, step: Step) -> list[Any] | Refusal:
        answer = await self._batcher.step(step)
        if self._lost:
            self._lost -= 1
            raise StoreUnavailable("the answer is lost")
        return answer

    def command(self, *command: Any) -> Any:
        return self._batcher.command(*command)


async def test_a_registration_whose_answer_was_lost_finds_its_own_trace(store: Dataset) -> None:
    """Repeated blindly it would hear that its address is taken: by itself."""
    account = await ada(accounts(store, batcher=LosesAnswers(store.batcher, lost=2)))
    assert await accounts(store).login(email=ADA, password=RIGHT) == account


async def test_an_unknown_address_costs_the_same_work_as_a_wrong_password(store: Dataset) -> None:
    """Work is counted, not time: one comparison of equal cost, and as many reads."""
    hasher = passwords()
    users = accounts(store, hasher)
    account = await ada(users)
    costs = []
    for email in (ADA, "nobody@example.com"):
        before, reads = hasher.verified, await _gets(store)
        with pytest.raises(WrongCredentials) as refused:
            await users.login(email=email, password=WRONG)
        costs.append((hasher.verified - before, await _gets(store) - reads, str(refused.value)))
    assert costs[0] == costs[1]
    assert costs[0][0] == 1
    assert argon2.extract_parameters(hasher.decoy) == argon2.extract_parameters(account.password_hash)


async def _gets(store: Dataset) -> int:
    """How many GETs the batcher has sent: each is one command of a batch."""
    return int(store.instruments.store_batch._sum.get())


async def test_nobody_has_the_decoys_password() -> None:
    hasher = passwords()
    assert not await hasher.verify(RIGHT, hasher.decoy)
    assert passwords().decoy != hasher.decoy


async def test_a_login_renews_a_hash_that_was_made_at_another_cost(store: Dataset) -> None:
    await ada(accounts(store))
    dearer = passwords(passes=2)
    account = await accounts(store, dearer).login(email=ADA, password=RIGHT)
    renewed = await accounts(store).find(account.id)
    assert argon2.extract_parameters(renewed.password_hash).time_cost == 2
    assert renewed.version == account.version + 1
    again = await accounts(store, dearer).login(email=ADA, password=RIGHT)
    assert again == renewed, "and is renewed once"


async def test_a_failed_login_renews_nothing(store: Dataset) -> None:
    before = await ada(accounts(store))
    with pytest.raises(WrongCredentials):
        await accounts(store, passwords(passes=2)).login(email=ADA, password=WRONG)
    assert await accounts(store).find(before.id) == before


async def test_a_password_is_the_same_however_its_letters_are_composed(store: Dataset) -> None:
    users = accounts(store)
    await users.register(name="Zoë", email="zoe@example.com", password=Password("pa\u0308sswörd 1"))
    await users.login(email="zoe@example.com", password=Password("p\u00e4sswo\u0308rd 1"))


@pytest.mark.parametrize("account_id", ["", "acc-1", "acc-" + "z" * 26 + "ff", "550e8400-e29b-41d4-a716-446655440001"])
async def test_a_subject_without_an_account_is_told_so(store: Dataset, account_id: str) -> None:
    with pytest.raises(AccountNotFound):
        await accounts(store).find(account_id)


async def test_the_address_is_no_key_and_the_password_nowhere(store: Dataset) -> None:
    account = await ada(accounts(store))
    names = [name.decode() async for name in store.client.scan_iter(match="{p*")]
    assert len(names) == 2 and not any("ada" in name for name in names)
    shown = repr((account, RIGHT)) + str(msgspec.structs.replace(account, version=2))
    assert RIGHT.reveal() not in shown and account.password_hash not in shown and ADA not in shown


async def test_more_hashes_than_may_wait_are_refused_at_once_and_counted() -> None:
    hasher = passwords(at_once=1, waiting_max=1)
    made = await asyncio.gather(*(hasher.hash(RIGHT) for _ in range(5)), return_exceptions=True)
    assert [isinstance(each, Overloaded) for each in made] == [False, False, True, True, True]
    assert isinstance(await hasher.hash(RIGHT), str), "and there is room again"


async def test_the_loop_turns_while_a_password_is_hashed() -> None:
    hasher = passwords(passes=3, memory_kib=32_768)
    hashing = asyncio.ensure_future(hasher.hash(RIGHT))
    turns = 0
    while not hashing.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10
