"""Sealing: only with a configured key, only for its own payment, and only unchanged."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cards import Card, Instrument, SealBroken, SealedInstrument, WalletToken
from engine.ids import PaymentId
from engine.sealing import AesGcmSealer, CardsSettings, parse_fingerprint_secret, parse_keys
from tests.engine.making import CVV, PAN, PAYMENT_ID, a_card, a_sealer

OTHER_ID = PaymentId("pay-01kdvnqg0000000000000000001a")
INSTRUMENTS = [
    a_card(),
    a_card(cvv=None),
    a_card("5555555555554444", "9999", month=1, year=2999),
    WalletToken("tok_a:b:c"),
]
KEY, KEY_2 = base64.b64encode(b"A" * 32).decode(), base64.b64encode(b"B" * 32).decode()


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=repr)
def test_what_was_sealed_is_opened_again(instrument: Instrument) -> None:
    sealer = a_sealer()
    assert sealer.open(PAYMENT_ID, sealer.seal(PAYMENT_ID, instrument)) == instrument


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=60))
def test_any_wallet_token_is_opened_again(token: str) -> None:
    sealer = a_sealer()
    assert sealer.open(PAYMENT_ID, sealer.seal(PAYMENT_ID, WalletToken(token))) == WalletToken(token)


def test_a_seal_shows_nothing_and_is_never_the_same_twice() -> None:
    sealer = a_sealer()
    one, other = sealer.seal(PAYMENT_ID, a_card()), sealer.seal(PAYMENT_ID, a_card())
    for sealed in (one, other):
        assert PAN.encode() not in sealed.body and sealed.cvv is not None and CVV.encode() not in sealed.cvv
        assert PAN not in repr(sealed)
    assert one.body != other.body and one.cvv != other.cvv


def test_the_cvv_is_apart_so_that_it_can_go_first() -> None:
    sealer = a_sealer()
    sealed = sealer.seal(PAYMENT_ID, a_card())
    assert sealer.open(PAYMENT_ID, SealedInstrument(sealed.body, None)) == a_card(cvv=None)
    assert sealer.seal(PAYMENT_ID, WalletToken("tok_visa_1")).cvv is None


def test_a_seal_opens_only_for_its_own_payment() -> None:
    sealer = a_sealer()
    ours, theirs = sealer.seal(PAYMENT_ID, a_card()), sealer.seal(OTHER_ID, a_card("5555555555554444", "111"))
    for moved in (theirs, SealedInstrument(theirs.body, ours.cvv), SealedInstrument(ours.body, theirs.cvv)):
        with pytest.raises(SealBroken):
            sealer.open(PAYMENT_ID, moved)


def test_body_and_cvv_cannot_take_each_others_place() -> None:
    sealer = a_sealer()
    sealed = sealer.seal(PAYMENT_ID, a_card())
    assert sealed.cvv is not None
    for swapped in (SealedInstrument(sealed.cvv, None), SealedInstrument(sealed.body, sealed.body)):
        with pytest.raises(SealBroken):
            sealer.open(PAYMENT_ID, swapped)


def test_a_change_of_any_single_bit_is_seen() -> None:
    sealer = a_sealer()
    sealed = sealer.seal(PAYMENT_ID, a_card())
    for place in range(len(sealed.body) * 8):
        changed = bytearray(sealed.body)
        changed[place // 8] ^= 1 << (place % 8)
        with pytest.raises(SealBroken):
            sealer.open(PAYMENT_ID, SealedInstrument(bytes(changed), sealed.cvv))


def test_a_seal_cut_short_anywhere_or_gone_is_broken() -> None:
    sealer = a_sealer()
    sealed = sealer.seal(PAYMENT_ID, a_card())
    assert sealed.cvv is not None
    for length in range(len(sealed.body)):
        with pytest.raises(SealBroken):
            sealer.open(PAYMENT_ID, SealedInstrument(sealed.body[:length], None))
    for length in range(len(sealed.cvv)):
        with pytest.raises(SealBroken):
            sealer.open(PAYMENT_ID, SealedInstrument(sealed.body, sealed.cvv[:length]))
    with pytest.raises(SealBroken, match="gone"):
        sealer.open(PAYMENT_ID, SealedInstrument(b"", None))


@given(st.binary(max_size=80))
def test_no_bytes_at_all_break_the_opening(garbage: bytes) -> None:
    with pytest.raises(SealBroken):
        a_sealer().open(PAYMENT_ID, SealedInstrument(garbage, None))


def test_a_key_that_is_not_configured_is_said_to_be_so() -> None:
    sealed = AesGcmSealer({"old": b"o" * 32}).seal(PAYMENT_ID, a_card())
    with pytest.raises(SealBroken, match="not configured"):
        AesGcmSealer({"new": b"n" * 32}).open(PAYMENT_ID, sealed)
    with pytest.raises(SealBroken, match="changed"):
        AesGcmSealer({"old": b"n" * 32}).open(PAYMENT_ID, sealed)


def test_keys_are_changed_by_putting_the_new_one_first() -> None:
    before = AesGcmSealer(parse_keys(f"k1:{KEY}"))
    during = AesGcmSealer(parse_keys(f"k2:{KEY_2}, k1:{KEY}"))
    after = AesGcmSealer(parse_keys(f"k2:{KEY_2}"))
    sealed_before, sealed_during = before.seal(PAYMENT_ID, a_card()), during.seal(PAYMENT_ID, a_card())
    assert during.open(PAYMENT_ID, sealed_before) == a_card()
    assert after.open(PAYMENT_ID, sealed_during) == a_card()
    with pytest.raises(SealBroken):
        before.open(PAYMENT_ID, sealed_during)
    with pytest.raises(SealBroken):
        after.open(PAYMENT_ID, sealed_before)


def test_a_broken_seal_tells_nothing_of_what_was_in_it() -> None:
    sealer = a_sealer()
    sealed = sealer.seal(PAYMENT_ID, a_card())
    with pytest.raises(SealBroken) as broken:
        sealer.open(OTHER_ID, sealed)
    assert PAN not in str(broken.value) and broken.value.__cause__ is None and broken.value.__suppress_context__


SHORT = base64.b64encode(b"very-secret-but-short").decode()
BAD_KEYS = [
    KEY, f":{KEY}", f"k1:{SHORT}", f"k1:{KEY}x", "k1:not base64 !", "k1:", f"k1:{KEY},", f"k1:{KEY},k2:{SHORT}",
    f"{'k' * 33}:{KEY}", f"ключ:{KEY}", f"k1={KEY}", f"k1:{KEY},k1:{KEY_2}", ",", base64.b64encode(b"C" * 33).decode(),
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_KEYS)
def test_wrong_keys_are_refused_without_being_quoted(text: str) -> None:
    """The last but two says `k1` twice: one of the keys would be lost, and with it every card that it sealed."""
    with pytest.raises(ValueError, match=r"cards\.keys") as refused:
        parse_keys(text)
    with pytest.raises(msgspec.ValidationError, match=r"cards\.keys") as converted:
        msgspec.convert({"keys": text}, CardsSettings)
    for part in (KEY, KEY_2, SHORT, "not base64"):
        assert part not in str(refused.value) and part not in str(converted.value)


@pytest.mark.parametrize("text", ["", "short", SHORT, "not base64 !" * 9, KEY + "x"])
def test_a_wrong_fingerprint_secret_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"cards\.fingerprint_secret") as refused:
        parse_fingerprint_secret(text)
    assert not text or text not in str(refused.value)


def test_a_long_fingerprint_secret_is_cut_to_what_the_hash_can_take() -> None:
    assert parse_fingerprint_secret(base64.b64encode(b"C" * 100).decode()) == b"C" * 64
    assert parse_fingerprint_secret(KEY) == b"A" * 32


@pytest.mark.parametrize("ttl_s", [0, -1, 3601])
def test_the_cvvs_life_has_bounds(ttl_s: int) -> None:
    with pytest.raises(ValueError, match=r"cards\.cvv_ttl_s"):
        CardsSettings(cvv_ttl_s=ttl_s)


def test_the_settings_hide_their_secrets() -> None:
    settings = CardsSettings(keys=f"k1:{KEY}", fingerprint_secret=KEY_2)
    for text in (repr(settings), str(settings), f"{[settings]}"):
        assert KEY not in text and KEY_2 not in text


def test_a_card_that_was_opened_still_hides_itself() -> None:
    sealer = a_sealer()
    opened = sealer.open(PAYMENT_ID, sealer.seal(PAYMENT_ID, a_card()))
    assert isinstance(opened, Card) and PAN not in repr(opened)
