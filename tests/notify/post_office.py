"""A real SMTP server (aiosmtpd) that does as it is told, and the mail channel before it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiohttp import web
from aiosmtpd import smtp

from clients.addresses import UserAddresses
from clients.http import HttpCounterparty, open_session
from clients.mail import SmtpAt, SmtpServer
from clients.wire import Wire
from engine.errors import StoreUnavailable
from engine.mailing import MailChannel, Mailing, MailSender
from engine.notifications import Notification
from engine.store.mails import RedisMails
from engine.store.notifications import RedisNotifications
from resilience.guard import Guard, GuardSettings
from tests.notify.making import WEEK_S
from tests.store.datasets import Dataset
from tests.support import USER

NOW = 1_772_000_000_000
LEASE_S = 60.0


class PostOffice:
    """Answers MAIL, RCPT and DATA from its script; when that is at its end, it takes everything."""

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[EmailMessage] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        self.mail: deque[str] = deque()
        self.rcpt: deque[str] = deque()
        self.data: deque[str] = deque()
        """`cut`: closes the connection when it has the mail; `hang`: never answers."""

    async def handle_MAIL(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        """MAIL FROM."""
        answer = self.mail.popleft() if self.mail else "250 OK"
        if answer.startswith("250"):
            envelope.mail_from = address
        return answer

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        """RCPT TO."""
        answer = self.rcpt.popleft() if self.rcpt else "250 OK"
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(  # noqa: N802
        self, server: Any, session: Any, envelope: Any
    ) -> str:
        """The end of DATA."""
        answer = self.data.popleft() if self.data else "250 OK"
        if answer == "hang":
            await asyncio.get_running_loop().create_future()
        if answer.startswith(("250", "cut")):
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
            self.envelopes.append((envelope.mail_from, list(envelope.rcpt_tos)))
        if answer == "cut":
            server.transport.abort()
            return "250 never seen"
        return answer


@contextlib.asynccontextmanager
async def post_office(**options: Any) -> AsyncIterator[PostOffice]:
    """Listen on a free port of the loopback."""
    loop = asyncio.get_running_loop()
    office = PostOffice()
    protocols: list[smtp.SMTP] = []

    def connection() -> smtp.SMTP:
        protocols.append(smtp.SMTP(office, hostname="localhost", loop=loop, timeout=3600, **options))
        return protocols[-1]

    server = await loop.create_server(connection, "127.0.0.1", 0)
    office.port = server.sockets[0].getsockname()[1]
    try:
        yield office
    finally:
        server.close()
        for protocol in protocols:
            if protocol.transport is not None:
                protocol.transport.close()
        await server.wait_closed()
        handlers = [task for protocol in protocols if (task := protocol._handler_coroutine) is not None]
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


class Breakable(RedisNotifications):
    """Dies before it notes how a mail ended, when it is told to."""

    broken = False

    async def note(self, event_id: str, channel: str, state: str) -> None:
        """Note it, or die."""
        if self.broken:
            raise StoreUnavailable("died")
        await super().note(event_id, channel, state)


class Desk:
    """The mail channel of one worker, its clock in our hand."""

    def __init__(
        self, dataset: Dataset, users: str, wire: Wire, at: SmtpAt, *, mailing: Mailing, types: Sequence[str]
    ) -> None:
        self.now_ms = NOW
        self.dataset = dataset
        instruments = dataset.instruments
        self.mails = RedisMails(dataset.batcher, dataset.keys, lease_s=LEASE_S)
        self.kept = Breakable(dataset.batcher, dataset.keys, kept_s=WEEK_S)
        guard = Guard(
            "smtp", GuardSettings(timeout_s=20, deadline_s=20, tries_max=1, failures_to_open=1000), instruments
        )
        asking = Guard("users", GuardSettings(tries_max=1), instruments)
        addresses = UserAddresses(HttpCounterparty(wire, asking, timeout_s=2.0), f"{users}/api/users/{{id}}", cache_s=0)
        self.channel = MailChannel(self.mails, self.clock, types=types)
        self.sender = MailSender(
            self.mails, self.kept, addresses, SmtpServer(at, guard), instruments, self.clock,
            mailing, chance=lambda: 0.0,
        )  # fmt: skip

    def clock(self) -> int:
        """The time that all of it believes."""
        return self.now_ms

    async def take(self, name: str = "pay-1-1", *, user_id: str = USER, source: str = "/payments/core") -> None:
        """Keep a notification and schedule its mail, as the listener does."""
        notification = Notification(
            name, user_id, "payment_completed", "pay-1", "2026-01-01T00:00:00.000Z", "Payment completed",
            "We received 75.48 USD.", ("mail",), source,
        )  # fmt: skip
        [taken] = await self.kept.take([notification])
        if taken.left:
            [state] = await self.channel.take([notification])
            await self.kept.note_first("mail", {name: state})

    async def round(self) -> int:
        """Try everything that is due now, at once. Returns how much that was."""
        found = await self.mails.due(self.now_ms, 1000)
        await asyncio.gather(*(self.sender.deliver(mail) for mail in found))
        return len(found)

    async def state(self, name: str = "pay-1-1") -> str:
        """What the channel has noted."""
        found = await self.kept.get(name)
        return found[1].get("mail", "") if found else "gone"

    async def waiting(self) -> int:
        """How many mails wait."""
        return (await self.mails.depth()).waiting


@contextlib.asynccontextmanager
async def desk(
    dataset: Dataset,
    users: str,
    port: int,
    *,
    retry_s: Sequence[float] = (10, 60),
    types: Sequence[str] = (),
    timeout_s: float = 15.0,
    longest_ms: int = 30_000,
    tls: Any = "none",
    user: str = "",
    password: str = "",
    cafile: str = "",
) -> AsyncIterator[Desk]:
    """A worker's mail channel that sends to this port."""
    at = SmtpAt("localhost", port, tls, user, password, "shop@example.com", timeout_s, cafile)
    async with open_session(client_id="tests") as wire:
        yield Desk(
            dataset, users, wire, at, mailing=Mailing(retry_s, 4, longest_ms, ("/payments/orders",)), types=types
        )


def tls_of(certificate: str, key: str) -> ssl.SSLContext:
    """A server's context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class OddUsers:
    """A user service that says whatever it is told to of everybody's address."""

    def __init__(self, email: str) -> None:
        self._email = email

    def app(self) -> web.Application:
        """What is served."""
        application = web.Application()
        application.router.add_get("/api/users/{id}", self._user)
        return application

    async def _user(self, request: web.Request) -> web.Response:
        return web.json_response({"id": request.match_info["id"], "email": self._email})
