"""Circuits that people hold open or closed by hand: orders, which every process follows."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

REASON_LENGTH_MAX: Final = 200
ACTOR_LENGTH_MAX: Final = 160


class Action(StrEnum):
    """What may be done with a circuit by hand."""

    FORCE_OPEN = "force-open"
    """Nothing goes to the counterparty."""
    CLOSE = "close"
    """Everything goes to it, whatever it answers."""
    RESET = "reset"
    """Its answers decide again, from empty counts."""


class CircuitOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what with which circuit, when and why. The latest of each counterparty is in force."""

    counterparty: str
    action: Action
    actor: str
    reason: str
    at_ms: int
    generation: int = 0
    """Grows with every order of the dataset: two resets, one after the other, are two."""

    @property
    def forces(self) -> bool:
        """Whether the circuit is held, and not left to itself."""
        return self.action is not Action.RESET
