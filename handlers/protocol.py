"""HTTP as aiohttp speaks it, except for what it cannot parse: that too is refused in the surface's envelope.

aiohttp's own refusal quotes what it read, and what stands in a broken request may be a card number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest

Refuse = Callable[[int], web.Response]
"""The answer to a request that could not be parsed, by its status."""


class EnvelopeProtocol(web.RequestHandler):
    """One connection."""

    __slots__ = ("_refuse",)

    def __init__(self, server: web.Server, refuse: Refuse, **options: Any) -> None:
        super().__init__(server, **options)
        self._refuse = refuse

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse without quoting, and close the connection."""
        # It logs, and raises when half an answer has already gone.
        super().handle_error(request, status, exc, message)
        response = self._refuse(status)
        response.force_close()
        return response
