"""Requests that must be refused: one list for the tests of the refusals and for the test that nothing leaks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.api.world import as_json, payment_body

ORDER = "order-never-paid"
PAN = "4539578763621486"
CVV = "7391"
SECRETS = (PAN, CVV)

# In the order of the document: the first words of a code say which part of the request was wrong.
NOT_JSON, WRONG_FORM, AMOUNT, METHOD = "INVALID_JSON", "INVALID_REQUEST", "INVALID_AMOUNT", "PAY_001"


class Case(NamedTuple):
    """A body, and how it must be refused."""

    name: str
    body: bytes
    status: int
    code: str
    field: str = ""


def good() -> dict[str, Any]:
    """A request that would be taken; its card and cvv are like no other text."""
    return payment_body(ORDER, cardNumber=PAN, cvv=CVV)


def with_field(field: str, value: Any) -> bytes:
    """The good request but for one field, which may be `paymentMethod.cvv`."""
    body = good()
    outer, _, inner = field.partition(".")
    if inner:
        body[outer][inner] = value
    else:
        body[outer] = value
    return as_json(body)


def without_field(field: str) -> bytes:
    """The good request but for one field."""
    body = good()
    outer, _, inner = field.partition(".")
    del (body[outer] if inner else body)[inner or outer]
    return as_json(body)


CARD_FIELDS = tuple(f"paymentMethod.{name}" for name in good()["paymentMethod"] if name != "type")
TEXT_FIELDS = ("orderId", "userId", "currency")
NO_TEXTS: tuple[Any, ...] = (None, True, 12, 1.5, [], {}, ["12"], {"a": "12"})
BAD_IDS = (
    "", " ", "x" * 65, "x" * 60_000, "a/b", "../a", "a b", "a\tb", "a\x00b", "\x00", "ordér", "订单",
    "a\n", "%2e%2e", "{p00}",
)  # fmt: skip
BAD_CURRENCIES = (
    "usd",
    "Usd",
    "US",
    "USDX",
    "",
    " USD",
    "USD ",
    "U$D",
    "US\x00",
    "ZZZ",
    "QQQ",
    "XXX",
    "BTC",
    "840",
    "ＵＳＤ",
)
BAD_NUMBERS = (
    "4539578763621487",  # the check digit is wrong
    "5393578763621486",  # two digits have changed places
    "42424242426",  # 11 digits, and Luhn is right
    "42424242424242424242",  # 20 digits, and Luhn is right
    "4" * 40_000,
    "", " ", "4", "abcdefghijklmnop", "453957876362148X", "4539 5787 6362 1486", "4539-5787-6362-1486",
    f" {PAN}", f"{PAN}\n", f"{PAN}\x00", "٤٥٣٩٥٧٨٧٦٣٦٢١٤٨٦", "４５３９５７８７６３６２１４８６",
    "-539578763621486", "4.539578763621486e15",
)  # fmt: skip
BAD_MONTHS = ("0", "00", "13", "99", "-1", "1.5", "", "ab", "012", "1 ", "１２", "December", "1e1")
BAD_YEARS = ("30", "26", "203", "20300", "2O30", "-2030", "", "abcd", " 2030", "1999", "0000", "２０３０", "2030.0")
BAD_CVVS = ("73", "73915", "7x9", "abc", "", " ", "7 91", "-739", "٧٣٩", "73.9", "7391\n", "7" * 5000)

NOT_JSON_AMOUNTS = (
    "NaN", "nan", "Infinity", "-Infinity", "+75.48", ".48", "75.", "075.48", "0x4B", "75,48", "1_000", "75.48f",
    "75 48", "- 1", "", "undefined", "1e", "1e+", "--1", "75.48.00", "١", "∞",
)  # fmt: skip
BAD_AMOUNTS = (
    "1e400", "-1e400", "1e999999999", "1e-999999999", "1e2147483648", "75.485", "75.481", "75.4800000000000001",
    "75.4800000000000000000000000000000001", "75.479999999999999999999", "0", "0.00", "-0", "-0.0", "0e5", "-1",
    "-75.48", "0.001", "1e-3", "1e15", "1000000000000000", "999999999999999999999", "9" * 5000, "0." + "0" * 5000 + "1",
    '"75.48"', '"75.48 USD"', '""', "true", "false", "null", "[]", "{}", "[75.48]", '{"value": 75.48}',
)  # fmt: skip


def _texts() -> list[Case]:
    wrong_types = [(field, value) for field in TEXT_FIELDS for value in NO_TEXTS]
    bad_ids = [(field, value) for field in ("orderId", "userId") for value in BAD_IDS]
    return [
        Case(f"{field}={value!r:.40}", with_field(field, value), 422, WRONG_FORM, field)
        for field, value in wrong_types + bad_ids
    ]


def _methods() -> list[Case]:
    fields = dict(zip(CARD_FIELDS, (BAD_NUMBERS, BAD_MONTHS, BAD_YEARS, BAD_CVVS), strict=True))
    bad: list[tuple[str, Any]] = [(field, value) for field, values in fields.items() for value in (*values, *NO_TEXTS)]
    bad += [("paymentMethod", value) for value in (None, True, 1, "card", [], [good()["paymentMethod"]])]
    bad += [("paymentMethod.type", value) for value in (None, 1, "", "cash", "Credit_Card", ["credit_card"])]
    cases = [Case(f"{field}={value!r:.40}", with_field(field, value), 422, METHOD, field) for field, value in bad]
    return cases + [
        Case(f"{field} missing", without_field(field), 422, METHOD, field)
        for field in (*CARD_FIELDS, "paymentMethod.type")
    ]


def _past() -> list[Case]:
    now = datetime.now(UTC)
    months = [("12", now.year - 1), ("12", 2020), (f"{now.month:02}", now.year - 1)]
    if now.month > 1:
        months.append((f"{now.month - 1:02}", now.year))
    bodies = [payment_body(ORDER, cardNumber=PAN, cvv=CVV, expiryMonth=m, expiryYear=str(y)) for m, y in months]
    return [
        Case(f"expired {month}/{year}", as_json(body), 422, METHOD)
        for (month, year), body in zip(months, bodies, strict=True)
    ]


def _bodies() -> list[Case]:
    plain = as_json(good())
    broken = {
        "empty": b"",
        "blank": b" \r\n\t ",
        "cut": plain[:-1],
        "cut in the card": plain[: plain.index(PAN.encode()) + 9],
        "trailing comma": plain[:-1] + b",}",
        "two documents": plain + plain,
        "words behind": plain + b" please",
        "single quotes": plain.replace(b'"', b"'"),
        "comment": b"/* pay */" + plain,
        "form": b"orderId=order-1&cardNumber=" + PAN.encode(),
        "xml": b"<?xml version='1.0'?><card>" + PAN.encode() + b"</card>",
        "NUL behind": plain + b"\x00",
        "byte order mark": b"\xef\xbb\xbf" + plain,
        "UTF-16": plain.decode().encode("utf-16"),
        "UTF-32": plain.decode().encode("utf-32"),
        "invalid UTF-8": plain.replace(b"USD", b"U\xffD"),
        "invalid UTF-8 in place of the amount": as_json(good(), amount="@").replace(b"@", b'"\xff"'),
        "invalid UTF-8 in a field that nobody knows": plain.replace(b"{", b'{"note": "\xff", ', 1),
        "cut UTF-8": plain.replace(b"USD", b"US\xc3"),
        "overlong UTF-8": plain.replace(b"USD", b"US\xc1\x84"),
        "surrogate in UTF-8": plain.replace(b"USD", b"\xed\xa0\x80"),
        "raw control character": plain.replace(b"USD", b"U\nD"),
        "bad escape": plain.replace(b"USD", b"US\\x44"),
        "lone surrogate": plain.replace(ORDER.encode(), b"\\ud800"),
        "surrogates in the wrong order": plain.replace(ORDER.encode(), b"\\udc00\\ud800"),
        "never closed": b'{"unknown":' * 5_000,
    }
    other = {"array": b"[]", "array of it": b"[" + plain + b"]", "text": b'"pay"', "number": b"75.48", "null": b"null"}
    return [
        *(Case(name, body, 400, NOT_JSON) for name, body in broken.items()),
        *(
            Case(name, body, 422, WRONG_FORM)
            for name, body in {**other, "true": b"true", "empty object": b"{}"}.items()
        ),
    ]


TEXT_CASES = [
    *_texts(),
    *(Case(f"{field} missing", without_field(field), 422, WRONG_FORM, field) for field in (*TEXT_FIELDS, "amount")),
    Case("paymentMethod missing", without_field("paymentMethod"), 422, "", "paymentMethod"),
]
CURRENCY_CASES = [Case(repr(text), with_field("currency", text), 422, "", "currency") for text in BAD_CURRENCIES]
AMOUNT_CASES = [
    *(Case(f"{text:.40}", as_json(good(), amount=text), 422, AMOUNT, "amount") for text in BAD_AMOUNTS),
    *(Case(f"{text:.40}", as_json(good(), amount=text), 400, NOT_JSON) for text in NOT_JSON_AMOUNTS),
]
METHOD_CASES = [*_methods(), *_past()]
BODY_CASES = _bodies()
ALL_CASES = [*TEXT_CASES, *CURRENCY_CASES, *AMOUNT_CASES, *METHOD_CASES, *BODY_CASES]
