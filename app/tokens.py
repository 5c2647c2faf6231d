"""Tokens for people and services, signed with the configured secret."""

from __future__ import annotations

from handlers.auth import AuthSettings
from handlers.tokens import TokenSigner


def make_token(settings: AuthSettings, *, subject: str, role: str | None, hours: float) -> str:
    """A signed token that the surfaces accept. Raises `ValueError` when no secret is configured."""
    return TokenSigner(settings).sign(subject=subject, role=role, hours=hours).text
