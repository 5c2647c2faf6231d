"""Idempotency keys: what is one, what is kept of a request, and what is not."""

from __future__ import annotations

import base64
import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.accepting import FIELDS
from engine.idempotency import Fingerprints, KeyRecord, first_difference, is_key
from engine.ids import PaymentId
from tests.engine.making import PAN

PRINTS = Fingerprints(b"s" * 32)
VALUES = [
    "core",
    "order-123",
    "user-1",
    "7548",
    "USD",
    "credit_card",
    PAN,
    "12",
    "2030",
    "",
    "",
    "2547",
    "a plan",
    "p1",
]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)


@pytest.mark.parametrize("key", ["a", "!", "~", "order-123 first try", "x" * 255, "a  b", '"quoted"', "a,b;c"])
def test_printable_ascii_of_1_to_255_characters_is_a_key(key: str) -> None:
    assert is_key(key)


@pytest.mark.parametrize(
    "key", ["", " ", " a", "a ", "x" * 256, "a\n", "\na", "a\tb", "a\x00b", "a\x7f", "ключ", "a\u00a0b", "é", "\x1f"]
)
def test_other_texts_are_no_keys(key: str) -> None:
    assert not is_key(key)


@given(st.text(max_size=260))
def test_every_key_is_printable_and_has_no_blanks_at_its_ends(text: str) -> None:
    expected = 1 <= len(text) <= 255 and text.isascii() and text.isprintable() and text == text.strip()
    assert is_key(text) is expected


@pytest.mark.parametrize("place", range(len(FIELDS)))
def test_a_difference_is_named_by_its_field(place: int) -> None:
    other = [*VALUES[:place], VALUES[place] + "x", *VALUES[place + 1 :]]
    assert first_difference(FIELDS, PRINTS.of(VALUES), PRINTS.of(other)) == FIELDS[place]


@given(*[st.lists(TEXTS, min_size=len(FIELDS), max_size=len(FIELDS))] * 2)
def test_the_first_of_several_differences_is_named(ours: list[str], theirs: list[str]) -> None:
    differing = [name for name, one, other in zip(FIELDS, ours, theirs, strict=True) if one != other]
    found = first_difference(FIELDS, PRINTS.of(ours), PRINTS.of(theirs))
    assert found == (differing[0] if differing else None)


def test_values_cannot_flow_into_the_field_beside_them() -> None:
    """One hash over all values joined would take these two for the same request."""
    assert first_difference(["a", "b"], PRINTS.of(["1", "23"]), PRINTS.of(["12", "3"])) == "a"


def test_a_record_of_another_shape_is_another_request() -> None:
    ours = PRINTS.of(VALUES)
    assert first_difference(FIELDS, ours, ours + PRINTS.of(["more"])) == "request"


def test_a_fingerprint_is_the_same_in_every_process_and_another_under_another_secret() -> None:
    assert Fingerprints(b"s" * 32).of(VALUES) == PRINTS.of(VALUES)
    other = Fingerprints(b"t" * 32).of(VALUES)
    assert all(
        other[place : place + 8] != PRINTS.of(VALUES)[place : place + 8] for place in range(0, 8 * len(VALUES), 8)
    )


def test_a_card_number_is_neither_in_the_record_nor_found_by_trying_without_the_secret() -> None:
    """There are few enough card numbers to try them all; only the secret stands in the way."""
    record = KeyRecord(PaymentId("pay-1"), PRINTS.of(VALUES), 1)
    kept = msgspec.json.encode(record).decode()
    assert PAN not in kept and PAN[-4:] not in kept
    for guess in (
        hashlib.blake2b(PAN.encode(), digest_size=6),
        hashlib.blake2b(PAN.encode(), digest_size=6, key=b"t" * 32),
    ):
        assert base64.b64encode(guess.digest()).decode() not in kept


def test_a_record_survives_its_json() -> None:
    record = KeyRecord(PaymentId("pay-1"), PRINTS.of(VALUES), 1_767_225_600_000)
    assert msgspec.json.decode(msgspec.json.encode(record), type=KeyRecord) == record


def test_callers_cannot_reach_each_others_keys() -> None:
    assert PRINTS.key_digest("a", "bc") != PRINTS.key_digest("ab", "c")
    assert PRINTS.key_digest("", "1:a") != PRINTS.key_digest("1:a", "")
    assert PRINTS.key_digest("a", "b") != PRINTS.key_digest("b", "a")


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_a_digest_stands_for_one_caller_and_one_key(caller: str, key: str, other_caller: str, other_key: str) -> None:
    same = (caller, key) == (other_caller, other_key)
    assert (PRINTS.key_digest(caller, key) == PRINTS.key_digest(other_caller, other_key)) is same


def test_a_digest_tells_nothing_of_a_telling_key() -> None:
    digest = PRINTS.key_digest("user-1", PAN)
    assert len(digest) == 32 and PAN not in digest
    assert digest != Fingerprints(b"t" * 32).key_digest("user-1", PAN)
