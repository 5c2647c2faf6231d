"""All settings, read once: defaults, then `config.toml`, then the environment. Wrong ones are refused by key name."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from app.mpesa_settings import MpesaSettings
from app.notify_settings import NotifySettings
from app.surface_settings import (
    CoreSettings,
    GatewaySettings,
    OpsSettings,
    OrdersApiSettings,
    VaultSettings,
    check_networks,
    within,
)
from app.webhook_settings import WebhooksSettings
from clients.kafka import KafkaSettings
from clients.otlp_settings import NOT_INSTALLED, TracingSettings, installed
from engine.sealing import CardsSettings
from engine.store.connect import RedisSettings
from handlers.auth import AuthSettings
from handlers.cors import SurfacesCorsSettings
from resilience.guard import GuardSettings
from resilience.limit_settings import LimitsSettings

ROLES: Final = ("http", "worker", "relay", "reconcile")
Role = Literal["http", "worker", "relay", "reconcile"]
NOTIFY: Final = "notify"
"""The role of a process that tells people of events; `serve` does not have it."""

_PREFIX: Final = "PAYMENTS__"
_STRIPE_URL: Final = "https://api.stripe.com"
# The environment variables of the contracts. A gateway serves users and orders under its internal paths.
_CONTRACT_ENV: Final[dict[str, tuple[tuple[str, str, str], ...]]] = {
    "JWT_SEC": (("auth", "secret", "{}"),),
    "KAFKA_BROKER": (("kafka", "brokers", "{}"),),
    "KAFKA_URI": (("kafka", "brokers", "{}"),),
    "GATEWAY_URL": (
        ("users", "url", "{}/internal/users/{{id}}"),
        ("orders", "url", "{}/internal/orders/{{id}}"),
        ("orders_api", "users_url", "{}/internal/users/{{id}}"),
        ("orders_api", "orders_url", "{}/internal/orders/{{id}}"),
    ),
}
SURFACES: Final = ("core", "orders_api", "vault", "mpesa", "gateway")
"""The sections of the surfaces."""
_NAMES_TAKEN: Final = frozenset(
    {
        "mpesa",
        "mpesa_queries",
        "vault",
        "user_service",
        "order_service",
        "gateway_users",
        "gateway_orders",
        "signing_keys",
        "user_addresses",
        "smtp",
    }
)
_PORT_ENV: Final = "PAYMENT_SERVICE_PORT"
_PORT_SECTIONS: Final = ("core", "orders_api", "vault")
"""The surfaces whose contracts call the port `PAYMENT_SERVICE_PORT`: the first of them that is enabled has it."""


class ConfigError(Exception):
    """A setting is unknown, missing or out of range. The message names its key."""


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The process: where it listens, and how long its stages of stopping may take together."""

    host: str = "127.0.0.1"
    stop_s: float = 20.0
    unready_s: float = 0.0
    """How long to go on serving after `/ready` says 503, so that balancers notice first."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose `X-Forwarded-For` is believed."""
    hsts_max_age_s: int = 0
    """`Strict-Transport-Security`, for what is served over TLS; 0: not sent."""

    def __post_init__(self) -> None:
        within("server.stop_s", self.stop_s, 1, 600)
        within("server.unready_s", self.unready_s, 0, 300)
        within("server.hsts_max_age_s", self.hsts_max_age_s, 0, 63_072_000)
        check_networks("server.trusted_proxies", self.trusted_proxies)


class UsersSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user service. `url` is a template with `{id}`."""

    url: str = ""
    cache_s: float = 5.0
    cache_max: int = 50_000
    guard: GuardSettings = GuardSettings()

    def __post_init__(self) -> None:
        within("users.cache_s", self.cache_s, 0, 3600)
        within("users.cache_max", self.cache_max, 1, 10_000_000)


class OrdersSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The order service. `url` is a template with `{id}`."""

    url: str = ""
    guard: GuardSettings = GuardSettings()


class AcquirerGuardSettings(GuardSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A charge takes longer than a look-up, and more of them are under way."""

    timeout_s: float = 8.0
    deadline_s: float = 10.0
    slow_call_s: float = 6.0
    concurrency_max: int = 256


class _AnyAcquirerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every acquirer has. `kind` is whose language it speaks: ours over HTTP, or Stripe's."""

    kind: Literal["http", "stripe"] = "http"
    url: str = ""
    api_key: str = ""
    webhook_secret: str = ""
    guard: AcquirerGuardSettings = AcquirerGuardSettings()

    def __post_init__(self) -> None:
        # It goes into a header as it is.
        if not self.api_key.isascii() or not self.api_key.isprintable() or " " in self.api_key:
            raise ValueError("an acquirer's api_key must be visible ASCII characters")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kind={self.kind!r}, url={self.base_url!r}, …)"

    @property
    def base_url(self) -> str:
        """Where it is."""
        return self.url or (_STRIPE_URL if self.kind == "stripe" else "")


