"""Refusals: every one has a code that is part of the API, the facts, and advice on trying again.

The code is for programs, the message for people; nobody parses messages.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Retry = Literal["never", "same_key", "new_key", "after"]


class EngineError(Exception):
    """Something the engine refuses or cannot do now. Nothing that moves money was written."""

    code: ClassVar[str] = "INTERNAL"
    retry: ClassVar[Retry] = "never"

    def __init__(self, message: str, **details: str | int | None) -> None:
        super().__init__(message)
        self.details = details


class AmountRefused(EngineError):
    """The amount or its currency cannot be taken."""

    code = "INVALID_AMOUNT"

    def __init__(self, message: str, *, field: str = "amount") -> None:
        super().__init__(message, field=field)


class PaymentMethodRefused(EngineError):
    """The payment method is of no known kind, or its fields cannot be right."""

    code = "PAY_001"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message, field=field)


class UserNotFound(EngineError):
    """The user service does not know the user."""

    code = "USER_004"


class UserInactive(EngineError):
    """The user exists but may not pay."""

    code = "USER_INACTIVE"


class OrderNotFound(EngineError):
    """The order service does not know the order, or it is somebody else's."""

    code = "ORDER_003"


class AlreadyProcessed(EngineError):
    """The order is cancelled, paid, or has a payment that is live or completed."""

    code = "PAY_003"


class OrderMismatch(EngineError):
    """The amount or the currency is not the order's."""

    code = "ORDER_MISMATCH"


class PaymentNotFound(EngineError):
    """There is no such payment, or it is somebody else's."""

    code = "PAYMENT_NOT_FOUND"


class NotYourUser(EngineError):
    """The caller's token does not let it pay for this user."""

    code = "FORBIDDEN"


class KeyReused(EngineError):
    """The idempotency key was used before with another request."""

    code = "IDEMPOTENCY_KEY_REUSED"
    retry = "new_key"

    def __init__(self, field: str) -> None:
        super().__init__(f"this Idempotency-Key was used with another request: {field} differs", field=field)


class KeyNotFound(EngineError):
    """The caller has used no such idempotency key."""

    code = "IDEMPOTENCY_KEY_NOT_FOUND"


class IllegalMove(EngineError):
    """The payment's status does not allow this step."""

    code = "ILLEGAL_MOVE"

    def __init__(self, status: str, wanted: str, allowed: tuple[str, ...]) -> None:
        ways = ", ".join(allowed) or "nothing"
        super().__init__(
            f"a payment that is {status} cannot become {wanted}; it can become {ways}",
            status=status,
            allowed=", ".join(allowed),
        )


class FieldsRequired(EngineError):
    """A field that every payment needs is missing."""

    code = "FIELDS_REQUIRED"


class FieldRefused(EngineError):
    """A field has not its form."""

    code = "INVALID_FIELD"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message, field=field)


class StatusUnknown(EngineError):
    """The status asked for is none of those that there are."""

    code = "INVALID_STATUS"


class RoleRequired(EngineError):
    """The caller's token lacks the role for this."""

    code = "FORBIDDEN"


class CircuitNotFound(EngineError):
    """There is no counterparty of this name."""

    code = "CIRCUIT_NOT_FOUND"


class RefundNotAllowed(EngineError):
    """The payment's status does not allow a refund."""

    code = "PAY_004"


class RefundTooLarge(EngineError):
    """The refund asks for more than is left on the payment."""

    code = "PAY_004"


class RefundNotFound(EngineError):
    """The payment has no such refund."""

    code = "REFUND_NOT_FOUND"


class EmailRefused(EngineError):
    """This is no e-mail address."""

    code = "INVALID_EMAIL"

    def __init__(self) -> None:
        super().__init__("email is not an e-mail address", field="email")


class EmailTaken(EngineError):
    """There is an account with this e-mail address, however it is spelt."""

    code = "EMAIL_TAKEN"

    def __init__(self) -> None:
        super().__init__("there is an account with this e-mail address", field="email")


