"""Cards: wrong ones are refused, right ones never show themselves."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.cards import Card, Cvv, Pan, WalletToken, expired, parse_expiry
from engine.errors import PaymentMethodRefused
from engine.secret import Secret
from tests.engine.making import CVV, PAN, a_card

TODAY = (2026, 2)


def first_ms(month: tuple[int, int]) -> int:
    """The first millisecond of a month, (year, month)."""
    return int(datetime(*month, 1, tzinfo=UTC).timestamp() * 1000)


def check_digit(body: str) -> str:
    """Luhn's digit, worked out the slow way."""
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


PANS = st.text("0123456789", min_size=11, max_size=18).map(lambda body: body + check_digit(body))


@given(PANS)
def test_every_number_with_the_right_check_digit_is_taken(number: str) -> None:
    pan = Pan(number)
    assert pan.reveal() == number and pan.last4 == number[-4:]


@given(PANS, st.data())
def test_any_single_wrong_digit_is_refused(number: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(number) - 1))
    wrong = data.draw(st.sampled_from("0123456789".replace(number[place], "")))
    with pytest.raises(PaymentMethodRefused):
        Pan(number[:place] + wrong + number[place + 1 :])


@given(PANS, st.data())
def test_any_two_swapped_neighbours_are_refused_but_0_and_9(number: str, data: st.DataObject) -> None:
    """ISO/IEC 7812-1 cannot see 09 and 90 swapped; every other transposition it can."""
    place = data.draw(st.integers(0, len(number) - 2))
    pair = number[place : place + 2]
    assume(pair[0] != pair[1])
    swapped = number[:place] + pair[::-1] + number[place + 2 :]
    if pair in ("09", "90"):
        assert Pan(swapped).reveal() == swapped
    else:
        with pytest.raises(PaymentMethodRefused):
            Pan(swapped)


@pytest.mark.parametrize(
    "text",
    ["", "0", "42424242424", "4242 4242 4242 4242", "4242-4242-4242-4242", PAN + "\n", " " + PAN, "٤" * 16, "４" * 16,
     "4" * 20, "0" * 11, "0" * 20, "424242424242424a", "-4242424242424242"],
)  # fmt: skip
def test_what_is_no_card_number_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(PaymentMethodRefused) as refused:
        Pan(text)
    assert refused.value.code == "PAY_001" and refused.value.details == {"field": "paymentMethod.cardNumber"}
    assert not text.strip() or text.strip() not in str(refused.value)


@pytest.mark.parametrize("text", ["", "12", "12345", "12a", "123\n", " 123", "١٢٣", "1 3"])
def test_what_is_no_cvv_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(PaymentMethodRefused) as refused:
        Cvv(text)
    assert refused.value.details == {"field": "paymentMethod.cvv"}
    assert str(refused.value) == "cvv must be 3 or 4 digits"


@pytest.mark.parametrize(
    "text", ["", "1234567", "x" * 513, "has a blank", "tab\there", "new\nline", "gültig-lang", "\x7f" * 8]
)
def test_what_is_no_wallet_token_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(PaymentMethodRefused) as refused:
        WalletToken(text)
    assert refused.value.details == {"field": "paymentMethod.token"}
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize("text", ["12345678", "x" * 512, "tok_visa_4242", "!~!~!~!~"])
def test_wallet_tokens_have_8_to_512_visible_characters(text: str) -> None:
    assert WalletToken(text).reveal() == text


SECRETS = [
    pytest.param(Pan(PAN), "Pan(****4242)", id="pan"),
    pytest.param(Cvv("9731"), "Cvv(****)", id="cvv"),
    pytest.param(WalletToken("tok_secret_99"), "WalletToken(****)", id="wallet token"),
    pytest.param(Secret("very secret"), "Secret(****)", id="secret"),
]


@pytest.mark.parametrize(("secret", "shown"), SECRETS)
def test_a_secret_hides_itself_however_it_is_turned_into_text(secret: Secret, shown: str) -> None:
    texts = [repr(secret), str(secret), f"{secret}", f"{secret!r}", "%s" % secret, "{}".format(secret)]  # noqa: UP031, UP032
    assert texts == [shown] * 6
    assert f"{[secret]} { ({'card': secret}) }".count(secret.reveal()) == 0


@pytest.mark.parametrize(("secret", "shown"), SECRETS)
def test_a_secret_hides_itself_in_exceptions_and_has_no_dict(secret: Secret, shown: str) -> None:
    text = "".join(traceback.format_exception(ValueError("cannot take", secret)))
    assert shown in text and secret.reveal() not in text
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(("secret", "shown"), SECRETS)
def test_a_secret_cannot_be_encoded_by_accident(secret: Secret, shown: str) -> None:
    for encode in (msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins):
        with pytest.raises(TypeError) as refused:
            encode({"method": secret})
        assert secret.reveal() not in str(refused.value)
    # The logger's way with objects that it does not know.
    assert msgspec.json.decode(msgspec.json.encode([secret], enc_hook=repr)) == [shown]


