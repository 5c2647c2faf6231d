"""Sealing instruments at rest: AES-256-GCM, the key's id beside, bound to the payment."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.cards import Card, Cvv, Instrument, Pan, SealBroken, SealedInstrument, VaultCard, WalletToken
from engine.ids import PaymentId
from engine.phones import Phone, PhonePrompt

_NONCE_BYTES: Final = 12


class CardsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The secrets for cards. They come from the environment, never from a file in a repository.

    `keys`: `id:base64 of 32 bytes`, several divided by commas, each id once; the first seals, all open.
    `fingerprint_secret`: base64 of at least 32 bytes; it must stay the same as long as idempotency keys and accounts
    live, which are found by it.
    """

    keys: str = ""
    """`id:base64 of 32 bytes`, several divided by commas: the first seals, all open."""
    fingerprint_secret: str = ""
    """Base64 of at least 32 bytes. It must not change: keys, accounts and stored cards are found by it."""
    cvv_ttl_s: int = 900
    """How long a CVV is kept at most, charged or not; 1 to 3600."""

    def __post_init__(self) -> None:
        if not 1 <= self.cvv_ttl_s <= 3600:
            raise ValueError("cards.cvv_ttl_s must be 1 to 3600")
        if self.keys:
            parse_keys(self.keys)
        if self.fingerprint_secret:
            parse_fingerprint_secret(self.fingerprint_secret)

    def __repr__(self) -> str:
        return "CardsSettings(…)"


def key_id_of(sealed: bytes) -> str:
    """The id of the key that something was sealed with."""
    return sealed[1 : 1 + sealed[0]].decode() if sealed else ""


def parse_keys(text: str) -> dict[str, bytes]:
    """Key ids and keys, the sealing one first. Raises `ValueError` without quoting the keys."""
    keys: dict[str, bytes] = {}
    for part in text.split(","):
        key_id, _, encoded = part.strip().partition(":")
        key = _decoded(encoded)
        if not 1 <= len(key_id) <= 32 or not key_id.isascii() or len(key) != 32 or key_id in keys:
            raise ValueError("cards.keys must be `id:base64 of 32 bytes`, several divided by commas, each id once")
        keys[key_id] = key
    return keys


def parse_fingerprint_secret(text: str) -> bytes:
    """At most 64 bytes of the secret. Raises `ValueError` without quoting it."""
    secret = _decoded(text)
    if len(secret) < 32:
        raise ValueError("cards.fingerprint_secret must be base64 of at least 32 bytes")
    return secret[:64]


class AesGcmSealer:
    """Seals with the first key, opens with any."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        self._ciphers = {key_id.encode(): AESGCM(key) for key_id, key in keys.items()}
        self._sealing_id = next(iter(self._ciphers))

    def seal(self, payment_id: PaymentId, instrument: Instrument) -> SealedInstrument:
        """Encrypt, bound to the payment id."""
        match instrument:
            case Card(cvv=cvv) as card:
                body = f"card:{card.pan.reveal()}:{card.expiry_month}:{card.expiry_year}"
                code = None if cvv is None else self._seal(f"{payment_id}:cvv", cvv.reveal())
                return SealedInstrument(self._seal(f"{payment_id}:body", body), code)
            case PhonePrompt(phone=phone, description=description):
                text = f"phone:{phone.reveal()}:{description}"
                return SealedInstrument(self._seal(f"{payment_id}:body", text), None)
            case VaultCard() as stored:
                return SealedInstrument(self._seal(f"{payment_id}:body", f"vault:{stored.reveal()}"), None)
            case token:
                return SealedInstrument(self._seal(f"{payment_id}:body", f"wallet:{token.reveal()}"), None)

    def open(self, payment_id: PaymentId, sealed: SealedInstrument) -> Instrument:
        """Decrypt; raises `SealBroken` when it is missing, its key is gone, or it was changed or moved."""
        kind, _, rest = self._open(f"{payment_id}:body", sealed.body).partition(":")
        if kind == "wallet":
            return WalletToken(rest)
        if kind == "phone":
            number, _, description = rest.partition(":")
            return PhonePrompt(Phone(number), description)
        if kind == "vault":
            return VaultCard(rest)
        pan, month, year = rest.split(":")
        cvv = None if sealed.cvv is None else Cvv(self._open(f"{payment_id}:cvv", sealed.cvv))
        return Card(Pan(pan), int(month), int(year), cvv)

    @property
    def sealing_id(self) -> str:
        """The id of the key that seals."""
        return self._sealing_id.decode()

    def seal_text(self, bound_to: str, text: str) -> bytes:
        """Encrypt a text, bound to the name of what it belongs to."""
        return self._seal(bound_to, text)

    def open_text(self, bound_to: str, sealed: bytes) -> str:
        """Decrypt; raises `SealBroken` as `open` does."""
        return self._open(bound_to, sealed)

    def _seal(self, bound_to: str, text: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._sealing_id].encrypt(nonce, text.encode(), bound_to.encode())
        return bytes((len(self._sealing_id),)) + self._sealing_id + nonce + sealed

    def _open(self, bound_to: str, sealed: bytes) -> str:
        if not sealed:
            raise SealBroken("the sealed instrument is gone")
        end = 1 + sealed[0]
        cipher = self._ciphers.get(sealed[1:end])
        if cipher is None:
            raise SealBroken("its key is not configured")
        nonce, text = sealed[end : end + _NONCE_BYTES], sealed[end + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, text, bound_to.encode()).decode()
        except (InvalidTag, ValueError):
            raise SealBroken("it was changed, or belongs to another payment") from None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
