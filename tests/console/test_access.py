"""Who is let in to the console, and what is refused because it does not come from its own page."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client import CollectorRegistry
from yarl import URL

from handlers.address import ClientAddresses
from handlers.console.access import COOKIE, MARK, SESSION_S, Access, Sessions
from handlers.http import HttpRefused
from handlers.limits import SurfaceLimits
from metrics.instruments import Instruments
from resilience.limit_settings import LimitsSettings
from resilience.limiter import Limiter
from tests.api.world import Answer
from tests.console.world import CONSOLE_TOKEN, Operator
from tests.support import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="package")

ORDER = "/console/circuits/user_service/force-open"
BODY = {"actor": "mallory", "reason": "tests"}
DATA = ("/console/stream", "/console/search?by=order&q=order-1", "/console/payments/pay-1")
SHELL = ("/console", "/console/static/main.js", "/console/static/console.css", "/console/static/icon.svg")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:3007", "127.0.0.1", "127.0.0.1:1", "[::1]:3007", "[::1]"])
@pytest.mark.parametrize("path", ["/console", "/console/search?by=order&q=order-1"])
async def test_this_machine_is_let_in_by_its_names(operator: Operator, host: str, path: str) -> None:
    assert (await operator.ask("GET", path, headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    ["console.attacker.example", "localhost.attacker.example:3007", "127.0.0.1.nip.io", "192.168.0.1", "0.0.0.0:3007",
     "localhost:3007.attacker.example", "[::2]", "", "user@localhost"],
)  # fmt: skip
@pytest.mark.parametrize("path", [*SHELL[:2], *DATA, "/console/session"])
async def test_a_name_that_is_made_to_point_here_is_refused(operator: Operator, host: str, path: str) -> None:
    """DNS rebinding: the browser believes that the attacker's page and the console are one origin."""
    operator.world.refused(await operator.ask("GET", path, headers={"Host": host}), 403, "FORBIDDEN")
    rebound = {**operator.own(), "Host": host, "Origin": f"http://{host}"}
    operator.world.refused(await operator.ask("POST", ORDER, body=BODY, headers=rebound), 403, "FORBIDDEN")
    await nothing_was_ordered(operator)


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host", "X-Forwarded-Proto", "x-forwarded-else"],
)
async def test_who_comes_through_a_proxy_is_not_this_machine(operator: Operator, header: str) -> None:
    for claimed in ("127.0.0.1", "203.0.113.9"):
        refused = await operator.ask("GET", DATA[1], headers={header: claimed})
        operator.world.refused(refused, 403, "FORBIDDEN")


@pytest.mark.parametrize("path", [SHELL[0], DATA[1]])
async def test_a_proxy_that_says_nothing_is_known_by_its_old_http(operator: Operator, path: str) -> None:
    """nginx with a bare `proxy_pass` asks like this, with our own name as `Host`."""
    assert await asked_as("1.0", operator.console, path) == 403
    assert await asked_as("1.1", operator.console, path) == 200
    assert await asked_as("1.0", operator.guarded, SHELL[0]) == 200, "with a token it may come through a proxy"


async def asked_as(version: str, console: str, path: str) -> int:
    """The status of an answer to this version of HTTP."""
    port = URL(console).port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/{version}\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(60):
        status = (await reader.readline()).split()[1]
    writer.close()
    await writer.wait_closed()
    return int(status)


class Unasked:
    """Without a token nobody signs in, so nobody is counted."""

    async def take(self, key: str, *, requests: int, window_s: int) -> tuple[bool, int, float]:
        raise AssertionError(key)


INSTRUMENTS = Instruments(CollectorRegistry())
LIMITS = SurfaceLimits("ops", Limiter(Unasked(), LimitsSettings(), INSTRUMENTS), {}, ClientAddresses(), INSTRUMENTS)


