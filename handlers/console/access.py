"""Who may see the console, and who may change something through it.

Without a token, only this machine. The peer is the socket's own address; a header can say anything. Whoever comes
through a proxy is not this machine, though the proxy is. Most proxies say what they are: in a header, or by speaking
HTTP/1.0, as nginx does with a bare `proxy_pass`. One that says nothing cannot be told from this machine, so behind any
proxy there must be a token. A page of somebody else's that has its name point to
127.0.0.1 sends that name as `Host`.

With a token: a signed cookie, or the token itself as bearer. What changes something must moreover come from our own
page: a header that no form can send, and an origin that is ours.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable
from typing import Final, NoReturn
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from handlers.address import parse
from handlers.http import HttpRefused
from handlers.limits import SurfaceLimits

COOKIE: Final = "console_session"
MARK: Final = "X-Console"
"""The header that only our own page sends: another's would have to ask first, and is told no."""
SESSION_S: Final = 8 * 3600
LIMIT: Final = "console_sign_in"
"""The rule under which tries to sign in are counted."""

_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_FORWARDED: Final = frozenset({"forwarded", "via", "x-real-ip"})
_FORWARDED_PREFIX: Final = "x-forwarded-"
_NONCE_BYTES: Final = 12
_COOKIE_LENGTH_MAX: Final = 256


class Sessions:
    """Makes and knows the cookies of those who have signed in. Nothing is kept: any process knows any cookie.

    They end with their time, and all of them with the token that they are derived from.
    """

    def __init__(self, token: str, *, clock: Callable[[], float] = time.time) -> None:
        self._token = hashlib.sha256(token.encode()).digest()
        self._key = hashlib.blake2b(token.encode(), person=b"console-session", digest_size=32).digest()
        self._clock = clock

    def is_token(self, text: str) -> bool:
        """Whether this is the token, in a time that does not tell how much of it was right."""
        return hmac.compare_digest(hashlib.sha256(text.encode(errors="replace")).digest(), self._token)

    def make(self) -> str:
        """A new session's cookie."""
        text = f"{int(self._clock()) + SESSION_S}.{os.urandom(_NONCE_BYTES).hex()}"
        return f"{text}.{self._sign(text)}"

    def knows(self, cookie: str) -> bool:
        """Whether we made this cookie, and its time is not over."""
        text, _, signature = cookie.rpartition(".")
        if len(cookie) > _COOKIE_LENGTH_MAX:
            return False
        # What is no UTF-8 comes as half characters, which cannot be written as it.
        if not hmac.compare_digest(signature.encode(errors="replace"), self._sign(text).encode()):
            return False
        # Signed by us, so it has our form.
        return int(text.partition(".")[0]) > self._clock()

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(errors="replace"), hashlib.sha256).hexdigest()


class Access:
    """Asked by every handler of the console, before anything else. All its refusals are `HttpRefused`."""

    def __init__(self, sessions: Sessions | None, limits: SurfaceLimits, *, secure: bool) -> None:
        """Without `sessions` only loopback peers are let in. `secure`: the browser speaks TLS with us."""
        self._sessions = sessions
        self._limits = limits
        self._secure = secure

    @property
    def asks_for_token(self) -> bool:
        """Whether one has to sign in."""
        return self._sessions is not None

    def page(self, request: web.Request) -> None:
        """May load the page itself, which shows nothing yet."""
        if self._sessions is None:
            _require_this_machine(request)

    async def reading(self, request: web.Request) -> None:
        """May see what goes on."""
        self.page(request)
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
            raise _forbidden("this is read by the console's own page only")
        if not await self.signed_in(request):
            raise HttpRefused(401, "UNAUTHORIZED", "sign in at /console first", headers={"WWW-Authenticate": "Bearer"})

    async def changing(self, request: web.Request) -> None:
        """May change something."""
        self.forged(request)
        await self.reading(request)

    def forged(self, request: web.Request) -> None:
        """Refuse what did not come from our own page."""
        self.page(request)
        headers = request.headers
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
        if headers.get(MARK) != "1":
            raise _forbidden(f"a request that changes something needs the header {MARK}: 1")
        if origin is None and site is None:
            raise _forbidden("a request that changes something needs an Origin")
        if (origin is not None and not _is_own(origin, request)) or site not in {None, "same-origin"}:
            raise _forbidden("this request comes from another origin")

    async def signed_in(self, request: web.Request) -> bool:
        """Whether this request is somebody's whom we know. A wrong bearer token is counted, and refused."""
        if self._sessions is None:
            return True
        if token := _bearer(request):
            if not self._sessions.is_token(token):
                await self._wrong(request)
            return True
        return self._sessions.knows(request.cookies.get(COOKIE, ""))

    def still(self, request: web.Request) -> bool:
        """Whether somebody who was let in still may see what goes on: a session ends, the token does not."""
        if self._sessions is None or _bearer(request):
            return True
        return self._sessions.knows(request.cookies.get(COOKIE, ""))

    async def sign_in(self, request: web.Request, token: str) -> web.Response:
        """Answer with a session's cookie."""
        self.forged(request)
        if self._sessions is None:
            return web.Response(status=204)
        await self._limits.check(request, LIMIT)
        if not self._sessions.is_token(token):
            raise _wrong_token()
        response = web.Response(status=204)
        self._set(response, self._sessions.make(), SESSION_S)
        return response

    def sign_out(self, request: web.Request) -> web.Response:
        """Answer that takes the cookie back."""
        self.forged(request)
        response = web.Response(status=204)
        self._set(response, "", 0)
        return response

    async def _wrong(self, request: web.Request) -> NoReturn:
        await self._limits.check(request, LIMIT)
        raise _wrong_token()

    def _set(self, response: web.Response, value: str, max_age_s: int) -> None:
        response.set_cookie(
            COOKIE, value, max_age=max_age_s, path="/console", httponly=True, samesite="Strict", secure=self._secure
        )


def _require_this_machine(request: web.Request) -> None:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    address = parse(str(peer[0])) if isinstance(peer, tuple) and peer else None
    if address is None or not address.is_loopback:
        raise _forbidden("the console is for this machine only: set ops.console_token to sign in from elsewhere")
    if _is_forwarded(request):
        raise _forbidden("the console is not served through a proxy without ops.console_token")
    hosts = request.headers.getall("Host", ())
    if len(hosts) != 1 or _name_of(hosts[0]) not in _LOOPBACK_NAMES:
        raise _forbidden("the console answers to localhost, 127.0.0.1 and [::1] only")


def _is_forwarded(request: web.Request) -> bool:
    """Whether a proxy has left a trace. No browser of today speaks HTTP/1.0."""
    names = (name.lower() for name in request.headers)
    return request.version < HttpVersion11 or any(
        name in _FORWARDED or name.startswith(_FORWARDED_PREFIX) for name in names
    )


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _name_of(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isascii() and port.isdigit() else host).lower()


def _is_own(origin: str, request: web.Request) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in {"http", "https"} and parts.netloc.lower() == request.headers.get("Host", "").lower()


def _forbidden(message: str) -> HttpRefused:
    return HttpRefused(403, "FORBIDDEN", message)


def _wrong_token() -> HttpRefused:
    return HttpRefused(401, "INVALID_CREDENTIALS", "this is not the console's token")
