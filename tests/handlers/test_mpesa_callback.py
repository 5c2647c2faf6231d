"""M-Pesa's callback: what is written in many ways is read, what is garbage is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.money import Money
from engine.phones import Phone
from engine.pushes import PushReport
from handlers.mpesa_callback import parse_callback

ITEMS: list[Any] = [
    {"Name": "Amount", "Value": 1500.00},
    {"Name": "MpesaReceiptNumber", "Value": "NLJ7RT61SV"},
    {"Name": "Balance"},
    {"Name": "TransactionDate", "Value": 20191219102115},
    {"Name": "PhoneNumber", "Value": 254708374149},
]
PAID = PushReport(
    checkout_id="ws_CO_191220191020363925",
    merchant_request_id="29115-34620561-1",
    result_code=0,
    description="The service request is processed successfully.",
    amount=Money(150_000, "KES"),
    receipt="NLJ7RT61SV",
    phone=Phone("254708374149"),
)


def callback(items: Any = ITEMS, **changes: Any) -> bytes:
    """A callback as Safaricom documents it."""
    body: dict[str, Any] = {
        "MerchantRequestID": "29115-34620561-1",
        "CheckoutRequestID": "ws_CO_191220191020363925",
        "ResultCode": 0,
        "ResultDesc": "The service request is processed successfully.",
        **({} if items is None else {"CallbackMetadata": {"Item": items}}),
        **changes,
    }
    kept = {name: value for name, value in body.items() if value is not ...}
    return json.dumps({"Body": {"stkCallback": kept}}).encode()


def item(name: str, value: Any) -> list[Any]:
    """The items with another value of one."""
    return [{"Name": name, "Value": value} if entry["Name"] == name else entry for entry in ITEMS]


def test_a_paid_callback_is_read_whole() -> None:
    assert parse_callback(callback()) == PAID


@pytest.mark.parametrize("body", [callback(None, ResultCode=1032), callback([], ResultCode="1032"),
                                  callback(None, ResultCode=1032, CallbackMetadata=None),
                                  callback(None, ResultCode=1032, CallbackMetadata={})])  # fmt: skip
def test_a_callback_without_metadata_tells_the_result(body: bytes) -> None:
    told = parse_callback(body)
    assert (told.result_code, told.amount, told.receipt, told.phone) == (1032, None, None, None)


@pytest.mark.parametrize(
    "items",
    [item("Amount", "1500"), item("Amount", "1500.00"), item("Amount", 1500), item("PhoneNumber", "254708374149"),
     item("PhoneNumber", "+254708374149"), item("PhoneNumber", 254708374149.0), item("Balance", None),
     [*ITEMS, {"Name": "Extra", "Value": {"any": ["thing"]}}, {"Name": "More", "Other": 1}], list(reversed(ITEMS))],
)  # fmt: skip
def test_other_ways_of_writing_mean_the_same(items: list[Any]) -> None:
    assert parse_callback(callback(items)) == PAID


def test_an_amount_with_cents_stays_exact() -> None:
    assert parse_callback(callback(item("Amount", "1500.10"))).amount == Money(150_010, "KES")
    exact = callback().replace(b"1500.0", b"1500.10")
    assert parse_callback(exact).amount == Money(150_010, "KES")


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"Body":{}}', b'{"Body":{"stkCallback":[]}}',
     callback(ResultCode=...), callback(ResultCode=None), callback(ResultCode=True), callback(ResultCode="x"),
     callback(ResultCode=0.5), callback(ResultCode=10**12), callback(CheckoutRequestID=...),
     callback(CheckoutRequestID=""), callback(CheckoutRequestID="a b"), callback(CheckoutRequestID="x" * 129),
     callback(CheckoutRequestID="é"), callback(MerchantRequestID=7), callback(item("Amount", -1)),
     callback(item("Amount", 0)), callback(item("Amount", "much")), callback(item("Amount", True)),
     callback(item("Amount", 1.005)), callback(item("Amount", 1e300)), callback(item("Amount", [1])),
     callback(item("PhoneNumber", 255708374149)), callback(item("PhoneNumber", "x")),
     callback(item("MpesaReceiptNumber", "a b")), callback(item("MpesaReceiptNumber", {"a": 1})),
     callback([*ITEMS, {"Name": "Amount", "Value": 1}]), callback([{"Value": 1}]), callback("x"), callback([1]),
     callback([{"Name": "n", "Value": 1}] * 51)],
)  # fmt: skip
def test_garbage_is_refused_without_quoting_it(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[A-Za-z -]+$") as refused:
        parse_callback(body)
    assert refused.value.__cause__ is None


def test_a_description_is_cut_to_what_can_be_shown() -> None:
    assert parse_callback(callback(ResultDesc="a\n\x00b" + "c" * 500)).description == "ab" + "c" * 198
    assert parse_callback(callback(ResultDesc=None)).description == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@given(JSON | st.lists(st.fixed_dictionaries({"Name": st.sampled_from(["Amount", "PhoneNumber", "x"]), "Value": JSON})))
def test_any_metadata_is_read_or_refused(items: Any) -> None:
    try:
        told = parse_callback(callback(items))
    except ValueError:
        return
    assert told.amount is None or told.amount.minor > 0
    assert told.checkout_id == PAID.checkout_id


@given(JSON, st.sampled_from(["ResultCode", "ResultDesc", "CheckoutRequestID", "CallbackMetadata"]))
def test_any_value_anywhere_is_read_or_refused(value: Any, name: str) -> None:
    try:
        told = parse_callback(callback(**{name: value}))
    except ValueError:
        return
    assert type(told.result_code) is int


@given(st.integers(1, 250_000), st.sampled_from([int, float, str, lambda shillings: f"{shillings}.00"]))
def test_amounts_come_back_to_the_cent(shillings: int, write: Any) -> None:
    assert parse_callback(callback(item("Amount", write(shillings)))).amount == Money(shillings * 100, "KES")
