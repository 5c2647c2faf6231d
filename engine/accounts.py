"""Accounts: who registers, who may log in, and who somebody is.

An account and the claim on its e-mail address lie in one shard and are written by one step, so of any number of
registrations of one address exactly one has an account, whatever dies in between.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from engine.emails import canonical_email, check_email
from engine.errors import AccountNotFound, EmailTaken, WrongCredentials
from engine.idempotency import Fingerprints
from engine.ids import AccountId, Clock
from engine.secret import Secret

_EMAILS: Final = "gateway|email"


class Password(Secret):
    """What somebody types to prove who they are. Equal however their keyboard composes a letter (NFC)."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(unicodedata.normalize("NFC", text))


class Account(
    msgspec.Struct, frozen=True, rename={"version": "v", "password_hash": "password", "created_ms": "created"}
):
    """The record of one account. `version` stands first: the store's compare-and-set reads it there."""

    version: int
    id: AccountId
    name: str
    email: str
    """As it was typed."""
    password_hash: str
    created_ms: int

    def __repr__(self) -> str:
        return f"Account({self.id})"


class AccountStore(Protocol):
    """Where accounts live, found by id or by the keyed digest of their e-mail address."""

    def shard_of(self, name: str) -> int: ...
    async def create(self, account: Account, email_digest: str) -> AccountId: ...
    async def holder(self, email_digest: str) -> AccountId | None: ...
    async def get(self, account_id: AccountId) -> Account | None: ...
    async def replace(self, account: Account) -> None: ...


class PasswordHasher(Protocol):
    """Hashes that cannot be turned back. All three raise `Overloaded` when too many are under way."""

    @property
    def decoy(self) -> str:
        """A hash that no password has, and that takes as long as any to find that out."""
        ...

    async def hash(self, password: Password) -> str: ...
    async def verify(self, password: Password, password_hash: str) -> bool: ...
    def outdated(self, password_hash: str) -> bool: ...


class Accounts:
    """Registers people and knows them again."""

    def __init__(
        self,
        store: AccountStore,
        passwords: PasswordHasher,
        fingerprints: Fingerprints,
        new_id: Callable[[int], AccountId],
        clock: Clock,
        admit: Callable[[], None],
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._fingerprints = fingerprints
        self._new_id = new_id
        self._clock = clock
        self._admit = admit
        # Asked for in place of an account that is not there: as many reads for an unknown address as for a known one.
        self._nobody = new_id(0)

    async def register(self, *, name: str, email: str, password: Password) -> Account:
        """Make an account. Raises `EmailRefused`, `EmailTaken`, `Overloaded`."""
        self._admit()
        check_email(email)
        digest = self._digest(email)
        if await self._store.holder(digest) is not None:
            raise EmailTaken
        account = Account(
            version=1,
            # In the shard of the claim, so that one step writes both.
            id=self._new_id(self._store.shard_of(digest)),
            name=name,
            email=email,
            password_hash=await self._passwords.hash(password),
            created_ms=self._clock(),
        )
        if await self._store.create(account, digest) != account.id:
            raise EmailTaken
        return account

    async def login(self, *, email: str, password: Password) -> Account:
        """The account that this address and password belong to.

        Raises `WrongCredentials` after the same work, whether the address is unknown or the password wrong.
        """
        holder = await self._store.holder(self._digest(email))
        account = await self._store.get(holder or self._nobody)
        right = await self._passwords.verify(password, account.password_hash if account else self._passwords.decoy)
        if account is None or not right:
            raise WrongCredentials
        if self._passwords.outdated(account.password_hash):
            renewed = await self._passwords.hash(password)
            # Somebody else may have renewed it at the same time: either is good.
            await self._store.replace(
                msgspec.structs.replace(account, version=account.version + 1, password_hash=renewed)
            )
        return account

    async def find(self, account_id: str) -> Account:
        """The account of this id. Raises `AccountNotFound`."""
        account = await self._store.get(AccountId(account_id))
        if account is None:
            raise AccountNotFound
        return account

    def _digest(self, email: str) -> str:
        return self._fingerprints.key_digest(_EMAILS, canonical_email(email))
