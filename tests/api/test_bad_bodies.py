"""Bodies that are too large, too deep, too slow, or of the wrong kind."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator

import pytest

from tests.api.bad_input import NOT_JSON, good
from tests.api.raw import RawAnswer, exchange, head, read_answer
from tests.api.world import PAYMENTS, World, as_json, payment_body, token

pytestmark = pytest.mark.asyncio(loop_scope="package")
unwritten = pytest.mark.usefixtures("unwritten")

BODY_MAX = 64 * 1024


def padded(body: bytes, length: int) -> bytes:
    """The same JSON with blanks up to this length."""
    return body[:-1] + b" " * (length - len(body)) + b"}"


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """JSON inside JSON inside JSON."""
    return opening * depth + b"1" + closing * depth


def chunked(*chunks: bytes, ended: bool = True) -> bytes:
    """These chunks as they go over the wire."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + (b"0\r\n\r\n" if ended else b"")


def envelope(answer: RawAnswer, status: int, code: str) -> None:
    """Assert that a raw answer is a refusal in the contract's envelope."""
    assert answer.status == status, answer
    assert answer.json["error"]["code"] == code
    assert answer.json["error"]["request_id"] == answer.headers["x-request-id"]


@unwritten
@pytest.mark.parametrize("depth", [100, 1_000, 10_000, 32_000])
async def test_a_deeply_nested_body_is_refused(world: World, depth: int) -> None:
    for body in (
        nested(depth),
        nested(min(depth, 8_000), b'{"a":', b"}"),
        as_json(good(), amount=nested(depth // 2).decode()),
        as_json(good()).replace(b'"credit_card"', nested(depth // 2)),
    ):
        answer = await world.pay(body)
        assert answer.status in {400, 422}, answer
        world.refused(answer, answer.status)


@unwritten
async def test_a_deeply_nested_field_that_nobody_knows_breaks_nothing(world: World) -> None:
    body = as_json(good() | {"amount": 1}).replace(b"{", b'{"unknown": ' + nested(30_000) + b", ", 1)
    answer = await world.pay(body)
    assert answer.status in {400, 422}
    world.refused(answer, answer.status)


async def test_a_body_of_exactly_64_kib_is_taken(world: World) -> None:
    body = padded(as_json(payment_body(await world.order())), BODY_MAX)
    assert len(body) == BODY_MAX
    assert (await world.pay(body)).status == 201


async def test_the_same_in_chunks_is_taken(world: World) -> None:
    body = padded(as_json(payment_body(await world.order())), BODY_MAX)
    answer = await exchange(world.engine.port, head("Transfer-Encoding: chunked") + chunked(body[:1], body[1:]))
    assert answer.status == 201


@unwritten
@pytest.mark.parametrize("length", [BODY_MAX + 1, 2 * BODY_MAX, 4_000_000])
async def test_a_larger_body_is_413(world: World, length: int) -> None:
    data = padded(as_json(good()), length)
    envelope(await exchange(world.engine.port, head(length=length) + data), 413, "BODY_TOO_LARGE")


@unwritten
@pytest.mark.parametrize("count", [5, 60])
async def test_a_larger_body_in_chunks_is_413(world: World, count: int) -> None:
    chunks = [b" " * 16 * 1024] * count
    data = head("Transfer-Encoding: chunked") + chunked(*chunks, as_json(good()))
    envelope(await exchange(world.engine.port, data), 413, "BODY_TOO_LARGE")


@unwritten
async def test_a_body_that_is_announced_too_large_is_not_waited_for(world: World) -> None:
    """Had it been, it would have come too late, which is 408."""
    answer = await exchange(world.engine.port, head(length=99_999_999_999) + b"{")
    envelope(answer, 413, "BODY_TOO_LARGE")


@unwritten
async def test_chunks_without_end_are_cut_off(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.engine.port)
    writer.write(head("Transfer-Encoding: chunked"))
    answering = asyncio.create_task(read_answer(reader))
    sent = 0
    while not answering.done() and sent < 50_000_000:
        writer.write(chunked(b" " * 4096, ended=False))
        sent += 4096
        await asyncio.sleep(0)
    answer = await answering
    writer.close()
    assert answer.status in {0, 413}
    assert sent < 50_000_000


@unwritten
@pytest.mark.parametrize(
    "media_type",
    [
        None, "", "text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/jsonp", "application/json-patch+json", "application/xml", "application", "json", "*/*",
        "application/json, text/plain",
    ],
)  # fmt: skip
async def test_a_wrong_media_type_is_415(world: World, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    answer = await world.send("POST", PAYMENTS, body=as_json(good()), headers=headers)
    world.refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json;v=1"])
async def test_json_by_any_spelling_is_taken(world: World, media_type: str) -> None:
    body = as_json(payment_body(await world.order()))
    answer = await world.send("POST", PAYMENTS, body=body, headers={"Content-Type": media_type})
    assert answer.status == 201


@unwritten
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", "x-unknown"])
async def test_an_encoded_body_is_415(world: World, encoding: str) -> None:
    packed = gzip.compress(as_json(good()))
    data = head(f"Content-Encoding: {encoding}", length=len(packed)) + packed
    envelope(await exchange(world.engine.port, data), 415, "UNSUPPORTED_MEDIA_TYPE")


@unwritten
async def test_a_small_body_that_unpacks_to_megabytes_is_refused(world: World) -> None:
    bomb = gzip.compress(b" " * 20_000_000 + as_json(good()))
    assert len(bomb) < BODY_MAX
    data = head("Content-Encoding: gzip", length=len(bomb)) + bomb
    envelope(await exchange(world.engine.port, data), 415, "UNSUPPORTED_MEDIA_TYPE")


@unwritten
async def test_an_unknown_caller_is_refused_whatever_the_body(world: World) -> None:
    for body in (b"", b"{", as_json(good()), b" " * (BODY_MAX + 1)):
        answer = await world.send("POST", PAYMENTS, body=body, auth=None, headers={"Content-Type": "application/json"})
        world.refused(answer, 401, "UNAUTHORIZED")


async def stalled(port: int, *, begun: bytes, more: bytes, every_s: float) -> tuple[RawAnswer, float]:
    """A client that sends the beginning of a request, and then `more` every so often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    writer.write(begun)
    answering = asyncio.create_task(read_answer(reader))
    while not answering.done() and time.monotonic() - began < 60:
        await asyncio.wait([answering], timeout=every_s)
        if not answering.done() and more:
            writer.write(more)
    answering.cancel() if not answering.done() else None
    answer = await answering
    writer.close()
    return answer, time.monotonic() - began


async def served(world: World, stop: asyncio.Event) -> AsyncIterator[float]:
    """How long other clients wait for their payments meanwhile."""
    while not stop.is_set():
        order = await world.order()
        asked = time.monotonic()
        assert (await world.pay(payment_body(order))).status == 201
        yield time.monotonic() - asked
        await asyncio.sleep(0.2)


async def test_slow_bodies_are_given_up_while_others_are_served(world: World) -> None:
    """Fifty clients that stall in their bodies, each in one of three ways."""
    port, body = world.engine.port, as_json(payment_body("order-slow"))
    ways = (
        {"begun": head(length=len(body)) + body[:20], "more": b"", "every_s": 1.0},
        {"begun": head(length=len(body)) + body[:1], "more": b" ", "every_s": 1.0},
        {"begun": head("Transfer-Encoding: chunked"), "more": chunked(b" ", ended=False), "every_s": 0.5},
    )
    stop = asyncio.Event()

    async def others() -> list[float]:
        return [seconds async for seconds in served(world, stop)]

    async with asyncio.TaskGroup() as tasks:
        meanwhile = tasks.create_task(others())
        slow = [tasks.create_task(stalled(port, **ways[number % 3])) for number in range(50)]  # type: ignore[arg-type]
        await asyncio.wait(slow)
        stop.set()
    for answer, seconds in (task.result() for task in slow):
        assert seconds < 45
        if answer.status:
            envelope(answer, 408, "REQUEST_TIMEOUT")
            assert answer.headers["connection"] == "close"
    assert sum(task.result()[0].status == 408 for task in slow) >= 17
    # Whoever had to wait for them had to wait for as long as they were given.
    assert max(meanwhile.result()) < min(task.result()[1] for task in slow)
    assert len(meanwhile.result()) >= 3


async def test_a_client_that_leaves_in_the_middle_of_its_body_does_no_harm(world: World) -> None:
    body = as_json(payment_body(await world.order()))
    before = await world.at_rest()
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", world.engine.port)
        writer.write(head(length=len(body)) + body[:-1])
        await writer.drain()
        writer.transport.abort()
    await asyncio.sleep(0.2)
    assert await world.at_rest() == before
    assert (await world.pay(body)).status == 201


async def test_the_code_of_a_body_that_is_not_json_is_told_before_anything_is_asked(world: World) -> None:
    await world.sims.fault(world.sims.users, "delay", delay_s=0, times=1)
    world.refused(await world.pay(b"{", auth=token("nobody-asked-about")), 400, NOT_JSON)
    assert (await world.sims.faults(world.sims.users))["fired"]["delay"] == 0
    await world.sims.clear_faults(world.sims.users)
