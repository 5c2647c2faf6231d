"""The console's routes. Every handler asks first whether this request may do what it does."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from engine import errors
from engine.circuits import Action
from engine.errors import NothingHere
from handlers.console import pages
from handlers.console.access import Access
from handlers.console.lookup import Lookup
from handlers.console.stream import Stream
from handlers.core_breakers import OrderedCircuits, Reason, check_reason, order_view
from handlers.http import decode, read_body, reply
from handlers.routes import ErrorTable, Route

ERRORS: Final[ErrorTable] = {
    errors.PaymentNotFound: 404,
    errors.CircuitNotFound: 404,
    errors.NothingHere: 404,
    errors.FieldRefused: 422,
    errors.StoreUnavailable: 503,
    errors.Overloaded: 503,
}

_ACTOR_LENGTH_MAX: Final = 60


class SignIn(msgspec.Struct):
    """The token, posted once."""

    token: Annotated[str, Meta(max_length=256)]


class OrderByName(msgspec.Struct):
    """Who orders, as they say themselves: everybody at the console has the same token. And why."""

    actor: Annotated[str, Meta(min_length=1, max_length=_ACTOR_LENGTH_MAX, pattern=r"^[\w.@-][\w .@-]*$")]
    reason: Reason


class Console:
    """The operator's page and what it asks for."""

    def __init__(self, access: Access, stream: Stream, lookup: Lookup, circuits: OrderedCircuits) -> None:
        self._access = access
        self._stream = stream
        self._lookup = lookup
        self._circuits = circuits
        self._sign_in = msgspec.json.Decoder(SignIn)
        self._order = msgspec.json.Decoder(OrderByName)

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route("GET", "/console", self.page, "The operator's page", {200: None}),
            Route("GET", "/console/", self.without_slash, "To the page", {308: None}),
            Route("GET", "/console/static/{name}", self.file, "What the page loads", {200: None}),
            Route("GET", "/console/session", self.session, "Whether one is signed in", {200: None}),
            Route("POST", "/console/session", self.sign_in, "Sign in", {204: None}),
            Route("DELETE", "/console/session", self.sign_out, "Sign out", {204: None}),
            Route("GET", "/console/stream", self.stream, "What goes on, as server-sent events", {200: None}),
            Route("GET", "/console/payments/{payment_id}", self.payment, "A payment and its timeline", {200: None}),
            Route("GET", "/console/search", self.search, "Find payments", {200: None}),
            Route("POST", "/console/circuits/{name}/{action}", self.order, "Order a circuit", {200: None}),
        ]

    async def page(self, request: web.Request) -> web.StreamResponse:
        """`GET /console`."""
        self._access.page(request)
        return pages.page()

    async def without_slash(self, request: web.Request) -> web.StreamResponse:
        """`GET /console/`."""
        self._access.page(request)
        return web.Response(status=308, headers={"Location": "/console"})

    async def file(self, request: web.Request) -> web.StreamResponse:
        """`GET /console/static/{name}`."""
        self._access.page(request)
        found = pages.file(request.match_info["name"])
        if found is None:
            raise NothingHere("there is nothing at this path")
        return found

    async def session(self, request: web.Request) -> web.StreamResponse:
        """`GET /console/session`."""
        self._access.page(request)
        signed_in = await self._access.signed_in(request)
        return reply(200, {"signed_in": signed_in, "asks_for_token": self._access.asks_for_token})

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """`POST /console/session`."""
        wanted = decode(await read_body(request), self._sign_in)
        return await self._access.sign_in(request, wanted.token)

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """`DELETE /console/session`."""
        return self._access.sign_out(request)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /console/stream`."""
        await self._access.reading(request)
        return await self._stream.serve(request, partial(self._access.still, request))

    async def payment(self, request: web.Request) -> web.StreamResponse:
        """`GET /console/payments/{payment_id}`."""
        await self._access.reading(request)
        return reply(200, await self._lookup.page(request.match_info["payment_id"]))

    async def search(self, request: web.Request) -> web.StreamResponse:
        """`GET /console/search?by=payment|order|user|key&q=&subject=`."""
        await self._access.reading(request)
        asked = request.query
        found = await self._lookup.search(asked.get("by", ""), asked.get("q", ""), asked.get("subject", ""))
        return reply(200, {"payments": found})

    async def order(self, request: web.Request) -> web.StreamResponse:
        """`POST /console/circuits/{name}/{action}`."""
        await self._access.changing(request)
        try:
            action = Action(request.match_info["action"])
        except ValueError:
            raise NothingHere("there is no such action") from None
        wanted = decode(await read_body(request), self._order)
        check_reason(wanted.reason)
        check_reason(wanted.actor, field="actor")
        name = request.match_info["name"]
        given = await self._circuits.order(name, action, actor=f"console: {wanted.actor}", reason=wanted.reason)
        return reply(200, order_view(given))
