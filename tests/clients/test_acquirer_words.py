"""What an acquirer says about a decline is kept and shown only as far as it cannot hold a card number."""

from __future__ import annotations

import pytest

from clients.acquirer import speakable


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (("insufficient_funds", "Insufficient funds"), ("insufficient_funds", "Insufficient funds")),
        (("DO_NOT_HONOR", "Do not honor (05)"), ("DO_NOT_HONOR", "Do not honor (05)")),
        (("card_4242424242424242", "Declined"), ("declined", "Declined")),
        (("declined", "card 4242424242424242 is blocked"), ("declined", "Declined")),
        (("declined", "card 4242 4242 4242 4242 is blocked"), ("declined", "Declined")),
        (("declined", "card 4242-4242-4242-4242 is blocked"), ("declined", "Declined")),
        (("", "line\nbreak"), ("declined", "Declined")),
        (("x" * 65, "y" * 201), ("declined", "Declined")),
    ],
)
def test_words_that_may_hold_a_card_number_are_replaced(said: tuple[str, str], kept: tuple[str, str]) -> None:
    """An acquirer that echoes the card in its refusal must not bring it into our records, events and logs."""
    assert speakable(*said) == kept
