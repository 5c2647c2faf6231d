"""Tokens for people and services, signed with the configured secret."""

from __future__ import annotations

import time

import jwt

from handlers.auth import AuthSettings


def make_token(settings: AuthSettings, *, subject: str, role: str | None, hours: float) -> str:
    """A signed token that the surfaces accept. Raises `ValueError` when no secret is configured."""
    if not settings.secret or not settings.shares_secret:
        raise ValueError("auth.secret (JWT_SEC) is not set")
    now = int(time.time())
    claims: dict[str, object] = {"sub": subject, "iat": now, "exp": now + int(hours * 3600)}
    if role:
        claims["role"] = role
    if settings.issuer:
        claims["iss"] = settings.issuer
    if settings.audience:
        claims["aud"] = settings.audience
    shared = next(name for name in settings.algorithms if name.startswith("HS"))
    headers = {"kid": settings.secret_id} if settings.secret_id else None
    return jwt.encode(claims, settings.secret, algorithm=shared, headers=headers)
