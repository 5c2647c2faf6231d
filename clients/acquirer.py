"""A card acquirer over HTTP. Silence, a broken connection or a 5xx after sending is `Unknown`, never `Declined`."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from clients.http import HttpCounterparty, url_for
from clients.wire import parse_url
from engine.cards import Card, WalletToken
from engine.charging import AcquirerRequest, NeverSeen, NotSent, Outcome, Unknown
from engine.facts import Kind
from engine.ids import from_rfc3339
from engine.money import Money
from engine.settling import Approved, Declined
from resilience.errors import CounterpartyError, Refused

_OK: Final = 200
_DECLINED: Final = 402
_NOT_FOUND: Final = 404
_NOT_SENT_RETRY_S: Final = 1.0
_CODE: Final = re.compile(r"[a-z][a-z_]{0,63}", re.IGNORECASE)
_LONG_NUMBER: Final = re.compile(r"(?:[0-9][ -]?){12}")
_REASON_MAX: Final = 200


class _ChargeBody(msgspec.Struct):
    """The acquirer's answer about one attempt."""

    id: str
    attempt: str
    status: str
    amount_minor: int | None = None
    currency: str | None = None
    decline_code: str = "declined"
    reason: str = "Declined"
    retryable: bool = False
    authorized_until: str | None = None


_decode = msgspec.json.Decoder(_ChargeBody).decode
_encode = msgspec.json.Encoder().encode


_PATHS: Final = {
    Kind.CHARGE: "charges",
    Kind.AUTHORIZE: "charges",
    Kind.CAPTURE: "captures",
    Kind.VOID: "voids",
    Kind.REFUND: "refunds",
}


class CardAcquirer:
    """Charges cards and wallet tokens, and what follows: `POST {url}/charges`, `/captures`, `/voids`, `/refunds`.

    `GET` of the same path and an attempt id tells what became of an attempt.
    """

    def __init__(self, counterparty: HttpCounterparty, url: str) -> None:
        self._counterparty = counterparty
        self._urls = {kind: f"{url.rstrip('/')}/{path}" for kind, path in _PATHS.items()}

    @property
    def name(self) -> str:
        """The configured name, as in metrics and records."""
        return self._counterparty.name

    async def send(self, request: AcquirerRequest) -> Outcome:
        """Do it once. Repeating with the same attempt id has no second effect at the acquirer."""

        def read(status: int, body: bytes) -> Outcome:
            if status in (_OK, _DECLINED):
                return _outcome(body, request.attempt_id, request.amount)
            # 400, 409, 3xx: it answered, but not about the money.
            return Unknown(f"{self.name} answered {status}")

        headers = {"Idempotency-Key": request.attempt_id, "Content-Type": "application/json"}
        try:
            # Not repeated by the guard, though the acquirer dedupes: what became of it is a question, asked later.
            return await self._counterparty.call(
                "POST",
                parse_url(self._urls[request.kind]),
                read,
                body=_body(request),
                headers=headers,
                idempotent=False,
            )
        except CounterpartyError as error:
            return trouble(error)

    async def find(self, kind: Kind, attempt_id: str, amount: Money, transaction_id: str = "") -> Outcome | NeverSeen:
        """What became of an attempt. `NotSent` here means that the question was not sent."""

        def read(status: int, body: bytes) -> Outcome | NeverSeen:
            if status == _NOT_FOUND:
                return NeverSeen()
            if status in (_OK, _DECLINED):
                return _outcome(body, attempt_id, amount)
            return Unknown(f"{self.name} answered {status}")

        try:
            url = url_for(self._urls[kind] + "/{id}", attempt_id)
            return await self._counterparty.call("GET", url, read, idempotent=True)
        except CounterpartyError as error:
            return trouble(error)


def trouble(error: CounterpartyError) -> Outcome:
    """A call without a usable answer: was anything sent?"""
    if error.sent:
        return Unknown(str(error))
    retry_after_s = error.retry_after_s if isinstance(error, Refused) else _NOT_SENT_RETRY_S
    return NotSent(str(error), retry_after_s)


def _outcome(body: bytes, attempt_id: str, amount: Money) -> Outcome:
    answer = _decode(body)
    if answer.attempt != attempt_id:
        raise ValueError("an answer about another attempt")
    match answer.status:
        case "approved":
            if (answer.amount_minor, answer.currency) != (amount.minor, amount.currency):
                raise ValueError("approved another amount")
            return Approved(answer.id, from_rfc3339(answer.authorized_until) if answer.authorized_until else 0)
        case "declined":
            return Declined(*speakable(answer.decline_code, answer.reason), answer.retryable)
        case _:
            raise ValueError("neither approved nor declined")


def speakable(code: str, reason: str) -> tuple[str, str]:
    """The acquirer's words as far as they may be kept and shown: nothing that could be a card number in them."""
    if not _CODE.fullmatch(code):
        code = "declined"
    if len(reason) > _REASON_MAX or not reason.isprintable() or _LONG_NUMBER.search(reason):
        reason = "Declined"
    return code, reason


def _body(request: AcquirerRequest) -> bytes:
    body: dict[str, object] = {
        "amount_minor": request.amount.minor,
        "currency": request.amount.currency,
        "reference": request.payment_id,
    }
    match request.instrument:
        case Card() as card:
            body["card"] = {
                "number": card.pan.reveal(),
                "expiry_month": card.expiry_month,
                "expiry_year": card.expiry_year,
                "cvv": None if card.cvv is None else card.cvv.reveal(),
            }
        case WalletToken() as token:
            body["wallet_token"] = token.reveal()
        case None:
            body["charge"] = request.transaction_id
    if request.kind is Kind.AUTHORIZE:
        body["capture"] = False
    return _encode(body)
