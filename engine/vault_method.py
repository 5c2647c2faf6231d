"""A stored card as a payment method of another surface: looked at, and announced at the card, before it is charged."""

from __future__ import annotations

from datetime import UTC, datetime

from engine.accepting import AcceptPayment, Caller
from engine.cards import VaultCard
from engine.errors import CardNotFound, PaymentMethodRefused
from engine.facts import Method
from engine.ids import Clock, PaymentId
from engine.vault_card import StoredCard
from engine.vault_cards import VaultCards

_FIELD = "paymentMethod.cardId"


class VaultMethod:
    """Refuses what no charge could heal: a card that is not the user's, has expired, or is in another currency.

    How much is on it is looked at when it is charged, as with any card.
    """

    def __init__(self, cards: VaultCards, clock: Clock) -> None:
        self._cards = cards
        self._clock = clock

    async def check(self, wanted: AcceptPayment) -> None:
        """Whether the user has such a card, and it can pay this. Raises `PaymentMethodRefused`."""
        await self._fitting(wanted)

    async def hold(self, wanted: AcceptPayment, payment_id: PaymentId) -> Method:
        """Announce the payment at its card, before it is made, so that the card is not deleted meanwhile.

        Raises `PaymentMethodRefused`.
        """
        card = await self._fitting(wanted)
        try:
            await self._cards.reserve(card.id, wanted.user_id, payment_id)
        except CardNotFound:
            raise _unknown() from None
        return Method(wanted.method_type, card.brand, card.last4)

    async def release(self, wanted: AcceptPayment, payment_id: PaymentId) -> None:
        """The payment was not made after all."""
        await self._cards.release(self._card_id(wanted), payment_id)

    async def _fitting(self, wanted: AcceptPayment) -> StoredCard:
        try:
            card = await self._cards.find(self._card_id(wanted), Caller(wanted.user_id, privileged=False))
        except CardNotFound:
            raise _unknown() from None
        if card.currency != wanted.amount.currency:
            raise PaymentMethodRefused(f"the stored card is in {card.currency}", field=_FIELD)
        now = datetime.fromtimestamp(self._clock() / 1000, UTC)
        if card.expired((now.year, now.month)):
            raise PaymentMethodRefused("the stored card has expired", field=_FIELD)
        return card

    @staticmethod
    def _card_id(wanted: AcceptPayment) -> str:
        assert isinstance(wanted.instrument, VaultCard), "nothing else is held"
        return wanted.instrument.reveal()


def _unknown() -> PaymentMethodRefused:
    return PaymentMethodRefused("the user has no such stored card", field=_FIELD)
