"""A pretend card acquirer: it moves pretend money, and keeps the journal that judges double charges.

The test cards are in `simulators/cards.py`. The money moves as soon as a charge is read; `latency_s` and the
late card only hold back the answer.

* `POST /charges` takes the money at once; with `"capture": false` it is an authorization, which only holds the
  amount until `authorized_until`. Either is declined by its card.
* `POST /captures` takes up to the authorized amount, once; the rest is released. Declined as `already_captured`,
  `authorization_voided`, `authorization_expired` or `amount_too_large`.
* `POST /voids` releases the whole authorization, also an expired one. Declined as `already_captured`,
  `authorization_voided` or `amount_mismatch`.
* `POST /refunds` gives back what was taken, in as many parts as one likes. Declined as `not_captured`,
  `amount_too_large` or `refund_declined`. **The last is for tests: it meets every refund whose `amount_minor`
  ends in 13.**
* `GET` of the same path and an attempt tells the decision about that attempt.
* `GET /journal` and `/journal/summary` are for the judge; `GET /statement.csv?from=&to=` is what an acquirer sends:
  the effects on money from `from` on and before `to`.

Captures, voids and refunds name the charge by the id that it was answered with; they are also declined as
`unknown_charge` and `charge_declined`. A decline is a decision like any other: the same attempt hears it again,
even when by then it could be done. An attempt is good for one request: with another body or at another path it
is 409.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Final, get_args

import msgspec
from aiohttp import web

from simulators import cards
from simulators.base import Clock, Simulator, timestamp, utc_now
from simulators.bodies import FollowUp, NewCharge
from simulators.books import Books
from simulators.charges import UNKNOWN_CHARGE, Decision, FollowUpKind, Kind, fingerprint, new_salt
from simulators.wire import Refusal, decode, reply

KEY_CHARACTERS_MAX = 255
AUTHORIZED_FOR_S: Final = 7 * 24 * 3600.0
"""How long an authorization holds unless told otherwise: seven days, as card schemes grant."""

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


def _error_body(_: str, message: str) -> object:
    return {"error": message}


def _attempt(request: web.Request) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if not key or len(key) > KEY_CHARACTERS_MAX or not key.isascii() or not key.isprintable() or " " in key:
        raise Refusal(400, "INVALID_REQUEST", "Idempotency-Key is required: 1-255 printable characters, no space")
    return key


def _new_charge_id() -> str:
    return f"txn-{secrets.token_hex(12)}"


def _moment(request: web.Request, name: str) -> datetime | None:
    text = request.query.get(name)
    try:
        return None if text is None else msgspec.convert(text, Moment)
    except msgspec.ValidationError as error:
        raise Refusal(400, "INVALID_REQUEST", f"{name} must be an RFC 3339 time with its offset") from error


class AcquirerSim(Simulator[Decision]):
    """The acquirer; `dedupe=False` makes one that ignores idempotency keys and decides anew every time.

    `approves` are card numbers that this one does not decline, though the table says so: acquirers differ.
    """

    def __init__(
        self,
        journal_path: Path | None,
        *,
        dedupe: bool = True,
        approves: Collection[str] = (),
        latency_s: float = 0.0,
        late_s: float = 15.0,
        authorized_for_s: float = AUTHORIZED_FOR_S,
        clock: Clock = utc_now,
        new_id: Callable[[], str] = _new_charge_id,
    ) -> None:
        super().__init__(journal_path, Decision, _error_body)
        self._dedupe, self._latency_s, self._late_s = dedupe, latency_s, late_s
        self._declines = {number: decline for number, decline in cards.DECLINES.items() if number not in approves}
        self._authorized_for = timedelta(seconds=authorized_for_s)
        self._clock, self._new_id = clock, new_id
        self._new_charge = msgspec.json.Decoder(NewCharge)
        self._new_follow_up = msgspec.json.Decoder(FollowUp)
        self._books = Books()

    def _routes(self) -> list[web.RouteDef]:
        follow_ups: tuple[FollowUpKind, ...] = get_args(FollowUpKind)
        return [
            web.post("/charges", self._charge),
            *(web.post(f"/{kind.path}", partial(self._follow_up, kind)) for kind in follow_ups),
            *(web.get(f"/{path}/{{attempt:.+}}", partial(self._query, path)) for path in {kind.path for kind in Kind}),
            web.get("/journal", self._effects),
            web.get("/journal/summary", self._summary),
            web.get("/statement.csv", self._statement),
        ]

    def _restore(self, records: list[Decision]) -> None:
        self._books = Books(records)

    async def _charge(self, request: web.Request) -> web.Response:
        attempt = _attempt(request)
        wanted = await decode(request, self._new_charge, invalid_status=400)
        number = self._checked_number(wanted)
        if number == cards.ERROR_BEFORE_CHARGE:
            raise Refusal(500, "INTERNAL_SERVER_ERROR", "failed before charging")
        charge = self._settle_charge(attempt, wanted, number)
        await self._take_time()
        if number in cards.ODD_ANSWERS:
            return await self._answer_oddly(request, charge, number)
        return self._answer(charge)

    async def _follow_up(self, kind: FollowUpKind, request: web.Request) -> web.Response:
        attempt = _attempt(request)
        wanted = await decode(request, self._new_follow_up, invalid_status=400)
        decision = self._settle_follow_up(kind, attempt, wanted)
        await self._take_time()
        return self._answer(decision)

    def _checked_number(self, wanted: NewCharge) -> str | None:
        if (wanted.card is None) == (wanted.wallet_token is None):
            raise Refusal(400, "INVALID_REQUEST", "give either a card or a wallet_token")
        if wanted.card is None:
            return None
        if not cards.luhn_valid(wanted.card.number):
            raise Refusal(400, "INVALID_REQUEST", "the card number is not valid")
        return wanted.card.number

    def _settle_charge(self, attempt: str, wanted: NewCharge, number: str | None) -> Decision:
        """Decide, keep and book one charge or authorization.

        It never awaits: between the look for an earlier decision and the booking nothing else can run, so two
        copies of one attempt in flight move the money once.
        """
        kind = Kind.CHARGE if wanted.capture else Kind.AUTHORIZE
        known = self._known(kind, attempt, wanted)
        if known is not None:
            return known
        now = self._clock()
        decline = self._declines.get(number) if number else None
        held = kind is Kind.AUTHORIZE and decline is None
        return self._decided(
            kind,
            attempt,
            wanted,
            decline,
            now,
            brand=cards.brand_of(number) if number else "wallet",
            last4=number[-4:] if number else "",
            authorized_until=timestamp(now + self._authorized_for) if held else None,
        )

    def _settle_follow_up(self, kind: FollowUpKind, attempt: str, wanted: FollowUp) -> Decision:
        """Decide, keep and book one capture, void or refund.

        It never awaits either: what is left is looked at and taken in one step, so racing refunds never give back
        more than was captured.
        """
        known = self._known(kind, attempt, wanted)
        if known is not None:
            return known
        now = self._clock()
        transaction = self._books.transaction(wanted.charge)
        if transaction is None:
            return self._decided(kind, attempt, wanted, UNKNOWN_CHARGE, now, charge=wanted.charge)
        opening = transaction.opening
        if wanted.currency != opening.currency:
            raise Refusal(400, "INVALID_REQUEST", f"the charge is in {opening.currency}")
        decline = transaction.objection(kind, wanted.amount_minor, now)
        return self._decided(
            kind, attempt, wanted, decline, now, brand=opening.brand, last4=opening.last4, charge=wanted.charge
        )

    def _known(self, kind: Kind, attempt: str, wanted: NewCharge | FollowUp) -> Decision | None:
        known = self._books.find(attempt) if self._dedupe else None
        if known is not None and not known.answers(kind, wanted.canonical()):
            raise Refusal(409, "CONFLICT", "this Idempotency-Key was used with another body")
        return known

    def _decided(
        self,
        kind: Kind,
        attempt: str,
        wanted: NewCharge | FollowUp,
        decline: cards.Decline | None,
        now: datetime,
        *,
        brand: str = "",
        last4: str = "",
        charge: str | None = None,
        authorized_until: str | None = None,
    ) -> Decision:
        salt = new_salt()
        decision = Decision(
            id=self._new_id(),
            attempt=attempt,
            reference=wanted.reference,
            status="approved" if decline is None else "declined",
            amount_minor=wanted.amount_minor,
            currency=wanted.currency,
            brand=brand,
            last4=last4,
            salt=salt,
            fingerprint=fingerprint(wanted.canonical(), salt),
            at=timestamp(now),
            decline_code=decline.code if decline else None,
            reason=decline.reason if decline else None,
            retryable=decline.retryable if decline else False,
            kind=kind,
            charge=charge,
            authorized_until=authorized_until,
        )
        # Journal first: if the disk refuses, nothing happened, and the engine hears a 500.
        self._journal.append(decision)
        self._books.add(decision)
        return decision

    async def _take_time(self) -> None:
        if self._latency_s:
            await self._pauses.sleep(self._latency_s)

    async def _answer_oddly(self, request: web.Request, charge: Decision, number: str | None) -> web.Response:
        match number:
            case cards.SILENT_BUT_CHARGES:
                return await self._pauses.silence(request)
            case cards.LATE:
                await self._pauses.sleep(self._late_s)
                return self._answer(charge)
            case _:
                raise Refusal(500, "INTERNAL_SERVER_ERROR", "failed after charging")

    def _answer(self, decision: Decision) -> web.Response:
        return reply(200 if decision.approved else 402, decision.view())

    async def _query(self, path: str, request: web.Request) -> web.Response:
        decision = self._books.find_at(path, request.match_info["attempt"])
        if decision is None:
            raise Refusal(404, "NOT_FOUND", "unknown attempt")
        return reply(200, decision.view())

    async def _effects(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) <= 18):
            raise Refusal(400, "INVALID_REQUEST", "after must be a whole number from 0")
        return reply(200, {"effects": self._books.effects(int(after))})

    async def _summary(self, _: web.Request) -> web.Response:
        return reply(200, self._books.summary())

    async def _statement(self, request: web.Request) -> web.Response:
        since, until = _moment(request, "from"), _moment(request, "to")
        if since is not None and until is not None and since > until:
            # An empty statement would read as "no money moved".
            raise Refusal(400, "INVALID_REQUEST", "from is later than to")
        return web.Response(text=self._books.statement(since, until), content_type="text/csv", charset="utf-8")
