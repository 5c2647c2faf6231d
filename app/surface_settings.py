"""The settings of the doors: one section a surface."""

from __future__ import annotations

import ipaddress
from typing import Final, Literal

import msgspec

from engine.money import DECIMALS
from resilience.guard import GuardSettings


def within(key: str, value: float, low: float, high: float) -> None:
    """Raises `ValueError` naming the key when the value is out of its range."""
    if not low <= value <= high:
        raise ValueError(f"{key} must be {low} to {high}")


def check_networks(key: str, networks: tuple[str, ...]) -> None:
    """Raises `ValueError` naming the key when one of them is no network in CIDR form, or is everybody."""
    for text in networks:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        if network.prefixlen == 0:
            raise ValueError(f"{key}: {text} would let every client say where it comes from")


class CoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The core surface."""

    enabled: bool = True
    """Whether the surface is there."""
    port: int = 3003
    """Where it listens."""
    wait_max_s: int = 30
    """The longest `Prefer: wait=N` that is honoured."""
    waiters_max: int = 1000
    """Requests that may wait at the same time; one more is answered at once."""

    def __post_init__(self) -> None:
        within("core.port", self.port, 0, 65535)
        within("core.wait_max_s", self.wait_max_s, 0, 300)
        within("core.waiters_max", self.waiters_max, 0, 1_000_000)


class OrdersApiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The orders surface. The URLs are templates with `{id}`: the gateway is asked whether users and orders exist."""

    enabled: bool = False
    """Whether the surface is there."""
    port: int = 3004
    """Where it listens."""
    topic: str = "payment-events"
    """The topic of its events."""
    currency: str = "USD"
    """The currency of all its amounts; one with two decimals."""
    begins: Literal["success", "pending"] = "success"
    """The status of a new payment; a `pending` one waits until somebody sets it."""
    numbers_cache_max: int = 100_000
    """Which payment a number stands for never changes: so many are remembered."""
    users_url: str = ""
    """A template: `http://gateway:8080/internal/users/{id}`."""
    users_cache_s: float = 5.0
    """How long a user that exists is believed to."""
    users_cache_max: int = 50_000
    """Users remembered."""
    users_guard: GuardSettings = GuardSettings()
    orders_url: str = ""
    """A template: `http://gateway:8080/internal/orders/{id}`. Orders are never cached."""
    orders_guard: GuardSettings = GuardSettings()

    def __post_init__(self) -> None:
        within("orders_api.port", self.port, 0, 65535)
        within("orders_api.numbers_cache_max", self.numbers_cache_max, 1, 10_000_000)
        within("orders_api.users_cache_s", self.users_cache_s, 0, 3600)
        within("orders_api.users_cache_max", self.users_cache_max, 1, 10_000_000)
        if DECIMALS.get(self.currency) != 2:
            raise ValueError("orders_api.currency must be an ISO 4217 code with two decimals")


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gateway surface. What a password's hash costs are argon2's words (RFC 9106)."""

    enabled: bool = False
    """Whether the surface is there; `make run` opens it."""
    port: int = 3000
    """Where it listens."""
    topic: str = "payment-gateway-events"
    """The topic of its events."""
    token_hours: float = 1.0
    """How long a login is good."""
    hold_s: int = 86_400
    """How long a payment waits to be processed; then it is cancelled and its card forgotten."""
    process_wait_s: float = 10.0
    """The longest wait for the outcome of a charge or a refund; then 202."""
    waiters_max: int = 1000
    """Requests that may wait at the same time; one more is answered at once."""
    logins_at_once: int = 2
    """Passwords hashed at the same time; each takes `argon2_memory_kib`."""
    logins_waiting_max: int = 32
    """Passwords that may wait for their turn; one more is refused with 503."""
    argon2_passes: int = 3
    """What a hash costs: times through the memory."""
    argon2_memory_kib: int = 65_536
    """What a hash costs: memory."""
    argon2_lanes: int = 4
    """What a hash costs: threads."""

    def __post_init__(self) -> None:
        within("gateway.port", self.port, 0, 65535)
        within("gateway.token_hours", self.token_hours, 0.01, 24)
        within("gateway.hold_s", self.hold_s, 1, 30 * 86_400)
        within("gateway.process_wait_s", self.process_wait_s, 0, 300)
        within("gateway.waiters_max", self.waiters_max, 0, 1_000_000)
        within("gateway.logins_at_once", self.logins_at_once, 1, 64)
        within("gateway.logins_waiting_max", self.logins_waiting_max, 0, 10_000)
        within("gateway.argon2_passes", self.argon2_passes, 1, 100)
        within("gateway.argon2_lanes", self.argon2_lanes, 1, 64)
        within("gateway.argon2_memory_kib", self.argon2_memory_kib, 8 * self.argon2_lanes, 4_194_304)


class VaultSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The vault surface: stored cards with a balance. Its listeners need `kafka.brokers`, and run with the workers."""

    enabled: bool = False
    """Whether the surface and its listeners are there."""
    port: int = 3005
    """Where it listens."""
    currency: str = "USD"
    """The currency of all its amounts; its contract names none."""
    topic: str = ""
    """The topic of its events; empty: each type of event has a topic of its own name."""
    order_refunded_topic: str = "orderService-orderRefunded"
    """Who sends here refunds what is left of a payment."""
    product_refunded_topic: str = "orderService-productFromOrderRefunded"
    """Who sends here refunds one product of a payment."""
    group: str = "payment-service"
    """The consumer group of the listeners."""
    batch_max: int = 500
    """Messages that are worked on at the same time."""

    def __post_init__(self) -> None:
        within("vault.port", self.port, 0, 65535)
        within("vault.batch_max", self.batch_max, 1, 10_000)
        if self.currency not in DECIMALS:
            raise ValueError("vault.currency must be an ISO 4217 code")
        if not self.order_refunded_topic or self.order_refunded_topic == self.product_refunded_topic:
            raise ValueError("vault.order_refunded_topic and vault.product_refunded_topic must be two topics")
        if not self.product_refunded_topic or not self.group:
            raise ValueError("vault.product_refunded_topic and vault.group must not be empty")


class OpsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port of its own for `/health`, `/ready` and `/metrics`, for processes without a surface. 0: none."""

    port: int = 0
    """0: none; every surface's port has them anyway."""
    console: bool = False
    """Whether the operator's page is there too, at `/console`."""
    console_token: str = ""
    """What operators sign in with; without one only this machine is let in."""

    def __post_init__(self) -> None:
        within("ops.port", self.port, 0, 65535)
        if self.console and not self.port:
            raise ValueError("ops.console needs ops.port")
        token = self.console_token
        if token and not (CONSOLE_TOKEN_LENGTH_MIN <= len(token) <= CONSOLE_TOKEN_LENGTH_MAX and _is_visible(token)):
            raise ValueError(
                f"ops.console_token must have {CONSOLE_TOKEN_LENGTH_MIN} to {CONSOLE_TOKEN_LENGTH_MAX} visible ASCII "
                "characters"
            )

    def __repr__(self) -> str:
        return f"OpsSettings(port={self.port}, console={self.console}, console_token=…)"


CONSOLE_TOKEN_LENGTH_MIN: Final = 32
CONSOLE_TOKEN_LENGTH_MAX: Final = 256


def _is_visible(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
