"""The world of the M-Pesa tests: an engine process with pretend phones behind it, seen as its clients see it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import aiohttp
import redis
from multidict import CIMultiDict
from yarl import URL

from simulators.daraja import MERCHANT, DarajaSim
from simulators.server import serve
from tests.api.world import RETRIES, Answer, World, eventually, world_around
from tests.support import ROOT, Sims, free_port, simulators

CLIENT: Final = "550e8400-e29b-41d4-a716-446655440000"
PACKAGE: Final = "660e8400-e29b-41d4-a716-446655440001"
OTHER_CLIENT: Final = "550e8400-e29b-41d4-a716-44665544000a"
OTHER_PACKAGE: Final = "660e8400-e29b-41d4-a716-44665544000b"
CHEAP_PACKAGE: Final = "660e8400-e29b-41d4-a716-44665544000c"
INACTIVE: Final = "550e8400-e29b-41d4-a716-44665544000f"
SECRET: Final = "callback-secret-0123456789"
BASE: Final = "/api/v1/payments"
DESCRIPTION: Final = "Internet package - Professional Plan"
TOPIC: Final = "mpesa-payment-events"
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PUSH: Final = "stkpush/v1"
QUERY: Final = "stkpushquery"

_CATALOGUE: Final = {
    f"CLIENTS__{CLIENT}__NAME": "An internet provider",
    f"CLIENTS__{OTHER_CLIENT}__NAME": "Another one",
    f"CLIENTS__{INACTIVE}__NAME": "One that has left",
    f"CLIENTS__{INACTIVE}__ACTIVE": "false",
    **{
        f"PACKAGES__{package}__{key}": value
        for package, client, price in (
            (PACKAGE, CLIENT, "1500"), (CHEAP_PACKAGE, CLIENT, "1500"), (OTHER_PACKAGE, OTHER_CLIENT, "700"),
        )
        for key, value in (("CLIENT", client), ("NAME", "A plan"), ("PRICE", price))
    },
}  # fmt: skip
# It gives up on an answer early, so that a test need not wait long; limits and breakers have tests of their own.
_DEFAULTS: Final = {
    "PAYMENTS__MPESA__GUARD__TIMEOUT_S": "3",
    "PAYMENTS__MPESA__GUARD__DEADLINE_S": "4",
    "PAYMENTS__MPESA__GUARD__FAILURES_TO_OPEN": "100000",
    "PAYMENTS__MPESA__GUARD__WINDOW_CALLS_MIN": "100000",
    "PAYMENTS__ACQUIRER__GUARD__TIMEOUT_S": "3",
    "PAYMENTS__ACQUIRER__GUARD__DEADLINE_S": "4",
    "PAYMENTS__WORKER__LEASE_S": "9",
    "PAYMENTS__WORKER__CLAIM_IDLE_S": "9",
    "PAYMENTS__LIMITS__MPESA__REQUESTS": "0",
}

Json = dict[str, Any]


class Mpesa:
    """The M-Pesa door of a running engine, and the pretend Safaricom behind it."""

    def __init__(self, world: World, base: str, daraja: str, session: aiohttp.ClientSession) -> None:
        self.world, self.base, self.daraja = world, base, daraja
        self._session = session
        self._numbers = itertools.count(1)

    @property
    def sims(self) -> Sims:
        """The counterparties of the core surface."""
        return self.world.sims

    def phone(self, last: str = "5678") -> str:
        """A phone that nobody else uses, with these last four digits: they say how its owner behaves."""
        return f"2547{next(self._numbers):04}{last}"

    async def send(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send exactly this."""
        sent = CIMultiDict(headers or {})
        skip = () if "Content-Type" in sent else ("Content-Type",)
        url = URL(self.base + path, encoded=True)
        async with self._session.request(method, url, data=body, headers=sent, skip_auto_headers=skip) as response:
            return Answer(method, path, response.status, response.headers, await response.read())

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        """`POST` a JSON body; bytes are sent as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        return await self.send("POST", path, body=raw, headers=sent)

    async def initiate(self, phone: str = "254712345678", *, key: str | None = None, **changes: Any) -> Answer:
        """Ask a phone to pay the package of 1500 shillings; a change to None leaves the field out."""
        headers = {} if key is None else {"Idempotency_Key": key}
        return await self.post(f"{BASE}/initiate", wish(phone, **changes), **headers)

    async def initiated(self, phone: str, **changes: Any) -> Json:
        """A phone that is being asked."""
        answer = await self.initiate(phone, **changes)
        assert answer.status == 200, answer
        return dict(answer.json)

    async def status(self, checkout_id: Any, client_id: Any = CLIENT) -> Answer:
        """Ask how it stands."""
        return await self.post(f"{BASE}/status", {"client_id": client_id, "checkout_id": checkout_id})

    async def callback(self, body: Any, attempt_id: str = "", secret: str = SECRET, **headers: str) -> Answer:
        """Be Safaricom, or somebody who says so."""
        end = f"/{attempt_id}" if attempt_id else ""
        return await self.post(f"{BASE}/callback/{secret}{end}", body, **headers)

    async def heard(self, verdict: str) -> float:
        """How many callbacks were judged so."""
        samples = await self.samples("push_callbacks_total")
        return sum(value for has, value in samples if verdict in has.values())

    async def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Samples of a metric."""
        return await self.world.samples(name)

    def record(self, phone: str) -> Json:
        """The payment's record, by the phone that pays."""
        return self.records(phone)[-1]

    def records(self, phone: str) -> list[Json]:
        """Every payment's record of this phone."""
        return [record for record in self.all_records() if record.get("payer") == phone]

    def all_records(self) -> list[Json]:
        """Every payment's record."""
        with contextlib.closing(redis.Redis(port=self.world.redis.port)) as client:
            names: Any = list(client.scan_iter("*:payment:*", count=10_000))
            values: Any = client.mget(names) if names else []
        return [json.loads(value) for value in values if value]

    async def ended(self, phone: str, *, within_s: float = 40) -> Json:
        """The record as soon as it says how it ended. Nobody asks for it here: the engine must come by itself."""

        async def look() -> Json | None:
            record = self.record(phone)
            return record if record.get("ended") else None

        return await eventually(look, within_s=within_s)

    def attempt(self, phone: str) -> str:
        """The id of the attempt at this phone."""
        record = self.record(phone)
        return f"{record['id']}-a{record['attempts'][-1][0]}"

    def hints(self, phone: str) -> list[Json]:
        """What callbacks have claimed about the payment."""
        with contextlib.closing(redis.Redis(port=self.world.redis.port)) as client:
            names: Any = list(client.scan_iter(f"*:hints:{self.record(phone)['id']}", count=10_000))
            return [json.loads(hint) for name in names for hint in client.lrange(name, 0, -1)]

    async def verdicts(self, phone: str, count: int) -> list[str]:
        """What was made of the callbacks, as soon as there are so many."""

        async def look() -> list[str] | None:
            found = [hint["verdict"] for hint in self.hints(phone)]
            return found if len(found) >= count else None

        return await eventually(look)

    def make_due(self, phone: str) -> None:
        """Let the time come when the payment is asked about."""
        payment_id = self.record(phone)["id"]
        with contextlib.closing(redis.Redis(port=self.world.redis.port)) as client:
            for name in client.scan_iter("*:due", count=10_000):
                client.zadd(name, {payment_id: 1}, xx=True)

    async def events(self, phone: str, *, within_s: float = 30) -> list[Json]:
        """The events of an ended payment, as soon as they are out; never more than one."""
        payment_id = self.record(phone)["id"]

        async def look() -> list[Json]:
            path = self.world.engine.events_file
            lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            return [line for line in lines if line["key"] == payment_id]

        found = await eventually(look, within_s=within_s)
        assert len(found) == 1, found
        return found

    async def pushes(self, phone: str) -> list[Json]:
        """Every push to this phone, from Safaricom's own journal."""
        return [push for push in (await self.get_of_daraja("/journal/pushes"))["pushes"] if push["phone"] == phone]

    async def paid(self, phone: str) -> list[int]:
        """What was taken from this phone, in minor units, from Safaricom's own journal."""
        effects = (await self.get_of_daraja("/journal"))["effects"]
        return [effect["amount_minor"] for effect in effects if effect["phone"] == phone]

    def add_clients(self, packages: Mapping[str, str]) -> None:
        """Clients with a package of 900 shillings each, by id, as `python -m app mpesa client add` writes them."""
        with contextlib.closing(redis.Redis(port=self.world.redis.port)) as client:
            for client_id, package_id in packages.items():
                package = {"client": client_id, "name": "A plan", "price": 900}
                client.hset("payments:mpesa:clients", client_id, json.dumps({"name": "Added"}))
                client.hset("payments:mpesa:packages", package_id, json.dumps(package))

    async def decide(self, checkout_id: str, result_code: int = 0) -> None:
        """The payer decides now."""
        body = {"checkout_id": checkout_id, "result_code": result_code}
        async with self._session.post(f"{self.daraja}/_decide", json=body) as response:
            assert response.status == 200, await response.text()

    async def fault(self, kind: str, **fields: Any) -> None:
        """Script a fault at Safaricom."""
        await self.sims.fault(self.daraja, kind, **fields)

    async def clear_faults(self) -> None:
        """Safaricom works again."""
        await self.sims.clear_faults(self.daraja)

    async def fired(self, kind: str) -> bool:
        """Whether a scripted fault has happened."""
        return bool((await self.sims.faults(self.daraja))["fired"].get(kind))

    async def get_of_daraja(self, path: str) -> Any:
        """Look at a journal or a hook."""
        async with self._session.get(self.daraja + path) as response:
            assert response.status == 200
            return await response.json()

    def refused(self, answer: Answer, status: int, code: str | None = None, text: str | None = None) -> Json:
        """Assert that this is a refusal in the flat envelope, perhaps with the contract's own text."""
        assert answer.status == status, (answer.status, answer.text)
        error: Json = answer.json
        assert {"error", "code", "request_id", "retry"} <= set(error)
        assert set(error) <= {"error", "code", "request_id", "retry", "details"}
        assert error["request_id"] == answer.headers["X-Request-Id"]
        assert error["retry"] in RETRIES
        assert code in (None, error["code"]), error
        assert text in (None, error["error"]), error
        return error

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python -m app …` with the engine's settings."""
        return subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            env={**os.environ, **self.world.engine.environment, **environment},
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip

    async def audit_is_clean(self) -> None:
        """Hold the dataset against the engine's invariants."""
        ran = await asyncio.to_thread(self.command, "audit")
        assert (ran.returncode, json.loads(ran.stdout)["findings"]) == (0, []), ran


def wish(phone: str = "254712345678", **changes: Any) -> Json:
    """The contract's request; a change to None leaves the field out."""
    body = {"client_id": CLIENT, "package_id": PACKAGE, "phone_number": f"+{phone}", "description": DESCRIPTION}
    return {name: value for name, value in {**body, **changes}.items() if value is not None}


def told(checkout_id: str, *, code: int = 0, phone: str | None = None, shillings: Any = 1500) -> Json:
    """The body of a callback."""
    body: Json = {
        "MerchantRequestID": "29115-34620561-1",
        "CheckoutRequestID": checkout_id,
        "ResultCode": code,
        "ResultDesc": "The service request is processed successfully." if code == 0 else "Request cancelled by user",
    }
    if phone is not None:
        items: list[Json] = [
            {"Name": "Amount", "Value": shillings},
            {"Name": "MpesaReceiptNumber", "Value": "NLJ7RT61SV"},
            {"Name": "Balance"},
            {"Name": "TransactionDate", "Value": 20191219102115},
            {"Name": "PhoneNumber", "Value": int(phone)},
        ]
        body["CallbackMetadata"] = {"Item": items}
    return {"Body": {"stkCallback": body}}


@contextlib.asynccontextmanager
async def mpesa_around(sims: Sims, daraja: str, **settings: str) -> AsyncIterator[Mpesa]:
    """An engine with counterparties that are there already."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    ours = {
        "ENABLED": "true", "PORT": str(port), "BASE_URL": daraja, "CALLBACK_BASE_URL": base,
        "CALLBACK_SECRET": SECRET, **{name.upper(): value for name, value in MERCHANT._asdict().items()}, **_CATALOGUE,
    }  # fmt: skip
    environment = {f"PAYMENTS__MPESA__{name}": value for name, value in ours.items()} | _DEFAULTS | settings
    async with world_around(sims, **environment) as world:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            yield Mpesa(world, base, daraja, session)


@contextlib.asynccontextmanager
async def running_mpesa(**settings: str) -> AsyncIterator[Mpesa]:
    """Start everything; `settings` are environment variables of the engine."""
    async with simulators() as sims, serve(DarajaSim(None)) as daraja:
        await sims.user()
        async with mpesa_around(sims, daraja, **settings) as mpesa:
            yield mpesa
