"""A pretend card acquirer: it moves pretend money, and keeps the journal that judges double charges.

The test cards are in `simulators/cards.py`. The money moves as soon as a charge is read; `latency_s` and the
late card only hold back the answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web

from simulators import cards
from simulators.base import Clock, Simulator, timestamp, utc_now
from simulators.charges import Books, Charge, fingerprint, new_salt
from simulators.wire import Refusal, decode, reply

KEY_CHARACTERS_MAX = 255

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
AmountMinor = Annotated[int, msgspec.Meta(ge=1, le=10**15)]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{12,19}\Z")]
Cvv = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{3,4}\Z")]
Month = Annotated[int, msgspec.Meta(ge=1, le=12)]
Year = Annotated[int, msgspec.Meta(ge=2000, le=2999)]


class Card(msgspec.Struct, frozen=True):
    """The card of a charge."""

    number: Number
    expiry_month: Month
    expiry_year: Year
    cvv: Cvv | None = None

    def __repr__(self) -> str:
        return f"Card(****{self.number[-4:]})"


class NewCharge(msgspec.Struct, frozen=True):
    """The body of `POST /charges`: either a card or a wallet token."""

    amount_minor: AmountMinor
    currency: Currency
    reference: Text
    card: Card | None = None
    wallet_token: Text | None = None

    def __repr__(self) -> str:
        return f"NewCharge({self.reference})"


def _error_body(_: str, message: str) -> object:
    return {"error": message}


def _attempt(request: web.Request) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if not key or len(key) > KEY_CHARACTERS_MAX or not key.isascii() or not key.isprintable() or " " in key:
        raise Refusal(400, "INVALID_REQUEST", "Idempotency-Key is required: 1-255 printable characters, no space")
    return key


def _new_charge_id() -> str:
    return f"txn-{secrets.token_hex(12)}"


class AcquirerSim(Simulator[Charge]):
    """The acquirer; `dedupe=False` makes one that ignores idempotency keys and charges every time."""

    def __init__(
        self,
        journal_path: Path | None,
        *,
        dedupe: bool = True,
        latency_s: float = 0.0,
        late_s: float = 15.0,
        clock: Clock = utc_now,
        new_id: Callable[[], str] = _new_charge_id,
    ) -> None:
        super().__init__(journal_path, Charge, _error_body)
        self._dedupe, self._latency_s, self._late_s = dedupe, latency_s, late_s
        self._clock, self._new_id = clock, new_id
        self._decoder = msgspec.json.Decoder(NewCharge)
        self._canonical = msgspec.json.Encoder()
        self._books = Books()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.post("/charges", self._charge),
            web.get("/charges/{attempt:.+}", self._query),
            web.get("/journal", self._effects),
            web.get("/journal/summary", self._summary),
        ]

    def _restore(self, records: list[Charge]) -> None:
        self._books = Books(records)

    async def _charge(self, request: web.Request) -> web.Response:
        attempt = _attempt(request)
        wanted = await decode(request, self._decoder, invalid_status=400)
        number = self._checked_number(wanted)
        if number == cards.ERROR_BEFORE_CHARGE:
            raise Refusal(500, "INTERNAL_SERVER_ERROR", "failed before charging")
        charge = self._settle(attempt, wanted, number)
        if self._latency_s:
            await self._pauses.sleep(self._latency_s)
        if number in cards.ODD_ANSWERS:
            return await self._answer_oddly(request, charge, number)
        return self._answer(charge)

    def _checked_number(self, wanted: NewCharge) -> str | None:
        if (wanted.card is None) == (wanted.wallet_token is None):
            raise Refusal(400, "INVALID_REQUEST", "give either a card or a wallet_token")
        if wanted.card is None:
            return None
        if not cards.luhn_valid(wanted.card.number):
            raise Refusal(400, "INVALID_REQUEST", "the card number is not valid")
        return wanted.card.number

    def _settle(self, attempt: str, wanted: NewCharge, number: str | None) -> Charge:
        """Decide, keep and book one attempt.

        It never awaits: between the look for an earlier charge and the booking nothing else can run, so two
        copies of one attempt in flight move the money once.
        """
        body = self._canonical.encode(wanted)
        known = self._books.find(attempt) if self._dedupe else None
        if known is not None:
            if not known.answers(body):
                raise Refusal(409, "CONFLICT", "this Idempotency-Key was used with another body")
            return known
        salt = new_salt()
        decline = cards.DECLINES.get(number) if number else None
        charge = Charge(
            id=self._new_id(),
            attempt=attempt,
            reference=wanted.reference,
            status="approved" if decline is None else "declined",
            amount_minor=wanted.amount_minor,
            currency=wanted.currency,
            brand=cards.brand_of(number) if number else "wallet",
            last4=number[-4:] if number else "",
            salt=salt,
            fingerprint=fingerprint(body, salt),
            at=timestamp(self._clock()),
            decline_code=decline.code if decline else None,
            reason=decline.reason if decline else None,
            retryable=decline.retryable if decline else False,
        )
        # Journal first: if the disk refuses, nothing happened, and the engine hears a 500.
        self._journal.append(charge)
        self._books.add(charge)
        return charge

    async def _answer_oddly(self, request: web.Request, charge: Charge, number: str | None) -> web.Response:
        match number:
            case cards.SILENT_BUT_CHARGES:
                return await self._pauses.silence(request)
            case cards.LATE:
                await self._pauses.sleep(self._late_s)
                return self._answer(charge)
            case _:
                raise Refusal(500, "INTERNAL_SERVER_ERROR", "failed after charging")

    def _answer(self, charge: Charge) -> web.Response:
        return reply(200 if charge.approved else 402, charge.view())

    async def _query(self, request: web.Request) -> web.Response:
        charge = self._books.find(request.match_info["attempt"])
        if charge is None:
            raise Refusal(404, "NOT_FOUND", "unknown attempt")
        return reply(200, charge.view())

    async def _effects(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) <= 18):
            raise Refusal(400, "INVALID_REQUEST", "after must be a whole number from 0")
        return reply(200, {"effects": self._books.effects(int(after))})

    async def _summary(self, _: web.Request) -> web.Response:
        return reply(200, self._books.summary())
