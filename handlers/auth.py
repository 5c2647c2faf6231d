"""Who is asking: bearer tokens (RFC 6750), verified once and remembered until they expire."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple, Protocol

import jwt
import msgspec
from aiohttp import web

from engine.accepting import Caller
from engine.errors import RoleRequired
from handlers.http import HttpRefused

_ADMIN: Final = "admin"
_PRIVILEGED: Final = frozenset({"service", _ADMIN})
_CACHE_MAX: Final = 10_000
_REVOKED_CHECK_S: Final = 1.0
"""How long a token that was logged out elsewhere may go on being taken here."""
_TOKEN_LENGTH_MAX: Final = 8192
SECRET_LENGTH_MIN: Final = 32
"""RFC 7518 §3.2, for HS256."""

Algorithm = Literal["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"]


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How callers prove who they are.

    A shared `secret`, at least 32 characters, for the HS algorithms; `previous_secret` is taken too while keys rotate.
    The ids are the tokens' `kid`. The public keys behind `jwks_url` for the others.
    """

    mode: Literal["jwt", "none"] = "jwt"
    """`none` is for one privileged caller behind another gate."""
    secret: str = ""
    """What tokens are signed with, at least 32 characters."""
    secret_id: str = ""
    """Its id, the `kid` of the tokens that are made here."""
    previous_secret: str = ""
    """Taken too while keys rotate: first move `secret` here, then set the new one."""
    previous_secret_id: str = ""
    """The id of the previous secret."""
    algorithms: tuple[Algorithm, ...] = ("HS256",)
    """HS256, HS384, HS512 with the secret; RS256, ES256, EdDSA with keys from `jwks_url`."""
    issuer: str = ""
    """The `iss` that tokens must have; empty: any."""
    audience: str = ""
    """The `aud` that tokens must have; empty: any."""
    leeway_s: int = 5
    """How far clocks may differ."""
    jwks_url: str = ""
    """Where the public keys of another issuer are (RFC 7517)."""
    jwks_cache_s: float = 300.0
    """How long these keys are kept."""

    def __post_init__(self) -> None:
        if not self.algorithms:
            raise ValueError("auth.algorithms must name at least one algorithm")
        if not 0 <= self.leeway_s <= 300:
            raise ValueError("auth.leeway_s must be 0 to 300")
        if not 1 <= self.jwks_cache_s <= 86_400:
            raise ValueError("auth.jwks_cache_s must be 1 to 86400")
        if self.previous_secret and len(self.previous_secret) < SECRET_LENGTH_MIN:
            raise ValueError(f"auth.previous_secret must have at least {SECRET_LENGTH_MIN} characters")
        if bool(self.jwks_url) != any(not _is_shared(name) for name in self.algorithms):
            raise ValueError("auth.jwks_url and an algorithm of RS256, ES256, EdDSA in auth.algorithms need each other")

    @property
    def shares_secret(self) -> bool:
        """Whether tokens signed with `secret` are taken, and can be made."""
        return any(map(_is_shared, self.algorithms))

    def __repr__(self) -> str:
        return f"AuthSettings(mode={self.mode!r}, algorithms={self.algorithms!r}, secret=…)"


class PublicKeys(Protocol):
    """The keys of whoever issues tokens."""

    async def find(self, key_id: str) -> Any | None:
        """The public key of this id (the only one, for an empty id), or None. Raises `SigningKeysUnavailable`."""
        ...


class Revocations(Protocol):
    """Tokens that were logged out before their time, by `jti`."""

    async def revoke(self, token_id: str, *, seconds: float) -> None: ...
    async def is_revoked(self, token_id: str) -> bool: ...


class _Known(NamedTuple):
    """A token that was verified."""

    until: float
    expires: float
    """Its own end; `until` may be earlier, and then it is verified again."""
    caller: Caller
    token_id: str
    looked_at: float
    """When its revocation was asked for last."""
    admin: bool
    """Whether it may change how the engine works, and not only act for everybody."""


