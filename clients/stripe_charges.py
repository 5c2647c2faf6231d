"""Charges at Stripe: an intent is made, then confirmed. `clients/stripe.py` says what each broken step means."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import quote

import structlog

from clients import stripe_answers as answers
from clients.acquirer import trouble
from clients.stripe_answers import Intent
from clients.stripe_forms import confirm_form, encode_form, intent_form
from clients.stripe_line import StripeLine
from clients.stripe_refusals import judged, refused
from engine.cards import Card
from engine.charging import AcquirerRequest, NeverSeen, NotSent, Outcome, Unknown
from engine.facts import Kind
from engine.ids import Clock, PaymentId, is_payment_id, minted_ms
from engine.money import Money
from engine.settling import Declined
from resilience.errors import CounterpartyError, Refused

_OK: Final = 200
_KEY_KEPT_MS: Final = 20 * 3_600_000
"""Below the 24 hours for which Stripe keeps a key at least, with room for a clock that is wrong."""
_CLOCKS_APART_S: Final = 300
_UNCONFIRMED_MAX_S: Final = 3600
_RETRY_S: Final = 1.0

log = structlog.get_logger()


class StripeCharges:
    """Charges and authorizations. `patience_s` bounds a whole send."""

    def __init__(self, line: StripeLine, clock: Clock, *, patience_s: float) -> None:
        self._line = line
        self._clock = clock
        self._patience_s = patience_s

    async def send(self, request: AcquirerRequest) -> Outcome:
        """Make the attempt's intent and confirm it with the card."""
        card = request.instrument
        if not isinstance(card, Card):
            return Declined("payment_method_not_supported", "Only cards are taken here", retryable=True)
        ends_at_s = asyncio.get_running_loop().time() + self._patience_s
        made = await self._make(request.kind, request.attempt_id, request.payment_id, request.amount)
        if not isinstance(made, str):
            return made
        if asyncio.get_running_loop().time() >= ends_at_s:
            # Its lease may end before the answer comes, and nothing has moved yet.
            return NotSent(f"{self._line.name} was too slow to begin", _RETRY_S)
        try:
            async with asyncio.timeout_at(ends_at_s):
                return await self._confirm(made, request, card)
        except TimeoutError:
            return Unknown(f"{self._line.name} did not answer in time")

    async def find(self, kind: Kind, attempt_id: str, amount: Money) -> Outcome | NeverSeen:
        """What became of an attempt. Raises `CounterpartyError`."""
        payment_id = PaymentId(attempt_id.rpartition("-a")[0])
        if not is_payment_id(payment_id):
            return Unknown("not an attempt of ours")
        intent = await self._intent_of(kind, attempt_id, payment_id, amount)
        if not isinstance(intent, Intent):
            return intent
        found = judged(kind, intent, amount)
        if isinstance(found, Intent):
            return await self._cancel(found, kind, amount, reason=answers.ABANDONED)
        if isinstance(found, NeverSeen) and intent.created < self._clock() // 1000 - _UNCONFIRMED_MAX_S:
            # By now its card is no longer whole, and its key may soon be forgotten.
            return await self._cancel(intent, kind, amount)
        return found

    async def read(self, intent_id: str) -> Intent | Unknown:
        """An intent as it is now. Raises `CounterpartyError`."""

        def read(status: int, body: bytes) -> Intent | Unknown:
            if status != _OK:
                return Unknown(f"{self._line.name} answered {status}")
            return answers.same_intent(answers.decode_intent(body), intent_id)

        return await self._line.get(f"{_path(intent_id)}?expand%5B%5D=latest_charge", read)

    async def _make(
        self, kind: Kind, attempt_id: str, payment_id: PaymentId, amount: Money
    ) -> str | Declined | Unknown | NotSent:
        """The id of the attempt's intent, which is there already or made now."""

        def read(status: int, body: bytes) -> str | Declined | Unknown | NotSent:
            if status == _OK:
                intent = answers.decode_intent(body)
                if intent.metadata.get("attempt_id") != attempt_id:
                    raise ValueError("an intent of another attempt")
                return intent.id
            answer = refused(self._line.name, status, answers.decode_failure(body), kind, attempt_id, amount)
            if not isinstance(answer, Declined | Unknown | NotSent):
                raise ValueError("an intent in a refusal to make one")  # noqa: TRY004 - the answer is bad, not its type
            return answer

        form = intent_form(kind, attempt_id, payment_id, amount)
        try:
            return await self._line.post("payment_intents", form, read, key=attempt_id, moves_nothing=True)
        except CounterpartyError as error:
            # Even if it arrived: an intent that nobody has confirmed moves no money.
            return NotSent(str(error), error.retry_after_s if isinstance(error, Refused) else _RETRY_S)

    async def _confirm(self, intent_id: str, request: AcquirerRequest, card: Card) -> Outcome:
        kind, amount = request.kind, request.amount

        def read(status: int, body: bytes) -> Outcome | NeverSeen | Intent:
            if status == _OK:
                return judged(kind, answers.same_intent(answers.decode_intent(body), intent_id), amount)
            error = answers.decode_failure(body)
            return refused(self._line.name, status, error, kind, request.attempt_id, amount, intent_id)

        try:
            answer = await self._line.post(
                f"{_path(intent_id)}/confirm", confirm_form(card), read, key=f"{request.attempt_id}-confirm"
            )
        except CounterpartyError as error:
            return trouble(error)
        if isinstance(answer, Intent):
            return await self._cancel(answer, kind, amount, reason=answers.ABANDONED)
        return Unknown("it is not confirmed") if isinstance(answer, NeverSeen) else answer

    async def _cancel(self, intent: Intent, kind: Kind, amount: Money, *, reason: str = "") -> Outcome:
        """Make sure that an intent can never be paid, and decline it. Until that is sure, it is unknown."""

        def read(status: int, body: bytes) -> Outcome | NeverSeen:
            now = answers.decode_intent(body) if status == _OK else answers.decode_failure(body).payment_intent
            if now is None:
                return Unknown(f"{self._line.name} answered {status} to a cancellation")
            return answers.intent_outcome(kind, answers.same_intent(now, intent.id), amount)

        form = encode_form([("cancellation_reason", reason)] if reason else [])
        try:
            # Without a key: cancelling twice is cancelling once, and a kept 500 would be repeated for a day.
            outcome = await self._line.post(f"{_path(intent.id)}/cancel", form, read, moves_nothing=True)
        except CounterpartyError as error:
            return Unknown(f"an intent is not cancelled yet: {error}")
        if isinstance(outcome, NeverSeen):
            return Unknown("an intent is not cancelled yet")
        return answers.NOT_PROCESSED if outcome == answers.CANCELED and not reason else outcome

    async def _intent_of(
        self, kind: Kind, attempt_id: str, payment_id: PaymentId, amount: Money
    ) -> Intent | Outcome | NeverSeen:
        """The attempt's intent as it is now; `NeverSeen` when there certainly is none."""
        since_ms = minted_ms(payment_id)
        nothing: Unknown | NeverSeen = NeverSeen()
        if self._clock() - since_ms < _KEY_KEPT_MS:
            made = await self._make(kind, attempt_id, payment_id, amount)
            if isinstance(made, str):
                return await self.read(made)
            if not isinstance(made, Unknown):
                return made
            # Somebody is at it right now, or has used the key for something else: it may yet appear.
            nothing = made
        found = await self._line.search(attempt_id)
        listed = found or await self._line.listed(attempt_id, since_s=since_ms // 1000 - _CLOCKS_APART_S)
        if listed is None:
            log.error("too many intents to look through: settle it by hand", attempt_id=attempt_id)
            return Unknown("it cannot be found, and may be there")
        if len(listed) > 1:
            log.error("several intents for one attempt", attempt_id=attempt_id)
            return Unknown("there are several intents")
        return await self.read(listed[0].id) if listed else nothing


def _path(intent_id: str) -> str:
    return f"payment_intents/{quote(intent_id, safe='')}"
