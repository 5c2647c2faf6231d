"""The gateway surface, first part: register, log in, and who one is."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
from aiohttp import web

from engine import errors
from engine.accounts import Accounts
from engine.emails import canonical_email
from handlers.auth import Authenticator
from handlers.gateway_types import Login, Register
from handlers.gateway_views import AccountView, MessageView, TokenView, account_view, token_view
from handlers.http import read_body, reply
from handlers.routes import Route
from handlers.strict_json import decode_strictly
from handlers.tokens import TokenSigner

_LATER: Final = (errors.StoreUnavailable, errors.Overloaded)
_PROFILE: Final = "/api/auth/profile"
# No cache between here and its owner may keep a token.
_NO_STORE: Final = {"Cache-Control": "no-store"}


_BY_ADDRESS: Final = "login_by_address"
_BY_ACCOUNT: Final = "login_by_account"


class Limits(Protocol):
    """How often something may be tried."""

    async def check(self, request: web.Request, rule_name: str, key: str | None = None) -> None:
        """Count a try; `key` is who tries, else the client's address. Raises `HttpRefused` when there were too many."""
        ...


class GatewayAccounts:
    """The accounts of people, and their tokens."""

    def __init__(
        self,
        accounts: Accounts,
        signer: TokenSigner,
        auth: Authenticator,
        limits: Limits,
        *,
        token_hours: float,
    ) -> None:
        self._accounts = accounts
        self._limits = limits
        self._signer = signer
        self._auth = auth
        self._token_hours = token_hours
        self._register = msgspec.json.Decoder(Register)
        self._login = msgspec.json.Decoder(Login)

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route(
                "POST", "/api/auth/register", self.register, "Register",
                {201: AccountView}, body=Register, errors=(errors.EmailRefused, errors.EmailTaken, *_LATER),
                auth=False, tag="accounts",
            ),
            Route(
                "POST", "/api/auth/login", self.login, "Log in: a token for an e-mail address and its password",
                {200: TokenView}, body=Login, errors=(errors.WrongCredentials, *_LATER), auth=False, tag="accounts",
                limits=(_BY_ADDRESS, _BY_ACCOUNT),
            ),
            Route(
                "POST", "/api/auth/logout", self.logout, "Log out: the token is taken no more",
                {200: MessageView}, errors=_LATER, tag="accounts",
            ),
            Route(
                "GET", _PROFILE, self.profile, "One's own account",
                {200: AccountView}, errors=(errors.AccountNotFound, *_LATER), tag="accounts",
            ),
        ]  # fmt: skip

    async def register(self, request: web.Request) -> web.Response:
        """`POST /api/auth/register`."""
        wanted = decode_strictly(await read_body(request), self._register)
        account = await self._accounts.register(name=wanted.name, email=wanted.email, password=wanted.secret)
        return reply(201, account_view(account), {"Location": _PROFILE})

    async def login(self, request: web.Request) -> web.Response:
        """`POST /api/auth/login`."""
        # The address first: it bounds how many accounts one client can lock.
        await self._limits.check(request, _BY_ADDRESS)
        given = decode_strictly(await read_body(request), self._login)
        await self._limits.check(request, _BY_ACCOUNT, canonical_email(given.email))
        account = await self._accounts.login(email=given.email, password=given.secret)
        return reply(200, token_view(self._signer.sign(subject=account.id, hours=self._token_hours)), _NO_STORE)

    async def logout(self, request: web.Request) -> web.Response:
        """`POST /api/auth/logout`."""
        await self._auth.log_out(request)
        return reply(200, MessageView("Logged out"))

    async def profile(self, request: web.Request) -> web.Response:
        """`GET /api/auth/profile`."""
        caller = await self._auth.caller(request)
        return reply(200, account_view(await self._accounts.find(caller.subject)))
