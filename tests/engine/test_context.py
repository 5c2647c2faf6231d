"""The request's ids: taken from the client where they have the right form, else made."""

from __future__ import annotations

import asyncio
import re

import pytest

from engine import context

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("request_id", ["a", "req-1", "x" * 128, "!~", '{"a":1}'])
async def test_a_good_request_id_is_kept(request_id: str) -> None:
    assert context.accept(request_id, TRACEPARENT) == (request_id, TRACEPARENT) == context.current()


@pytest.mark.parametrize(
    "request_id", [None, "", " ", "a b", "x" * 129, "a\n", "a\r\nX-Evil: 1", "ключ", "\x00", "a\x7f", "é"]
)
async def test_a_bad_request_id_is_replaced(request_id: str | None) -> None:
    """It goes into logs and into the headers of other services: it must not carry lines into them."""
    made = context.accept(request_id, TRACEPARENT)
    assert re.fullmatch("[0-9a-f]{16}", made.request_id) and made.traceparent == TRACEPARENT


@pytest.mark.parametrize(
    "traceparent",
    [None, "", "00", TRACEPARENT + "-01", TRACEPARENT + "\n", TRACEPARENT.upper(), TRACEPARENT.replace("00-", "01-", 1),
     "00-" + "0" * 32 + "-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
     "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01", TRACEPARENT.replace("-", "_")],
)  # fmt: skip
async def test_a_bad_traceparent_is_replaced_by_a_good_one(traceparent: str | None) -> None:
    """W3C Trace Context: lower-case hex, no all-zero ids."""
    made = context.accept("req-1", traceparent)
    assert made.request_id == "req-1" and made.traceparent != traceparent
    assert re.fullmatch("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01", made.traceparent)


async def test_two_requests_get_ids_of_their_own() -> None:
    assert context.accept(None, None) != context.accept(None, None)


async def test_tasks_that_work_at_once_do_not_see_each_others_request() -> None:
    async def work(request_id: str) -> str:
        context.accept(request_id, TRACEPARENT)
        await asyncio.sleep(0)
        return context.current().request_id

    assert [*await asyncio.gather(work("one"), work("other"))] == ["one", "other"]
    assert context.current() == ("", "")


async def test_a_task_works_for_the_request_that_started_it() -> None:
    async def look() -> str:
        return context.current().request_id

    context.set_current("req-1", TRACEPARENT)
    assert await asyncio.create_task(look()) == "req-1"
