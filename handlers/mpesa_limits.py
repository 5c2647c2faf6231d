"""The M-Pesa surface's rate limit: there are no tokens, so a request is counted for the client that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from aiohttp import web

from engine.catalogue import Catalogue
from engine.errors import EngineError
from handlers.http import HttpRefused, read_body
from handlers.limits import SurfaceLimits

RULE: Final = "mpesa"


class NamesClient(Protocol):
    """A request that says whose it is."""

    @property
    def client_id(self) -> str: ...


Wanted = TypeVar("Wanted", bound=NamesClient)


class CountedRequests:
    """Reads requests and counts them, `per_client` or else all by the address that they come from."""

    def __init__(self, limits: SurfaceLimits, catalogue: Catalogue, *, per_client: bool) -> None:
        self._limits = limits
        self._catalogue = catalogue
        self._per_client = per_client

    async def read(self, request: web.Request, parse: Callable[[bytes], Wanted]) -> Wanted:
        """The request of an active client. Raises what is wrong with it, or 429 when there were too many."""
        try:
            wanted = parse(await read_body(request))
            await self._catalogue.client(wanted.client_id)
        except (HttpRefused, EngineError):
            # Whoever makes up clients would else be a new one, and have a window of its own, with every request.
            await self._limits.check(request, RULE)
            raise
        await self._limits.check(request, RULE, wanted.client_id if self._per_client else None)
        return wanted
