"""The acquirer within: payments of other surfaces that are charged to a stored card.

It keeps the promises that any acquirer has to keep: an attempt moves money once, however often it is sent, and what
became of it can be asked for by its id. An authorization takes the money at once; a capture gives the rest back.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from engine.cards import VaultCard
from engine.charging import AcquirerRequest, NeverSeen, NotSent, Outcome, Unknown
from engine.errors import Overloaded, StoreUnavailable
from engine.facts import Kind
from engine.ids import Clock, PaymentId
from engine.ledger import Transaction
from engine.money import Money
from engine.settling import Approved, Declined
from engine.turns import Turns
from engine.vault_card import ACQUIRER, StoredCard, movement

_CONFLICTS_MAX: Final = 64
_ENDS: Final = (Kind.CHARGE, Kind.CAPTURE, Kind.VOID)
"""After these nothing more is taken from the card for the payment."""


class CardMove(msgspec.Struct, frozen=True, omit_defaults=True, rename={"card_id": "card", "transaction": "tx"}):
    """What was moved on a card: `minor` was taken, or (below 0) given. With a `declined`, nothing was."""

    card_id: str
    minor: int = 0
    transaction: Transaction | None = None
    declined: str = ""
    reason: str = ""

    def outcome(self, move_id: str) -> Approved | Declined:
        """The answer to whoever asked for it."""
        return Declined(self.declined, self.reason) if self.declined else Approved(move_id)


class MoveStore(Protocol):
    """Where cards and their movements live."""

    async def moved(self, card_id: str, move_id: str) -> tuple[StoredCard | None, CardMove | None]: ...
    async def move(self, move_id: str, move: CardMove, card: StoredCard) -> CardMove | None: ...
    async def link(self, payment_id: PaymentId, card_id: str) -> None: ...
    async def card_of(self, payment_id: PaymentId) -> str: ...


class VaultAcquirer:
    """Charges stored cards. Neither method raises for trouble with the store."""

    def __init__(self, store: MoveStore, turns: Turns, clock: Clock) -> None:
        self._store = store
        self._turns = turns
        self._clock = clock

    @property
    def name(self) -> str:
        """As in metrics and records."""
        return ACQUIRER

    async def send(self, request: AcquirerRequest) -> Outcome:
        """Do it once. Repeating with the same attempt id has no second effect."""
        try:
            card_id = await self._card_of(request)
            async with self._turns.of(card_id):
                for _ in range(_CONFLICTS_MAX):
                    if (move := await self._try(card_id, request)) is not None:
                        return move.outcome(request.attempt_id)
        except Overloaded as error:
            return NotSent(str(error), error.retry_after_s)
        except StoreUnavailable as error:
            return Unknown(str(error))
        return NotSent("the card changes all the time", 1.0)

    async def find(self, kind: Kind, attempt_id: str, amount: Money, transaction_id: str) -> Outcome | NeverSeen:
        """What became of an attempt."""
        try:
            card_id = await self._store.card_of(PaymentId(attempt_id.rpartition("-a")[0]))
            move = (await self._store.moved(card_id, attempt_id))[1] if card_id else None
        except (Overloaded, StoreUnavailable) as error:
            return NotSent(str(error), 1.0)
        return move.outcome(attempt_id) if move is not None else NeverSeen()

    async def _card_of(self, request: AcquirerRequest) -> str:
        match request.instrument:
            case VaultCard() as instrument:
                # Before any money moves: an attempt whose answer is lost is asked about by its payment's id.
                await self._store.link(request.payment_id, instrument.reveal())
                return instrument.reveal()
            case _:
                return await self._store.card_of(request.payment_id)

    async def _try(self, card_id: str, request: AcquirerRequest) -> CardMove | None:
        card, move = await self._store.moved(card_id, request.attempt_id)
        if move is not None:
            return move
        if card is None:
            return CardMove(card_id, declined="card_not_found", reason="There is no such card")
        wanted = await self._wanted(card, request)
        newer = card.moved(-wanted.minor)
        if wanted.declined or request.kind in _ENDS:
            newer = msgspec.structs.replace(newer.closed(request.payment_id), version=newer.version)
        return await self._store.move(request.attempt_id, wanted, newer)

    async def _wanted(self, card: StoredCard, request: AcquirerRequest) -> CardMove:
        minor = request.amount.minor
        match request.kind:
            case Kind.CHARGE | Kind.AUTHORIZE:
                if declined := self._declined(card, request.amount):
                    return CardMove(card.id, declined=declined[0], reason=declined[1])
            case Kind.CAPTURE:
                # All of it was taken when it was authorized.
                _, authorized = await self._store.moved(card.id, request.transaction_id)
                minor -= authorized.minor if authorized is not None else minor
            case Kind.VOID | Kind.REFUND:
                minor = -minor
        return CardMove(card.id, minor, movement(request.attempt_id, card, minor, at_ms=self._clock()))

    @staticmethod
    def _declined(card: StoredCard, amount: Money) -> tuple[str, str] | None:
        if card.deleted_ms:
            return "card_not_found", "The card was deleted"
        if card.currency != amount.currency:
            return "currency_not_supported", "The card is in another currency"
        if card.balance_minor < amount.minor:
            return "insufficient_funds", "The card's balance is too small"
        return None
