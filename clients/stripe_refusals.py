"""What Stripe's refusals mean. A refusal of the request is one thing, a refusal of the card another."""

from __future__ import annotations

from typing import Final

import structlog

from clients import stripe_answers as answers
from clients.stripe_answers import Failure, Intent
from engine.charging import NeverSeen, NotSent, Outcome, Unknown
from engine.facts import Kind
from engine.money import Money

_BAD_REQUEST: Final = 400
_CARD_REFUSED: Final = 402
_NOT_ALLOWED: Final = (401, 403)
_CONFLICT: Final = 409
_NOT_ALLOWED_RETRY_S: Final = 30.0
_ACTION: Final = "requires_action"
_STATE: Final = "payment_intent_unexpected_state"

log = structlog.get_logger()


def judged(kind: Kind, intent: Intent, amount: Money) -> Outcome | NeverSeen | Intent:
    """What an intent's state says; the intent itself when it waits for its owner and has to be cancelled."""
    if intent.status == _ACTION and kind in (Kind.CHARGE, Kind.AUTHORIZE):
        return intent
    return answers.intent_outcome(kind, intent, amount)


def refused(
    name: str, status: int, error: Failure, kind: Kind, attempt_id: str, amount: Money, intent_id: str = ""
) -> Outcome | Intent:
    """What an answer from 400 to 499 says about an attempt."""
    if status in _NOT_ALLOWED:
        log.error("the acquirer does not accept our key", acquirer=name, status=status)
        # Refused at the door, before anything was looked at.
        return NotSent(f"{name} answered {status}", _NOT_ALLOWED_RETRY_S)
    if status == _CONFLICT:
        return Unknown(f"{name} is at it already")
    if error.type == "idempotency_error":
        log.error("the attempt's key was used for another request", acquirer=name, attempt_id=attempt_id)
        return Unknown(f"{name} knows the attempt as another request")
    if error.payment_intent is not None and kind is not Kind.REFUND:
        # What is, before what is said about it.
        found = judged(kind, answers.same_intent(error.payment_intent, intent_id), amount)
        if not isinstance(found, NeverSeen):
            return found
    if kind in (Kind.CHARGE, Kind.AUTHORIZE):
        if status == _CARD_REFUSED or error.type == "card_error":
            return answers.declined(error)
        if status == _BAD_REQUEST and error.code != _STATE:
            # For example: raw card numbers are not enabled. The request was refused, so nothing was begun.
            log.error("the acquirer refuses the request", acquirer=name, attempt_id=attempt_id, code=error.code)
            return answers.declined(error)._replace(retryable=True)
    elif answers.certainly_refused(error):
        return answers.declined(error)
    return Unknown(f"{name} answered {status}")
