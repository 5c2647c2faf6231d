"""The mail channel of the notification worker, put together."""

from __future__ import annotations

from typing import Final, NamedTuple

from app.wiring import Parts
from clients.addresses import UserAddresses
from clients.mail import SmtpAt, SmtpServer
from engine.ids import now_ms
from engine.mailing import MailChannel, Mailing, MailSender
from engine.store.mails import RedisMails
from engine.store.notifications import RedisNotifications
from resilience.guard import GuardSettings

_STRANGERS: Final = frozenset(f"/payments/{surface}" for surface in ("orders", "gateway", "mpesa", "vault"))
"""Surfaces that name users in a way of their own: the user service may know somebody else by that name."""
_SLACK_S: Final = 5.0
"""For our good-bye to the mail server, and for Redis."""


class MailParts(NamedTuple):
    """What takes notifications in, where they wait, and what sends them."""

    channel: MailChannel
    mails: RedisMails
    sender: MailSender


def mail(parts: Parts, kept: RedisNotifications) -> MailParts:
    """The channel of this process."""
    settings, users = parts.settings.notify, parts.settings.users
    smtp = settings.smtp
    longest_s = smtp.timeout_s + users.guard.deadline_s + _SLACK_S
    mails = RedisMails(parts.batcher, parts.keys, lease_s=2 * longest_s)
    guard = parts.guards.add("smtp", _guard(smtp.timeout_s, settings.mail_concurrency))
    server = SmtpServer(
        SmtpAt(smtp.host, smtp.port, smtp.tls, smtp.user, smtp.password, smtp.sender, smtp.timeout_s, smtp.cafile),
        guard,
    )
    addresses = UserAddresses(
        parts.counterparty("user_addresses", users.guard), users.url, cache_s=settings.address_cache_s
    )
    mailing = Mailing(settings.mail_retry_s, settings.mail_concurrency, round(longest_s * 1000), _STRANGERS)
    sender = MailSender(mails, kept, addresses, server, parts.instruments, now_ms, mailing)
    return MailParts(MailChannel(mails, now_ms, types=settings.mail_types), mails, sender)


def _guard(timeout_s: float, concurrency: int) -> GuardSettings:
    """One try a call, because the schedule has patience; a mail server may be slow without being ill."""
    limit_s = timeout_s + 2.0
    return GuardSettings(
        timeout_s=limit_s, deadline_s=limit_s + 1.0, tries_max=1, concurrency_max=concurrency, slow_call_s=limit_s
    )
