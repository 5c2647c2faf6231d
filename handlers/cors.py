"""Which other origins' pages may use a surface from a browser (the CORS protocol of the Fetch standard)."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from aiohttp import web

from handlers.http import HttpRefused
from handlers.routes import Handler

_ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:\d{1,5})?\Z")
_EXPOSED: Final = ", ".join(
    (
        "X-Request-Id", "traceparent", "Location", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining",
        "RateLimit-Reset", "Idempotent-Replayed", "Preference-Applied",
    )
)  # fmt: skip


class CorsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For one surface. Without `origins` there is no CORS; `["*"]` is every origin, and then without credentials."""

    origins: tuple[str, ...] = ()
    """`https://shop.example.com`, or `*` for all; none: no CORS."""
    methods: tuple[str, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE")
    """The methods that they may use, if the path has them."""
    headers: tuple[str, ...] = (
        "Authorization", "Content-Type", "Idempotency-Key", "Prefer", "X-Request-Id", "traceparent",
    )  # fmt: skip
    """The headers that they may send."""
    credentials: bool = False
    """Whether cookies are sent; never with `*`."""
    max_age_s: int = 600
    """How long a browser may remember the answer to a preflight request; 0 to 86400."""


class OpenCorsSettings(CorsSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The M-Pesa surface's contract: safe to call from web browsers."""

    origins: tuple[str, ...] = ("*",)


class SurfacesCorsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section for each surface, by its name."""

    core: CorsSettings = CorsSettings()
    orders: CorsSettings = CorsSettings()
    vault: CorsSettings = CorsSettings()
    mpesa: OpenCorsSettings = OpenCorsSettings()
    gateway: CorsSettings = CorsSettings()

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _check(f"cors.{name}", getattr(self, name))

    def surface(self, name: str) -> CorsSettings:
        """The settings for a surface of this name."""
        found = getattr(self, name, None)
        return found if isinstance(found, CorsSettings) else CorsSettings()


def _check(section: str, settings: CorsSettings) -> None:
    if "*" in settings.origins and settings.credentials:
        raise ValueError(f'{section}.credentials cannot be with {section}.origins = ["*"]: name the origins')
    for origin in settings.origins:
        if origin != "*" and not _ORIGIN.match(origin):
            raise ValueError(f"{section}.origins: {origin!r} is no origin: scheme://host or scheme://host:port")
    if not 0 <= settings.max_age_s <= 86_400:
        raise ValueError(f"{section}.max_age_s must be 0 to 86400")


class Cors:
    """Answers preflight requests, and says on every answer who may read it."""

    def __init__(self, settings: CorsSettings) -> None:
        self._any = "*" in settings.origins
        self._origins = frozenset(settings.origins)
        self._methods = frozenset(settings.methods)
        self._headers = frozenset(name.lower() for name in settings.headers)
        self._credentials = settings.credentials
        self._allowed_headers = ", ".join(settings.headers)
        self._max_age_s = str(settings.max_age_s)

    def dress(self, request: web.Request, response: web.StreamResponse) -> None:
        """Put the headers for the page that asks on an answer, refusals too: else it could not read why."""
        headers = response.headers
        if not self._any:
            # On every answer, and whoever asked: a cache must not give one origin's answer to another.
            vary = headers.get("Vary")
            headers["Vary"] = f"{vary}, Origin" if vary else "Origin"
        origin = request.headers.get("Origin")
        if origin is None or not self._admits(origin):
            return
        headers["Access-Control-Allow-Origin"] = "*" if self._any else origin
        headers["Access-Control-Expose-Headers"] = _EXPOSED
        if self._credentials:
            headers["Access-Control-Allow-Credentials"] = "true"

    def middleware(self) -> Any:
        """The aiohttp middleware that answers preflight requests."""

        @web.middleware
        async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
                return await handler(request)
            return self._preflight(request) or await handler(request)

        return preflight

    def _preflight(self, request: web.Request) -> web.Response | None:
        """The answer, or None where there is nothing that could be asked for: no such path, no origin."""
        refusal = request.match_info.http_exception
        origin = request.headers.get("Origin")
        if origin is None or not isinstance(refusal, web.HTTPMethodNotAllowed):
            return None
        methods = self._methods.intersection(refusal.allowed_methods)
        asked = {name.strip().lower() for name in request.headers.get("Access-Control-Request-Headers", "").split(",")}
        if not self._admits(origin):
            raise _refused("pages of this origin may not use this API: see cors in the settings")
        if request.headers["Access-Control-Request-Method"] not in methods:
            raise _refused("this path does not have that method for pages of other origins")
        if not asked - {""} <= self._headers:
            raise _refused(f"pages of other origins may send {self._allowed_headers}, and no other header")
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
                "Access-Control-Allow-Headers": self._allowed_headers,
                "Access-Control-Max-Age": self._max_age_s,
            },
        )

    def _admits(self, origin: str) -> bool:
        return self._any or origin in self._origins


def _refused(message: str) -> HttpRefused:
    return HttpRefused(403, "CORS_REFUSED", message)
