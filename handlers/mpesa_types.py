"""The M-Pesa surface's requests and answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.errors import FieldRefused, FieldsRequired, PaymentMethodRefused
from engine.facts import Status
from engine.ids import PaymentId
from engine.payment import Payment
from engine.phones import Phone
from handlers.http import decode

_EAST_AFRICA: Final = timezone(timedelta(hours=3))
_CANCELLED: Final = "mpesa_1032"
_DESCRIPTION_MAX: Final = 255
_CHECKOUT_MAX: Final = 128
_AS_JSON: Final = msgspec.json.Decoder(Any)

ClientRef = Annotated[str, Meta(examples=["550e8400-e29b-41d4-a716-446655440000"])]
CheckoutRef = Annotated[str, Meta(examples=["ws_CO_28012026150605712345678"])]
Transaction = Annotated[str, Meta(examples=["770e8400-e29b-41d4-a716-446655440002"])]


class Initiate(msgspec.Struct):
    """What to ask a phone for. The price is the package's; an amount in the request is ignored."""

    client_id: Annotated[ClientRef, Meta(extra_json_schema={"format": "uuid"})]
    package_id: Annotated[
        str, Meta(extra_json_schema={"format": "uuid"}, examples=["660e8400-e29b-41d4-a716-446655440001"])
    ]
    phone_number: Annotated[
        str,
        Meta(
            pattern=r"^(\+?254|0)[17][0-9]{8}$(?!\n)",
            description="A Kenyan mobile number: +2547XXXXXXXX, 2547XXXXXXXX, 07XXXXXXXX or 01XXXXXXXX",
            examples=["+254712345678"],
        ),
    ]
    description: Annotated[
        str, Meta(min_length=1, max_length=_DESCRIPTION_MAX, examples=["Internet package - Professional Plan"])
    ]


class Ask(msgspec.Struct):
    """Which push to tell about."""

    client_id: Annotated[ClientRef, Meta(extra_json_schema={"format": "uuid"})]
    checkout_id: Annotated[CheckoutRef, Meta(min_length=1, max_length=_CHECKOUT_MAX)]


class InitiatedView(msgspec.Struct):
    """The phone is being asked. Without a `checkout_id` nobody knows yet: the transaction waits for its callback."""

    transaction_id: Transaction
    checkout_id: CheckoutRef
    message: Annotated[str, Meta(examples=["Payment initiated successfully"])]
    status: Annotated[str, Meta(examples=["pending"])]


class StatusView(msgspec.Struct):
    """How the payment stands. `stale`: Safaricom could not be asked now, this is what was known last."""

    transaction_id: Transaction
    checkout_id: CheckoutRef
    status: Annotated[str, Meta(extra_json_schema={"enum": ["pending", "completed", "failed", "cancelled"]})]
    amount: Annotated[int, Meta(examples=[1500])]
    reference: Annotated[str, Meta(examples=["PKG-20260128150605-abc123"])]
    phone_number: Annotated[str, Meta(examples=["+254712345678"])]
    result_code: Annotated[str | UnsetType, Meta(description="Safaricom's own, once there is one")] = UNSET
    stale: bool | UnsetType = UNSET


class HeardView(msgspec.Struct):
    """What Safaricom wants to hear."""

    result_code: int = msgspec.field(name="ResultCode", default=0)
    result_desc: str = msgspec.field(name="ResultDesc", default="Accepted")


class WantedPush(msgspec.Struct, frozen=True):
    """A checked request to ask a phone."""

    client_id: str
    package_id: str
    phone: Phone
    description: str


def wanted_push(body: bytes) -> WantedPush:
    """The request. Raises `FieldsRequired` or `FieldRefused` with the contract's words, `HttpRefused` without JSON."""
    fields = _object(body)
    _require(fields, "client_id", "package_id", "description")
    _require(fields, "phone_number")
    return WantedPush(
        _uuid(fields, "client_id"), _uuid(fields, "package_id"), _phone(fields), _text(fields, "description")
    )


def wanted_status(body: bytes) -> Ask:
    """The request. Raises as `wanted_push`."""
    fields = _object(body)
    _require(fields, "client_id", "checkout_id")
    return Ask(_uuid(fields, "client_id"), _text(fields, "checkout_id", _CHECKOUT_MAX))


def status_view(payment: Payment, checkout_id: str) -> StatusView:
    """The payment as its client sees it."""
    view = StatusView(
        transaction_id(payment.id),
        checkout_id,
        status_of(payment),
        payment.amount.minor // 100,
        reference_of(payment),
        f"+{payment.payer}",
    )
    if payment.failure is not None:
        view.result_code = payment.failure.code.lower().removeprefix("mpesa_")
    elif payment.status is Status.COMPLETED:
        view.result_code = "0"
    return view


def status_of(payment: Payment) -> str:
    """In the contract's words."""
    if payment.failure is not None:
        return "cancelled" if payment.failure.code.lower() == _CANCELLED else "failed"
    return "completed" if payment.captured_minor else "pending"


def transaction_id(payment_id: PaymentId) -> str:
    """The payment's id as a UUID: both are 128 bits, and the shard behind them needs no name outside."""
    value = 0
    for character in payment_id[4:30]:
        value = value * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(character)
    return str(UUID(int=value))


def reference_of(payment: Payment) -> str:
    """What the payer's statement can be found by: the moment in East Africa, and the end of the id."""
    moment = datetime.fromtimestamp(payment.created_ms / 1000, UTC).astimezone(_EAST_AFRICA)
    return f"PKG-{moment:%Y%m%d%H%M%S}-{payment.id[24:30]}"


def _object(body: bytes) -> dict[str, Any]:
    fields: Any = decode(body, _AS_JSON)
    if not isinstance(fields, dict):
        raise FieldRefused("the body must be a JSON object", field="")
    return fields


def _require(fields: dict[str, Any], *names: str) -> None:
    missing = [name for name in names if fields.get(name) in (None, "")]
    if missing:
        raise FieldsRequired(f"Missing required fields: {', '.join(missing)}")


def _uuid(fields: dict[str, Any], name: str) -> str:
    text = fields[name]
    try:
        canonical = str(UUID(text)) if isinstance(text, str) else ""
    except ValueError:
        canonical = ""
    if not canonical or canonical != text.lower():
        raise _invalid(name)
    return canonical


def _phone(fields: dict[str, Any]) -> Phone:
    text = fields["phone_number"]
    try:
        return Phone(text if isinstance(text, str) else "")
    except PaymentMethodRefused:
        raise _invalid("phone_number") from None


def _text(fields: dict[str, Any], name: str, length_max: int = _DESCRIPTION_MAX) -> str:
    text = fields[name]
    if not isinstance(text, str) or len(text) > length_max or not text.isprintable():
        raise _invalid(name)
    return text


def _invalid(name: str) -> FieldRefused:
    return FieldRefused(f"Invalid {name} format", field=name)
