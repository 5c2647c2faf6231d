"""The body of an M-Pesa callback: unsigned, so a claim; written by many hands, so read with care."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from engine.errors import EngineError
from engine.money import Money, parse_amount
from engine.phones import Phone
from engine.pushes import CURRENCY, PushReport

_ID: Final = re.compile(r"[!-~]{1,128}")
_CODE: Final = re.compile(r"-?[0-9]{1,9}")
_RECEIPT: Final = re.compile(r"[A-Za-z0-9]{1,32}")
_WHOLE: Final = re.compile(r"([0-9]{1,15})(?:\.0{1,2})?")
_DESCRIPTION_MAX: Final = 200
_ITEMS_MAX: Final = 50


class _Item(msgspec.Struct, rename="pascal"):
    """One line of the metadata. `Balance` has no value, and others may be anything that is not ours."""

    name: str
    value: msgspec.Raw | UnsetType = UNSET


class _Metadata(msgspec.Struct, rename="pascal"):
    item: list[_Item] = []


class _Callback(msgspec.Struct, rename="pascal"):
    result_code: int | str
    merchant_request_id: str = msgspec.field(name="MerchantRequestID")
    checkout_request_id: str = msgspec.field(name="CheckoutRequestID")
    result_desc: str | None = None
    callback_metadata: _Metadata | None = None


class _Body(msgspec.Struct):
    stk_callback: _Callback = msgspec.field(name="stkCallback")


class _Envelope(msgspec.Struct, rename="pascal"):
    body: _Body


_decode = msgspec.json.Decoder(_Envelope).decode


def parse_callback(body: bytes) -> PushReport:
    """What the callback claims. Raises `ValueError` for anything else; its text quotes nothing of the body."""
    try:
        told = _decode(body).body.stk_callback
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("not an M-Pesa callback") from None
    values = _values(told.callback_metadata)
    amount, receipt, phone = (_text(values.get(name)) for name in ("Amount", "MpesaReceiptNumber", "PhoneNumber"))
    return PushReport(
        checkout_id=_checked(_ID, told.checkout_request_id, "CheckoutRequestID"),
        merchant_request_id=_checked(_ID, told.merchant_request_id, "MerchantRequestID"),
        result_code=int(_checked(_CODE, str(told.result_code), "ResultCode")),
        description=_printable(told.result_desc or ""),
        amount=None if amount is None else _amount(amount),
        receipt=None if receipt is None else _checked(_RECEIPT, receipt, "MpesaReceiptNumber"),
        phone=None if phone is None else _phone(phone),
    )


def _values(metadata: _Metadata | None) -> dict[str, msgspec.Raw]:
    items = metadata.item if metadata else []
    if len(items) > _ITEMS_MAX:
        raise ValueError("too many items")
    values: dict[str, msgspec.Raw] = {}
    for item in items:
        if item.value is UNSET:
            continue
        if item.name in values:
            # Whoever reads it next may take the other one.
            raise ValueError("an item is there twice")
        values[item.name] = item.value
    return values


def _text(raw: msgspec.Raw | None) -> str | None:
    """A string's text, or a number's as it is written: 1500.00 through a float would be something else."""
    if raw is None:
        return None
    value: Any = msgspec.json.decode(raw)
    match value:
        case None | str():
            return value
        case int() | float() if not isinstance(value, bool):
            return bytes(raw).decode().strip()
        case _:
            raise ValueError("neither text nor number")


def _amount(text: str) -> Money:
    try:
        return parse_amount(text, CURRENCY)
    except EngineError:
        raise ValueError("Amount is not an amount") from None


def _phone(text: str) -> Phone:
    whole = _WHOLE.fullmatch(text)
    try:
        # A number that went through somebody's float is 254712345678.0.
        return Phone(whole[1] if whole else text)
    except EngineError:
        raise ValueError("PhoneNumber is not a phone number") from None


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_DESCRIPTION_MAX]


def _checked(form: re.Pattern[str], text: str, name: str) -> str:
    if not form.fullmatch(text):
        raise ValueError(f"{name} has not its form")
    return text
