"""Posting to strangers: led nowhere, held up by nobody, and nothing of what they say is kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from clients.webhooks import BODY_BYTES_MAX, AddressRefused, CheckedResolver, NotLookedUp, WebhookPoster
from engine.webhook_sender import PostAnswer
from engine.webhook_urls import is_public
from tests.support import ROOT
from tests.webhooks.world import Clock, Receiver

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\n"


@contextlib.asynccontextmanager
async def raw_server(handle: Handle) -> AsyncIterator[str]:
    """A server that says whatever it likes, when the request's head is here; gives its URL."""
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        # Whoever is still talking at the end is stopped, and that is nothing to be told of.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            await handle(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(*parts: bytes) -> Handle:
    """Say this, and hang up."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return handle


def for_ever(first: bytes, again: bytes, *, pause_s: float = 0.0) -> Handle:
    """Say something, then something else until somebody hangs up."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return handle


async def post(url: str, *, timeout_s: float = 30.0, **options: Any) -> PostAnswer:
    """One post by a poster of its own."""
    given = {"allow_http": True, "allow_private": True, **options}
    async with WebhookPoster(Clock(), timeout_s=timeout_s, **given) as poster:
        return await poster.post(url, {"webhook-id": "1"}, b"{}")


def names(*answers: list[str]) -> Callable[..., list[tuple[Any, ...]]]:
    """A name server: the addresses of each look-up, the last ones for ever."""
    left = list(answers)

    def lookup(_: str, port: int, **__: Any) -> list[tuple[Any, ...]]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]

    return lookup


# Where it goes


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "0.0.0.0", "[::]"]
)
async def test_a_private_address_is_not_connected_to(host: str, receiver: Receiver) -> None:
    """The endpoint was made when it was allowed, or its name leads here only now."""
    port = receiver.url.rpartition(":")[2]
    assert await post(f"http://{host}:{port}/", allow_private=False) == PostAnswer(0, "address_refused")
    assert receiver.got == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "017700000001"])
