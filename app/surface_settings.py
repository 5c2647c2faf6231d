"""The settings of the doors: one section a surface."""

from __future__ import annotations

import ipaddress

import msgspec


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
    port: int = 3003
    wait_max_s: int = 30
    waiters_max: int = 1000

    def __post_init__(self) -> None:
        within("core.port", self.port, 0, 65535)
        within("core.wait_max_s", self.wait_max_s, 0, 300)
        within("core.waiters_max", self.waiters_max, 0, 1_000_000)


class OpsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port of its own for `/health`, `/ready` and `/metrics`, for processes without a surface. 0: none."""

    port: int = 0

    def __post_init__(self) -> None:
        within("ops.port", self.port, 0, 65535)
