"""Who is asking: bearer tokens (RFC 6750), verified once and remembered until they expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Literal

import jwt
import msgspec
from aiohttp import web

from engine.accepting import Caller
from handlers.http import HttpRefused

_PRIVILEGED: Final = frozenset({"service", "admin"})
_CACHE_MAX: Final = 10_000
_TOKEN_LENGTH_MAX: Final = 8192


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How callers prove who they are. `secret` is shared, at least 32 characters (RFC 7518 §3.2)."""

    mode: Literal["jwt", "none"] = "jwt"
    secret: str = ""
    algorithms: tuple[Literal["HS256", "HS384", "HS512"], ...] = ("HS256",)
    issuer: str = ""
    audience: str = ""
    leeway_s: int = 5

    def __post_init__(self) -> None:
        if not self.algorithms:
            raise ValueError("auth.algorithms must name at least one algorithm")
        if not 0 <= self.leeway_s <= 300:
            raise ValueError("auth.leeway_s must be 0 to 300")

    def __repr__(self) -> str:
        return f"AuthSettings(mode={self.mode!r}, algorithms={self.algorithms!r}, secret=…)"


class Authenticator:
    """Turns a request's token into its caller. Raises `HttpRefused` 401 otherwise."""

    def __init__(self, settings: AuthSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._cache: dict[str, tuple[float, Caller]] = {}

    async def caller(self, request: web.Request) -> Caller:
        """Who asks. With `mode = "none"` everybody is one privileged caller."""
        if self._settings.mode == "none":
            return Caller("anonymous", privileged=True)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unauthorized("Access token required", "")
        kept = self._cache.get(token)
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        return self._verify(token)

    def _verify(self, token: str) -> Caller:
        if len(token) > _TOKEN_LENGTH_MAX:
            raise _unauthorized("the access token is too long", "invalid_token")
        settings = self._settings
        try:
            claims = jwt.decode(
                token,
                settings.secret,
                algorithms=list(settings.algorithms),
                issuer=settings.issuer or None,
                audience=settings.audience or None,
                leeway=settings.leeway_s,
                options={"require": ["exp", "sub"], "verify_aud": bool(settings.audience)},
            )
            caller = _caller(claims)
        except jwt.ExpiredSignatureError:
            raise _unauthorized("the access token has expired", "invalid_token") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            # No reason given: it would help only who forges.
            raise _unauthorized("the access token is not valid", "invalid_token") from None
        if len(self._cache) >= _CACHE_MAX:
            self._cache.clear()
        self._cache[token] = (float(claims["exp"]) + settings.leeway_s, caller)
        return caller


def _caller(claims: dict[str, Any]) -> Caller:
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject or len(subject) > 128:
        raise ValueError("sub")
    roles = claims.get("roles", claims.get("role", []))
    roles = [roles] if isinstance(roles, str) else roles
    privileged = isinstance(roles, list) and any(isinstance(role, str) and role in _PRIVILEGED for role in roles)
    return Caller(subject, privileged)


def _unauthorized(message: str, error: str) -> HttpRefused:
    challenge = f'Bearer error="{error}"' if error else "Bearer"
    return HttpRefused(401, "UNAUTHORIZED", message, headers={"WWW-Authenticate": challenge})
