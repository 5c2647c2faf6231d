"""The breaker against a small model of it, under random calls, endings, pauses and switches."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience.errors import BreakerOpen
from tests.resilience.fakes import FakeClock, Held, breaker_of, hold, no_answer

FAILURES_TO_OPEN, TRIALS, OPEN_S, OPEN_MAX_S, SLOW_S = 3, 2, 10.0, 25.0, 1.5
CALLS_MIN, FAILURE_RATE, SLOW_RATE = 6, 0.6, 0.7


class Model:
    """What the breaker promises, in the plainest words; an era is what the breaker calls a generation."""

    def __init__(self) -> None:
        self.forced = ""
        self.state = "closed"
        self.era = 0
        self.in_a_row = self.good_trials = self.trials_out = 0
        self.calls = self.failures = self.slow = 0
        self.break_s = self.retry_at_s = 0.0

    def move(self, state: str, now_s: float) -> None:
        self.state = state
        self.era += 1
        self.good_trials = 0
        if state == "open":
            self.break_s = min(self.break_s * 2, OPEN_MAX_S) or OPEN_S
            self.retry_at_s = now_s + self.break_s
        if state == "closed":
            self.in_a_row = self.calls = self.failures = self.slow = 0
            self.break_s = 0.0

    def admits(self, now_s: float) -> bool:
        if self.forced:
            return self.forced == "forced_closed"
        if self.state == "open" and now_s >= self.retry_at_s:
            self.move("half_open", now_s)
        return self.state == "closed" or (self.state == "half_open" and self.trials_out < TRIALS)

    def count(self, *, failed: bool, slow: bool, now_s: float) -> None:
        self.calls += 1
        self.failures += failed
        self.slow += slow
        if failed or slow:
            self.in_a_row += 1
            if self.state == "half_open" or (self.in_a_row >= FAILURES_TO_OPEN and not self.forced):
                self.move("open", now_s)
        else:
            self.in_a_row = 0
            if self.state == "half_open":
                self.good_trials += 1
                if self.good_trials == TRIALS:
                    self.move("closed", now_s)
        if (
            self.state == "closed"
            and not self.forced
            and self.calls >= CALLS_MIN
            and max(self.failures / self.calls - FAILURE_RATE, self.slow / self.calls - SLOW_RATE) >= 0
        ):
            self.move("open", now_s)


class Call:
    """One call under way, as the model sees it."""

    def __init__(self, held: Held, model: Model, now_s: float) -> None:
        self.held, self.era, self.started_s = held, model.era, now_s
        self.trial = model.state == "half_open" and not model.forced


class BreakerAgainstModel(RuleBasedStateMachine):
    """Each step does the same to both; after each step they must agree."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.model = Model()
        self.under_way: list[Call] = []
        self.breaker = breaker_of(
            self.clock,
            failures_to_open=FAILURES_TO_OPEN,
            trials=TRIALS,
            open_s=OPEN_S,
            open_growth=2,
            open_max_s=OPEN_MAX_S,
            slow_call_s=SLOW_S,
            window_s=1e9,
            window_calls_min=CALLS_MIN,
            window_failure_rate=FAILURE_RATE,
            window_slow_rate=SLOW_RATE,
        )

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @rule()
    def start_a_call(self) -> None:
        expected = self.model.admits(self.clock())
        held = self.run(hold(self.breaker))
        assert held.reached is expected
        if expected:
            call = Call(held, self.model, self.clock())
            self.model.trials_out += call.trial
            self.under_way.append(call)
        else:
            assert isinstance(held.task.exception(), BreakerOpen)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 20), ending=st.sampled_from(["succeed", "succeed", "fail", "fail", "bug", "cancel"]))
    def end_a_call(self, which: int, ending: str) -> None:
        call = self.under_way.pop(which % len(self.under_way))
        self.model.trials_out -= call.trial
        if ending in ("succeed", "fail") and call.era == self.model.era:
            slow = self.clock() - call.started_s > SLOW_S
            self.model.count(failed=ending == "fail", slow=slow, now_s=self.clock())
        match ending:
            case "succeed":
                assert self.run(call.held.succeed("ok")) == "ok"
            case "cancel":
                self.run(call.held.cancel())
            case _:
                error = no_answer() if ending == "fail" else ValueError("bug")
                assert self.run(call.held.fail(error)) is error

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0, 30.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def force_open(self) -> None:
        self.breaker.force_open()
        self.model.forced = "forced_open"
        if self.model.state != "open":
            self.model.move("open", self.clock())

    @rule()
    def force_close(self) -> None:
        self.breaker.force_close()
        self.model.forced = "forced_closed"
        if self.model.state != "closed":
            self.model.move("closed", self.clock())

    @rule()
    def reset(self) -> None:
        self.breaker.reset()
        self.model.forced = ""
        self.model.move("closed", self.clock())

    @invariant()
    def they_agree(self) -> None:
        status, model = self.breaker.status(), self.model
        assert status.state == (model.forced or model.state)
        assert (status.failure_count, status.trials_in_flight) == (model.in_a_row, model.trials_out)
        assert status.trials_in_flight <= TRIALS
        assert status.window_calls == model.calls
        if model.calls:
            assert status.window_failure_rate == model.failures / model.calls
            assert status.window_slow_rate == model.slow / model.calls
        if status.state == "open":
            assert status.retry_after_s == max(0.0, model.retry_at_s - self.clock())

    def teardown(self) -> None:
        for call in self.under_way:
            self.run(call.held.cancel())
        if hasattr(self, "breaker"):
            assert self.breaker.status().trials_in_flight == 0
            self.loop.close()


TestBreakerAgainstModel = BreakerAgainstModel.TestCase
TestBreakerAgainstModel.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
