"""Which pages of other origins may use a surface, as a browser asks and as it is told."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec
import pytest

from app.settings import ConfigError, Settings, load
from tests.limits.world import Client, shop

NO_REDIS = "redis://127.0.0.1:1/0"
SHOP, OTHER = "https://shop.example.com", "https://evil.example.com"
LISTED: dict[str, Any] = {"origins": [SHOP, "http://localhost:8080"]}
WITH_COOKIES: dict[str, Any] = {**LISTED, "credentials": True}
EVERYBODY: dict[str, Any] = {"origins": ["*"]}
ALLOW = "Access-Control-Allow-Origin"


async def preflight(
    client: Client, path: str = "/things", *, origin: str | None = SHOP, method: str = "POST", headers: str = ""
) -> aiohttp.ClientResponse:
    sent = {"Access-Control-Request-Method": method}
    if origin is not None:
        sent["Origin"] = origin
    if headers:
        sent["Access-Control-Request-Headers"] = headers
    return await client.options(path, headers=sent)


@pytest.mark.parametrize(
    ("cors", "origin", "allowed", "credentials", "varies"),
    [
        ({}, SHOP, None, False, False),
        ({}, None, None, False, False),
        (LISTED, SHOP, SHOP, False, True),
        (LISTED, "http://localhost:8080", "http://localhost:8080", False, True),
        (LISTED, OTHER, None, False, True),
        (LISTED, SHOP + ".evil.com", None, False, True),
        (LISTED, "null", None, False, True),
        (LISTED, None, None, False, True),
        (WITH_COOKIES, SHOP, SHOP, True, True),
        (WITH_COOKIES, OTHER, None, False, True),
        (EVERYBODY, OTHER, "*", False, False),
        (EVERYBODY, None, None, False, False),
    ],
)
@pytest.mark.parametrize(("path", "status"), [("/things", 200), ("/refused", 404), ("/nothing", 404), ("/broken", 500)])
async def test_who_may_read_an_answer(
    cors: dict[str, Any],
    origin: str | None,
    allowed: str | None,
    credentials: bool,
    varies: bool,
    path: str,
    status: int,
) -> None:
    """Refusals too: a page must be able to read why."""
    async with shop(NO_REDIS, name="core", cors={"core": cors}) as (client, _):
        answer = await client.get(path, headers={"Origin": origin} if origin else {})

    assert answer.status == status
    assert answer.headers.get(ALLOW) == allowed
    assert answer.headers.get("Access-Control-Allow-Credentials") == ("true" if credentials else None)
    assert ("Origin" in answer.headers.get("Vary", "")) is varies
    exposed = answer.headers.get("Access-Control-Expose-Headers", "").split(", ")
    names = {"X-Request-Id", "Location", "Retry-After", "RateLimit-Remaining", "Idempotent-Replayed"}
    assert (names <= set(exposed)) is (allowed is not None)


async def test_vary_keeps_what_the_handler_has_said() -> None:
    async with shop(NO_REDIS, name="core", cors={"core": LISTED}) as (client, _):
        assert (await client.get("/refused")).headers["Vary"] == "Accept, Origin"


@pytest.mark.parametrize("cors", [LISTED, WITH_COOKIES, EVERYBODY])
async def test_a_preflight_request_is_told_what_the_path_and_the_settings_have_in_common(cors: dict[str, Any]) -> None:
    async with shop(NO_REDIS, name="core", cors={"core": {**cors, "methods": ["POST", "PUT"]}}) as (client, _):
        answer = await preflight(client, headers="content-type, IDEMPOTENCY-KEY,authorization")
        body = await answer.read()

    assert (answer.status, body) == (204, b"")
    assert answer.headers[ALLOW] == ("*" if cors is EVERYBODY else SHOP)
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    assert "Idempotency-Key" in answer.headers["Access-Control-Allow-Headers"].split(", ")
    assert answer.headers["Access-Control-Max-Age"] == "600"
    assert ("Access-Control-Allow-Credentials" in answer.headers) is bool(cors.get("credentials"))
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"origin": OTHER}, 403),
        ({"method": "DELETE"}, 403),
        ({"method": "post"}, 403),
        ({"headers": "content-type, x-debug"}, 403),
        ({"path": "/nothing"}, 404),
        ({"origin": None}, 405),
    ],
)
async def test_a_preflight_request_for_something_else_is_refused_in_the_envelope(
    asked: dict[str, Any], status: int
) -> None:
    async with shop(NO_REDIS, name="core", cors={"core": LISTED}) as (client, _):
        answer = await preflight(client, **asked)
        error = (await answer.json())["error"]

    assert answer.status == status
    assert error["code"] == {403: "CORS_REFUSED", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}[status]
    assert "Access-Control-Allow-Methods" not in answer.headers


async def test_options_without_a_question_is_a_method_like_any_other() -> None:
    async with shop(NO_REDIS, name="core", cors={"core": LISTED}) as (client, _):
        answer = await client.options("/things", headers={"Origin": SHOP})

    assert answer.status == 405
    assert set(answer.headers["Allow"].split(",")) >= {"GET", "POST"}


async def test_a_preflight_request_is_not_counted_and_a_page_may_read_a_429() -> None:
    """Here nobody can count, and the rule is closed: a preflight passes all the same."""
    rule = {"requests": 1, "on_failure": "closed"}
    async with shop(NO_REDIS, name="core", cors={"core": LISTED}, limits={"core": rule}) as (client, _):
        asked = await preflight(client)
        refused = await client.get("/things", headers={"Origin": SHOP})

    assert asked.status == 204
    assert (refused.status, refused.headers[ALLOW]) == (503, SHOP)


async def test_only_the_mpesa_surface_is_open_by_default_and_then_to_everybody_without_credentials() -> None:
    async with shop(NO_REDIS, name="mpesa", limits={"mpesa": {"requests": 0}}) as (client, _):
        answer = await preflight(client)
        assert (answer.status, answer.headers[ALLOW]) == (204, "*")
        assert "Access-Control-Allow-Credentials" not in answer.headers

    cors = Settings().cors
    assert {name for name in cors.__struct_fields__ if cors.surface(name).origins} == {"mpesa"}
    assert cors.surface("ops").origins == ()


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("PAYMENTS__CORS__MPESA__CREDENTIALS", "true", "cors.mpesa.credentials"),
        ("PAYMENTS__CORS__CORE__ORIGINS", '["https://shop.example.com/"]', "cors.core.origins"),
        ("PAYMENTS__CORS__CORE__ORIGINS", '["null"]', "cors.core.origins"),
        ("PAYMENTS__CORS__CORE__ORIGINS", '["shop.example.com"]', "cors.core.origins"),
        ("PAYMENTS__CORS__CORE__ORIGINS", '["https://*.example.com"]', "cors.core.origins"),
        ("PAYMENTS__CORS__ORDERS__MAX_AGE_S", "100000", "cors.orders.max_age_s"),
        ("PAYMENTS__LIMITS__CORE__REQUESTS", "10001", "limits.core.requests"),
        ("PAYMENTS__LIMITS__LOGIN_BY_ACCOUNT__WINDOW_S", "0", "limits.login_by_account.window_s"),
        ("PAYMENTS__LIMITS__TIMEOUT_S", "0", "limits.timeout_s"),
        ("PAYMENTS__LIMITS__GATEWAY__ON_FAILURE", "ajar", "limits.gateway.on_failure"),
        ("PAYMENTS__SERVER__TRUSTED_PROXIES", '["everybody"]', "server.trusted_proxies"),
        ("PAYMENTS__SERVER__HSTS_MAX_AGE_S", "-1", "server.hsts_max_age_s"),
    ],
)
def test_a_setting_that_would_be_unsafe_or_senseless_is_refused_by_its_key(variable: str, value: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load(None, {variable: value})


def test_a_rule_keeps_the_rest_of_its_defaults_when_one_number_is_changed() -> None:
    settings = load(None, {"PAYMENTS__LIMITS__GATEWAY__REQUESTS": "7"}).limits

    assert msgspec.to_builtins(settings.gateway) == {
        "requests": 7, "window_s": 900, "on_failure": "open", "per": "address",
    }  # fmt: skip
    rules = settings.rules()
    assert rules["gateway"] == ("gateway", 7, 900, "open")
    assert rules["mpesa"] == ("mpesa", 100, 60, "open")
    assert rules["core"] is rules["orders"] is rules["vault"] is None
    assert [rules[name].on_failure for name in ("login_by_account", "login_by_address")] == ["closed", "closed"]  # type: ignore[union-attr]