class AcquirerSettings(_AnyAcquirerSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first acquirer. `name` is kept in every record and metric: do not change it for the same counterparty."""

    name: str = "card_acquirer"


class FallbackSettings(_AnyAcquirerSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A further acquirer, for these method types: tried, in the file's order, only after certainly nothing moved."""

    methods: tuple[Literal["credit_card", "debit_card", "wallet"], ...] = ("credit_card", "debit_card", "wallet")


class EventsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where events go. With `kafka.brokers` they go to `topic`; else to `file`, a JSON line each."""

    topic: str = "payment-service-events"
    file: str = ""


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The workers of one process. `lease_s`: how long an attempt belongs to the worker that began it."""

    concurrency: int = 64
    lease_s: float = 20.0
    claim_idle_s: float = 30.0
    redrive_after_s: float = 120.0
    recheck_after_s: float = 300.0
    """When an acquirer that was passed over is asked once more whether it charged after all."""

    def __post_init__(self) -> None:
        within("worker.concurrency", self.concurrency, 1, 10_000)
        within("worker.lease_s", self.lease_s, 1, 3600)
        within("worker.claim_idle_s", self.claim_idle_s, 1, 86_400)
        within("worker.redrive_after_s", self.redrive_after_s, 1, 86_400)
        within("worker.recheck_after_s", self.recheck_after_s, 1, 604_800)


class AuditSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The audit's sample while the engine runs, in processes that reconcile. 0: none."""

    payments_per_s: int = 20

    def __post_init__(self) -> None:
        within("audit.payments_per_s", self.payments_per_s, 0, 10_000)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    server: ServerSettings = ServerSettings()
    core: CoreSettings = CoreSettings()
    orders_api: OrdersApiSettings = OrdersApiSettings()
    gateway: GatewaySettings = GatewaySettings()
    mpesa: MpesaSettings = MpesaSettings()
    vault: VaultSettings = VaultSettings()
    ops: OpsSettings = OpsSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitsSettings = LimitsSettings()
    cors: SurfacesCorsSettings = SurfacesCorsSettings()
    redis: RedisSettings = RedisSettings()
    kafka: KafkaSettings = KafkaSettings()
    events: EventsSettings = EventsSettings()
    cards: CardsSettings = CardsSettings()
    users: UsersSettings = UsersSettings()
    orders: OrdersSettings = OrdersSettings()
    acquirer: AcquirerSettings = AcquirerSettings()
    fallbacks: dict[str, FallbackSettings] = {}
    """Further acquirers by name: `[fallbacks.NAME]`."""
    worker: WorkerSettings = WorkerSettings()
    audit: AuditSettings = AuditSettings()
    notify: NotifySettings = NotifySettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    tracing: TracingSettings = TracingSettings()

    def __post_init__(self) -> None:
        # A request that may still leave after its lease would be asked about too early.
        guards: dict[str, GuardSettings] = {section: acquirer.guard for section, acquirer in acquirers(self).items()}
        if self.mpesa.base_url:
            guards["mpesa"] = self.mpesa.guard
        for section, guard in guards.items():
            if self.worker.lease_s < guard.deadline_s + 5:
                raise ValueError(f"worker.lease_s must be at least {section}.guard.deadline_s + 5")
        if self.worker.claim_idle_s < self.worker.lease_s:
            raise ValueError("worker.claim_idle_s must not be below worker.lease_s")
        # An attempt that is unknown at one acquirer would be asked about at the other, who has never seen it.
        if self.acquirer.name in self.fallbacks:
            raise ValueError(f"acquirer.name and fallbacks.{self.acquirer.name} are one name for two acquirers")
        for name in (self.acquirer.name, *self.fallbacks):
            if name in _NAMES_TAKEN:
                raise ValueError(f"acquirer.name, fallbacks: {name} is the name of another counterparty")
        _check_ports(self)
        for section in ("events", "orders_api", "gateway", "mpesa"):
            if not getattr(self, section).topic:
                raise ValueError(f"{section}.topic must not be empty")


def _check_ports(settings: Settings) -> None:
    """Two doors on one port would be let in by chance, where processes share their ports."""
    taken: dict[int, str] = {settings.ops.port: "ops"}
    for section in SURFACES:
        surface = getattr(settings, section)
        if surface.enabled and surface.port:
            if surface.port in taken:
                raise ValueError(f"{section}.port and {taken[surface.port]}.port are one port: {surface.port}")
            taken[surface.port] = section


def load(path: Path | None, environment: Mapping[str, str], defaults: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings. `defaults` are weaker than the file. Raises `ConfigError` naming the key."""
    tree: dict[str, Any] = {section: dict(values) for section, values in (defaults or {}).items()}
    path = path or (Path("config.toml") if Path("config.toml").is_file() else None)
    if path is not None:
        try:
            _merge(tree, tomllib.loads(path.read_text()))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
    for name, places in _CONTRACT_ENV.items():
        if value := environment.get(name):
            for section, key, form in places:
                # A secret is taken as it is: base64 may end with a slash.
                text = value if key == "secret" else value.rstrip("/")
                _put(tree, [section, key], form.format(text), name)
    for name, value in environment.items():
        if name.startswith(_PREFIX):
            _put(tree, name.removeprefix(_PREFIX).lower().split("__"), _scalar(value), name)
    settings = _converted(tree)
    if port := environment.get(_PORT_ENV):
        # Which surface is meant, is known only when everything else is.
        surface = next((name for name in _PORT_SECTIONS if getattr(settings, name).enabled), None)
        if surface and f"{_PREFIX}{surface}__port".upper() not in map(str.upper, environment):
            _put(tree, [surface, "port"], port, _PORT_ENV)
            return _converted(tree)
    return settings


def topics(settings: Settings) -> dict[str, str]:
    """Where each surface's events go. An empty topic means that the event's type names it."""
    return {
        "core": settings.events.topic,
        "orders": settings.orders_api.topic,
        "gateway": settings.gateway.topic,
        "mpesa": settings.mpesa.topic,
        "vault": settings.vault.topic,
    }


def acquirers(settings: Settings) -> dict[str, AcquirerSettings | FallbackSettings]:
    """All acquirers by the section that sets them, in the order in which they are tried."""
    further = {f"fallbacks.{name}": fallback for name, fallback in settings.fallbacks.items()}
    return {"acquirer": settings.acquirer, **further}


def missing(settings: Settings, roles: Sequence[str]) -> list[str]:
    """What `serve` needs and is not set, by key name, each with what to do."""
    found = []
    if not settings.redis.url:
        found.append("redis.url (PAYMENTS__REDIS__URL) is not set")
    if not settings.cards.keys:
        found.append("cards.keys (PAYMENTS__CARDS__KEYS) is not set: `id:base64 of 32 random bytes`")
    if not settings.cards.fingerprint_secret and "http" in roles:
        found.append("cards.fingerprint_secret (PAYMENTS__CARDS__FINGERPRINT_SECRET) is not set")
    if "http" in roles:
        found += [
            f"{key} (PAYMENTS__{key.upper().replace('.', '__')}) is not set: a template with {{id}}"
            for key, url in _urls_needed(settings)
            if "{id}" not in url
        ]
        if settings.auth.mode == "jwt" and settings.auth.shares_secret and len(settings.auth.secret) < 32:
            found.append('auth.secret (JWT_SEC) must have at least 32 characters, or write auth.mode = "none"')
        elif settings.gateway.enabled and len(settings.auth.secret) < 32:
            found.append("auth.secret (JWT_SEC) must have at least 32 characters: the gateway signs tokens with it")
        if settings.gateway.enabled and not settings.auth.shares_secret:
            found.append("auth.algorithms names none of HS256, HS384, HS512: the gateway signs tokens with one of them")
    if settings.mpesa.enabled and not settings.mpesa.base_url:
        found.append(
            "mpesa.base_url (PAYMENTS__MPESA__BASE_URL) is not set: https://sandbox.safaricom.co.ke, for example"
        )
    if "worker" in roles:
        found += [line for section, one in acquirers(settings).items() for line in _missing_of(section, one)]
    if "relay" in roles and not settings.kafka.brokers and not settings.events.file:
        found.append("kafka.brokers (KAFKA_BROKER) is not set, nor events.file")
    if settings.tracing.enabled and not installed():
        found.append(NOT_INSTALLED)
    return found


def _urls_needed(settings: Settings) -> list[tuple[str, str]]:
    needed = []
    if settings.core.enabled:
        needed += [("users.url", settings.users.url), ("orders.url", settings.orders.url)]
    if settings.orders_api.enabled:
        orders = settings.orders_api
        needed += [("orders_api.users_url", orders.users_url), ("orders_api.orders_url", orders.orders_url)]
    return needed


def _missing_of(section: str, acquirer: AcquirerSettings | FallbackSettings) -> list[str]:
    variable = f"{_PREFIX}{section.upper().replace('.', '__')}__"
    if not acquirer.base_url:
        return [f"{section}.url ({variable}URL) is not set"]
    if acquirer.kind == "stripe" and not acquirer.api_key:
        return [f"{section}.api_key ({variable}API_KEY) is not set: Stripe's secret key, sk_… or rk_…"]
    return []


def from_process(path: Path | None, defaults: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this process. Raises `ConfigError`."""
    return load(path, os.environ, defaults)


def _converted(tree: Mapping[str, Any]) -> Settings:
    try:
        return msgspec.convert(tree, Settings, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(str(error)) from None


def _merge(tree: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _put(tree: dict[str, Any], path: list[str], value: Any, name: str) -> None:
    if len(path) < 2 or not all(path):
        raise ConfigError(f"{name} must look like PAYMENTS__SECTION__KEY")
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{name} cannot be set: {part} is set to a value, not a section")
    tree[path[-1]] = value


def _scalar(value: str) -> Any:
    # Numbers and booleans are converted by type later on; lists are written as in TOML.
    if value.startswith("["):
        try:
            return tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            return value
    return value
