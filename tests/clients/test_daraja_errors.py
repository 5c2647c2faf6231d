"""The table of Daraja's errors, row by row, through the client: what is said where, and in which words."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from aiohttp import web

from clients.daraja_errors import TABLE, Endpoint, Row, speakable
from clients.http import open_session
from engine.charging import NotSent, Unknown
from engine.pushes import CannotTell, NotPaid, Paid, PushRefused, PushTaken, StillWaiting
from simulators.server import serve
from tests.daraja_support import Line, a_push

CHECKOUT = "ws_CO_1"
TOKEN_BODY = '{"access_token":"t0ken","expires_in":"3599"}'
QUERY_BODY = '{"CheckoutRequestID":"ws_CO_1","ResultCode":"0","ResultDesc":"ok","ResponseCode":"0"}'
PUSH_BODY = '{"MerchantRequestID":"m","CheckoutRequestID":"ws_CO_1","ResponseCode":"0","ResponseDescription":"ok"}'


class Said(NamedTuple):
    """What one endpoint answers, and what the client makes of it. `failures` are the breaker's."""

    endpoint: Endpoint
    status: int
    code: str
    message: str
    kind: type
    failures: int = 0


BUSY = "Error Occurred: Spike Arrest Violation"
SAID = [
    Said(Endpoint.TOKEN, 400, "400.008.01", "Invalid Authentication passed", NotSent),
    Said(Endpoint.TOKEN, 401, "", "", NotSent),
    Said(Endpoint.TOKEN, 500, "500.003.02", BUSY, NotSent, 1),
    Said(Endpoint.TOKEN, 429, "", "", NotSent, 1),
    Said(Endpoint.TOKEN, 503, "", "", NotSent, 1),
    Said(Endpoint.TOKEN, 404, "404.001.01", "Resource not found", NotSent),
    Said(Endpoint.PUSH, 404, "404.001.03", "Invalid Access Token", NotSent),
    Said(Endpoint.PUSH, 401, "401.003.01", "Error Occurred - Invalid Access Token - x", NotSent),
    Said(Endpoint.PUSH, 401, "", "", NotSent),
    Said(Endpoint.PUSH, 429, "", "", NotSent, 1),
    Said(Endpoint.PUSH, 429, "429.001.01", "x", NotSent, 1),
    Said(Endpoint.PUSH, 500, "500.003.02", BUSY, NotSent, 1),
    Said(Endpoint.PUSH, 500, "500.003.03", "Quota Violation", NotSent, 1),
    Said(Endpoint.PUSH, 500, "500.003.02", "System is busy", Unknown, 1),
    Said(Endpoint.PUSH, 500, "500.001.1001", "Unable to lock subscriber, a transaction", PushRefused),
    Said(Endpoint.PUSH, 500, "500.001.1001", "Wrong credentials", PushRefused),
    Said(Endpoint.PUSH, 500, "500.001.1001", "Merchant does not exist", PushRefused),
    Said(Endpoint.PUSH, 500, "500.001.1001", "The transaction is being processed", Unknown, 1),
    Said(Endpoint.PUSH, 500, "500.001.1001", "Internal Server Error", Unknown, 1),
    Said(Endpoint.PUSH, 500, "500.003.1001", "Internal Server Error", Unknown, 1),
    Said(Endpoint.PUSH, 400, "400.002.02", "Bad Request - Invalid PhoneNumber", PushRefused),
    Said(Endpoint.PUSH, 400, "400.002.02", "Bad Request - Invalid CallBackURL", PushRefused),
    Said(Endpoint.PUSH, 405, "405.001", "Method Not Allowed", PushRefused),
    # No words of Daraja's: a proxy, a firewall. Who knows what is behind it.
    Said(Endpoint.PUSH, 400, "", "", Unknown),
    Said(Endpoint.PUSH, 403, "", "", Unknown),
    Said(Endpoint.PUSH, 302, "", "", Unknown),
    Said(Endpoint.PUSH, 502, "", "", Unknown, 1),
    Said(Endpoint.QUERY, 500, "500.001.1001", "The transaction is being processed", StillWaiting),
    Said(Endpoint.QUERY, 500, "500.001.1001", "The transaction is still under processing", StillWaiting),
    Said(Endpoint.QUERY, 500, "500.001.1001", "Wrong credentials", CannotTell),
    Said(Endpoint.QUERY, 400, "400.002.02", "Bad Request - Invalid CheckoutRequestID", CannotTell),
    Said(Endpoint.QUERY, 500, "500.003.02", "System is busy", CannotTell, 1),
    Said(Endpoint.QUERY, 500, "500.003.02", BUSY, CannotTell, 1),
    Said(Endpoint.QUERY, 404, "404.001.03", "Invalid Access Token", CannotTell),
    Said(Endpoint.QUERY, 500, "1032", "Request cancelled by user", CannotTell, 1),
    Said(Endpoint.QUERY, 403, "", "", CannotTell),
]  # fmt: skip


class Scripted:
    """Answers well, but at one endpoint as told."""

    def __init__(self, endpoint: Endpoint, status: int, body: str) -> None:
        self.good = {Endpoint.TOKEN: TOKEN_BODY, Endpoint.PUSH: PUSH_BODY, Endpoint.QUERY: QUERY_BODY}
        self.endpoint, self.status, self.body = endpoint, status, body
        self.asked: list[Endpoint] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        await request.read()
        endpoint = Endpoint(request.raw_path)
        self.asked.append(endpoint)
        if endpoint is self.endpoint:
            return web.Response(status=self.status, text=self.body, content_type="application/json")
        return web.Response(text=self.good[endpoint], content_type="application/json")


