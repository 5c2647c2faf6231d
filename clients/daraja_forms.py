"""What is sent to Daraja and read from it: the forms of push and query, and their good answers."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import msgspec

from clients.daraja_errors import STILL_PROCESSING, known_form, speakable
from clients.daraja_settings import DarajaSettings
from engine.ids import Clock
from engine.pushes import NotPaid, Paid, PushRefused, PushRequest, PushTaken, StillWaiting, whole_shillings

EAST_AFRICA_TIME: Final = timezone(timedelta(hours=3), "EAT")
"""Kenya has no summer time."""
REFERENCE_CHARACTERS: Final = 12
DESCRIPTION_CHARACTERS: Final = 13
_NOTHING_TO_SAY: Final = "Payment"
_DONE: Final = "0"
_ID: Final = re.compile(r"[!-~]{1,128}")
# Other characters have been refused as "Bad Request", and the payer sees these on a phone of any age.
_UNSPEAKABLE: Final = re.compile(r"[^A-Za-z0-9 ._/#-]+")

_encode = msgspec.json.Encoder().encode


class Forms:
    """Fills in forms. The password is derived anew for each, from the passkey and the time."""

    def __init__(self, settings: DarajaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    def push(self, request: PushRequest) -> bytes:
        """The body of a push."""
        phone = request.phone.reveal()
        return _encode(
            self._signed()
            | {
                "TransactionType": self._settings.transaction_type,
                "Amount": whole_shillings(request.amount),
                "PartyA": phone,
                "PartyB": self._settings.receiver,
                "PhoneNumber": phone,
                "CallBackURL": request.callback_url,
                "AccountReference": _cut(request.reference, REFERENCE_CHARACTERS),
                "TransactionDesc": _cut(request.description, DESCRIPTION_CHARACTERS),
            }
        )

    def query(self, checkout_id: str) -> bytes:
        """The body of a query."""
        return _encode(self._signed() | {"CheckoutRequestID": checkout_id})

    def _signed(self) -> dict[str, object]:
        shortcode = self._settings.shortcode
        moment = datetime.fromtimestamp(self._clock() / 1000, UTC).astimezone(EAST_AFRICA_TIME)
        timestamp = moment.strftime("%Y%m%d%H%M%S")
        password = base64.b64encode(f"{shortcode}{self._settings.passkey}{timestamp}".encode()).decode()
        return {"BusinessShortCode": shortcode, "Password": password, "Timestamp": timestamp}


class _PushBody(msgspec.Struct, rename="pascal"):
    """The answer to a push."""

    response_code: str | int
    response_description: str = ""
    merchant_request_id: str = msgspec.field(name="MerchantRequestID", default="")
    checkout_request_id: str = msgspec.field(name="CheckoutRequestID", default="")


class _QueryBody(msgspec.Struct, rename="pascal"):
    """The answer to a query. The result's code is a string here, and a number in the callback."""

    result_code: str | int
    checkout_request_id: str = msgspec.field(name="CheckoutRequestID")
    result_desc: str = ""


_decode_push = msgspec.json.Decoder(_PushBody).decode
_decode_query = msgspec.json.Decoder(_QueryBody).decode


def read_push(body: bytes) -> PushTaken | PushRefused:
    """The answer to a push that has HTTP status 200. Raises `ValueError`."""
    answer = _decode_push(body)
    code = known_form(str(answer.response_code))
    if code != _DONE:
        return PushRefused(code, speakable(answer.response_description))
    checkout_id, merchant_request_id = answer.checkout_request_id, answer.merchant_request_id
    if not _ID.fullmatch(checkout_id) or not _ID.fullmatch(merchant_request_id):
        raise ValueError("a push without a name")
    return PushTaken(checkout_id, merchant_request_id)


def read_query(body: bytes, checkout_id: str) -> Paid | NotPaid | StillWaiting:
    """The answer to a query that has HTTP status 200. Raises `ValueError`."""
    answer = _decode_query(body)
    if answer.checkout_request_id != checkout_id:
        raise ValueError("an answer about another push")
    code = known_form(str(answer.result_code))
    if code == _DONE:
        return Paid()
    # Some codes are none of a result: 4999 came up in 2024. Whoever is called not paid might pay a moment later.
    if re.search(STILL_PROCESSING, answer.result_desc, re.IGNORECASE):
        return StillWaiting()
    return NotPaid(code, speakable(answer.result_desc))


def _cut(text: str, characters: int) -> str:
    return _UNSPEAKABLE.sub("", text)[:characters].strip() or _NOTHING_TO_SAY
