"""Bytes that are no HTTP request: refused, and what stood in them goes nowhere."""

from __future__ import annotations

import json

import pytest

from tests.api.bad_input import PAN, SECRETS, good
from tests.api.raw import RawAnswer, exchange, head
from tests.api.world import World, as_json, shown

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.usefixtures("all_unwritten")]

BODY = as_json(good())
PLAIN = b"Host: engine\r\n"

NO_REQUESTS = {
    "an unknown method": b"BREW /api/payments HTTP/1.1\r\n" + PLAIN + b"\r\n",
    "another version": b"GET /health HTTP/9.9\r\n" + PLAIN + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\n" + PLAIN + b"no colon\r\n\r\n",
    "a header name with a blank": b"GET /health HTTP/1.1\r\n" + PLAIN + b"X Y: 1\r\n\r\n",
    "a very long address": b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + PLAIN + b"\r\n",
    "a very long header": b"GET /health HTTP/1.1\r\n" + PLAIN + b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n",
    "a length that is no number": head("Content-Length: abc") + BODY,
    "a negative length": head("Content-Length: -5") + BODY,
    "two lengths": head("Content-Length: 5", "Content-Length: 500") + BODY,
    "a length and chunks": head("Content-Length: 5", "Transfer-Encoding: chunked") + BODY,
    "an encoding that cannot be undone": head("Content-Encoding: br", length=len(BODY)) + BODY,
}
# Here the card itself stands where the engine looks for a request, or for a chunk.
CARDS_OUT_OF_PLACE = {
    "a length that is too short": head(length=10) + BODY,
    "a length that ends before the card": head(length=BODY.index(b'{"type"')) + BODY,
    "chunks that are none": head("Transfer-Encoding: chunked") + BODY + b"\r\n\r\n",
    "a body as the request": BODY + b"\r\n\r\n",
    "a card in a header": b"GET /health HTTP/1.1\r\n" + PLAIN + b"card " + PAN.encode() + b"\r\n\r\n",
    "a card in a version": b"GET /health " + PAN.encode() + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", [*NO_REQUESTS, *CARDS_OUT_OF_PLACE])
async def test_what_is_no_request_is_refused_and_the_connection_closed(world: World, name: str) -> None:
    answer = await exchange(world.engine.port, {**NO_REQUESTS, **CARDS_OUT_OF_PLACE}[name])
    assert answer.status in {0, 400, 415, 422}, answer
    assert (await world.send("GET", "/health", auth=None)).status == 200


@pytest.mark.parametrize("name", [*NO_REQUESTS, *CARDS_OUT_OF_PLACE])
async def test_what_is_no_request_leaves_no_card_in_the_log(world: World, name: str) -> None:
    await exchange(world.engine.port, {**NO_REQUESTS, **CARDS_OUT_OF_PLACE}[name])
    log = world.engine.log.read_text()
    assert not any(shown(secret, log) for secret in SECRETS)


@pytest.mark.parametrize("name", NO_REQUESTS)
async def test_what_is_no_request_is_refused_in_the_envelope(world: World, name: str) -> None:
    answer = await exchange(world.engine.port, NO_REQUESTS[name])
    assert in_envelope(answer)


@pytest.mark.parametrize("name", CARDS_OUT_OF_PLACE)
async def test_a_card_out_of_place_is_not_sent_back(world: World, name: str) -> None:
    answer = await exchange(world.engine.port, CARDS_OUT_OF_PLACE[name])
    assert not any(shown(secret, answer.body.decode("latin-1")) for secret in SECRETS)


async def test_an_expectation_that_nobody_knows_is_refused_in_the_envelope(world: World) -> None:
    answer = await exchange(world.engine.port, head("Expect: miracles", length=len(BODY)) + BODY)
    assert (answer.status, in_envelope(answer)) == (417, True)


def in_envelope(answer: RawAnswer) -> bool:
    """Whether this is a refusal in the contract's envelope."""
    try:
        error = json.loads(answer.body)["error"]
    except (ValueError, KeyError):
        return False
    return set(error) == {"code", "message", "details", "request_id", "retry"}
