"""Settings that are each right and cannot be meant together: refused at the start, by name."""

from __future__ import annotations

import pytest

from app.settings import ConfigError, load, missing

KEYS = "k:" + "A" * 43 + "="


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"PAYMENTS__FALLBACKS__CARD_ACQUIRER__URL": "http://other"}, "fallbacks.card_acquirer"),
        ({"PAYMENTS__ACQUIRER__NAME": "mpesa"}, "mpesa is the name of another counterparty"),
        ({"PAYMENTS__FALLBACKS__USER_SERVICE__URL": "http://other"}, "user_service is the name"),
        ({"PAYMENTS__GATEWAY__ENABLED": "true", "PAYMENTS__GATEWAY__PORT": "3003"}, "gateway.port and core.port"),
        ({"PAYMENTS__OPS__PORT": "3003"}, "core.port and ops.port"),
        ({"PAYMENTS__OPS__CONSOLE": "true"}, "ops.console needs ops.port"),
        ({"PAYMENTS__GATEWAY__TOPIC": ""}, "gateway.topic"),
        ({"PAYMENTS__EVENTS__TOPIC": ""}, "events.topic"),
    ],
)
def test_what_would_mix_up_money_requests_or_events_is_refused(environment: dict[str, str], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        load(None, environment)


def test_ports_that_the_system_chooses_and_surfaces_that_are_off_stand_in_nobodys_way() -> None:
    load(None, {"PAYMENTS__GATEWAY__ENABLED": "true", "PAYMENTS__GATEWAY__PORT": "0", "PAYMENTS__CORE__PORT": "0"})
    load(None, {"PAYMENTS__GATEWAY__PORT": "3003"})


def test_a_gateway_needs_an_algorithm_that_it_can_sign_with() -> None:
    settings = load(
        None,
        {
            "PAYMENTS__GATEWAY__ENABLED": "true",
            "PAYMENTS__AUTH__ALGORITHMS": '["RS256"]',
            "PAYMENTS__AUTH__JWKS_URL": "https://issuer.example/keys",
            "JWT_SEC": "s" * 32,
        },
    )
    assert any(line.startswith("auth.algorithms") for line in missing(settings, ["http"]))
