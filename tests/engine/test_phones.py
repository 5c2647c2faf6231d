"""Phone numbers: the forms that people write, one form inside, and a mask outside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PaymentMethodRefused
from engine.phones import Phone

SUBSCRIBERS = st.from_regex(r"[17][0-9]{8}", fullmatch=True)


@given(SUBSCRIBERS, st.sampled_from(["+254", "254", "0"]))
def test_every_form_of_a_number_is_the_same_phone(subscriber: str, prefix: str) -> None:
    phone = Phone(prefix + subscriber)
    assert phone.reveal() == f"254{subscriber}"
    assert phone == Phone(phone.reveal()) and hash(phone) == hash(Phone(f"0{subscriber}"))


@given(SUBSCRIBERS)
def test_a_phone_shows_no_more_than_its_ends(subscriber: str) -> None:
    phone = Phone(f"0{subscriber}")
    assert repr(phone) == str(phone) == f"Phone(****{subscriber[-4:]})"
    assert phone.masked == f"254{subscriber[0]}****{subscriber[-4:]}"


@given(st.text(max_size=20))
def test_whatever_is_taken_is_a_kenyan_mobile_number(text: str) -> None:
    try:
        taken = Phone(text).reveal()
    except PaymentMethodRefused:
        return
    assert len(taken) == 12 and taken.isascii() and taken.isdigit() and taken[:4] in ("2547", "2541")


@pytest.mark.parametrize(
    "text",
    ["+255712345678", "+256712345678", "+1712345678", "+44712345678", "0812345678", "254812345678", "712345678",
     "071234567", "07123456789", "+2540712345678", "00254712345678", "0712 345678", "0712-345-678", " 0712345678",
     "0712345678 ", "0712345678\n", "٠٧١٢٣٤٥٦٧٨", "", "+", "0", "254", "07abcdefgh", "++254712345678"],
)  # fmt: skip
def test_other_numbers_are_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(PaymentMethodRefused) as refused:
        Phone(text)
    assert refused.value.details == {"field": "paymentMethod.phoneNumber"}
    assert len(text) < 5 or text not in str(refused.value)
