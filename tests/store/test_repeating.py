"""What is told of a step that Redis did not confirm, when the next try finds no room."""

from __future__ import annotations

from typing import Any, cast

import pytest

from engine.errors import Overloaded, StoreUnavailable
from engine.store.batch import Batcher
from engine.store.repeating import Repeating
from engine.store.step import Step

LOST = StoreUnavailable("no answer")
FULL = Overloaded("store_waiting")


class Plays:
    """A batcher that answers, or raises, one thing after the other."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)

    async def step(self, _: Step) -> Any:
        return await self.command()

    async def command(self, *_: object) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def _no_time(_: float) -> None:
    return


def repeating(*answers: object) -> Repeating:
    """It repeats at once."""
    return Repeating(cast(Batcher, Plays(*answers)), _no_time)


async def test_nothing_was_written_when_the_first_try_found_no_room() -> None:
    with pytest.raises(Overloaded):
        await repeating(FULL, ["late"]).step(Step())
    with pytest.raises(Overloaded):
        await repeating(FULL, ["late"]).command("GET", "x")


@pytest.mark.parametrize("answers", [(LOST, FULL, FULL), (LOST, FULL, LOST), (LOST, LOST, FULL)])
async def test_after_a_lost_answer_nobody_says_that_nothing_was_written(answers: tuple[Exception, ...]) -> None:
    """The lost try may have run: told that it did not, a client without a key would pay a second time."""
    with pytest.raises(StoreUnavailable):
        await repeating(*answers).step(Step())
    with pytest.raises(StoreUnavailable):
        await repeating(LOST, FULL).command("GET", "x")


async def test_room_that_comes_back_is_used() -> None:
    assert await repeating(LOST, FULL, ["done"]).step(Step()) == ["done"]
