"""Bearer tokens, where a simulator is told to ask for them: the engine's own, HS256 with the shared secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import jwt
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from simulators.wire import Refusal

_SERVICES: Final = {"service", "admin"}


def require_tokens(secret: str) -> Middleware:
    """Ask for a token on `/api/…`, except for creating a user. A user is only shown to itself and to services."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/api/") and (request.method, request.path) != ("POST", "/api/users"):
            claims = _claims(request, secret)
            if not _roles(claims) & _SERVICES and claims.get("sub") != request.match_info.get("id"):
                raise Refusal(403, "FORBIDDEN", "this token is another user's")
        return await handler(request)

    return middleware


def _roles(claims: Mapping[str, object]) -> set[str]:
    """The claim `roles`, else `role`, a string or a list, as the engine reads them."""
    roles = claims.get("roles", claims.get("role"))
    return {role for role in (roles if isinstance(roles, list) else [roles]) if isinstance(role, str)}


def _claims(request: web.Request, secret: str) -> dict[str, object]:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise _unauthorized()
    try:
        claims: dict[str, object] = jwt.decode(
            token, secret, algorithms=["HS256"], options={"require": ["exp", "sub"], "verify_aud": False}
        )
    except (jwt.InvalidTokenError, ValueError):  # ValueError: a header that is no UTF-8
        raise _unauthorized() from None
    return claims


def _unauthorized() -> Refusal:
    return Refusal(401, "UNAUTHORIZED", "a valid bearer token is needed")
