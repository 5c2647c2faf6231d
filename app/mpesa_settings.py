"""The settings of M-Pesa: the surface, its clients and packages, and Safaricom's Daraja behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import msgspec

from app.surface_settings import check_networks, within
from clients.daraja_settings import DarajaSettings
from engine.catalogue import MpesaClient, MpesaPackage

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{16,128}\Z")


class MpesaSettings(DarajaSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With `base_url` phones can be asked for money: by this surface when it is enabled, and by the core surface."""

    enabled: bool = False
    """Whether the surface is there; `make run` opens it. It needs `base_url`."""
    port: int = 8080
    """Where it listens."""
    topic: str = "mpesa-payment-events"
    """The topic of its events."""
    initiate_wait_s: float = 20.0
    """How long a request waits for Safaricom to take the push."""
    send_within_s: float = 120.0
    """A payment older than this fails when a worker takes it up: its payer does not expect a prompt any more."""
    waiters_max: int = 2000
    """Requests that may wait at the same time; one more is answered at once."""
    callback_secret: str = ""
    """The part of the callback's path that nobody else knows, 16 characters or more."""
    callback_sources: tuple[str, ...] = ()
    """Networks that callbacks come from; none: anywhere."""
    callbacks_waiting_max: int = 1000
    """Callbacks worked on at the same time; one more is dropped, its payment is asked about later."""
    clients: Mapping[str, MpesaClient] = msgspec.field(default_factory=dict)
    """Who may take payments, by UUID; more are added with `python -m app mpesa`."""
    packages: Mapping[str, MpesaPackage] = msgspec.field(default_factory=dict)
    """What they sell, by UUID."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("mpesa.port", self.port, 0, 65535)
        within("mpesa.initiate_wait_s", self.initiate_wait_s, 0, 120)
        within("mpesa.send_within_s", self.send_within_s, 1, 86_400)
        within("mpesa.waiters_max", self.waiters_max, 0, 1_000_000)
        within("mpesa.callbacks_waiting_max", self.callbacks_waiting_max, 1, 1_000_000)
        check_networks("mpesa.callback_sources", self.callback_sources)
        if self.base_url and not _SECRET.match(self.callback_secret):
            raise ValueError("mpesa.callback_secret must be 16 to 128 letters, digits, - and _")
        for section, entries in (("clients", self.clients), ("packages", self.packages)):
            for name in entries:
                _check_id(f"mpesa.{section}", name)

    def callback_url(self, attempt_id: str) -> str:
        """Where the result of this attempt's push is told: the attempt is named, for a push whose answer is lost."""
        return f"{self.callback_base_url.rstrip('/')}/api/v1/payments/callback/{self.callback_secret}/{attempt_id}"

    __repr__ = DarajaSettings.__repr__


def _check_id(key: str, text: str) -> None:
    try:
        canonical = str(UUID(text))
    except ValueError:
        canonical = ""
    if text.lower() != canonical:
        raise ValueError(f"{key}: {text} is not a UUID")