class WrongCredentials(EngineError):
    """The e-mail address is unknown, or the password is not its account's: nobody is told which."""

    code = "INVALID_CREDENTIALS"

    def __init__(self) -> None:
        super().__init__("wrong e-mail address or password")


class AccountNotFound(EngineError):
    """The token's subject has no account here."""

    code = "ACCOUNT_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("the token's subject has no account here")


class ClientRefused(EngineError):
    """The M-Pesa client is unknown or inactive."""

    code = "INVALID_CLIENT"


class NothingHere(EngineError):
    """There is nothing at this path, as far as this caller may know."""

    code = "NOT_FOUND"


class PackageRefused(EngineError):
    """The package is unknown, or another client's."""

    code = "INVALID_PACKAGE"


class PushFailed(EngineError):
    """Certainly no phone was asked, or its owner was told no at once."""

    code = "PUSH_FAILED"


class CardNotFound(EngineError):
    """There is no such stored card, or it is somebody else's."""

    code = "CARD_NOT_FOUND"


class CardExists(EngineError):
    """A card of this number is stored already."""

    code = "CARD_EXISTS"


class CardInUse(EngineError):
    """The card has payments that are still open."""

    code = "CARD_IN_USE"


class InsufficientFunds(EngineError):
    """The card's balance does not cover the payment, which has failed."""

    code = "PAY_002"


class TotalMismatch(EngineError):
    """The total is not the sum of its products."""

    code = "TOTAL_MISMATCH"


class CheckoutTaken(EngineError):
    """The checkout is paid by somebody else."""

    code = "CHECKOUT_TAKEN"


class TryLater(EngineError):
    """Cannot be done now; the same request may succeed after `retry_after_s` seconds."""

    retry: ClassVar[Retry] = "after"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **details: str | int | None) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class UserServiceUnavailable(TryLater):
    """The user service cannot be asked: its circuit is open, it is down, or it is too slow."""

    code = "USER_SERVICE_UNAVAILABLE"


class OrderServiceUnavailable(TryLater):
    """The order service cannot be asked: its circuit is open, it is down, or it is too slow."""

    code = "ORDER_SERVICE_UNAVAILABLE"


class BadUpstreamAnswer(TryLater):
    """A counterparty answered with something that is not what it promised."""

    code = "BAD_UPSTREAM_ANSWER"


class SigningKeysUnavailable(TryLater):
    """The keys that tokens are signed with cannot be fetched, and none were kept."""

    code = "SIGNING_KEYS_UNAVAILABLE"


class StoreUnavailable(TryLater):
    """Redis did not confirm the step. It may have happened: repeat with the same Idempotency-Key."""

    code = "STORE_UNAVAILABLE"
    retry = "same_key"


class Overloaded(TryLater):
    """A named bound is reached; nothing was written."""

    code = "OVERLOADED"

    def __init__(self, bound: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(f"{bound} is full", retry_after_s=retry_after_s, bound=bound)
        self.bound = bound


class WebhookUrlRefused(EngineError):
    """The URL is none that webhooks are sent to."""

    code = "WEBHOOK_URL_REFUSED"

    def __init__(self, message: str) -> None:
        super().__init__(message, field="url")


class WebhookEndpointNotFound(EngineError):
    """There is no such endpoint, or it is somebody else's."""

    code = "WEBHOOK_ENDPOINT_NOT_FOUND"


class WebhookDeliveryNotFound(EngineError):
    """The endpoint has no such delivery, or it is too old to be known."""

    code = "WEBHOOK_DELIVERY_NOT_FOUND"


class TooManyWebhookEndpoints(EngineError):
    """The caller has as many endpoints as it may have."""

    code = "TOO_MANY_WEBHOOK_ENDPOINTS"

    def __init__(self, endpoints_max: int) -> None:
        super().__init__(f"{endpoints_max} endpoints are the most that one owner may have", maximum=endpoints_max)


class WebhookEndpointDisabled(EngineError):
    """The endpoint is disabled; enable it first."""

    code = "WEBHOOK_ENDPOINT_DISABLED"
