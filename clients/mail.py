"""Mail over SMTP (RFC 5321), one connection a mail, behind a guard of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from typing import Final, Literal, NamedTuple

import aiosmtplib
from aiosmtplib import SMTP, SMTPException, SMTPRecipientsRefused, SMTPResponseException, SMTPSenderRefused

from engine.mailing import Failed, Letter, Refused, Sent
from resilience.errors import CounterpartyError, NoAnswer, Unreachable
from resilience.guard import Guard

_QUIT_S: Final = 1.0
_POLICY: Final = SMTP_POLICY.clone(cte_type="7bit")
"""Not every server takes eight bits (RFC 6152)."""
Tls = Literal["starttls", "tls", "none"]


class SmtpAt(NamedTuple):
    """Where the server is, and who we are there."""

    host: str
    port: int
    tls: Tls
    user: str
    password: str
    sender: str
    timeout_s: float
    cafile: str

    def __repr__(self) -> str:
        return f"SmtpAt({self.host!r}, {self.port})"


class SmtpServer:
    """Sends mails. A 5xx about a mail refuses it for ever; all else is trouble that may pass, a 5xx about us too.

    A server that cannot be reached, does not let us in, or falls silent counts against the guard; one that answers
    about a mail, whatever it says, is healthy.
    """

    def __init__(self, at: SmtpAt, guard: Guard) -> None:
        self._at = at
        self._guard = guard
        self._context: ssl.SSLContext | None = None

    async def send(self, letter: Letter) -> Sent | Refused | Failed:
        """Send it. What may be wrong is in the answer; nothing is raised for it."""
        try:
            message = message_of(letter, self._at.sender)
        except (ValueError, IndexError, MessageError):
            return Refused("bad_address")

        async def try_once() -> Sent | Refused | Failed:
            return await self._exchange(message, letter.to)

        try:
            return await self._guard.call(try_once, limits_itself=True)
        except CounterpartyError as error:
            return Failed(type(error).__name__)

    async def _exchange(self, message: EmailMessage, to: str) -> Sent | Refused | Failed:
        client = await self._client()
        try:
            async with asyncio.timeout(self._at.timeout_s):
                await self._enter(client)
                answer = await self._told(client, message, to)
        except TimeoutError:
            raise NoAnswer(self._guard.name, f"did not answer within {self._at.timeout_s:g} s") from None
        else:
            # It has answered; whatever happens to our good-bye changes nothing.
            with contextlib.suppress(SMTPException, OSError, TimeoutError):
                async with asyncio.timeout(_QUIT_S):
                    await client.quit()
            return answer
        finally:
            client.close()

    async def _enter(self, client: SMTP) -> None:
        try:
            await client.connect()
        except (SMTPException, OSError, ValueError) as error:
            # Also 5xx: a server that lets nobody in says nothing about this mail. Only the kind: texts quote names.
            raise Unreachable(self._guard.name, f"cannot be entered ({_kind(error)})") from None

    async def _told(self, client: SMTP, message: EmailMessage, to: str) -> Sent | Refused | Failed:
        try:
            await client.sendmail(self._at.sender, [to], message.as_bytes())
        except SMTPRecipientsRefused as error:
            return _answer(error.recipients[0].code)
        except SMTPSenderRefused as error:
            # Of us, before it has heard of this mail: all others would end as well, and an operator can mend it.
            return Failed(str(error.code))
        except aiosmtplib.SMTPServerDisconnected:
            raise NoAnswer(self._guard.name, "broke the connection") from None
        except SMTPResponseException as error:
            return _answer(error.code)
        except (SMTPException, OSError) as error:
            raise NoAnswer(self._guard.name, f"gave no answer ({_kind(error)})") from None
        return Sent()

    async def _client(self) -> SMTP:
        at = self._at
        if at.tls != "none" and self._context is None:
            self._context = await asyncio.to_thread(ssl.create_default_context, cafile=at.cafile or None)
        return SMTP(
            hostname=at.host,
            port=at.port,
            username=at.user or None,
            password=at.password or None,
            # Its own way to find a name asks the resolver, and blocks.
            local_hostname=_domain(at.sender),
            timeout=at.timeout_s,
            use_tls=at.tls == "tls",
            start_tls=at.tls == "starttls",
            tls_context=self._context,
        )


def message_of(letter: Letter, sender: str) -> EmailMessage:
    """The mail as it goes out, the same each time. Raises `ValueError` and others for what is no address."""
    message = EmailMessage(_POLICY)
    message["From"] = sender
    # Parsed, so that an address cannot be two, or a header of its own.
    message["To"] = Address(addr_spec=letter.to)
    message["Subject"] = letter.title
    message["Date"] = format_datetime(datetime.fromisoformat(letter.time))
    message["Message-ID"] = f"<{letter.id}@{_domain(sender)}>"
    # RFC 3834: no vacation notice shall answer it.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text + "\n")
    return message


def _answer(code: int) -> Refused | Failed:
    return Refused(str(code)) if code >= 500 else Failed(str(code))


def _kind(error: Exception) -> str:
    code = f" {error.code}" if isinstance(error, SMTPResponseException) else ""
    return f"{type(error).__name__}{code}"


def _domain(address: str) -> str:
    return address.rpartition("@")[2]
