"""Lists in pages, newest first: `limit`, and an opaque `cursor` that is the last id of the page before."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, NamedTuple

from aiohttp import web

from engine.ids import PaymentId, is_payment_id
from engine.payment import Payment
from handlers.http import HttpRefused
from handlers.routes import Param

PAGE_DEFAULT: Final = 10
PAGE_MAX: Final = 100
LIMIT: Final = Param(
    "limit", "query", {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT}, "Page size."
)
CURSOR: Final = Param("cursor", "query", {"type": "string"}, "`next_cursor` of the page before.")


class Page(NamedTuple):
    """What of a list is asked for. One more than `limit` is read: it tells whether there is a next page."""

    limit: int
    before: PaymentId | None

    @property
    def to_read(self) -> int:
        """How many to read."""
        return self.limit + 1

    def cut(self, payments: list[Payment]) -> tuple[list[Payment], str | None]:
        """The page, and the cursor of the next one; None at the end."""
        page = payments[: self.limit]
        more = len(payments) > self.limit
        return page, urlsafe_b64encode(page[-1].id.encode()).decode() if more else None


def limit_of(request: web.Request) -> int:
    """How long a page the request asks for."""
    text = request.query.get("limit", str(PAGE_DEFAULT))
    limit = int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else 0
    if not 1 <= limit <= PAGE_MAX:
        raise HttpRefused(422, "INVALID_REQUEST", f"limit must be 1 to {PAGE_MAX}", details={"field": "limit"})
    return limit


def page_of(request: web.Request) -> Page:
    """The page that the request asks for."""
    limit = limit_of(request)
    cursor = request.query.get("cursor")
    if cursor is None:
        return Page(limit, None)
    try:
        before = urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
    except ValueError:
        before = ""
    if not is_payment_id(before):
        raise HttpRefused(422, "INVALID_REQUEST", "cursor is not one of ours", details={"field": "cursor"})
    return Page(limit, PaymentId(before))
