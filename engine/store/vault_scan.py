"""Looking through all stored cards, in flat memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from engine.store.batch import RedisClient
from engine.store.vault import RedisVault
from engine.vault_card import StoredCard

_PAGE: Final = 128


class VaultScan:
    """The cards of a dataset as a rotation sees them: no card that is there all the time is left out."""

    def __init__(self, client: RedisClient, vault: RedisVault) -> None:
        self._client = client
        self._vault = vault

    async def card(self, card_id: str) -> StoredCard | None:
        """The card."""
        return await self._vault.card(card_id)

    async def change(self, card: StoredCard, *, free_mark: str = "") -> bool:
        """Write the next version of a card."""
        return await self._vault.change(card, free_mark=free_mark)

    async def pages(self) -> AsyncIterator[Sequence[str]]:
        """Ids, a page at a time. Redis may show one twice while it resizes."""
        page: list[str] = []
        async for raw in self._client.scan_iter(match="{p*}:vault:card-*", count=_PAGE):
            page.append(raw.decode().rpartition(":")[2])
            if len(page) >= _PAGE:
                yield page
                page = []
        if page:
            yield page
