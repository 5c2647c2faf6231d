"""Settings: which source wins, what is refused, and that nothing secret is shown on the way."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from app.settings import ROLES, ConfigError, Settings, load, missing

KEY = base64.b64encode(b"A" * 32).decode()
SECRET = "jwt-secret-jwt-secret-jwt-secret-42"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder without a `config.toml` of somebody's own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def from_env(**environment: str) -> Settings:
    return load(None, environment)


def refused(environment: dict[str, str], file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load(file, environment)
    return str(error.value)


def test_nothing_set_is_the_defaults() -> None:
    assert load(None, {}) == Settings()


def test_the_environment_wins_over_the_file_and_the_file_over_given_defaults(file: Path) -> None:
    file.write_text('[core]\nport = 2\nwait_max_s = 2\n[users]\nurl = "file"\n')
    given: dict[str, Any] = {"core": {"port": 1, "wait_max_s": 1, "waiters_max": 1}, "orders": {"url": "given"}}
    settings = load(file, {"PAYMENTS__CORE__PORT": "3"}, given)
    core = settings.core
    assert (core.port, core.wait_max_s, core.waiters_max, core.enabled) == (3, 2, 1, True)
    assert (settings.users.url, settings.orders.url) == ("file", "given")
    assert given["core"] == {"port": 1, "wait_max_s": 1, "waiters_max": 1}, "what was given is not changed"


def test_a_file_in_the_working_folder_is_found(file: Path) -> None:
    Path("config.toml").write_text("[core]\nport = 7\n")
    assert load(None, {}).core.port == 7
    file.write_text("[core]\nport = 8\n")
    assert load(file, {}).core.port == 8, "a named file is read instead, not as well"


def test_one_deep_key_leaves_its_neighbours_alone(file: Path) -> None:
    file.write_text("[users.guard]\ntries_max = 7\n[acquirer.guard]\ntries_max = 1\n")
    settings = load(file, {"PAYMENTS__USERS__GUARD__TIMEOUT_S": "1.25"})
    assert (settings.users.guard.tries_max, settings.users.guard.timeout_s) == (7, 1.25)
    assert settings.users.guard.deadline_s == Settings().users.guard.deadline_s
    assert settings.acquirer.guard.timeout_s == Settings().acquirer.guard.timeout_s == 8.0


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False), ("FALSE", False)]
)
def test_switches_are_read_from_the_environment(text: str, value: bool) -> None:
    assert from_env(PAYMENTS__CORE__ENABLED=text).core.enabled is value


def test_numbers_and_lists_are_read_from_the_environment() -> None:
    settings = from_env(
        PAYMENTS__CORE__PORT="0",
        PAYMENTS__SERVER__STOP_S="7.5",
        PAYMENTS__AUTH__ALGORITHMS='["HS256", "HS512"]',
    )
    assert (settings.core.port, settings.server.stop_s) == (0, 7.5)
    assert settings.auth.algorithms == ("HS256", "HS512")


def test_names_in_the_environment_are_of_any_case_and_others_are_left_alone() -> None:
    settings = load(
        None, {"PAYMENTS__Core__pOrT": "5", "PAYMENTS_CORE__PORT": "6", "PATH": "x", "payments__core__port": "7"}
    )
    assert settings.core.port == 5


def test_the_contracts_variables_are_understood() -> None:
    settings = from_env(
        JWT_SEC=SECRET, PAYMENT_SERVICE_PORT="4003", KAFKA_BROKER="kafka:9092", GATEWAY_URL="http://gateway:3000/"
    )
    assert (settings.auth.secret, settings.core.port, settings.kafka.brokers) == (SECRET, 4003, "kafka:9092")
    assert settings.users.url == "http://gateway:3000/internal/users/{id}"
    assert settings.orders.url == "http://gateway:3000/internal/orders/{id}"


def test_the_other_contracts_name_for_kafka_is_understood() -> None:
    assert from_env(KAFKA_URI="one:9092,two:9092").kafka.brokers == "one:9092,two:9092"


def test_our_own_variables_win_over_the_contracts_and_those_over_the_file(file: Path) -> None:
    file.write_text('[core]\nport = 1\n[auth]\nsecret = "from the file"\n')
    settings = load(
        file, {"PAYMENT_SERVICE_PORT": "2", "JWT_SEC": SECRET, "PAYMENTS__CORE__PORT": "3", "GATEWAY_URL": ""}
    )
    assert (settings.core.port, settings.auth.secret, settings.users.url) == (3, SECRET, "")


@pytest.mark.parametrize("secret", [SECRET + "/", "/" + SECRET + "//", "[1, 2]", "{} {id} {0}", "true", "00012345"])
def test_a_signing_secret_is_taken_as_it_is(secret: str) -> None:
    """Base64 may end with a slash; one character less, and every token of the user service is refused."""
    assert from_env(JWT_SEC=secret).auth.secret == secret


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "unknown section": ({"PAYMENTS__COLOUR__RED": "1"}, "colour"),
    "unknown key": ({"PAYMENTS__CORE__PROT": "1"}, "prot"),
    "unknown deep key": ({"PAYMENTS__USERS__GUARD__TRIES": "1"}, "tries"),
    "number out of range": ({"PAYMENTS__CORE__PORT": "65536"}, "core.port"),
    "negative number": ({"PAYMENTS__CORE__PORT": "-1"}, "core.port"),
    "number that is none": ({"PAYMENTS__CORE__PORT": "http"}, "core.port"),
    "number with a rest": ({"PAYMENTS__CORE__PORT": "3003.5"}, "core.port"),
    "contract's number that is none": ({"PAYMENT_SERVICE_PORT": "http"}, "core.port"),
    "not a number": ({"PAYMENTS__SERVER__STOP_S": "nan"}, "server.stop_s"),
    "infinite": ({"PAYMENTS__WORKER__LEASE_S": "inf"}, "worker.lease_s"),
    "too short": ({"PAYMENTS__SERVER__STOP_S": "0.5"}, "server.stop_s"),
    "too long": ({"PAYMENTS__SERVER__UNREADY_S": "301"}, "server.unready_s"),
    "wait": ({"PAYMENTS__CORE__WAIT_MAX_S": "301"}, "core.wait_max_s"),
    "vault port": ({"PAYMENTS__VAULT__PORT": "65536"}, "vault.port"),
    "vault currency": ({"PAYMENTS__VAULT__CURRENCY": "XXX"}, "vault.currency"),
    "vault batch": ({"PAYMENTS__VAULT__BATCH_MAX": "0"}, "vault.batch_max"),
    "vault group": ({"PAYMENTS__VAULT__GROUP": ""}, "vault.group"),
    "vault topics": ({"PAYMENTS__VAULT__ORDER_REFUNDED_TOPIC": ""}, "vault.order_refunded_topic"),
    "orders port": ({"PAYMENTS__ORDERS_API__PORT": "65536"}, "orders_api.port"),
    "orders currency": ({"PAYMENTS__ORDERS_API__CURRENCY": "JPY"}, "orders_api.currency"),
    "orders begin": ({"PAYMENTS__ORDERS_API__BEGINS": "failed"}, "orders_api.begins"),
    "ops port": ({"PAYMENTS__OPS__PORT": "70000"}, "ops.port"),
    "console token": ({"PAYMENTS__OPS__CONSOLE_TOKEN": "short"}, "ops.console_token"),
    "console token that is no header": ({"PAYMENTS__OPS__CONSOLE_TOKEN": "x" * 31 + " y"}, "ops.console_token"),
    "console token without end": ({"PAYMENTS__OPS__CONSOLE_TOKEN": "x" * 257}, "ops.console_token"),
    "no worker": ({"PAYMENTS__WORKER__CONCURRENCY": "0"}, "worker.concurrency"),
    "redrive": ({"PAYMENTS__WORKER__REDRIVE_AFTER_S": "0"}, "worker.redrive_after_s"),
    "claim": ({"PAYMENTS__WORKER__CLAIM_IDLE_S": "86401"}, "worker.claim_idle_s"),
    "shards": ({"PAYMENTS__REDIS__SHARDS": "257"}, "redis.shards"),
    "deep number": ({"PAYMENTS__ORDERS__GUARD__TRIES_MAX": "0"}, "tries_max must be at least 1 - at `$.orders.guard`"),
    "unknown word": ({"PAYMENTS__SERVER__LOG_LEVEL": "loud"}, "server.log_level"),
    "unknown algorithm": ({"PAYMENTS__AUTH__ALGORITHMS": '["none"]'}, "auth.algorithms"),
    "asymmetric algorithm": ({"PAYMENTS__AUTH__ALGORITHMS": '["RS256"]'}, "auth.algorithms"),
    "no algorithm": ({"PAYMENTS__AUTH__ALGORITHMS": "[]"}, "auth.algorithms"),
    "list that is none": ({"PAYMENTS__AUTH__ALGORITHMS": "[HS256"}, "auth.algorithms"),
    "leeway": ({"PAYMENTS__AUTH__LEEWAY_S": "301"}, "auth.leeway_s"),
    "mode": ({"PAYMENTS__AUTH__MODE": "off"}, "auth.mode"),
    "switch that is none": ({"PAYMENTS__CORE__ENABLED": "maybe"}, "core.enabled"),
    "cvv's life": ({"PAYMENTS__CARDS__CVV_TTL_S": "0"}, "cards.cvv_ttl_s"),
    "card keys": ({"PAYMENTS__CARDS__KEYS": "k1:short"}, "cards.keys"),
    "fingerprint secret": ({"PAYMENTS__CARDS__FINGERPRINT_SECRET": "short"}, "cards.fingerprint_secret"),
    "section as a value": ({"PAYMENTS__CORE": "1"}, "PAYMENTS__CORE"),
    "nothing but the prefix": ({"PAYMENTS__": "1"}, "PAYMENTS__"),
    "empty part": ({"PAYMENTS__CORE____PORT": "1"}, "PAYMENTS__CORE____PORT"),
    "value below a value": ({"PAYMENTS__CORE__PORT__DEEP": "1"}, "core.port"),
    "value and section at once": (
        {"PAYMENTS__USERS__GUARD": "1", "PAYMENTS__USERS__GUARD__TRIES_MAX": "1"}, "PAYMENTS__USERS__GUARD__TRIES_MAX",
    ),
    "a language nobody speaks": ({"PAYMENTS__ACQUIRER__KIND": "paypal"}, "acquirer.kind"),
    "a key that is no header": ({"PAYMENTS__ACQUIRER__API_KEY": "sk_1\r\nX: y"}, "api_key"),
    "lease below the acquirer's deadline": ({"PAYMENTS__WORKER__LEASE_S": "14"}, "worker.lease_s"),
    "claim before the lease is over": ({"PAYMENTS__WORKER__CLAIM_IDLE_S": "19"}, "worker.claim_idle_s"),
}  # fmt: skip


@pytest.mark.parametrize(("environment", "key"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_is_refused_by_its_key(environment: dict[str, str], key: str) -> None:
    assert key in refused(environment)


@pytest.mark.parametrize("text", ["core = 5", "users = []", '[users]\nguard = "x"'])
def test_a_section_that_is_a_value_in_the_file_is_refused_by_its_name(file: Path, text: str) -> None:
    file.write_text(text)
    name = "core" if "core" in text else "users"
    assert name in refused({}, file)
    everywhere = {"PAYMENTS__CORE__PORT": "1", "PAYMENTS__USERS__GUARD__TRIES_MAX": "1", "GATEWAY_URL": "http://g"}
    assert name in refused(everywhere, file).lower()


@pytest.mark.parametrize("content", [b"[core\nport = 1", b"\xff\xfe", b"core.port = \n"])
def test_a_file_that_cannot_be_read_is_refused_by_its_name(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert str(file) in refused({}, file)


def test_a_file_that_is_not_there_is_refused_by_its_name(file: Path) -> None:
    assert str(file) in refused({}, file)
    assert str(file.parent) in refused({}, file.parent), "a folder is no file"


def test_the_lease_covers_the_acquirers_deadline_whichever_is_changed() -> None:
    """A request that may still leave after its lease would be asked about too early."""
    environment = {"PAYMENTS__ACQUIRER__GUARD__DEADLINE_S": "16"}
    assert "worker.lease_s must be at least acquirer.guard.deadline_s + 5" in refused(environment)
    environment |= {"PAYMENTS__WORKER__LEASE_S": "21"}
    assert load(None, environment).worker.lease_s == 21.0


NEEDED: dict[str, tuple[str, ...]] = {
    "http": ("redis.url", "cards.keys", "cards.fingerprint_secret", "users.url", "orders.url", "auth.secret"),
    "worker": ("redis.url", "cards.keys", "acquirer.url"),
    "relay": ("redis.url", "cards.keys", "kafka.brokers"),
    "reconcile": ("redis.url", "cards.keys"),
}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_says_what_it_misses(role: str) -> None:
    assert tuple(line.split(" ")[0] for line in missing(Settings(), [role])) == NEEDED[role]


def test_together_they_miss_everything_once() -> None:
    found = [line.split(" ")[0] for line in missing(Settings(), ROLES)]
    assert sorted(found) == sorted({key for keys in NEEDED.values() for key in keys})


def complete(**more: str) -> Settings:
    return from_env(**{
        "PAYMENTS__REDIS__URL": "redis://localhost", "PAYMENTS__CARDS__KEYS": f"k:{KEY}",
        "PAYMENTS__CARDS__FINGERPRINT_SECRET": KEY, "GATEWAY_URL": "http://gateway", "JWT_SEC": SECRET,
        "PAYMENTS__ACQUIRER__URL": "http://bank", "PAYMENTS__EVENTS__FILE": "events.jsonl", **more,
    })  # fmt: skip


def test_nothing_is_missing_when_everything_is_set() -> None:
    assert missing(complete(), ROLES) == []
    assert missing(complete(PAYMENTS__EVENTS__FILE="", KAFKA_BROKER="kafka:9092"), ROLES) == []


def test_stripe_needs_its_key_and_knows_its_address() -> None:
    environment = {"PAYMENTS__ACQUIRER__KIND": "stripe", "PAYMENTS__ACQUIRER__URL": ""}
    settings = complete(**environment)
    (line,) = missing(settings, ROLES)
    assert "acquirer.api_key (PAYMENTS__ACQUIRER__API_KEY)" in line
    assert settings.acquirer.base_url == "https://api.stripe.com"
    assert missing(complete(**environment, PAYMENTS__ACQUIRER__API_KEY="sk_test_1"), ROLES) == []
    assert complete(PAYMENTS__ACQUIRER__KIND="stripe").acquirer.base_url == "http://bank"


def test_a_further_acquirer_says_what_it_misses() -> None:
    (url,) = missing(complete(PAYMENTS__FALLBACKS__BACKUP__METHODS='["wallet"]'), ROLES)
    assert "fallbacks.backup.url (PAYMENTS__FALLBACKS__BACKUP__URL)" in url
    (key,) = missing(complete(PAYMENTS__FALLBACKS__CARDS__KIND="stripe"), ["worker"])
    assert "fallbacks.cards.api_key (PAYMENTS__FALLBACKS__CARDS__API_KEY)" in key
    assert missing(complete(PAYMENTS__FALLBACKS__CARDS__KIND="stripe"), ["http"]) == []


def test_a_template_needs_its_place_for_the_id_and_a_secret_its_length() -> None:
    settings = complete(PAYMENTS__USERS__URL="http://users/api/users/", JWT_SEC="x" * 31)
    users, secret = missing(settings, ["http"])
    assert "users.url" in users and "{id}" in users
    assert "32 characters" in secret and 'auth.mode = "none"' in secret
    assert missing(complete(JWT_SEC="", PAYMENTS__AUTH__MODE="none"), ROLES) == []


def test_the_gateway_signs_with_the_secret_so_it_needs_one_even_where_nobody_is_asked_for_a_token() -> None:
    settings = complete(JWT_SEC="", PAYMENTS__AUTH__MODE="none", PAYMENTS__GATEWAY__ENABLED="true")
    (secret,) = missing(settings, ["http"])
    assert "auth.secret (JWT_SEC)" in secret


def test_a_gateway_alone_needs_no_user_and_no_order_service() -> None:
    alone = {"PAYMENTS__CORE__ENABLED": "false", "PAYMENTS__GATEWAY__ENABLED": "true"}
    assert missing(complete(PAYMENTS__USERS__URL="", PAYMENTS__ORDERS__URL="", **alone), ROLES) == []


def test_no_secret_is_shown_by_the_settings_or_by_a_refusal() -> None:
    other = base64.b64encode(b"B" * 40).decode()
    environment = {
        "JWT_SEC": SECRET, "PAYMENTS__CARDS__KEYS": f"k:{KEY}", "PAYMENTS__CARDS__FINGERPRINT_SECRET": other,
        "PAYMENTS__KAFKA__SASL_PASSWORD": "kafka-password", "PAYMENTS__ACQUIRER__API_KEY": "sk_live_canary",
        "PAYMENTS__FALLBACKS__B__WEBHOOK_SECRET": "whsec_canary",
    }  # fmt: skip
    settings = load(None, environment)
    texts = [repr(settings), str(settings), refused({**environment, "PAYMENTS__CORE__PROT": "1"})]
    texts += [refused({name: value + "\n!"}) for name, value in environment.items() if "CARDS" in name]
    texts.append(refused({"PAYMENTS__ACQUIRER__API_KEY": "sk_live_canary\n"}))
    for secret in (SECRET, KEY, other, "kafka-password", "canary"):
        assert not any(secret in text for text in texts)


PORT_MEANS: dict[str, tuple[dict[str, str], tuple[int, int, int]]] = {
    "core": ({}, (5, 3004, 3005)),
    "core, with both": ({"PAYMENTS__ORDERS_API__ENABLED": "true"}, (5, 3004, 3005)),
    "orders alone": ({"PAYMENTS__CORE__ENABLED": "false", "PAYMENTS__ORDERS_API__ENABLED": "true"}, (3003, 5, 3005)),
    "vault alone": ({"PAYMENTS__CORE__ENABLED": "false", "PAYMENTS__VAULT__ENABLED": "true"}, (3003, 3004, 5)),
    "nobody": ({"PAYMENTS__CORE__ENABLED": "0"}, (3003, 3004, 3005)),
    "not where ours is set": (
        {"PAYMENTS__CORE__ENABLED": "0", "PAYMENTS__ORDERS_API__ENABLED": "1", "PAYMENTS__Orders_Api__Port": "6"},
        (3003, 6, 3005),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("environment", "ports"), PORT_MEANS.values(), ids=PORT_MEANS)
def test_the_contracts_port_is_that_of_the_first_surface_that_is_enabled(
    environment: dict[str, str], ports: tuple[int, int, int]
) -> None:
    settings = from_env(PAYMENT_SERVICE_PORT="5", **environment)
    assert (settings.core.port, settings.orders_api.port, settings.vault.port) == ports


def test_a_surface_that_is_switched_off_in_the_file_does_not_get_the_contracts_port(file: Path) -> None:
    file.write_text("[core]\nenabled = false\n[orders_api]\nenabled = true\nport = 9\n")
    settings = load(file, {"PAYMENT_SERVICE_PORT": "5"})
    assert (settings.core.port, settings.orders_api.port) == (3003, 5)


def test_the_orders_surface_says_what_it_misses_only_when_it_is_enabled() -> None:
    urls = {"GATEWAY_URL": "", "PAYMENTS__USERS__URL": "http://u/{id}", "PAYMENTS__ORDERS__URL": "http://o/{id}"}
    assert missing(complete(**urls), ROLES) == []
    found = missing(complete(**urls, PAYMENTS__ORDERS_API__ENABLED="true"), ROLES)
    assert [line.split(" ")[0] for line in found] == ["orders_api.users_url", "orders_api.orders_url"]
    assert "PAYMENTS__ORDERS_API__USERS_URL" in found[0]
    assert missing(complete(PAYMENTS__ORDERS_API__ENABLED="true"), ROLES) == [], "GATEWAY_URL sets them too"
    alone = dict.fromkeys(urls, "") | {"PAYMENTS__CORE__ENABLED": "false"}
    assert missing(complete(**alone), ROLES) == [], "what is switched off needs nothing"
