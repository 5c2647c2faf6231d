"""The numbers of a guard are refused by name when they cannot work."""

from __future__ import annotations

import msgspec
import pytest

from resilience.settings import GuardSettings


def test_the_defaults_hold_together() -> None:
    assert GuardSettings().try_least_s == 1.5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeout_s", 0),
        ("timeout_s", float("nan")),
        ("timeout_s", float("inf")),
        ("deadline_s", 1.9),
        ("concurrency_max", 0),
        ("waiting_max", -1),
        ("waiting_timeout_s", 0),
        ("tries_max", 0),
        ("backoff_base_s", 0),
        ("backoff_max_s", 0.01),
        ("retry_budget_ratio", 1.1),
        ("retry_budget_ratio", -0.1),
        ("retry_budget_min", -1),
        ("failures_to_open", 0),
        ("open_s", 0),
        ("open_growth", 0.9),
        ("open_max_s", 9),
        ("open_jitter", 1.0),
        ("open_jitter", -0.1),
        ("trials", 0),
        ("window_s", -1),
        ("window_calls_min", 0),
        ("window_failure_rate", 0),
        ("window_failure_rate", 1.01),
        ("slow_call_s", 0),
        ("window_slow_rate", 0),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_key(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{key} must"):
        GuardSettings(**{key: value})  # type: ignore[arg-type]


def test_an_unknown_key_is_refused_by_its_name() -> None:
    with pytest.raises(msgspec.ValidationError, match="timout_s"):
        msgspec.convert({"timout_s": 1.0}, GuardSettings)


def test_whole_numbers_from_a_file_are_fine_for_seconds() -> None:
    assert msgspec.convert({"timeout_s": 1, "deadline_s": 3}, GuardSettings).deadline_s == 3.0
