"""`Prefer: wait`: told at once of what this process does, and looking for what others do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec

from engine.accepting import Accepting, Caller
from engine.payment import Payment
from engine.waking import Changed
from handlers.core_waiting import OutcomeWaiting
from tests.engine.making import a_payment

CALLER = Caller("jo", privileged=False)
LONG_S = 3600.0
SOON_S = 60.0


def version(number: int) -> Payment:
    """The payment after so many steps."""
    return msgspec.structs.replace(a_payment(), version=number)


class Store:
    """What a look would find."""

    def __init__(self, found: Payment) -> None:
        self.found = found
        self.looks = 0

    async def find(self, payment_id: str, caller: Caller) -> Payment:
        self.looks += 1
        return self.found


async def wait(
    store: Store, changed: Changed, meanwhile: Callable[[], Awaitable[None]], *, seconds: float, look_first_s: float
) -> Payment:
    """Wait for version 3, while something happens."""
    waiting = OutcomeWaiting(
        cast(Accepting, store), changed, wait_max_s=60, waiters_max=1, look_first_s=look_first_s
    )  # fmt: skip
    happening = asyncio.create_task(meanwhile_after_a_moment(meanwhile))
    async with asyncio.timeout(SOON_S):
        payment = await waiting.at_most(seconds, lambda seen: seen.version >= 3, version(1), CALLER)
        await happening
    assert changed._waiting == {}, "nobody is remembered for ever"
    return payment


async def meanwhile_after_a_moment(meanwhile: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(0)
    await meanwhile()


async def test_who_waits_is_told_of_what_this_process_does_and_need_not_look() -> None:
    store, changed = Store(version(1)), Changed()

    async def two_steps() -> None:
        changed.tell(version(2))
        await asyncio.sleep(0.01)
        changed.tell(version(3))

    assert (await wait(store, changed, two_steps, seconds=LONG_S, look_first_s=LONG_S)).version == 3
    assert store.looks == 0


async def test_what_another_process_does_is_seen_by_looking() -> None:
    store, changed = Store(version(1)), Changed()

    async def elsewhere() -> None:
        store.found = version(3)

    assert (await wait(store, changed, elsewhere, seconds=LONG_S, look_first_s=0.01)).version == 3
    assert store.looks >= 1


async def test_when_the_time_is_over_the_payment_is_as_last_seen() -> None:
    store, changed = Store(version(2)), Changed()

    async def nothing() -> None:
        return

    assert (await wait(store, changed, nothing, seconds=0.05, look_first_s=0.01)).version == 2


async def test_an_older_version_told_late_ends_no_wait() -> None:
    changed = Changed()
    waiting = OutcomeWaiting(cast(Accepting, Store(version(2))), changed, wait_max_s=60, waiters_max=1)
    ended = asyncio.create_task(waiting.at_most(0.05, lambda seen: seen.version != 2, version(2), CALLER))
    await asyncio.sleep(0)
    changed.tell(version(1))
    assert (await ended).version == 2


async def test_other_payments_wake_nobody() -> None:
    store, changed = Store(version(1)), Changed()

    async def another() -> None:
        changed.tell(msgspec.structs.replace(version(3), id="pay-another"))

    assert (await wait(store, changed, another, seconds=0.05, look_first_s=LONG_S)).version == 1


async def test_who_is_cancelled_while_waiting_is_cancelled_and_forgotten() -> None:
    changed = Changed()
    waiting = asyncio.create_task(changed.next("pay-1", within_s=LONG_S))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert changed._waiting == {}
