"""Ids: sorted by time, carrying their shard, and of one form."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ids import PaymentId, PaymentIds, is_payment_id, minted_ms, now_ms, rfc3339, shard_of, shard_of_payment
from tests.engine.making import NOW_MS, FakeClock

MS = st.integers(0, 2**48 - 1)
BYTES = st.binary(min_size=10, max_size=10)
SHARDS = st.integers(0, 255)


@given(MS, MS, BYTES, BYTES, SHARDS, SHARDS)
def test_a_later_id_sorts_behind_an_earlier_one(
    one: int, other: int, bytes_one: bytes, bytes_other: bytes, shard_one: int, shard_other: int
) -> None:
    """Lists by user are read in the order of ids; neither chance nor the shard may change it."""
    id_one = PaymentIds(lambda: one, lambda _: bytes_one).mint(shard_one)
    id_other = PaymentIds(lambda: other, lambda _: bytes_other).mint(shard_other)
    if one != other:
        assert (id_one < id_other) is (one < other)


@given(MS, BYTES, SHARDS)
def test_an_id_has_the_form_of_one_and_names_its_shard(ms: int, chance: bytes, shard: int) -> None:
    payment_id = PaymentIds(lambda: ms, lambda _: chance).mint(shard)
    assert is_payment_id(payment_id) and shard_of_payment(payment_id) == shard and len(payment_id) == 32


def test_an_id_is_a_ulid_in_lower_case() -> None:
    """01ARZ3NDEKTSV4RRFFQ69G5FAV is the example of the ULID specification."""
    value = 0
    for letter in "01ARZ3NDEKTSV4RRFFQ69G5FAV":
        value = value * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    ids = PaymentIds(lambda: value >> 80, lambda size: (value & (2**80 - 1)).to_bytes(size, "big"))
    assert ids.mint(0x0F) == "pay-01arz3ndektsv4rrffq69g5fav0f"


def test_ids_of_one_millisecond_differ() -> None:
    ids = PaymentIds(FakeClock(), os.urandom)
    assert len({ids.mint(3) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text",
    ["", "pay-456", "pay-", "pay-01arz3ndektsv4rrffq69g5fav0", "pay-01arz3ndektsv4rrffq69g5fav0f0",
     "pay-01ARZ3NDEKTSV4RRFFQ69G5FAV0f", "pay-01arz3ndektsv4rrffq69g5fai0f", "pay-01arz3ndektsv4rrffq69g5fav0g",
     "pay-01arz3ndektsv4rrffq69g5fav0F", "pay-01arz3ndektsv4rrffq69g5fav0f\n", "pai-01arz3ndektsv4rrffq69g5fav0f",
     " pay-01arz3ndektsv4rrffq69g5fav0f", "pay-01arz3ndektsv4rrffq69g5fa*0f"],
)  # fmt: skip
def test_other_texts_are_no_payment_ids(text: str) -> None:
    assert not is_payment_id(text)


@pytest.mark.parametrize(
    ("name", "of_16", "of_256"), [("order-123", 5, 165), ("a", 3, 67), ("ключ", 10, 26), ("", 0, 0)]
)
def test_the_shard_of_a_name_stays_the_same_for_ever(name: str, of_16: int, of_256: int) -> None:
    """Another hash would look for every order and every key in another place than where it lies."""
    assert (shard_of(name, 16), shard_of(name, 256)) == (of_16, of_256)


def test_names_spread_over_all_shards() -> None:
    found = [shard_of(f"order-{number}", 16) for number in range(4000)]
    assert min(found.count(shard) for shard in range(16)) > 150


@given(st.integers(0, 253_402_300_799_999))
def test_times_are_rfc_3339_in_utc_with_milliseconds(ms: int) -> None:
    text = rfc3339(ms)
    moment = datetime.fromisoformat(text)
    assert moment.utcoffset() == UTC.utcoffset(None) and text.endswith("Z") and len(text) == 24
    assert round(moment.timestamp() * 1000) == ms


def test_a_time_is_written_as_users_were_told() -> None:
    assert rfc3339(NOW_MS + 7) == "2026-01-01T00:00:00.007Z"


def test_the_clock_counts_milliseconds_since_1970() -> None:
    before = datetime.now(UTC).timestamp()
    assert before * 1000 - 1 <= now_ms() <= datetime.now(UTC).timestamp() * 1000 + 1


def test_the_shard_of_an_id_is_read_from_its_end() -> None:
    assert shard_of_payment(PaymentId("pay-01arz3ndektsv4rrffq69g5favff")) == 255


def test_an_id_tells_when_it_was_made() -> None:
    """Lists sort by the id and show the time: both must be the same moment."""
    times = [0, 1, 1_795_218_117_397, 2**48 - 1]
    ids = PaymentIds(clock=iter(times).__next__)
    assert [minted_ms(ids.mint(7)) for _ in times] == times
