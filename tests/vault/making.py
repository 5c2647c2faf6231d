"""The vault's use cases over a real Redis, as a process has them, and one that dies at a chosen call."""

from __future__ import annotations

from typing import Any

from engine.accepting import Caller
from engine.auditing import Finding
from engine.cards import Pan
from engine.context import RequestContext
from engine.ids import Clock, PaymentIds, now_ms
from engine.money import Money
from engine.payment import Payment
from engine.purchase import Line
from engine.sealing import AesGcmSealer
from engine.store.audit import Audit
from engine.store.vault import RedisVault
from engine.turns import Turns
from engine.vault_card import CardMarks, StoredCard
from engine.vault_cards import AddCard, VaultCards
from engine.vault_paying import PayCheckout, VaultPayments
from tests.store.datasets import Dataset
from tests.vault.world import luhn

CALLER = Caller("jo", privileged=False)
KEYS = {"k1": b"1" * 32}


class Crash(Exception):
    """The process is gone."""


class Mortal:
    """Hands every call on, and dies before or after the `at`-th of them."""

    def __init__(self, inner: Any, at: int = 0, *, after: bool = False) -> None:
        self._inner, self._at, self._after, self._calls = inner, at, after, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name == "shard_of":
            return method

        async def call(*arguments: Any, **more: Any) -> Any:
            self._calls += 1
            if self._calls == self._at and not self._after:
                raise Crash
            answer = await method(*arguments, **more)
            if self._calls == self._at:
                raise Crash
            return answer

        return call


class Silent:
    """Is told, and says nothing."""

    def recorded(self, payment: Payment) -> None:
        """Nothing."""


def vault_of(dataset: Dataset) -> RedisVault:
    """The store of one process."""
    return RedisVault(dataset.batcher, dataset.keys, outbox_max=100_000)


def cards_of(dataset: Dataset, store: Any = None, clock: Clock = now_ms) -> VaultCards:
    """One process's use case of cards."""
    return VaultCards(
        store or vault_of(dataset), dataset.payments(), AesGcmSealer(KEYS), CardMarks(b"k" * 32), PaymentIds(),
        Turns(), clock, lambda: None,
    )  # fmt: skip


def payments_of(dataset: Dataset, store: Any = None) -> VaultPayments:
    """One process's use case of payments."""
    return VaultPayments(store or vault_of(dataset), PaymentIds(), Turns(), Silent(), now_ms, lambda: None)


async def a_card(dataset: Dataset, number: int = 1, *, minor: int = 100_00, user: str = "jo") -> StoredCard:
    """A card that is stored."""
    pan = Pan(luhn(f"4{number:011d}"))
    wanted = AddCard(user, "Jo Doe", pan, 12, 2099, Money(minor, "USD"))
    return await cards_of(dataset).add(wanted, Caller(user, privileged=False))


def wanted(card: StoredCard, checkout: str = "c-1", lines: tuple[Line, ...] = ()) -> PayCheckout:
    """A wish to pay 30.00, in three of one product, or these lines."""
    lines = lines or (Line("p-1", 3, 10_00),)
    total = Money(sum(line.quantity * line.price_minor for line in lines), "USD")
    return PayCheckout(
        checkout, card.user_id, "b-1", card.id, "s-1", lines, "1 High Street", False, total, RequestContext("r-1", "")
    )


async def findings(dataset: Dataset) -> list[Finding]:
    """What the audit says."""
    audit = Audit(dataset.client, dataset.batcher, dataset.keys)
    found = [finding async for finding in audit.findings()]
    assert audit.balances_compared
    return found
