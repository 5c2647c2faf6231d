"""What Daraja's errors mean. One code says different things at different endpoints, and in different words."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, TypeVar

import msgspec

from resilience.errors import BadAnswer, CounterpartyError

T = TypeVar("T")


class Endpoint(Enum):
    """What Daraja can be asked, by its path."""

    TOKEN = "/oauth/v1/generate?grant_type=client_credentials"  # noqa: S105 - a path
    PUSH = "/mpesa/stkpush/v1/processrequest"
    QUERY = "/mpesa/stkpushquery/v1/query"


class Meaning(Enum):
    """What an error says about the request."""

    TOKEN = "the access token is not valid"  # noqa: S105 - a reason
    PENDING = "the payer has not decided"
    THROTTLED = "turned away unread: too many requests"
    REFUSED = "read, and nothing done because of what is in it"
    MISCONFIGURED = "read, and nothing done because our settings are wrong"
    UNCLEAR = "anything may have happened"


class Row(NamedTuple):
    """Code and message are patterns: the whole code, any part of the message. No endpoint is every endpoint."""

    endpoint: Endpoint | None
    code: str
    message: str
    meaning: Meaning


STILL_PROCESSING: Final = r"(being|under) process|still process"

# The first row that fits counts; none that fits is UNCLEAR. An answer without Daraja's error body has its HTTP
# status for a code. A push may only be called REFUSED, MISCONFIGURED, THROTTLED or TOKEN if it certainly reached no
# phone: what "System is busy" (500.003.02 too) has done, nobody knows.
TABLE: Final = (
    Row(Endpoint.TOKEN, r"40[013](\..*)?", "", Meaning.MISCONFIGURED),
    Row(None, r"404\.001\.03|40[01]\.00[23]\.01|401", "", Meaning.TOKEN),
    Row(None, r"429(\..*)?", "", Meaning.THROTTLED),
    Row(None, r"500\.003\.0[23]", r"spike|quota|too many|\brate\b", Meaning.THROTTLED),
    Row(Endpoint.PUSH, r"500\.001\.1001", r"lock subscriber|already in process", Meaning.REFUSED),
    Row(Endpoint.PUSH, r"500\.001\.1001", r"wrong credentials|password|merchant does not", Meaning.MISCONFIGURED),
    Row(Endpoint.PUSH, r"400\.002\.02", r"phone|partya|amount|accountref|transactiondesc", Meaning.REFUSED),
    Row(Endpoint.PUSH, r"40[0-9]\..+", "", Meaning.MISCONFIGURED),
    Row(Endpoint.QUERY, r"500\.001\.1001", STILL_PROCESSING, Meaning.PENDING),
    Row(Endpoint.QUERY, r"500\.001\.1001", "", Meaning.MISCONFIGURED),
    Row(Endpoint.QUERY, r"400\.002\.02", "", Meaning.REFUSED),
    Row(Endpoint.QUERY, r"500\.003\.0[23]", "", Meaning.THROTTLED),
)


class Trouble(NamedTuple):
    """An error that Daraja answered with. The reason may be shown."""

    meaning: Meaning
    code: str
    reason: str


class TurnedAway(CounterpartyError):
    """Nothing was done, and the same request may be sent after `retry_after_s`."""

    sent = False

    def __init__(self, counterparty: str, message: str, *, retry_after_s: float) -> None:
        super().__init__(counterparty, message)
        self.retry_after_s = retry_after_s


class Throttled(TurnedAway):
    """Too many requests. A failure for the breaker, as any 429 is, but not tried again within the call."""


THROTTLED_RETRY_S: Final = 30.0
_OK: Final = 200
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}")
# The message about a bad token quotes the token, others the phone number.
_PRIVATE: Final = re.compile(r"[A-Za-z0-9+/=_.~-]{20,}|(?:[0-9][ -]?){9,}")
_REASON_MAX: Final = 200


class _ErrorBody(msgspec.Struct):
    """Daraja's error body, and the one of the gateway before it."""

    error_code: str = msgspec.field(name="errorCode", default="")
    error_message: str = msgspec.field(name="errorMessage", default="")


_decode = msgspec.json.Decoder(_ErrorBody).decode


def meaning_of(endpoint: Endpoint, code: str, message: str) -> Meaning:
    """What an error means, by the table."""
    for row in TABLE:
        fits = row.endpoint in (None, endpoint) and re.fullmatch(row.code, code)
        if fits and re.search(row.message, message, re.IGNORECASE):
            return row.meaning
    return Meaning.UNCLEAR


def read_answer(
    counterparty: str, endpoint: Endpoint, read: Callable[[bytes], T]
) -> Callable[[int, bytes], T | Trouble]:
    """A reader for `HttpCounterparty.call` with `read_all`: `read`'s value of a 200, and any other as `Trouble`.

    Raises `Throttled`, and `BadAnswer` for a 5xx that is no news but a failure.
    """

    def read_any(status: int, body: bytes) -> T | Trouble:
        if status == _OK:
            try:
                return read(body)
            except RecursionError:
                raise ValueError("nested too deeply") from None
        trouble = _trouble(endpoint, status, body)
        if trouble.meaning is Meaning.THROTTLED:
            raise Throttled(
                counterparty, f"answered {trouble.code}: too many requests", retry_after_s=THROTTLED_RETRY_S
            )
        if trouble.meaning is Meaning.UNCLEAR and status >= 500:
            raise BadAnswer(counterparty, f"answered {status} ({trouble.code})", status=status)
        return trouble

    return read_any


def speakable(text: str) -> str:
    """Daraja's words as far as they may be kept and shown: nothing in them that could be a key or a phone number."""
    shown = _PRIVATE.sub("…", "".join(character for character in text if character.isprintable()))
    return shown[:_REASON_MAX]


def known_form(code: str) -> str:
    """A raw code that may be kept and shown; raises `ValueError` if it has no code's form."""
    if not _CODE.fullmatch(code):
        raise ValueError("not a code")
    return code


def _trouble(endpoint: Endpoint, status: int, body: bytes) -> Trouble:
    try:
        error = _decode(body)
        code, message = known_form(error.error_code), error.error_message
    except (ValueError, RecursionError):
        code, message = str(status), ""
    meaning = meaning_of(endpoint, code, message)
    return Trouble(meaning, code, meaning.value if meaning is Meaning.TOKEN else speakable(message) or meaning.value)