class Authenticator:
    """Turns a request's token into its caller. Raises `HttpRefused` 401 otherwise."""

    def __init__(
        self,
        settings: AuthSettings,
        public_keys: PublicKeys | None = None,
        revocations: Revocations | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._public_keys = public_keys
        self._revocations = revocations
        self._clock = clock
        self._cache: dict[str, _Known] = {}

    async def caller(self, request: web.Request) -> Caller:
        """Who asks. With `mode = "none"` everybody is one privileged caller."""
        if self._settings.mode == "none":
            return Caller("anonymous", privileged=True)
        return (await self._known(request)).caller

    async def administrator(self, request: web.Request) -> Caller:
        """Who asks, if its role is `admin`. Raises `RoleRequired` otherwise. With `mode = "none"` everybody is."""
        if self._settings.mode == "none":
            return Caller("anonymous", privileged=True)
        known = await self._known(request)
        if not known.admin:
            raise RoleRequired("this needs the role admin")
        return known.caller

    async def _known(self, request: web.Request) -> _Known:
        known = self._cache.get(token := _token(request))
        if known is None or known.until <= self._clock():
            known = await self._verify(token)
        if known.token_id and self._clock() >= known.looked_at + _REVOKED_CHECK_S:
            await self._look_for_revocation(token, known)
        return known

    async def log_out(self, request: web.Request) -> None:
        """Take this request's token no more: here at once, in other processes within a second.

        A token without an id of its own (`jti`) cannot be named to them, and is refused.
        """
        await self.caller(request)
        known = self._cache.get(token := _token(request)) if self._settings.mode == "jwt" else None
        if known is None or not known.token_id or self._revocations is None:
            raise HttpRefused(422, "INVALID_REQUEST", "this access token cannot be logged out")
        await self._revocations.revoke(known.token_id, seconds=known.expires - self._clock())
        self._cache.pop(token, None)

    async def _look_for_revocation(self, token: str, known: _Known) -> None:
        if self._revocations is not None and await self._revocations.is_revoked(known.token_id):
            self._cache.pop(token, None)
            raise _unauthorized("the access token was logged out", "invalid_token")
        self._cache[token] = known._replace(looked_at=self._clock())

    async def _verify(self, token: str) -> _Known:
        if len(token) > _TOKEN_LENGTH_MAX:
            raise _unauthorized("the access token is too long", "invalid_token")
        try:
            claims = await self._claims(token)
            roles = _roles(claims)
            caller = _caller(claims, roles)
            token_id = _token_id(claims)
        except jwt.ExpiredSignatureError:
            raise _unauthorized("the access token has expired", "invalid_token") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            # No reason given: it would help only who forges.
            raise _unauthorized("the access token is not valid", "invalid_token") from None
        if len(self._cache) >= _CACHE_MAX:
            self._cache.clear()
        until = expires = float(claims["exp"]) + self._settings.leeway_s
        if self._settings.jwks_url:
            # A key that its issuer has withdrawn is not trusted longer than the keys themselves are kept.
            until = min(until, self._clock() + self._settings.jwks_cache_s)
        known = self._cache[token] = _Known(until, expires, caller, token_id, looked_at=0.0, admin=_ADMIN in roles)
        return known

    async def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid", "")
        if algorithm not in self._settings.algorithms or not isinstance(key_id, str):
            raise jwt.InvalidAlgorithmError("not configured")
        # The algorithm decides whose key is used: with one list for both, a public key could pass for a secret.
        if not _is_shared(algorithm):
            key = await self._public_keys.find(key_id) if self._public_keys is not None else None
            if key is None:
                raise jwt.InvalidSignatureError("no such key")
            return self._decode(token, key, algorithm)
        for secret in self._secrets(key_id):
            try:
                return self._decode(token, secret, algorithm)
            except jwt.InvalidSignatureError:
                continue
        raise jwt.InvalidSignatureError("by no key of ours")

    def _secrets(self, key_id: str) -> Iterator[str]:
        """The live secrets, the one that the token names first: an id is a hint, the signature is the proof."""
        settings = self._settings
        live = [(settings.secret_id, settings.secret), (settings.previous_secret_id, settings.previous_secret)]
        live.sort(key=lambda pair: pair[0] != key_id)
        return (secret for _, secret in live if secret)

    def _decode(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        settings = self._settings
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=settings.issuer or None,
            audience=settings.audience or None,
            leeway=settings.leeway_s,
            options={"require": ["exp", "sub"], "verify_aud": bool(settings.audience)},
        )
        return claims


def _token(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _unauthorized("Access token required", "")
    return token


def _is_shared(algorithm: str) -> bool:
    return algorithm.startswith("HS")


def _token_id(claims: dict[str, Any]) -> str:
    token_id = claims.get("jti", "")
    if not isinstance(token_id, str) or len(token_id) > 256:
        raise ValueError("jti")
    return token_id


def _roles(claims: dict[str, Any]) -> frozenset[str]:
    roles = claims.get("roles", claims.get("role", []))
    roles = [roles] if isinstance(roles, str) else roles
    return frozenset(role for role in roles if isinstance(role, str)) if isinstance(roles, list) else frozenset()


def _caller(claims: dict[str, Any], roles: frozenset[str]) -> Caller:
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject or len(subject) > 128:
        raise ValueError("sub")
    return Caller(subject, privileged=bool(roles & _PRIVILEGED))


def _unauthorized(message: str, error: str) -> HttpRefused:
    challenge = f'Bearer error="{error}"' if error else "Bearer"
    return HttpRefused(401, "UNAUTHORIZED", message, headers={"WWW-Authenticate": challenge})
