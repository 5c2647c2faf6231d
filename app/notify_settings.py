"""The settings of the notification worker."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from app.surface_settings import within

CHANNELS: Final = ("log", "mail")
_ADDRESS: Final = re.compile(r"[^\s<>@,;:\"\\]+@[^\s<>@,;:\"\\]+\Z")


class SmtpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The mail server. `tls`: from the first byte, after STARTTLS, or, for a server on this machine, not at all."""

    host: str = ""
    port: int = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = ""
    sender: str = ""
    """The address that mails come from."""
    timeout_s: float = 20.0
    """Time of one mail, from connecting to the answer."""
    cafile: str = ""
    """Authorities that its certificate is trusted by; empty: the system's."""

    def __post_init__(self) -> None:
        within("notify.smtp.port", self.port, 1, 65535)
        within("notify.smtp.timeout_s", self.timeout_s, 0.1, 600)
        if self.sender and not _ADDRESS.match(self.sender):
            raise ValueError("notify.smtp.sender must be an address: name@host")
        if self.user and not self.password:
            raise ValueError("notify.smtp.password is needed with notify.smtp.user")

    def __repr__(self) -> str:
        return f"SmtpSettings({self.host!r}, {self.port}, tls={self.tls!r}, …)"


class NotifySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`python -m app notify`: which events people are told of, and how."""

    channels: tuple[Literal["log", "mail"], ...] = ("log",)
    port: int = 3006
    """`/health`, `/ready` and `/metrics` of the worker; 0: none. Not in `make run`, where its process has ports."""
    topics: tuple[str, ...] = ("user-events", "order-events")
    """Those of other services; the engine's own are read too."""
    group: str = "notifications"
    """The consumer group."""
    batch_max: int = 500
    """Events that are worked on together."""
    keep_days: float = 30.0
    """How long a notification is kept. An event that comes again after that is told again."""
    mail_types: tuple[str, ...] = ()
    """The types of events that are mailed; none: all that people are told of."""
    mail_retry_s: tuple[float, ...] = (10, 60, 300, 1800, 7200, 21_600, 43_200, 86_400)
    """The pauses before a mail is tried again; after the last it is given up."""
    mail_concurrency: int = 4
    """Mails that are sent at the same time."""
    address_cache_s: float = 60.0
    """How long an address that the user service told is believed."""
    smtp: SmtpSettings = SmtpSettings()

    def __post_init__(self) -> None:
        within("notify.port", self.port, 0, 65535)
        within("notify.batch_max", self.batch_max, 1, 1000)
        within("notify.keep_days", self.keep_days, 7, 3650)
        within("notify.mail_concurrency", self.mail_concurrency, 1, 64)
        within("notify.address_cache_s", self.address_cache_s, 0, 86_400)
        within("notify.mail_retry_s: their number", len(self.mail_retry_s), 1, 32)
        for pause_s in self.mail_retry_s:
            within("notify.mail_retry_s", pause_s, 0.05, 7 * 86_400)
        if not self.group or "/" in self.group:
            raise ValueError("notify.group must not be empty, nor contain a slash")
        if not all(self.topics):
            raise ValueError("notify.topics must not contain an empty name")
        if "mail" in self.channels and not (self.smtp.host and self.smtp.sender):
            raise ValueError("notify.smtp.host and notify.smtp.sender are needed with the channel mail")
