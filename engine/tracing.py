"""Spans, as those see them who make them: what a piece of work is called, whose part it is, and how it ended.

Nothing here knows how spans are made or where they go. Without tracing nobody calls any of this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Literal, Protocol

from engine import context

Kind = Literal["server", "client", "producer", "consumer", "internal"]
Attributes = Mapping[str, str | int]
"""Never card numbers, tokens, names, addresses or queries: ids, routes, statuses."""


class Span(Protocol):
    """A piece of work of a trace, from its `begin` to its `end`."""

    @property
    def traceparent(self) -> str:
        """What makes others part of this span."""
        ...

    def note(self, name: str, value: str | int) -> None: ...
    def fail(self, error_type: str) -> None: ...
    def end(self) -> None: ...


class Tracer(Protocol):
    """Makes spans. No method raises or waits, whatever becomes of the spans."""

    def begin(self, name: str, kind: Kind, attributes: Attributes, parent: str) -> Span:
        """A span below `parent`, a valid `traceparent`; a new trace if that is empty."""
        ...


@contextlib.contextmanager
def spanning(
    tracer: Tracer, name: str, kind: Kind, attributes: Attributes | None = None, *, parent: str | None = None
) -> Iterator[Span]:
    """A span around a block, and the block works for it meanwhile. `parent`: else what is being worked for now.

    An error that leaves the block is kept by its type: its text may hold anything.
    """
    before = context.current()
    span = tracer.begin(name, kind, attributes or {}, before.traceparent if parent is None else parent)
    context.swap(context.Spanned(before.request_id, span.traceparent))
    try:
        yield span
    except BaseException as error:
        span.fail(type(error).__name__)
        raise
    finally:
        context.swap(before)
        span.end()