class Peer:
    """The other end of a connection."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self._address, 50_000) if name == "peername" else default


@pytest.mark.parametrize(
    ("address", "let_in"),
    [("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("::ffff:127.0.0.1", True), ("203.0.113.9", False),
     ("192.168.1.2", False), ("::ffff:203.0.113.9", False), ("2001:db8::1", False), ("", False), ("0.0.0.0", False)],
)  # fmt: skip
async def test_the_peer_is_the_socket_s_own(address: str, let_in: bool) -> None:
    access = Access(None, LIMITS, secure=False)
    request = make_mocked_request("GET", "/console", headers={"Host": "localhost"}, transport=Peer(address))
    if let_in:
        access.page(request)
        return
    with pytest.raises(HttpRefused) as refused:
        access.page(request)
    assert refused.value.status == 403


def forgeries(own: str) -> dict[str, tuple[str, dict[str, str], int]]:
    """Requests that somebody else's page, or nobody's, could send: method, headers, and the refusal's status."""
    good = {MARK: "1", "Origin": own}
    return {
        "another origin": ("POST", {**good, "Origin": "https://attacker.example"}, 403),
        "another port of this machine": ("POST", {**good, "Origin": "http://127.0.0.1:1"}, 403),
        "no origin to speak of": ("POST", {**good, "Origin": "null"}, 403),
        "an origin that only begins like ours": ("POST", {**good, "Origin": f"{own}.attacker.example"}, 403),
        "without the header": ("POST", {"Origin": own}, 403),
        "with another value": ("POST", {**good, MARK: "0"}, 403),
        "without any origin": ("POST", {MARK: "1"}, 403),
        "from another site, says the browser": ("POST", {**good, "Sec-Fetch-Site": "cross-site"}, 403),
        "from a sister site, says the browser": ("POST", {**good, "Sec-Fetch-Site": "same-site"}, 403),
        "a link": ("GET", good, 405),
        "another method": ("PUT", good, 405),
        "a form": ("POST", {**good, "Content-Type": "application/x-www-form-urlencoded"}, 415),
        "plain text": ("POST", {**good, "Content-Type": "text/plain"}, 415),
    }


@pytest.mark.parametrize("forgery", forgeries(""))
async def test_a_forged_order_is_refused(operator: Operator, forgery: str) -> None:
    method, headers, status = forgeries(operator.console)[forgery]
    refused = await operator.ask(method, ORDER, body=BODY, headers=headers)
    operator.world.refused(refused, status)
    await nothing_was_ordered(operator)


@pytest.mark.parametrize("forgery", forgeries(""))
async def test_a_forged_order_is_refused_though_the_browser_sends_the_cookie(operator: Operator, forgery: str) -> None:
    operator.forget_tries()
    cookie = cookie_of(await operator.sign_in())
    method, headers, status = forgeries(operator.guarded)[forgery]
    refused = await operator.ask(method, ORDER, guarded=True, body=BODY, headers=headers, cookie=cookie)
    operator.world.refused(refused, status)
    await nothing_was_ordered(operator)


