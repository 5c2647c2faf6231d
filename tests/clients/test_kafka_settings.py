"""The Kafka settings refuse what cannot work, by key name, and keep the password to themselves."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from clients.kafka import KafkaPublisher, KafkaSettings


def settings_of(config: dict[str, Any]) -> KafkaSettings:
    return msgspec.convert(config, KafkaSettings)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"publish_timeout_s": 0}, "publish_timeout_s"),
        ({"start_timeout_s": -1}, "start_timeout_s"),
        ({"ready_timeout_s": 0}, "ready_timeout_s"),
        ({"in_flight_max": 0}, "in_flight_max"),
        ({"batch_bytes_max": 0}, "batch_bytes_max"),
        ({"event_bytes_max": 0}, "event_bytes_max"),
        ({"linger_ms": -1}, "linger_ms"),
        ({"compression": "rar"}, "compression"),
        ({"security_protocol": "TLS"}, "security_protocol"),
        ({"sasl_mechanism": "GUESS"}, "sasl_mechanism"),
        ({"security_protocol": "SASL_SSL"}, "sasl_username"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "engine"}, "sasl_password"),
        ({"broker": "typo:9092"}, "broker"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_name(config: dict[str, Any], named: str) -> None:
    """At start, not with the first event."""
    with pytest.raises(msgspec.ValidationError, match=re.escape(named)):
        settings_of(config)


def test_the_password_is_not_in_the_repr() -> None:
    """Settings end up in logs and tracebacks."""
    settings = settings_of(
        {"security_protocol": "SASL_SSL", "sasl_username": "engine", "sasl_password": "canary-7", "brokers": "b:1"}
    )

    assert "canary-7" not in f"{settings!r} {settings}"
    assert "sasl_password=****" in repr(settings)
    assert settings.connection()["sasl_plain_password"] == "canary-7"


def test_a_publisher_without_brokers_is_refused() -> None:
    """Without Kafka the wiring takes the event file; silence would lose events."""
    with pytest.raises(ValueError, match="brokers"):
        KafkaPublisher(KafkaSettings())
