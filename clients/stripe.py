"""Stripe as an acquirer of cards, by PaymentIntents.

**One intent per attempt, made first and confirmed second.** Making it (`Idempotency-Key`: the attempt's id) names the
amount and moves no money; confirming it sends the card. An intent is paid once at most, whoever confirms it how often.

So each broken step has a sure meaning:

* Trouble with making it, of any kind, is `NotSent`: nothing was confirmed, so nothing moved.
* Trouble with confirming it is `Unknown`, unless no connection was made. The intent's state tells the truth later.
* 409 and a key reused with another form are `Unknown` in both: another worker may be at the same attempt.

**What became of an attempt.** An intent is needed whose id may have been lost with an answer. While the payment is
younger than `_KEY_KEPT_MS`, the form that makes it is sent again: it has nothing of the card in it, Stripe keeps the
key for at least 24 hours, and so it answers with the same intent (or makes it now, which moves nothing). Then the
intent itself is read, because a repeated answer is as old as the first one. When the payment is older, Stripe is
searched by the attempt's id. The search may be behind, so finding none proves nothing; then all intents since the
payment was made are listed, and lists are not behind. Only a list that was read to its end is believed.

`NeverSeen` then says: the intent was not confirmed. Sending again is safe even if that was wrong, because it is the
same intent that is confirmed again. An intent that nobody confirmed within an hour is cancelled, so that it can never
be paid, and only then the attempt is declined.

**3-D Secure** needs the card's owner before a browser, which this engine does not have: Stripe is told to fail such
charges. An intent that waits for its owner all the same is cancelled; until that is confirmed it is `Unknown`.

A capture, a void and a refund are found by what they did to the intent: its state, and the list of its refunds.
"""

from __future__ import annotations

import asyncio
from typing import Final, assert_never
from urllib.parse import quote

import structlog

from clients import stripe_answers as answers
from clients.acquirer import trouble
from clients.stripe_answers import Intent, RefundPage
from clients.stripe_charges import StripeCharges
from clients.stripe_forms import NotRepresentable, capture_form, refund_form, stripe_units
from clients.stripe_line import StripeLine
from clients.stripe_refusals import refused
from engine.charging import AcquirerRequest, NeverSeen, Outcome, Unknown
from engine.facts import REFUNDS_MAX, Kind
from engine.ids import Clock
from engine.money import Money
from engine.settling import Declined
from resilience.errors import CounterpartyError

_OK: Final = 200

log = structlog.get_logger()


class StripeAcquirer:
    """Charges cards through Stripe, and what follows. `patience_s` bounds a whole send, and a whole question."""

    def __init__(self, line: StripeLine, clock: Clock, *, patience_s: float) -> None:
        self._line = line
        self._charges = StripeCharges(line, clock, patience_s=patience_s)
        self._patience_s = patience_s

    @property
    def name(self) -> str:
        """The configured name, as in metrics and records."""
        return self._line.name

    async def send(self, request: AcquirerRequest) -> Outcome:
        """Do it once. Repeating with the same attempt id has no second effect at Stripe."""
        try:
            stripe_units(request.amount)
            if request.kind in (Kind.CHARGE, Kind.AUTHORIZE):
                return await self._charges.send(request)
            return await self._follow(request)
        except NotRepresentable as error:
            return _not_supported(error)
        except CounterpartyError as error:
            return trouble(error)

    async def find(self, kind: Kind, attempt_id: str, amount: Money, transaction_id: str) -> Outcome | NeverSeen:
        """What became of an attempt. `NotSent` here means that the question was not sent."""
        try:
            stripe_units(amount)
            async with asyncio.timeout(self._patience_s):
                return await self._find(kind, attempt_id, amount, transaction_id)
        except NotRepresentable as error:
            # `send` refuses it too, so it was never sent.
            return _not_supported(error)
        except CounterpartyError as error:
            return trouble(error)
        except TimeoutError:
            return Unknown(f"{self.name} was not asked to the end in time")
        except ValueError as error:
            log.error("the acquirer has something else", acquirer=self.name, attempt_id=attempt_id, why=str(error))  # noqa: TRY400 - a fact, not a crash
            return Unknown(str(error))

    async def _find(self, kind: Kind, attempt_id: str, amount: Money, transaction_id: str) -> Outcome | NeverSeen:
        match kind:
            case Kind.CHARGE | Kind.AUTHORIZE:
                return await self._charges.find(kind, attempt_id, amount)
            case Kind.CAPTURE | Kind.VOID:
                intent = await self._charges.read(transaction_id)
                return answers.intent_outcome(kind, intent, amount) if isinstance(intent, Intent) else intent
            case Kind.REFUND:
                return await self._find_refund(attempt_id, amount, transaction_id)
            case _:
                assert_never(kind)

    async def _find_refund(self, attempt_id: str, amount: Money, transaction_id: str) -> Outcome | NeverSeen:
        """Looked for among all refunds of the intent: more than a page is more than the engine makes."""

        def read(status: int, body: bytes) -> RefundPage | Unknown:
            return answers.decode_refunds(body) if status == _OK else Unknown(f"{self.name} answered {status}")

        query = f"refunds?payment_intent={quote(transaction_id, safe='')}&limit={REFUNDS_MAX}"
        page = await self._line.get(query, read)
        if isinstance(page, Unknown):
            return page
        found = next((refund for refund in page.data if refund.metadata.get("attempt_id") == attempt_id), None)
        if found is not None:
            return answers.refund_outcome(found, amount)
        return Unknown("there are too many refunds to be sure") if page.has_more else NeverSeen()

    async def _follow(self, request: AcquirerRequest) -> Outcome:
        kind, amount, intent_id = request.kind, request.amount, request.transaction_id
        path, form = f"payment_intents/{quote(intent_id, safe='')}/cancel", b""
        if kind is Kind.CAPTURE:
            path, form = f"payment_intents/{quote(intent_id, safe='')}/capture", capture_form(amount)
        elif kind is Kind.REFUND:
            path, form = "refunds", refund_form(intent_id, request.attempt_id, request.payment_id, amount)

        def read(status: int, body: bytes) -> Outcome | NeverSeen | Intent:
            if status != _OK:
                error = answers.decode_failure(body)
                return refused(self.name, status, error, kind, request.attempt_id, amount, intent_id)
            if kind is Kind.REFUND:
                return answers.refund_outcome(
                    answers.same_refund(answers.decode_refund(body), request.attempt_id), amount
                )
            return answers.intent_outcome(kind, answers.same_intent(answers.decode_intent(body), intent_id), amount)

        outcome = await self._line.post(path, form, read, key=request.attempt_id)
        return Unknown("nothing has changed") if isinstance(outcome, NeverSeen | Intent) else outcome


def _not_supported(error: NotRepresentable) -> Declined:
    return Declined("amount_not_supported", str(error), retryable=True)