def test_a_card_hides_its_secrets_and_cannot_be_encoded() -> None:
    card = a_card()
    assert repr(card) == "Card(pan=Pan(****4242), expiry_month=12, expiry_year=2030, cvv=Cvv(****))"
    with pytest.raises(TypeError) as refused:
        msgspec.json.encode(card)
    assert PAN not in str(refused.value) and CVV not in str(refused.value)


def test_secrets_are_equal_by_kind_and_text() -> None:
    assert Pan(PAN) == Pan(PAN) and hash(Pan(PAN)) == hash(Pan(PAN))
    assert Pan(PAN) != WalletToken(PAN) and Pan(PAN) != PAN and Cvv("123") != Cvv("124")
    assert a_card() == a_card() and a_card() != a_card(cvv=None)


@pytest.mark.parametrize(
    ("first", "brand"),
    [("4", "visa"), ("51", "mastercard"), ("55", "mastercard"), ("50", "unknown"), ("56", "unknown"),
     ("2220", "unknown"), ("2221", "mastercard"), ("2229", "mastercard"), ("2230", "mastercard"),
     ("23", "mastercard"), ("26", "mastercard"), ("2719", "mastercard"), ("2720", "mastercard"), ("2721", "unknown"),
     ("34", "amex"), ("37", "amex"), ("33", "unknown"), ("6011", "discover"), ("6012", "unknown"), ("643", "unknown"),
     ("644", "discover"), ("649", "discover"), ("65", "discover"), ("300", "diners"), ("305", "diners"),
     ("306", "unknown"), ("36", "diners"), ("38", "diners"), ("39", "diners"), ("3527", "unknown"), ("3528", "jcb"),
     ("3589", "jcb"), ("3590", "unknown"), ("62", "unionpay"), ("9", "unknown"), ("0", "unknown")],
)  # fmt: skip
def test_the_brand_is_told_by_the_first_digits(first: str, brand: str) -> None:
    body = first.ljust(15, "1")
    assert Pan(body + check_digit(body)).brand == brand


@pytest.mark.parametrize(
    ("month", "year", "today"),
    [("02", "2026", (2026, 2)), ("2", "2026", (2026, 2)), ("12", "2026", (2026, 12)), ("01", "2027", (2026, 12)),
     ("12", "2999", TODAY), ("03", "2026", TODAY)],
)  # fmt: skip
def test_a_card_is_good_through_its_last_month(month: str, year: str, today: tuple[int, int]) -> None:
    assert parse_expiry(month, year) == (int(month), int(year))
    assert not expired(int(month), int(year), now_ms=first_ms(today))


def test_a_card_is_good_until_the_last_millisecond() -> None:
    assert not expired(2, 2026, now_ms=first_ms((2026, 3)) - 1)
    assert expired(2, 2026, now_ms=first_ms((2026, 3)))


@pytest.mark.parametrize(
    ("month", "year", "today"),
    [("01", "2026", (2026, 2)), ("12", "2025", (2026, 1)), ("12", "2025", TODAY), ("12", "2000", TODAY)],
)
def test_a_card_is_refused_from_the_first_of_the_next_month(month: str, year: str, today: tuple[int, int]) -> None:
    assert expired(*parse_expiry(month, year), now_ms=first_ms(today))


@pytest.mark.parametrize(
    ("month", "year", "field"),
    [("0", "2030", "Month"), ("00", "2030", "Month"), ("13", "2030", "Month"), ("012", "2030", "Month"),
     ("", "2030", "Month"), ("1\n", "2030", "Month"), ("١", "2030", "Month"), ("-1", "2030", "Month"),
     ("12", "30", "Year"), ("12", "1999", "Year"), ("12", "20300", "Year"), ("12", "", "Year"),
     ("12", "2030\n", "Year"), ("12", "２030", "Year"), ("12", "3030", "Year")],
)  # fmt: skip
def test_an_expiry_of_another_form_is_refused_by_its_field(month: str, year: str, field: str) -> None:
    with pytest.raises(PaymentMethodRefused) as refused:
        parse_expiry(month, year)
    assert refused.value.details == {"field": f"paymentMethod.expiry{field}"}


def test_a_card_may_come_without_a_cvv() -> None:
    assert repr(Card(Pan(PAN), 1, 2030, None)).endswith("cvv=None)")
