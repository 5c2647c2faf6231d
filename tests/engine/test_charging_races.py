"""Two workers on one payment, in every order of their steps."""

from __future__ import annotations

from itertools import product

import pytest

from engine.changes import Job
from engine.facts import AttemptState
from tests.engine.charging_world import LEASE_S, Say, Script, World
from tests.engine.making import PAYMENT_ID
from tests.engine.stepping import Run

SCRIPTS = {
    "approves": Script((Say.APPROVE,)),
    "declines": Script((Say.DECLINE,)),
    "charges silently": Script((Say.TAKE_SILENTLY,)),
    "loses it, then approves": Script((Say.LOSE, Say.APPROVE)),
    "cannot be reached, then approves": Script((Say.NOT_SENT, Say.APPROVE)),
}
STEPS_MAX = 13


def two_jobs(world: World) -> tuple[Job, Job]:
    """As when workers come back after minutes: the reconciler has given the payment a second job."""
    return world.job, world.store.add_job(PAYMENT_ID)


@pytest.mark.parametrize("hint", [True, False])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_two_workers_that_begin_at_once_send_one_charge(script: Script, hint: bool) -> None:
    """In the same millisecond, so that their records would be equal but for the token; every order of four turns."""
    for turns in product(range(STEPS_MAX), range(STEPS_MAX), range(0, STEPS_MAX, 3)):
        world = World(script, hint=hint)
        one, other = (Run(world.charging().process(job)) for job in two_jobs(world))
        for run, steps in zip((one, other, one, other, one), (*turns, STEPS_MAX, STEPS_MAX), strict=True):
            take(run, steps)
        assert one.done and other.done
        assert world.bank.in_flight_max == 1, "only the owner of the lease sends"
        world.heal()
        world.check()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_worker_that_stands_still_beyond_its_lease_does_no_harm(script: Script) -> None:
    """It stops at any await, another takes over until the end or until it too stands still, then it goes on."""
    for stops_at, other_stops_at in product(range(STEPS_MAX), range(STEPS_MAX)):
        world = World(script)
        slow, other = (Run(world.charging().process(job)) for job in two_jobs(world))
        take(slow, stops_at)
        world.clock.advance(int(LEASE_S * 1000) + 2_000)
        take(other, other_stops_at)
        slow.finish()
        other.finish()
        world.heal()
        world.check()


def test_the_slow_workers_answer_counts_when_it_comes_first() -> None:
    """It has the approval in hand while another only began to ask: the truth is written once."""
    world = World(Script((Say.APPROVE,)))
    slow, other = (Run(world.charging().process(job)) for job in two_jobs(world))
    while not world.bank.effects:
        slow.step()
    world.clock.advance(int(LEASE_S * 1000))
    while not world.bank.asked:
        other.step()
    slow.finish()
    world.clock.advance(1)
    other.finish()
    assert world.payment.attempts[0].state is AttemptState.APPROVED and world.outcomes == [True]
    world.check()


def take(run: Run, count: int) -> None:
    """So many steps, or fewer if it ends."""
    for _ in range(count):
        if not run.done:
            run.step()
