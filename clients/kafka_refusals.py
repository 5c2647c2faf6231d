"""Which of a broker's errors are about a record itself, so that sending it again can never help."""

from __future__ import annotations

from typing import Final

from aiokafka import errors
from aiokafka.errors import BrokerResponseError, MessageSizeTooLargeError, RecordListTooLargeError


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]
    """The broker has looked at a record and will not have it. aiokafka does not know this error."""

    errno = 87
    message = "INVALID_RECORD"


TOO_LARGE: Final = "message_too_large"
_REASONS: Final = {
    MessageSizeTooLargeError: TOO_LARGE,
    RecordListTooLargeError: TOO_LARGE,
    InvalidRecordError: "record_invalid",
}


def know_all_refusals() -> None:
    """Teach aiokafka the errors that it takes for unknown ones. Safe to call again."""
    errors.kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)


def refusal(error: BaseException) -> str | None:
    """Why a record is refused for ever; None for trouble that may pass.

    Not among these: authorization, an unknown topic, a wrong clock. They concern all events alike, so parking would
    empty the outbox into the parked stream, while waiting loses nothing and raises the alarm of a stuck outbox.
    """
    return _REASONS.get(type(error))
