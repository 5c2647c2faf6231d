"""Bearer tokens, signed here: the counterpart of `handlers.auth`, which verifies them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import jwt
import msgspec

from handlers.auth import AuthSettings


class SignedToken(msgspec.Struct, frozen=True):
    """A token, and until when it is good, in seconds since 1970."""

    text: str
    issued_at_s: int
    expires_at_s: int

    def __repr__(self) -> str:
        return f"SignedToken(…, expires_at_s={self.expires_at_s})"


class TokenSigner:
    """Signs tokens that the surfaces accept. The only place that knows with which key."""

    def __init__(
        self,
        settings: AuthSettings,
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._new_id = new_id

    def sign(self, *, subject: str, role: str | None = None, hours: float = 1.0) -> SignedToken:
        """A token for this subject. Raises `ValueError` when no secret is configured."""
        settings = self._settings
        if not settings.secret or not settings.shares_secret:
            raise ValueError("auth.secret (JWT_SEC) is not set")
        now = int(self._clock())
        expires_at_s = now + int(hours * 3600)
        claims: dict[str, object] = {"sub": subject, "jti": self._new_id(), "iat": now, "exp": expires_at_s}
        if role:
            claims["role"] = role
        if settings.issuer:
            claims["iss"] = settings.issuer
        if settings.audience:
            claims["aud"] = settings.audience
        shared = next(name for name in settings.algorithms if name.startswith("HS"))
        headers = {"kid": settings.secret_id} if settings.secret_id else None
        return SignedToken(jwt.encode(claims, settings.secret, algorithm=shared, headers=headers), now, expires_at_s)
