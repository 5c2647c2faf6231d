"""Webhook events: only what is signed, and now, is a hint; and only the attempt is read from it."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.stripe_events import TOLERANCE_S, attempt_of, is_signed

SECRET, OTHER = "whsec_one", "whsec_two"
NOW = 1_790_000_000
BODY = b'{"id":"evt_1"}'


def signature(body: bytes = BODY, *, secret: str = SECRET, at_s: int = NOW) -> str:
    return hmac.new(secret.encode(), b"%d.%s" % (at_s, body), sha256).hexdigest()


def header(*signatures: str, at_s: int = NOW) -> str:
    return ",".join([f"t={at_s}", *(f"v1={one}" for one in signatures)])


def holds(header: str, body: bytes = BODY, *secrets: str) -> bool:
    return is_signed(header, body, secrets or (SECRET,), now_s=NOW)


@settings(deadline=None)
@given(st.binary(max_size=500), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60))
def test_whatever_is_signed_holds_and_nothing_else_does(body: bytes, secret: str) -> None:
    signed = header(signature(body, secret=secret))
    assert is_signed(signed, body, [secret], now_s=NOW)
    assert not is_signed(signed, body + b" ", [secret], now_s=NOW)
    assert not is_signed(signed, body, [secret + "x"], now_s=NOW)


@settings(deadline=None)
@given(st.text(max_size=200), st.binary(max_size=50))
def test_no_header_however_odd_breaks_it_or_holds(header: str, body: bytes) -> None:
    assert not is_signed(header, body, [SECRET], now_s=NOW)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_body_however_odd_breaks_the_parser(body: bytes) -> None:
    assert attempt_of(body) == ""


@pytest.mark.parametrize(("apart_s", "fits"), [(0, True), (TOLERANCE_S, True), (-TOLERANCE_S, True),
                                               (TOLERANCE_S + 1, False), (-TOLERANCE_S - 1, False)])  # fmt: skip
def test_an_old_copy_does_not_hold(apart_s: int, fits: bool) -> None:
    assert holds(header(signature(at_s=NOW - apart_s), at_s=NOW - apart_s)) is fits


def test_one_good_signature_of_several_is_enough_while_a_secret_is_rolled() -> None:
    both = header(signature(secret=OTHER), signature())
    assert holds(both) and holds(both, BODY, OTHER) and holds(header(signature()), BODY, OTHER, SECRET)
    assert not holds(header("0" * 64, signature(secret=OTHER)))


@pytest.mark.parametrize(
    "odd",
    [
        "", "t=", f"v1={signature()}", f"t={NOW}", f"t={NOW},v0={signature()}", f"t={NOW},t={NOW},v1={signature()}",
        f"t={NOW},v1={signature().upper()}", f"t={NOW},v1={signature()}0", f"t=+{NOW},v1={signature()}",
        f"t={NOW}.0,v1={signature()}", f"t={NOW},v1={signature()}," + "x" * 2048,
    ],
)  # fmt: skip
def test_malformed_headers_do_not_hold(odd: str) -> None:
    assert not holds(odd)


def test_an_empty_secret_signs_nothing() -> None:
    assert not holds(header(signature(secret="")), BODY, "")


def event(kind: str, **metadata: Any) -> bytes:
    return json.dumps({"id": "evt_1", "type": kind, "data": {"object": {"id": "x", "metadata": metadata}}}).encode()


@pytest.mark.parametrize(
    "kind", ["payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled", "refund.updated",
             "payment_intent.amount_capturable_updated", "refund.failed", "charge.refund.updated"],
)  # fmt: skip
def test_events_about_an_attempt_name_it(kind: str) -> None:
    assert attempt_of(event(kind, attempt_id="pay-1-a1")) == "pay-1-a1"


@pytest.mark.parametrize(
    "body",
    [
        event("invoice.paid", attempt_id="pay-1-a1"), event("payment_intent.succeeded"), b"[]", b"{", b"\xff",
        event("payment_intent.succeeded", attempt_id=7), b"[" * 100_000,
        event("payment_intent.succeeded.more", attempt_id="pay-1-a1"),
    ],
    ids=range(8),
)  # fmt: skip
def test_events_about_something_else_name_nothing(body: bytes) -> None:
    assert attempt_of(body) == ""
