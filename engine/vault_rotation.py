"""Sealing stored cards anew under the first key, while they are in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from engine.cards import SealBroken
from engine.sealing import key_id_of
from engine.vault_card import StoredCard
from engine.vault_cards import seal_name

_CONFLICTS_MAX: Final = 64


class RotationStore(Protocol):
    """Where cards live."""

    def pages(self) -> AsyncIterator[Sequence[str]]:
        """The ids of all cards, some at a time; one may come twice."""
        ...

    async def card(self, card_id: str) -> StoredCard | None: ...
    async def change(self, card: StoredCard, *, free_mark: str = "") -> bool: ...


class Sealer(Protocol):
    """Seals with the first key, opens with any."""

    @property
    def sealing_id(self) -> str: ...
    def seal_text(self, bound_to: str, text: str) -> bytes: ...
    def open_text(self, bound_to: str, sealed: bytes) -> str: ...


class Rotated(msgspec.Struct):
    """What a run has found and done. `left`: cards that could not be sealed anew; their keys are still needed."""

    key: str
    cards: int = 0
    resealed: int = 0
    already: int = 0
    deleted: int = 0
    left: int = 0

    @property
    def done(self) -> bool:
        """Whether every card is under the first key."""
        return not self.left


class Rotation:
    """Safe to kill and to run again: what is under the first key already is passed over.

    Each card is a compare-and-set of its own, so a payment that changes its balance at the same moment loses nothing.
    """

    def __init__(self, store: RotationStore, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer

    async def run(self) -> Rotated:
        """Look at every card once."""
        rotated = Rotated(self._sealer.sealing_id)
        async for page in self._store.pages():
            for outcome in await asyncio.gather(*(self._one(card_id) for card_id in page)):
                rotated.cards += 1
                setattr(rotated, outcome, getattr(rotated, outcome) + 1)
        return rotated

    async def _one(self, card_id: str) -> str:
        for _ in range(_CONFLICTS_MAX):
            card = await self._store.card(card_id)
            if card is None or card.deleted_ms:
                return "deleted"
            if key_id_of(card.sealed) == self._sealer.sealing_id:
                return "already"
            try:
                number = self._sealer.open_text(seal_name(card_id), card.sealed)
            except SealBroken as broken:
                structlog.get_logger().error("stored card cannot be opened", card_id=card_id, reason=str(broken))
                return "left"
            if await self._store.change(card.resealed(self._sealer.seal_text(seal_name(card_id), number))):
                return "resealed"
        return "left"