async def test_another_spelling_of_a_private_address_is_not_connected_to(host: str, receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    answer = await post(f"http://{host}:{port}/", allow_private=False)
    assert (answer.status, answer.reason) in {(0, "address_refused"), (0, "url_refused")}
    assert receiver.got == []


async def test_a_name_that_leads_to_a_private_address_is_refused(receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    url = f"http://hooks.example.com:{port}/"
    for addresses in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1"], ["64:ff9b::7f00:1"], []):
        answer = await post(url, allow_private=False, lookup=names(addresses))
        assert answer == PostAnswer(0, "address_refused"), addresses
    assert receiver.got == []


async def test_one_private_address_among_others_is_enough_to_refuse_a_name() -> None:
    """Else luck, or whoever answers first, would decide which of them is connected to."""
    resolver = CheckedResolver(is_public, names(["8.8.8.8", "1.1.1.1"], ["8.8.8.8", "127.0.0.1"], []))
    assert [found["host"] for found in await resolver.resolve("hooks.example.com", 443)] == ["8.8.8.8", "1.1.1.1"]
    for _ in range(2):
        with pytest.raises(AddressRefused):
            await resolver.resolve("hooks.example.com", 443)
    await resolver.close()


async def test_the_connection_goes_to_the_address_that_was_looked_at(receiver: Receiver) -> None:
    """Rebinding: the second look-up would say something else, so there must be none. And the name stays in `Host`."""
    port = receiver.url.rpartition(":")[2]
    lookups = []
    found = names(["127.0.0.1"], ["127.0.0.9"])

    def lookup(host: str, *rest: Any, **more: Any) -> list[tuple[Any, ...]]:
        lookups.append(host)
        return found(host, *rest, **more)

    assert (await post(f"http://hooks.example.com:{port}/", lookup=lookup)).status == 200
    assert lookups == ["hooks.example.com"]
    assert receiver.got[0].headers["Host"] == f"hooks.example.com:{port}"


async def test_a_name_that_turns_private_later_is_refused_then(receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    found = names(["8.8.8.8"], ["127.0.0.1"])
    found("", 0)
    assert await post(f"http://hooks.example.com:{port}/", allow_private=False, lookup=found) == PostAnswer(
        0, "address_refused"
    )


async def test_no_redirect_is_followed(receiver: Receiver) -> None:
    receiver.answer = lambda _: web.Response(status=302, headers={"Location": receiver.url + "/elsewhere"})
    assert (await post(receiver.url + "/first")).status == 302
    assert [got.path for got in receiver.got] == ["/first"]


async def test_no_cookie_is_kept_and_no_proxy_of_the_environment_is_used(receiver: Receiver) -> None:
    """In a process of its own: what stands in the environment is everybody's."""
    receiver.answer = lambda _: web.Response(headers={"Set-Cookie": "a=b"})
    program = (
        "import asyncio; from clients.webhooks import WebhookPoster\n"
        "async def main():\n"
        "    async with WebhookPoster(lambda: 0, timeout_s=30, allow_http=True, allow_private=True) as poster:\n"
        f"        for _ in range(2): print((await poster.post('{receiver.url}/', {{}}, b'{{}}')).status)\n"
        "asyncio.run(main())\n"
    )
    nowhere = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:1")
    run = [sys.executable, "-c", program]
    done = await asyncio.to_thread(
        subprocess.run, run, env={**os.environ, **nowhere}, cwd=ROOT, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"200", b"200"]
    assert all("Cookie" not in got.headers for got in receiver.got)


async def test_a_url_without_tls_is_not_sent_to_where_that_is_not_allowed_any_more(receiver: Receiver) -> None:
    assert await post(receiver.url, allow_http=False) == PostAnswer(0, "url_refused")
    assert receiver.got == []


# What comes back


@pytest.mark.parametrize(
    ("handle", "status"),
    [
        (saying(HEAD + b"Content-Length: 10000000\r\n\r\n", *[b"x" * 100_000] * 100), 200),
        (for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nmore\r\n"), 200),
        (for_ever(HEAD + b"\r\n", b"x" * 1000), 200),
        (for_ever(HEAD + b"Content-Length: 1000\r\n\r\n", b"x", pause_s=0.05), 200),
        (saying(HEAD + b"Content-Length: 1000\r\n\r\n", b"cut"), 200),
        (saying(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"), 200),
        (saying(b"HTTP/1.1 500 No\r\nContent-Length: 10000000\r\n\r\n", b"x" * 100_000), 500),
    ],
    ids=["10 MB", "endless chunks", "endless", "slow body", "cut", "not gzip", "10 MB of an error"],
)
async def test_the_status_decides_whatever_body_comes_with_it(handle: Handle, status: int) -> None:
    async with raw_server(handle) as url:
        assert await post(url) == PostAnswer(status)


async def test_of_a_body_only_a_little_is_read() -> None:
    """Else an answer could fill the memory: whoever sends more finds the connection closed."""
    sent = 0

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 1_000_000_000:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536

    async with raw_server(handle) as url:
        assert await post(url) == PostAnswer(200)
    # What the kernels on both sides hold is not ours to bound.
    assert BODY_BYTES_MAX < 65_536 < sent + 65_536 < 64_000_000


@pytest.mark.parametrize(
    "handle",
    [
        for_ever(b"", b"", pause_s=0.05),
        for_ever(HEAD, b"X-More: 1\r\n", pause_s=0.05),
        for_ever(b"", b"H", pause_s=600),
        for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.01),
    ],
    ids=["silence", "slow headers", "half a word", "continue for ever"],
)
async def test_whoever_does_not_answer_in_time_is_left(handle: Handle) -> None:
    async with raw_server(handle) as url:
        assert await post(url, timeout_s=0.5) == PostAnswer(0, "timeout")


@pytest.mark.parametrize(
    "handle",
    [
        saying(b"SSH-2.0-OpenSSH_9.2\r\n"),
        saying(b""),
        saying(b"HTTP/1.1 200"),
        saying(HEAD + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n"),
        for_ever(HEAD, b"X-More: " + b"y" * 1000 + b"\r\n"),
    ],
    ids=["no HTTP", "nothing", "cut", "a long header", "endless headers"],
)
async def test_what_is_no_answer_is_a_word_that_quotes_nothing(handle: Handle) -> None:
    async with raw_server(handle) as url:
        answer = await post(url, timeout_s=5)
        assert answer.status == 0
        assert answer.reason in {"connection_broken", "bad_answer", "timeout"}


async def test_nobody_at_home_is_told_from_no_such_name(receiver: Receiver) -> None:
    def unknown(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        assert await post(url) == PostAnswer(0, "not_connected")
    assert await post("http://hooks.example.com/", lookup=unknown) == PostAnswer(0, "name_not_found")


@pytest.mark.parametrize(
    "host",
    ["a..b", "a" * 64 + ".com", "-", "_", "xn--", "xn--a", "*.com", "a,b", "a;b", "$(x)", "1.2.3.4.5", "0x",
     "300.1.1.1", "08.1.1.1", "[1::2::3]", "[v1.a]", "a" * 253],
)  # fmt: skip
async def test_a_host_of_any_form_leads_to_a_word_and_not_to_an_error(host: str) -> None:
    """Whoever makes endpoints must not make the sender stumble: an error would come again with every lease."""

    def unknown(name: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        name.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    answer = await post(f"https://{host}/", lookup=unknown)
    assert answer.status == 0
    assert answer.reason in {"name_not_found", "url_refused", "connection_broken", "not_connected"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("999999999999999", 999_999_999),
        ("-5", None),
        ("soon", None),
        ("1.5", None),
        ("٣", None),
    ],
)
async def test_retry_after_is_understood_or_passed_over(text: str, seconds: float | None) -> None:
    head = f"HTTP/1.1 503 Later\r\nRetry-After: {text}\r\nContent-Length: 0\r\n\r\n".encode()
    async with raw_server(saying(head)) as url:
        assert await post(url) == PostAnswer(503, "", seconds)


async def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    head = f"HTTP/1.1 503 Later\r\nRetry-After: {later}\r\nContent-Length: 0\r\n\r\n".encode()
    async with raw_server(saying(head)) as url:
        answer = await post(url)
        assert answer.retry_after_s is not None
        assert 3000 < answer.retry_after_s <= 3600


# Names that hold up, and certificates


@pytest.mark.parametrize("different", [16, 128])
async def test_names_that_are_never_found_hold_up_only_those_who_asked_for_them(
    different: int, receiver: Receiver
) -> None:
    """As many endpoints as the loop has threads, and half of all that a sender tries, may have silent servers."""
    found, port = threading.Event(), receiver.url.rpartition(":")[2]
    asked = []

    def lookup(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if host.startswith("dead"):
            asked.append(host)
            found.wait(60)
        return names(["127.0.0.1"])(host, port)

    try:
        async with WebhookPoster(Clock(), timeout_s=30, allow_http=True, allow_private=True, lookup=lookup) as poster:
            dead = [
                asyncio.create_task(poster.post(f"http://dead-{number % different}.example.com/", {}, b""))
                for number in range(150)
            ]
            await asyncio.sleep(0)
            alive = await poster.post(f"http://alive.example.com:{port}/", {}, b"{}")
            assert alive.status == 200
            assert not any(task.done() for task in dead)
            assert len(asked) == len(set(asked)), "one look-up for a name at a time"
            for task in dead:
                task.cancel()
            await asyncio.gather(*dead, return_exceptions=True)
    finally:
        found.set()


class Threads:
    """The threads that the system lets us have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        begin = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if self.left <= 0:
                raise RuntimeError("can't start new thread")
            self.left -= 1
            begin(thread)

        monkeypatch.setattr(threading.Thread, "start", start)


async def test_a_name_that_got_no_thread_can_be_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often that was: what ends so takes no place from those who come later."""
    monkeypatch.setattr("clients.webhooks._LOOKUPS_AT_ONCE", 2)
    threads, resolver = Threads(monkeypatch), CheckedResolver(is_public, names(["8.8.8.8"]))
    async with asyncio.timeout(30):
        for _ in range(3):
            with pytest.raises(OSError, match="no thread"):
                await resolver.resolve("hooks.example.com", 443)
        threads.left = 1
        assert len(await resolver.resolve("hooks.example.com", 443)) == 1


async def test_names_that_get_no_thread_when_their_turn_comes_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of them, one after the other, as the end of the look-up before them begins them."""
    monkeypatch.setattr("clients.webhooks._LOOKUPS_AT_ONCE", 1)
    found = threading.Event()

    def lookup(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        found.wait(30)
        return names(["8.8.8.8"])(host, port)

    threads, resolver = Threads(monkeypatch), CheckedResolver(is_public, lookup)
    threads.left = 1
    first = asyncio.create_task(resolver.resolve("first.example.com", 443))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(resolver.resolve(f"{number}.example.com", 443)) for number in range(3000)]
    await asyncio.sleep(0)
    found.set()
    async with asyncio.timeout(30):
        assert len(await first) == 1
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {NotLookedUp}
        threads.left = 1
        assert len(await resolver.resolve("first.example.com", 443)) == 1


async def test_a_post_that_got_no_thread_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that there is no such name: its owner would look for a fault that is ours."""
    Threads(monkeypatch)
    assert await post("http://hooks.example.com/", timeout_s=5) == PostAnswer(0, "not_looked_up")


async def test_a_name_that_nobody_waits_for_any_more_takes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.webhooks._LOOKUPS_AT_ONCE", 1)
    found, asked = threading.Event(), list[str]()

    def lookup(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        found.wait(30)
        return names(["127.0.0.1"])(host, port)

    async with WebhookPoster(Clock(), timeout_s=30, allow_http=True, allow_private=True, lookup=lookup) as poster:

        async def posting(host: str) -> asyncio.Task[PostAnswer]:
            task = asyncio.create_task(poster.post(f"http://{host}.example.com:1/", {}, b""))
            await asyncio.sleep(0.02)
            return task

        async def left(*tasks: asyncio.Task[PostAnswer]) -> None:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        first = await posting("first")
        await left(await posting("left"), await posting("left"))
        one, other = await posting("kept"), await posting("kept")
        await left(one)
        await left(await posting("left-and-asked-for-again"))
        again = await posting("left-and-asked-for-again")
        found.set()
        async with asyncio.timeout(30):
            answers = [*await asyncio.gather(first, other, again)]
    assert answers == [PostAnswer(0, "not_connected")] * 3
    assert asked == [f"{host}.example.com" for host in ("first", "kept", "left-and-asked-for-again")]


async def test_a_name_that_is_never_found_does_not_hold_up_the_end_of_the_process() -> None:
    program = (
        "import asyncio, threading; from clients.webhooks import WebhookPoster\n"
        "def lookup(*_, **__): threading.Event().wait()\n"
        "async def main():\n"
        "    async with WebhookPoster(lambda: 0, timeout_s=0.1, lookup=lookup) as poster:\n"
        "        print((await poster.post('https://hooks.example.com/', {}, b'{}')).reason)\n"
        "asyncio.run(main())\n"
    )
    run = [sys.executable, "-c", program]
    done = await asyncio.to_thread(subprocess.run, run, cwd=ROOT, capture_output=True, check=True, timeout=30)
    assert done.stdout.split() == [b"timeout"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for hooks.example.com that nobody has signed, with its key."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=hooks.example.com", "-addext", "subjectAltName=DNS:hooks.example.com",
            "-keyout", str(file), "-out", str(file.with_suffix(".crt")),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    file.write_bytes(file.read_bytes() + file.with_suffix(".crt").read_bytes())
    return file


async def test_the_certificate_must_be_that_of_the_name_and_of_an_authority(certificate: Path) -> None:
    """The address is the checked one, but what is asked for (SNI) and believed is the name."""
    served, seen = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), list[str | None]()
    served.load_cert_chain(certificate)
    served.sni_callback = lambda _, name, __: seen.append(name)
    believed = ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=served)
    async with server:
        port = server.sockets[0].getsockname()[1]
        here = names(["127.0.0.1"])
        good, other = f"https://hooks.example.com:{port}/", f"https://other.example.com:{port}/"
        assert await post(good, lookup=here, tls=believed, allow_http=False) == PostAnswer(200)
        assert seen == ["hooks.example.com"]
        assert await post(other, lookup=here, tls=believed) == PostAnswer(0, "tls")
        assert await post(good, lookup=here) == PostAnswer(0, "tls")
