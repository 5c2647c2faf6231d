"""How many requests a surface takes from one caller, and what an answer says of it.

The headers are `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` with seconds from now, as in the IETF
draft up to -06 and as most clients read them. Later drafts have two structured fields; none is a standard yet.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from aiohttp import web

from engine.accepting import Caller
from engine.errors import EngineError
from handlers.address import ClientAddresses, limit_key
from handlers.http import HttpRefused
from handlers.routes import Handler
from metrics.instruments import Instruments
from resilience.limit_settings import Rule
from resilience.limiter import Limiter, Standing

Identify = Callable[[web.Request], Awaitable[Caller]]

_STANDING: Final = web.RequestKey("rate_limit_standing", Standing)


class SurfaceLimits:
    """The limits of one surface. `rules` has every known name; None is a limit that is off."""

    def __init__(
        self,
        surface: str,
        limiter: Limiter,
        rules: Mapping[str, Rule | None],
        addresses: ClientAddresses,
        instruments: Instruments,
    ) -> None:
        self._surface = surface
        self._limiter = limiter
        self._rules = rules
        self._addresses = addresses
        self._limited = instruments.rate_limited
        self.rule = rules.get(surface)
        """The rule for all requests of the surface, if there is one."""
        if self.rule is not None:
            # From the start, or else Prometheus takes the first one for no increase.
            self._limited.labels(surface, self.rule.name)

    async def check(self, request: web.Request, rule_name: str, key: str | None = None) -> None:
        """Count a request under a rule. Call it before the work that is to be protected.

        `key` is who is counted, an account for example; without one it is the client's address. Raises `HttpRefused`:
        429 when there were too many, 503 when nobody can tell and the rule fails closed. An unknown rule: `KeyError`.
        """
        rule = self._rules[rule_name]
        if rule is None:
            return
        who = f"address:{limit_key(self._addresses.of(request))}" if key is None else f"key:{key}"
        standing = await self._limiter.take(rule, who)
        if standing is None:
            if rule.on_failure == "closed":
                raise _cannot_tell()
            return
        _keep_nearest(request, standing)
        if not standing.accepted:
            self._limited.labels(self._surface, rule.name).inc()
            raise _too_many(standing)

    def middleware(self, identify: Identify | None, free: Collection[tuple[str, str]]) -> Any:
        """The aiohttp middleware for the surface's own rule. With `identify` a caller is counted by its token.

        `free` are the methods and paths of routes that are not counted.
        """
        assert self.rule is not None, "a surface without a rule needs no middleware"
        name = self.rule.name

        @web.middleware
        async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not _is_free(request, free):
                await self.check(request, name, await _subject(request, identify))
            return await handler(request)

        return limited

    def dress(self, request: web.Request, response: web.StreamResponse) -> None:
        """Say on an answer how many requests are left, by the rule that is nearest to its end."""
        standing = request.get(_STANDING)
        if standing is not None:
            headers = response.headers
            headers["RateLimit-Limit"] = str(standing.rule.requests)
            headers["RateLimit-Remaining"] = str(standing.remaining)
            headers["RateLimit-Reset"] = str(math.ceil(standing.reset_s))


def _keep_nearest(request: web.Request, standing: Standing) -> None:
    before = request.get(_STANDING)
    if before is None or not standing.accepted or _nearness(standing) < _nearness(before):
        request[_STANDING] = standing


def _nearness(standing: Standing) -> tuple[int, float]:
    return standing.remaining, -standing.reset_s


async def _subject(request: web.Request, identify: Identify | None) -> str | None:
    """Who asks, by a token that is valid; None for everybody else, who is counted by address."""
    if identify is None or "Authorization" not in request.headers:
        return None
    try:
        return (await identify(request)).subject
    except (HttpRefused, EngineError):
        # The handler will say what is wrong with it, if it asks for a token at all.
        return None


def _is_free(request: web.Request, free: Collection[tuple[str, str]]) -> bool:
    resource = request.match_info.route.resource
    if resource is None:
        # Whoever looks for paths that are not there is counted too.
        return False
    method = "GET" if request.method == "HEAD" else request.method
    return (method, resource.canonical) in free


def _too_many(standing: Standing) -> HttpRefused:
    rule, wait_s = standing.rule, max(1, math.ceil(standing.reset_s))
    return HttpRefused(
        429,
        "RATE_LIMITED",
        f"too many requests: {rule.requests} in {rule.window_s} seconds are taken, try again in {wait_s}",
        details={"rule": rule.name},
        headers={"Retry-After": str(wait_s)},
        retry="after",
    )


def _cannot_tell() -> HttpRefused:
    return HttpRefused(
        503,
        "RATE_LIMITER_UNAVAILABLE",
        "requests cannot be counted now, and this one is not taken uncounted",
        headers={"Retry-After": "1"},
        retry="after",
    )