@asynccontextmanager
async def scripted(endpoint: Endpoint, status: int, body: str) -> AsyncIterator[tuple[Scripted, Line]]:
    server = Scripted(endpoint, status, body)
    async with serve(server) as base, open_session(client_id="payment-service") as wire:
        yield server, Line(wire, base, tries_max=1)


def first_row(said: Said) -> Row | None:
    """The row that decides, by another way than the client's."""
    code = said.code or str(said.status)
    for row in TABLE:
        here = row.endpoint is None or row.endpoint is said.endpoint
        if here and re.fullmatch(row.code, code) and re.search(row.message, said.message, re.IGNORECASE):
            return row
    return None


@pytest.mark.parametrize(
    "said", SAID, ids=lambda said: f"{said.endpoint.name} {said.status} {said.code} {said.message}"
)
async def test_an_error_means_what_the_table_says(said: Said) -> None:
    body = (
        json.dumps({"requestId": "1-2", "errorCode": said.code, "errorMessage": said.message}) if said.code else "<p>"
    )
    async with scripted(said.endpoint, said.status, body) as (server, line):
        asks = said.endpoint is Endpoint.QUERY
        answer = await (line.client.query(CHECKOUT) if asks else line.client.push(a_push()))
    assert type(answer) is said.kind, answer
    assert line.failures == said.failures
    if isinstance(answer, PushRefused):
        assert answer == PushRefused(said.code, said.message)
    if isinstance(answer, (NotSent, CannotTell)):
        assert answer.retry_after_s > 0
    assert server.asked.count(said.endpoint) <= 2, "one renewal of the token, never a loop"


def test_every_row_of_the_table_has_its_test() -> None:
    assert {first_row(said) for said in SAID} - {None} == set(TABLE)


@pytest.mark.parametrize(
    ("body", "answer"),
    [(PUSH_BODY, PushTaken("ws_CO_1", "m")),
     (PUSH_BODY.replace('"0"', "0"), PushTaken("ws_CO_1", "m")),
     ('{"ResponseCode":"1","ResponseDescription":"Rejected"}', PushRefused("1", "Rejected")),
     ('{"ResponseCode":"1","ResponseDescription":"No 254712345678"}', PushRefused("1", "No …")),
     (PUSH_BODY.replace("ws_CO_1", ""), None), (PUSH_BODY.replace("ws_CO_1", "a b"), None), ("{}", None),
     (PUSH_BODY.replace("ws_CO_1", "x" * 129), None), ("[" * 100_000, None), ("", None),
     ('{"ResponseCode":true}', None)],
)  # fmt: skip
async def test_a_push_is_taken_only_when_it_has_a_name(body: str, answer: object) -> None:
    async with scripted(Endpoint.PUSH, 200, body) as (_, line):
        told = await line.client.push(a_push())
    assert isinstance(told, Unknown) if answer is None else told == answer


@pytest.mark.parametrize(
    ("body", "answer"),
    [(QUERY_BODY, Paid()), (QUERY_BODY.replace('Code":"0"', 'Code":0'), Paid()),
     (QUERY_BODY.replace('"0"', '"1032"'), NotPaid("1032", "ok")),
     (QUERY_BODY.replace('"0"', '"SFC_IC0003"'), NotPaid("SFC_IC0003", "ok")),
     (QUERY_BODY.replace('"0"', '"4999"').replace("ok", "The transaction is still under processing"), StillWaiting()),
     (QUERY_BODY.replace("ws_CO_1", "ws_CO_2"), None), (QUERY_BODY.replace('"0"', '""'), None),
     (QUERY_BODY.replace('"0"', "true"), None), (QUERY_BODY.replace('"0"', "null"), None), ("{}", None),
     (QUERY_BODY.replace('"0"', '" 0"'), None), ("[" * 100_000, None)],
)  # fmt: skip
async def test_a_query_tells_about_the_push_that_was_asked_about(body: str, answer: object) -> None:
    async with scripted(Endpoint.QUERY, 200, body) as (_, line):
        told = await line.client.query(CHECKOUT)
    assert isinstance(told, CannotTell) if answer is None else told == answer


@pytest.mark.parametrize(
    "body",
    ['{"access_token":"","expires_in":"3599"}', '{"access_token":"a b","expires_in":"3599"}', "{}", "",
     '{"access_token":"a\\r\\nX: y","expires_in":"3599"}', '{"access_token":"t","expires_in":"soon"}',
     '{"access_token":"t","expires_in":"0"}', '{"access_token":"t","expires_in":"nan"}',
     '{"access_token":"t","expires_in":-5}', '{"access_token":"t"}'],
)  # fmt: skip
async def test_what_is_no_token_is_not_sent_on(body: str) -> None:
    async with scripted(Endpoint.TOKEN, 200, body) as (server, line):
        assert isinstance(await line.client.push(a_push()), NotSent)
    assert set(server.asked) == {Endpoint.TOKEN}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Request cancelled by user", "Request cancelled by user"), ("to 254712345678 now", "to …now"), ("a\nb", "ab"),
     ("token BJGFGOXv5aZnw90KkA4TDtu4Xdyf", "token …"), ("x " * 200, "x " * 100)],
)  # fmt: skip
def test_words_of_daraja_are_kept_as_far_as_they_can_hurt_nobody(text: str, shown: str) -> None:
    assert speakable(text) == shown
