"""Deliveries: what waits to be told to somebody, and what becomes of it in the schedule."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Delivery(NamedTuple):
    """Something to deliver. `id` names it within its lane, for as long as the lane remembers it."""

    id: str
    lane: str
    """No `|` in it."""
    line: str
    item: bytes
    """Not empty."""
    due_ms: int


class Leased(NamedTuple):
    """A delivery that is ours to try until `till_ms`."""

    lane: str
    line: str
    id: str
    item: bytes
    till_ms: int


class Added(IntEnum):
    """What became of a delivery that was given to `add`."""

    FULL = -1
    KNOWN = 0
    ADDED = 1


class Listed(NamedTuple):
    """A delivery in its lane's list. `number` grows; `waits` says whether it has not ended."""

    number: int
    id: str
    item: bytes
    waits: bool
