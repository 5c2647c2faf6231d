"""E-mail addresses: what is one, and which are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.emails import canonical_email, check_email
from engine.errors import EmailRefused

GOOD = (
    "ada@example.com", "a@b.co", "Ada.Lovelace+bank@Mail.Example.com", "o'brien@example.ie", "josé@example.com",
    "jose\u0301@example.com", "用户@例子.广告", "उपयोगकर्ता@उदाहरण.भारत", "x" * 64 + "@example.com", "1@2.33",
    "a@xn--bcher-kva.example",
)  # fmt: skip


@pytest.mark.parametrize("email", GOOD)
def test_an_address_is_taken_in_any_script(email: str) -> None:
    check_email(email)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@example.com", "ADA@EXAMPLE.COM"),
        ("josé@example.com", "JOSE\u0301@EXAMPLE.COM"),
        ("straße@example.com", "STRASSE@example.com"),
        ("ﬁn@example.com", "FIN@example.com"),
        ("ａｄａ@example.com", "ada@example.com"),
        ("Σίσυφος@example.gr", "σίσυφοσ@example.gr"),
    ],
)
def test_the_same_address_in_another_spelling_is_the_same(one: str, other: str) -> None:
    assert canonical_email(one) == canonical_email(other)


def test_dots_and_tags_make_another_address() -> None:
    """What a provider does with them is its own affair."""
    spellings = ("ada@example.com", "a.da@example.com", "ada+bank@example.com")
    assert len({canonical_email(spelling) for spelling in spellings}) == 3


@given(st.text(max_size=40))
def test_folding_a_folded_address_changes_nothing(text: str) -> None:
    """Else one person's second spelling could be another person's first."""
    once = canonical_email(text)
    assert canonical_email(once) == once


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        check_email(text)
    except EmailRefused:
        return
    assert text.count("@") == canonical_email(text).count("@") == 1
