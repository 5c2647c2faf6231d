"""What Daraja is sent: read strictly, and refused in Daraja's words."""

from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta, timezone
from typing import Annotated, Final, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from simulators.base import Clock
from simulators.wire import Refusal

EAST_AFRICA_TIME: Final = timezone(timedelta(hours=3), "EAT")
AMOUNT_MAX: Final = 250_000
TIMESTAMP_FORM: Final = "%Y%m%d%H%M%S"
CLOCKS_APART_MAX: Final = timedelta(minutes=10)
"""A UTC time is three hours off: the usual mistake, and here an error."""

_TIMESTAMP: Final = re.compile(r"[0-9]{14}")
_AMOUNT: Final = re.compile(r"[1-9][0-9]{0,6}")
_PHONE: Final = re.compile(r"254[17][0-9]{8}")
_PARTY: Final = re.compile(r"[0-9]{5,7}")
_REFERENCE: Final = re.compile(r"[ -~]{1,12}")
_DESCRIPTION: Final = re.compile(r"[ -~]{1,13}")
_CHECKOUT: Final = re.compile(r"ws_CO_[0-9]{1,40}")
_TYPES: Final = ("CustomerPayBillOnline", "CustomerBuyGoodsOnline")
_URL_MAX: Final = 512

FormT = TypeVar("FormT")

Field = str | int | float | bool | None
"""Anything: a form with a wrong type is refused by the field's name too."""


class Merchant(NamedTuple):
    """Who may push, and with what."""

    consumer_key: str
    consumer_secret: str
    shortcode: str
    passkey: str

    def __repr__(self) -> str:
        return f"Merchant({self.shortcode})"


class Signed(msgspec.Struct, frozen=True, rename="pascal"):
    """What both forms begin with."""

    business_short_code: Field = None
    password: Field = None
    timestamp: Field = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class PushForm(Signed, frozen=True, rename="pascal"):
    """The body of `POST /mpesa/stkpush/v1/processrequest`."""

    transaction_type: Field = None
    amount: Field = None
    party_a: Field = None
    party_b: Field = None
    phone_number: Field = None
    call_back_url: Field = msgspec.field(name="CallBackURL", default=None)
    account_reference: Field = None
    transaction_desc: Field = None


class QueryForm(Signed, frozen=True, rename="pascal"):
    """The body of `POST /mpesa/stkpushquery/v1/query`."""

    checkout_request_id: Field = msgspec.field(name="CheckoutRequestID", default=None)


class Wish(msgspec.Struct, frozen=True):
    """A push form that was found good. The amount is in shillings."""

    phone: str
    amount: int
    receiver: str
    reference: str
    description: str
    callback_url: str


Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long things take; None is as before."""

    token_s: Seconds | None = None
    latency_s: Seconds | None = None
    moment_s: Seconds | None = None
    late_s: Seconds | None = None


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /_decide`."""

    checkout_id: str
    result_code: int = 0


class Desk:
    """Checks forms for one merchant."""

    def __init__(self, merchant: Merchant, clock: Clock) -> None:
        self._merchant = merchant
        self._clock = clock
        self._push = msgspec.json.Decoder(PushForm)
        self._query = msgspec.json.Decoder(QueryForm)

    async def read_push(self, request: web.Request) -> Wish:
        """Read and check a push."""
        form = await _read(request, self._push)
        self._check_signature(form)
        kind = form.transaction_type
        if kind not in _TYPES:
            _invalid("TransactionType")
        amount = int(_text(form.amount, _AMOUNT, "Amount"))
        if amount > AMOUNT_MAX:
            _invalid("Amount")
        phone = _text(form.phone_number, _PHONE, "PhoneNumber")
        if _text(form.party_a, _PHONE, "PartyA") != phone:
            _invalid("PartyA")
        receiver = _text(form.party_b, _PARTY, "PartyB")
        if kind == "CustomerPayBillOnline" and receiver != self._merchant.shortcode:
            _invalid("PartyB")
        return Wish(
            phone=phone,
            amount=amount,
            receiver=receiver,
            reference=_string(form.account_reference, _REFERENCE, "AccountReference"),
            description=_string(form.transaction_desc, _DESCRIPTION, "TransactionDesc"),
            callback_url=_url(form.call_back_url),
        )

    async def read_query(self, request: web.Request) -> str:
        """Read and check a query; gives the checkout's id."""
        form = await _read(request, self._query)
        self._check_signature(form)
        return _string(form.checkout_request_id, _CHECKOUT, "CheckoutRequestID")

    def _check_signature(self, form: Signed) -> None:
        timestamp = _string(form.timestamp, _TIMESTAMP, "Timestamp")
        try:
            said = datetime.strptime(timestamp, TIMESTAMP_FORM).replace(tzinfo=EAST_AFRICA_TIME)
        except ValueError:
            _invalid("Timestamp")
        if abs(said - self._clock()) > CLOCKS_APART_MAX:
            _invalid("Timestamp")
        if _text(form.business_short_code, _PARTY, "BusinessShortCode") != self._merchant.shortcode:
            raise Refusal(500, "500.001.1001", "Merchant does not exist")
        password = f"{self._merchant.shortcode}{self._merchant.passkey}{timestamp}"
        if form.password != base64.b64encode(password.encode()).decode():
            raise Refusal(500, "500.001.1001", "Wrong credentials")


async def _read(request: web.Request, decoder: msgspec.json.Decoder[FormT]) -> FormT:
    if request.content_type != "application/json":
        _invalid("Content-Type")
    try:
        return decoder.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _invalid("Payload")


def _text(value: Field, form: re.Pattern[str], name: str) -> str:
    """A number may be written as one or as a string."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _string(value, form, name)


def _string(value: Field, form: re.Pattern[str], name: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        _invalid(name)
    return value


def _url(value: Field) -> str:
    if not isinstance(value, str) or len(value) > _URL_MAX or not value.isascii() or not value.isprintable():
        _invalid("CallBackURL")
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in value
    except ValueError:
        good = False
    if not good:
        _invalid("CallBackURL")
    return value


def _invalid(name: str) -> NoReturn:
    raise Refusal(400, "400.002.02", f"Bad Request - Invalid {name}")
