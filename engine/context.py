"""The request that the current task works for, so that it can be named in logs and to counterparties."""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from typing import Final, NamedTuple


class RequestContext(NamedTuple):
    """The ids that travel with a request through every process."""

    request_id: str
    traceparent: str


_NONE: Final = RequestContext("", "")
_current: ContextVar[RequestContext] = ContextVar("request", default=_NONE)

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")


def current() -> RequestContext:
    """The ids of the request that is being worked for; empty ones outside of any."""
    return _current.get()


def set_current(request_id: str, traceparent: str) -> RequestContext:
    """Work for this request from here on, in this task and those that it starts."""
    context = RequestContext(request_id, traceparent)
    _current.set(context)
    return context


def accept(request_id: str | None, traceparent: str | None) -> RequestContext:
    """The ids that a client sent where they have the right form (W3C Trace Context for the second), else new ones."""
    fresh = os.urandom(32).hex()
    if request_id is None or not _REQUEST_ID.match(request_id):
        request_id = fresh[:16]
    if traceparent is None or not _TRACEPARENT.match(traceparent):
        traceparent = f"00-{fresh[16:48]}-{fresh[48:]}-01"
    return set_current(request_id, traceparent)


def trace_id_of(traceparent: str) -> str:
    """The trace's id; empty when the text is no `traceparent`."""
    return traceparent[3:35] if _TRACEPARENT.match(traceparent) else ""
