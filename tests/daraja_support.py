"""A served Daraja, somebody who takes its callbacks, and the bodies that tests send it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from clients.daraja import Daraja as Client
from clients.daraja_settings import DarajaSettings
from clients.http import HttpCounterparty
from clients.wire import Wire
from engine.money import Money
from engine.phones import Phone
from engine.pushes import PushRequest
from metrics.instruments import Instruments
from resilience.guard import Guard, GuardSettings
from simulators.base import utc_now
from simulators.daraja import MERCHANT, DarajaSim
from simulators.daraja_forms import EAST_AFRICA_TIME
from simulators.server import serve
from tests.simulators.helpers import Answer, Json, call

PAYS = "254712345678"
PUSH = "/mpesa/stkpush/v1/processrequest"
QUERY = "/mpesa/stkpushquery/v1/query"
BASIC = "Basic " + base64.b64encode(f"{MERCHANT.consumer_key}:{MERCHANT.consumer_secret}".encode()).decode()


def phone(last: str) -> str:
    """A phone with these last four digits."""
    return f"25471234{last}"


class Receiver:
    """Takes callbacks. `status` is what it answers."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.status = 200
        self.arrived = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        return app

    async def _take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.arrived.set()
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


class Daraja:
    """A simulator and its callbacks' receiver over real sockets, and what the real one's clients send."""

    def __init__(self, base: str, callbacks: str, receiver: Receiver, http: aiohttp.ClientSession) -> None:
        self.base, self.callbacks, self.receiver, self.http = base, callbacks, receiver, http

    async def token(self) -> str:
        """A new token."""
        url = f"{self.base}/oauth/v1/generate?grant_type=client_credentials"
        answer = await call(self.http, "GET", url, headers={"Authorization": BASIC})
        assert answer.status == 200, answer
        token: str = answer.body["access_token"]
        return token

    async def send(self, path: str, body: Json) -> Answer:
        """Send with a token that is good."""
        headers = {"Authorization": f"Bearer {await self.token()}"}
        return await call(self.http, "POST", self.base + path, body, headers=headers)

    async def push(self, number: str = PAYS, **changes: Any) -> Answer:
        """Push to a phone."""
        return await self.send(PUSH, self.push_body(number, **changes))

    async def query(self, checkout: str) -> Answer:
        """Ask what became of a push."""
        return await self.send(QUERY, signed() | {"CheckoutRequestID": checkout})

    def push_body(self, number: str = PAYS, **changes: Any) -> Json:
        """The body of a good push."""
        return {
            **signed(),
            "TransactionType": "CustomerPayBillOnline",
            "Amount": 1500,
            "PartyA": number,
            "PartyB": MERCHANT.shortcode,
            "PhoneNumber": number,
            "CallBackURL": f"{self.callbacks}/callback",
            "AccountReference": "PKG-1",
            "TransactionDesc": "Internet",
            **changes,
        }

    async def get(self, path: str) -> Any:
        """Look at a journal or a hook."""
        answer = await call(self.http, "GET", self.base + path)
        assert answer.status == 200, answer
        return answer.body

    async def hook(self, path: str, method: str = "POST", **body: Any) -> Answer:
        """Use a hook."""
        return await call(self.http, method, self.base + path, body)

    async def fault(self, kind: str, **fields: Any) -> None:
        """Script a fault."""
        assert (await self.hook("/_faults", kind=kind, **fields)).status == 201

    async def pushes(self) -> list[Json]:
        """Every push that was taken."""
        found: list[Json] = (await self.get("/journal/pushes"))["pushes"]
        return found

    async def effects(self) -> list[Json]:
        """The money that was taken."""
        found: list[Json] = (await self.get("/journal"))["effects"]
        return found

    async def tokens_issued(self) -> int:
        """How many tokens were ever given out."""
        issued: int = (await self.get("/_tokens"))["issued"]
        return issued

    async def have_told(self, times: int) -> list[bytes]:
        """Wait for so many callbacks, and give them."""
        async with asyncio.timeout(20):
            while len(self.receiver.bodies) < times:
                self.receiver.arrived.clear()
                await self.receiver.arrived.wait()
        return self.receiver.bodies


def signed(moment: datetime | None = None, **changes: Any) -> Json:
    """What both forms begin with, as of now in East Africa."""
    timestamp = (moment or utc_now().astimezone(EAST_AFRICA_TIME)).strftime("%Y%m%d%H%M%S")
    text = f"{MERCHANT.shortcode}{MERCHANT.passkey}{timestamp}"
    password = base64.b64encode(text.encode()).decode()
    return {"BusinessShortCode": MERCHANT.shortcode, "Password": password, "Timestamp": timestamp, **changes}


@contextlib.asynccontextmanager
async def daraja(sim: DarajaSim | None = None) -> AsyncIterator[Daraja]:
    """Serve both for a while."""
    receiver = Receiver()
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        serve(sim or DarajaSim(None)) as base,
        serve(receiver) as callbacks,
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as http,
    ):
        yield Daraja(base, callbacks, receiver, http)


def hours_off(hours: float) -> datetime:
    """A moment in East Africa that is not now."""
    return utc_now().astimezone(EAST_AFRICA_TIME) + timedelta(hours=hours)


class Line:
    """The engine's own client of a Daraja, behind a guard."""

    def __init__(
        self,
        wire: Wire,
        base: str,
        *,
        timeout_s: float = 10.0,
        token_clock: Any = None,
        changes: Json | None = None,
        **guard: Any,
    ) -> None:
        numbers = GuardSettings(timeout_s=timeout_s, deadline_s=4 * timeout_s, slow_call_s=timeout_s, **guard)
        self.settings = settings(base, **(changes or {}))
        self.guard = Guard("mpesa", numbers, Instruments(CollectorRegistry()))
        counterparty = HttpCounterparty(wire, self.guard, timeout_s=timeout_s)
        clocks = {} if token_clock is None else {"token_clock": token_clock}
        self.client = Client(counterparty, self.settings, **clocks)

    @property
    def failures(self) -> int:
        """What the breaker has counted."""
        return self.guard.status().failure_count


def settings(base: str, **changes: Any) -> DarajaSettings:
    """The settings of the simulator's merchant."""
    return DarajaSettings(**{**MERCHANT._asdict(), "base_url": base, "callback_base_url": base, **changes})


def a_push(sim: Daraja | None = None, number: str = PAYS, **changes: Any) -> PushRequest:
    """A push of 1500 shillings."""
    request = PushRequest(
        amount=Money(150_000, "KES"),
        phone=Phone(number),
        reference="PKG-20260128150605-abc123",
        description="Internet package - Professional Plan",
        callback_url=f"{sim.callbacks}/callback/secret" if sim else "http://127.0.0.1:1/",
    )
    return msgspec.structs.replace(request, **changes)