async def test_a_page_of_another_site_reads_nothing(operator: Operator) -> None:
    for path in DATA:
        refused = await operator.ask("GET", path, headers={"Sec-Fetch-Site": "cross-site"})
        operator.world.refused(refused, 403, "FORBIDDEN")
    answer = await operator.ask("GET", DATA[1], headers={"Origin": "https://attacker.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_with_a_token_nothing_is_shown_to_strangers_but_the_empty_page(operator: Operator) -> None:
    for path in SHELL:
        assert (await operator.ask("GET", path, guarded=True)).status == 200
    for path in DATA:
        operator.world.refused(await operator.ask("GET", path, guarded=True), 401, "UNAUTHORIZED")
    own = operator.own(guarded=True)
    operator.world.refused(await operator.ask("POST", ORDER, guarded=True, body=BODY, headers=own), 401, "UNAUTHORIZED")
    session = (await operator.ask("GET", "/console/session", guarded=True)).json
    assert session == {"signed_in": False, "asks_for_token": True}


async def test_who_signs_in_has_a_cookie_that_no_script_and_no_other_site_can_use(operator: Operator) -> None:
    operator.forget_tries()
    signed_in = await operator.sign_in()
    assert signed_in.status == 204
    flags = {part.strip().lower() for part in signed_in.headers["Set-Cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/console", f"max-age={SESSION_S}"} <= flags
    cookie = cookie_of(signed_in)
    assert CONSOLE_TOKEN not in cookie
    assert (await operator.ask("GET", DATA[1], guarded=True, cookie=cookie)).status == 200
    own = operator.own(guarded=True)
    ordered = await operator.ask("POST", ORDER, guarded=True, body=BODY, headers=own, cookie=cookie)
    assert (ordered.status, ordered.json["actor"]) == (200, "console: mallory")
    signed_out = await operator.ask("DELETE", "/console/session", guarded=True, headers=own, cookie=cookie)
    assert (signed_out.status, cookie_of(signed_out)) == (204, "")


async def test_the_token_itself_is_taken_as_bearer(operator: Operator) -> None:
    operator.forget_tries()
    right = {"Authorization": f"Bearer {CONSOLE_TOKEN}"}
    assert (await operator.ask("GET", DATA[1], guarded=True, headers=right)).status == 200
    wrong = {"Authorization": f"Bearer {CONSOLE_TOKEN}x"}
    refused = await operator.ask("GET", DATA[1], guarded=True, headers=wrong)
    operator.world.refused(refused, 401, "INVALID_CREDENTIALS")


@pytest.mark.parametrize("bad", ["wrong", "", CONSOLE_TOKEN[:-1], CONSOLE_TOKEN + "x", "ü" * 40])
async def test_a_wrong_token_is_refused(operator: Operator, bad: str) -> None:
    operator.forget_tries()
    refused = await operator.sign_in(bad)
    operator.world.refused(refused, 401, "INVALID_CREDENTIALS")
    assert "Set-Cookie" not in refused.headers


async def test_tries_are_limited(operator: Operator) -> None:
    operator.forget_tries()
    statuses = [(await operator.sign_in(f"guess-{number}")).status for number in range(11)]
    assert statuses == [401] * 10 + [429]
    assert (await operator.sign_in()).status == 429, "also the right one: else guessing would go on"
    operator.forget_tries()
    wrong = {"Authorization": "Bearer wrong"}
    found = [(await operator.ask("GET", DATA[1], guarded=True, headers=wrong)).status for _ in range(11)]
    assert found == [401] * 10 + [429]
    operator.forget_tries()


@pytest.mark.parametrize("forgery", [name for name, (method, _, _) in forgeries("").items() if method == "POST"])
async def test_a_forged_sign_in_is_refused(operator: Operator, forgery: str) -> None:
    """Else somebody could sign the operator in to a session of theirs, or guess through the operator's browser."""
    operator.forget_tries()
    _, headers, status = forgeries(operator.guarded)[forgery]
    body = {"token": CONSOLE_TOKEN}
    refused = await operator.ask("POST", "/console/session", guarded=True, body=body, headers=headers)
    operator.world.refused(refused, status)
    assert "Set-Cookie" not in refused.headers


@pytest.mark.parametrize(
    ("body", "status"), [("no", 400), ({}, 422), ({"token": 7}, 422), ({"token": "x" * 257}, 422), ("[]", 422)]
)
async def test_a_malformed_sign_in_is_refused(operator: Operator, body: Any, status: int) -> None:
    own = operator.own(guarded=True)
    refused = await operator.ask("POST", "/console/session", guarded=True, body=body, headers=own)
    operator.world.refused(refused, status)


class Clock:
    """Seconds that move when told."""

    now_s = 1_772_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def test_cookies_end_and_cannot_be_made_by_others() -> None:
    clock = Clock()
    sessions = Sessions(CONSOLE_TOKEN, clock=clock)
    cookie = sessions.make()
    assert sessions.knows(cookie)
    assert Sessions(CONSOLE_TOKEN, clock=clock).knows(cookie), "any process knows it, also after a restart"
    assert not Sessions(CONSOLE_TOKEN + "2", clock=clock).knows(cookie), "another token ends all sessions"
    expires, nonce, signature = cookie.split(".")
    for bad in (
        "", ".", "..", "a.b.c", f"{int(expires) + 1}.{nonce}.{signature}", f"{expires}.{nonce}.{signature[:-1]}",
        f"{expires}.{nonce}.", f"{expires}.{nonce}", cookie + "0", "ü" * 10, "1" * 5000, f"{expires}.{nonce}.ü",
        f"{expires}.{nonce}.\udcff",
    ):  # fmt: skip
        assert not sessions.knows(bad), bad
    clock.now_s += SESSION_S
    assert not sessions.knows(cookie)


async def test_who_was_let_in_may_see_what_goes_on_until_the_session_ends() -> None:
    clock = Clock()
    sessions = Sessions(CONSOLE_TOKEN, clock=clock)
    signed_in = make_mocked_request("GET", "/console/stream", headers={"Cookie": f"{COOKIE}={sessions.make()}"})
    program = make_mocked_request("GET", "/console/stream", headers={"Authorization": f"Bearer {CONSOLE_TOKEN}"})
    access = Access(sessions, LIMITS, secure=False)
    assert (access.still(signed_in), access.still(program)) == (True, True)
    clock.now_s += SESSION_S
    assert (access.still(signed_in), access.still(program)) == (False, True)
    assert Access(None, LIMITS, secure=False).still(signed_in), "for this machine alone there are no sessions"


async def test_the_token_is_in_no_log_and_masked_in_the_settings(operator: Operator) -> None:
    operator.forget_tries()
    await operator.sign_in()
    await operator.sign_in("guess-of-somebody")
    ran = subprocess.run(
        [sys.executable, "-m", "app", "check-config"], env={**os.environ, **operator.second.environment}, cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(ran.stdout)["ops"]["console_token"] == "set"
    logged = operator.second.log.read_text()
    for secret in (CONSOLE_TOKEN, "guess-of-somebody"):
        assert secret not in ran.stdout + ran.stderr + logged


async def test_every_answer_keeps_the_browser_from_doing_harm(operator: Operator) -> None:
    page = await operator.ask("GET", "/console")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in (*SHELL, "/console/search?by=order&q=1", "/console/static/../surface.py", "/console/static/surface.py"):
        answer = await operator.ask("GET", path)
        assert is_safe(answer.headers), path
    inline = re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", page.text)
    assert inline == [], "nothing runs that stands in the page itself"


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fsurface.py", "console.html%00.js", ".."])
async def test_no_other_file_is_served(operator: Operator, name: str) -> None:
    operator.world.refused(await operator.ask("GET", f"/console/static/{name}"), 404)


async def test_without_the_setting_there_is_no_console(operator: Operator) -> None:
    answer = await operator.world.send("GET", "/console", auth=None)
    operator.world.refused(answer, 404, "NOT_FOUND")


def is_safe(headers: Mapping[str, str]) -> bool:
    return (
        headers["X-Content-Type-Options"] == "nosniff"
        and headers["X-Frame-Options"] == "DENY"
        and "default-src 'none'" in headers["Content-Security-Policy"]
        and headers["Cache-Control"] in {"no-store", "no-cache"}
    )


def cookie_of(answer: Answer) -> str:
    name, _, rest = answer.headers["Set-Cookie"].partition("=")
    assert name == COOKIE
    return rest.partition(";")[0].strip('"')


async def nothing_was_ordered(operator: Operator) -> None:
    assert (await operator.states())["user_service"] == "closed"
