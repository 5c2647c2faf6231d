"""The settings of M-Pesa: refused by key name, and silent about their secrets."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from clients.daraja_settings import DarajaSettings
from tests.daraja_support import settings

BASE = "https://sandbox.safaricom.co.ke"


def test_nothing_is_needed_where_mpesa_is_off() -> None:
    assert DarajaSettings().base_url == ""


def test_the_receiver_is_the_till_or_the_shortcode() -> None:
    assert settings(BASE).receiver == "174379"
    assert settings(BASE, transaction_type="CustomerBuyGoodsOnline", till="51234").receiver == "51234"


@pytest.mark.parametrize(
    ("key", "value"),
    [*itertools.product(("consumer_key", "consumer_secret", "shortcode", "passkey", "callback_base_url"), [""]),
     *itertools.product(["base_url", "callback_base_url"], ["ftp://x", "x", "http://u:p@x", "http://x?a", "http://x "]),
     *itertools.product(("shortcode",), ["1234", "12345678", "17437x", "174379 "]),
     *itertools.product(("consumer_key", "consumer_secret", "passkey"), ["canary ", " canary", "canary\n", "canaré"]),
     ("consumer_key", "can:ary"), ("till", "12"), ("till", "512345"),
     *itertools.product(("token_early_s",), [-1, 601, float("nan")])],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_its_key_and_not_quoted(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^mpesa\.{key} ") as refused:
        settings(BASE, **{key: value})
    assert "canar" not in str(refused.value)


def test_settings_decode_from_a_table_and_unknown_keys_are_refused() -> None:
    table = {"base_url": "", "guard": {"timeout_s": 5.0}}
    assert msgspec.convert(table, DarajaSettings).guard.timeout_s == 5.0
    with pytest.raises(msgspec.ValidationError, match="unknown field `passky`"):
        msgspec.convert({"passky": "x"}, DarajaSettings)


def test_a_repr_hides_everything_that_opens_something() -> None:
    shown = repr(settings(BASE)) + str(settings(BASE))
    assert "174379" in shown and "simulated" not in shown
