"""Crashes at every await of a charge, whatever the acquirer does: one effect at most, and the truth in the end."""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.charging_world import LEASE_S, Say, Script, World, crash_at
from tests.engine.making import PAYMENT_ID
from tests.engine.stepping import Crash, Run

SCRIPTS = {
    "approves": Script((Say.APPROVE,)),
    "declines": Script((Say.DECLINE,)),
    "charges silently": Script((Say.TAKE_SILENTLY,)),
    "declines silently": Script((Say.DECLINE_SILENTLY,)),
    "loses it, then approves": Script((Say.LOSE, Say.APPROVE)),
    "loses it, then declines": Script((Say.LOSE, Say.DECLINE)),
    "loses it twice, then charges silently": Script((Say.LOSE, Say.LOSE, Say.TAKE_SILENTLY)),
    "cannot be reached, then approves": Script((Say.NOT_SENT, Say.APPROVE)),
    "cannot be reached, then charges silently": Script((Say.NOT_SENT, Say.TAKE_SILENTLY)),
    "charges silently and does not tell at first": Script((Say.TAKE_SILENTLY,), (Say.LOSE, Say.NOT_SENT, Say.TELL)),
    "loses it and does not tell at first": Script((Say.LOSE, Say.APPROVE), (Say.LOSE, Say.TELL)),
}
PLACES_MAX = 40


@pytest.mark.parametrize("error", [Crash, asyncio.CancelledError])
@pytest.mark.parametrize("hint", [True, False])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_crash_at_any_await_of_the_first_job_is_healed(
    script: Script, hint: bool, error: type[BaseException]
) -> None:
    for place in range(PLACES_MAX):
        world = World(script, hint=hint)
        crashed = crash_at(Run(world.charging().process(world.job)), place, error)
        world.heal()
        world.check()
        assert world.intents_were_sending()
        if not crashed:
            break
    assert 5 <= place < PLACES_MAX - 1, "every await was tried"


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_crash_at_any_await_of_the_whole_way_is_healed(script: Script) -> None:
    """The first job may only have left a question: here the crash is anywhere until the payment has ended."""
    awaits = 0
    for place in range(PLACES_MAX):
        world = World(script)
        if not _crash_on_the_way(world, place):
            break
        awaits += 1
        world.heal()
        world.check()
    assert 5 <= awaits < PLACES_MAX - 1, "every await was tried"


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_crash_of_the_worker_that_heals_a_crash_is_healed(script: Script) -> None:
    for first in range(8):
        for second in range(14):
            world = World(script)
            crash_at(Run(world.charging().process(world.job)), first)
            if not world.payment.ended:
                _crash_on_the_way(world, second)
            world.heal()
            world.check()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_nothing_is_told_twice_however_often_the_worker_crashes(script: Script) -> None:
    """A worker that dies at every await in turn, again and again, still brings the payment to one end."""
    world = World(script)
    for place in range(PLACES_MAX):
        if world.payment.ended:
            break
        world.clock.advance(int(LEASE_S * 1000))
        crash_at(Run(world.charging().process(world.store.add_job(PAYMENT_ID))), place)
    world.heal()
    world.check()


def _crash_on_the_way(world: World, place: int) -> bool:
    """Crash at the await number `place`, counted over all jobs until the payment has ended."""
    run = Run(world.charging().process(world.job))
    for _ in range(place + 1):
        if run.done:
            if world.payment.ended:
                return False
            world.clock.advance(max(0, world.due_in_ms))
            run = Run(world.charging().process(world.store.add_job(PAYMENT_ID)))
        run.step()
    if run.done:
        return not world.payment.ended
    run.crash(Crash())
    return True
