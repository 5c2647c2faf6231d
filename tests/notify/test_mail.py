"""Mail through a real SMTP server: once when all goes well, again when nobody knows, never after a refusal."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clients.mail import SmtpAt, SmtpServer, message_of
from engine.errors import StoreUnavailable
from engine.mailing import Letter, Refused
from resilience.guard import Guard, GuardSettings
from simulators.server import serve
from tests.faults.world import eventually
from tests.notify.making import counted
from tests.notify.post_office import LEASE_S, OddUsers, desk, post_office, tls_of
from tests.store.datasets import Dataset
from tests.support import Sims, free_port


async def test_a_notification_arrives_as_a_mail_once(dataset: Dataset, sims: Sims) -> None:
    await sims.user(email="jo@example.com")
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        await ours.take()
        assert await ours.state() == "waiting"
        assert await ours.round() == 1
        await ours.take()
        ours.now_ms += 7 * 86_400_000
        assert await ours.round() == 0, "taken again, it is known"
    [mail] = office.mails
    assert office.envelopes == [("shop@example.com", ["jo@example.com"])]
    assert (mail["From"], mail["To"], mail["Subject"]) == ("shop@example.com", "jo@example.com", "Payment completed")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert mail.get_content().strip() == "We received 75.48 USD."
    assert (await ours.state(), await ours.waiting()) == ("sent", 0)
    assert counted(dataset, channel="mail", outcome="sent") == 1


async def test_before_the_first_mail_of_a_type_none_is_shown_as_sent(dataset: Dataset, sims: Sims) -> None:
    """The first value of a series is no increase: without it `MailsLate` would not see that this mail went out."""
    labels = {"type": "payment_completed", "channel": "mail", "outcome": "sent"}
    await sims.user()
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        assert dataset.instruments.registry.get_sample_value("notifications_total", labels) == 0
        await ours.take()
        await ours.round()
    assert dataset.metric("notifications_total", **labels) == 1


@pytest.mark.parametrize("where", ["rcpt", "data"])
async def test_what_is_refused_for_now_is_sent_later(where: str, dataset: Dataset, sims: Sims) -> None:
    await sims.user()
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        getattr(office, where).extend(["451 greylisted", "421 going down"])
        await ours.take()
        for pause_s in (10, 60):
            assert await ours.round() == 1
            assert (office.mails, await ours.state()) == ([], "waiting")
            ours.now_ms += pause_s * 1000 - 1
            assert await ours.round() == 0, "not before its time"
            ours.now_ms += 1
        assert await ours.round() == 1
    assert len(office.mails) == 1
    assert (await ours.state(), await ours.waiting()) == ("sent", 0)
    assert counted(dataset, channel="mail", outcome="failed") == 2


@pytest.mark.parametrize("where", ["rcpt", "data"])
async def test_what_is_refused_for_ever_is_not_tried_again(where: str, dataset: Dataset, sims: Sims) -> None:
    await sims.user()
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        getattr(office, where).append("550 no such mailbox")
        await ours.take()
        assert await ours.round() == 1
        ours.now_ms += 7 * 86_400_000
        assert await ours.round() == 0
    assert (office.mails, await ours.state(), await ours.waiting()) == ([], "refused", 0)
    assert counted(dataset, channel="mail", outcome="refused") == 1


async def test_a_server_that_refuses_our_own_address_ends_no_mail(dataset: Dataset, sims: Sims) -> None:
    """It wants a login, or does not know us: every mail would be lost until somebody has mended that."""
    await sims.user()
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        office.mail.append("530 authentication required")
        await ours.take()
        assert await ours.round() == 1
        assert await ours.state() == "waiting"
        ours.now_ms += 10_000
        assert await ours.round() == 1
    assert (len(office.mails), await ours.state()) == (1, "sent")


async def test_a_lost_answer_is_followed_by_the_same_mail(dataset: Dataset, sims: Sims) -> None:
    """Nobody knows whether the first one was taken, so its reader must be able to tell that the second is the same."""
    await sims.user()
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        office.data.append("cut")
        await ours.take()
        assert await ours.round() == 1
        assert await ours.state() == "waiting"
        ours.now_ms += 10_000
        assert await ours.round() == 1
    first, second = office.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert first.as_bytes() == second.as_bytes()
    assert await ours.state() == "sent"


async def test_two_notifications_have_two_message_ids() -> None:
    letters = [Letter(name, "jo@example.com", "t", "x", "2026-01-01T00:00:00.000Z") for name in ("a", "b")]
    one, two = (message_of(letter, "shop@example.com") for letter in letters)
    assert one["Message-ID"] != two["Message-ID"]


async def test_a_mail_is_plain_ascii_whatever_it_says_and_no_word_of_it_becomes_a_header() -> None:
    letter = Letter("a", "jo@example.com", "Zoë", "Welcome, Zoë ☃\n.\nBcc: all@example.com", "2026-01-01T00:00:00.000Z")
    mail = message_of(letter, "shop@example.com")
    assert mail.as_bytes().isascii()
    read = message_from_bytes(mail.as_bytes(), policy=policy.default)
    assert (read["Subject"], read["Bcc"]) == ("Zoë", None)
    assert read.get_content().startswith("Welcome, Zoë ☃")


@pytest.mark.parametrize("field", ["to", "title"])
@pytest.mark.parametrize("text", ["a@b.example\r\nBcc: c@d.example", "a@b.example\nBcc: c@d.example", "x\rBcc: c@d"])
async def test_a_line_break_in_a_header_is_refused(field: str, text: str, dataset: Dataset) -> None:
    """Nothing of ours has one; were it to come this far, no mail goes out."""
    letter = Letter("a", "jo@example.com", "t", "x", "2026-01-01T00:00:00.000Z")._replace(**{field: text})
    server = SmtpServer(
        SmtpAt("localhost", 1, "none", "", "", "shop@example.com", 1.0, ""),
        Guard("smtp", GuardSettings(), dataset.instruments),
    )
    assert await server.send(letter) == Refused("bad_address")


async def test_a_server_that_falls_silent_is_given_up_in_time(dataset: Dataset, sims: Sims) -> None:
    await sims.user()
    async with post_office() as office, desk(dataset, sims.users, office.port, timeout_s=0.5) as ours:
        office.data.append("hang")
        await ours.take()
        assert await ours.round() == 1
        assert await ours.state() == "waiting"
        assert counted(dataset, channel="mail", outcome="failed") == 1
        ours.now_ms += 10_000
        assert await ours.round() == 1
    assert (len(office.mails), await ours.state()) == (1, "sent")


async def test_a_mail_is_given_up_after_its_last_pause(dataset: Dataset, sims: Sims) -> None:
    await sims.user()
    async with desk(dataset, sims.users, free_port()) as ours:
        await ours.take()
        for _ in range(3):
            assert await ours.round() == 1
            ours.now_ms += 60_000
        assert await ours.round() == 0
    assert (await ours.state(), await ours.waiting()) == ("expired", 0)


@pytest.mark.parametrize(
    "email",
    ["", "nobody", "a@b\r\nRCPT TO:<evil@example.com>", "a@example.com, b@example.com", "a b@example.com", "ä@b"],
)
async def test_who_has_no_address_gets_no_mail(email: str, dataset: Dataset, sims: Sims) -> None:
    await sims.user(email="jo@example.com")
    async with post_office() as office, serve(OddUsers(email)) as users, desk(dataset, users, office.port) as ours:
        await ours.take()
        assert await ours.round() == 1
        assert (office.mails, await ours.state(), await ours.waiting()) == ([], "no_address", 0)
    assert counted(dataset, channel="mail", outcome="no_address") == 1


async def test_users_of_other_surfaces_are_not_looked_for_among_the_user_services(dataset: Dataset, sims: Sims) -> None:
    """User 1 of the orders surface is not user 1 of the user service."""
    await sims.user()
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        await ours.take(source="/payments/orders")
        await ours.take("pay-2-1", user_id="nobody")
        assert await ours.round() == 2
        assert [await ours.state(), await ours.state("pay-2-1")] == ["no_address"] * 2
        assert office.mails == []


async def test_while_the_user_service_does_not_answer_mail_waits(dataset: Dataset, sims: Sims) -> None:
    await sims.user()
    await sims.fault(sims.users, "error_before", times=1)
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        await ours.take()
        assert await ours.round() == 1
        assert await ours.state() == "waiting"
        ours.now_ms += 10_000
        assert await ours.round() == 1
        assert (len(office.mails), await ours.state()) == (1, "sent")


async def test_who_dies_between_sending_and_noting_sends_the_same_mail_again(dataset: Dataset, sims: Sims) -> None:
    await sims.user()
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        await ours.take()
        [mail] = await ours.mails.due(ours.now_ms, 1000)
        ours.kept.broken = True
        with pytest.raises(StoreUnavailable):
            await ours.sender.deliver(mail)
        ours.kept.broken = False
        assert await ours.round() == 0, "it is still leased"
        ours.now_ms += round(LEASE_S * 1000) + 1
        assert await ours.round() == 1
    first, second = office.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert (await ours.state(), await ours.waiting()) == ("sent", 0)


async def test_who_dies_between_noting_and_taking_it_off_sends_nothing_again(dataset: Dataset, sims: Sims) -> None:
    await sims.user()
    async with post_office() as office, desk(dataset, sims.users, office.port) as ours:
        await ours.take()
        await ours.kept.note("pay-1-1", "mail", "sent")
        assert await ours.round() == 1
        assert (office.mails, await ours.waiting()) == ([], 0)


async def test_two_senders_at_once_send_each_mail_once(dataset: Dataset, sims: Sims) -> None:
    async with (
        post_office() as office,
        desk(dataset, sims.users, office.port) as one,
        desk(dataset, sims.users, office.port) as two,
    ):
        for number in range(20):
            await sims.user(f"user-{number}")
            await one.take(f"pay-{number}-1", user_id=f"user-{number}")
        running = [asyncio.create_task(each.sender.run()) for each in (one, two)]
        await eventually(lambda: len(office.mails) >= 20)
        for each in (one, two):
            each.sender.stop()
        await asyncio.gather(*running)
        assert await one.waiting() == 0
    assert len({mail["Message-ID"] for mail in office.mails}) == len(office.mails) == 20


async def test_a_mail_whose_lease_is_nearly_over_is_left_alone(dataset: Dataset, sims: Sims) -> None:
    """Begun now, it might still be on its way when somebody else gets it."""
    await sims.user()
    longest_ms = round(LEASE_S * 1000)
    async with post_office() as office, desk(dataset, sims.users, office.port, longest_ms=longest_ms) as ours:
        await ours.take()
        running = asyncio.create_task(ours.sender.run())

        async def leased() -> bool:
            return bool(await dataset.client.keys("*:mail:busy:*"))

        await eventually(leased)
        ours.sender.stop()
        await running
        assert (office.mails, await ours.state(), await ours.waiting()) == ([], "waiting", 1)


async def test_what_was_leased_and_not_begun_is_due_at_once_after_a_stop(dataset: Dataset, sims: Sims) -> None:
    async with desk(dataset, sims.users, free_port()) as ours:
        await ours.take()
        [mail] = await ours.mails.due(ours.now_ms, 1000)
        assert await ours.mails.due(ours.now_ms, 1000) == []
        await ours.mails.give_back(mail, now_ms=ours.now_ms)
        assert await ours.mails.due(ours.now_ms + 1, 1000) != []


async def test_only_the_types_that_are_chosen_are_mailed(dataset: Dataset, sims: Sims) -> None:
    async with desk(dataset, sims.users, free_port(), types=["payment_refunded"]) as ours:
        assert ours.channel.wants("payment_refunded")
        assert not ours.channel.wants("payment_completed")


async def test_after_starttls_and_a_login_mail_is_sent_and_never_without(
    dataset: Dataset, sims: Sims, tmp_path: Path
) -> None:
    await sims.user()
    certificate, key = self_signed(tmp_path)
    given: list[bytes] = []

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        given.append(data.password)
        return AuthResult(success=data.password == b"right", handled=False)

    options = {"tls_context": tls_of(certificate, key), "require_starttls": True, "auth_required": True,
               "authenticator": authenticate}  # fmt: skip
    login: dict[str, Any] = {"tls": "starttls", "user": "shop"}
    async with post_office(**options) as office:
        async with desk(dataset, sims.users, office.port, password="right", **login) as trusting_nobody:
            await trusting_nobody.take()
            assert await trusting_nobody.round() == 1
            assert (given, office.mails) == ([], []), "no password for a server that proves nothing"
        async with desk(dataset, sims.users, office.port, password="wrong", cafile=certificate, **login) as wrong:
            wrong.now_ms += 10_000
            assert await wrong.round() == 1
            assert given, "this server proves who it is"
            assert (office.mails, await wrong.state()) == ([], "waiting"), "ours to mend, not the mail's end"
        async with desk(dataset, sims.users, office.port, password="right", cafile=certificate, **login) as ours:
            ours.now_ms += 70_000
            assert await ours.round() == 1
            assert (len(office.mails), await ours.state()) == (1, "sent")


def self_signed(folder: Path) -> tuple[str, str]:
    """A certificate for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    certificate, secret = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8, nothing = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(pem, pkcs8, nothing))
    return str(certificate), str(secret)
