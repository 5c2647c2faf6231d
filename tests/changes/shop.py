"""What the tests of refunds, captures and cancellations ask of a running engine, and where they look."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from engine.ids import PaymentId
from engine.store.keys import Keys
from tests.api.world import PAYMENTS, Answer, World, eventually, world_around
from tests.support import ROOT, Sims, payment_body, service_token, simulators

QUICK: Final = {
    "PAYMENTS__ACQUIRER__GUARD__TIMEOUT_S": "1.0",
    "PAYMENTS__ACQUIRER__GUARD__DEADLINE_S": "1.5",
    # The breaker would keep the engine from asking, and has tests of its own.
    "PAYMENTS__ACQUIRER__GUARD__FAILURES_TO_OPEN": "100000",
    "PAYMENTS__ACQUIRER__GUARD__WINDOW_CALLS_MIN": "100000",
    "PAYMENTS__WORKER__LEASE_S": "6.5",
    "PAYMENTS__WORKER__CLAIM_IDLE_S": "6.5",
}
"""An engine that gives up on an answer early, so that a test need not wait long for an unknown outcome."""

FAR_MS: Final = 4_000_000_000_000


class Ran(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines that it printed."""
        return [json.loads(line) for line in self.out.splitlines()]


class Shop:
    """One running engine with its surroundings."""

    def __init__(self, world: World) -> None:
        self.world, self.sims, self.engine = world, world.sims, world.engine

    async def post(self, path: str, body: Any = None, *, auth: str = "", **headers: str) -> Answer:
        """POST with a JSON body, or with none; bytes are sent as they are. `Idempotency_Key` is the header's name."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if raw is not None:
            sent.setdefault("Content-Type", "application/json")
        return await self.world.send("POST", path, body=raw, auth=auth, headers=sent)

    async def ask(self, what: str, payment_id: str, body: Any = None, *, auth: str = "", **headers: str) -> Answer:
        """`POST …/refund`, `…/capture` or `…/cancel`."""
        return await self.post(f"{PAYMENTS}/{payment_id}/{what}", body, auth=auth, **headers)

    async def refunded(self, payment_id: str, body: Any = None, *, wait_s: int = 20) -> dict[str, Any]:
        """A refund that was taken, with its outcome."""
        answer = await self.ask("refund", payment_id, body, Prefer=f"wait={wait_s}")
        assert answer.status == 201, answer
        return dict(answer.json)

    async def paid(self, price: float = 75.48, **card: str) -> dict[str, Any]:
        """A completed payment."""
        order = await self.world.order(price=price)
        answer = await self.world.pay(payment_body(order, amount=price, **card), wait_s=20)
        assert answer.json["status"] == "completed", answer
        return dict(answer.json)

    async def authorized(self, price: float = 75.48, *, order: str = "") -> dict[str, Any]:
        """An authorized payment."""
        order = order or await self.world.order(price=price)
        answer = await self.world.pay({**payment_body(order, amount=price), "capture": "manual"}, wait_s=20)
        assert answer.json["status"] == "authorized", answer
        return dict(answer.json)

    async def payment(self, payment_id: str) -> dict[str, Any]:
        """The payment now."""
        return dict((await self.world.get(f"{PAYMENTS}/{payment_id}", auth=service_token())).json)

    async def refunds(self, payment_id: str) -> list[dict[str, Any]]:
        """Its refunds now."""
        return list((await self.world.get(f"{PAYMENTS}/{payment_id}/refunds", auth=service_token())).json["refunds"])

    async def until(self, payment_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The payment as soon as it is as wanted."""

        async def look() -> dict[str, Any] | None:
            payment = await self.payment(payment_id)
            return payment if holds(payment) else None

        return await eventually(look, within_s=60)

    async def until_refunds(self, payment_id: str, *states: str) -> list[dict[str, Any]]:
        """The refunds as soon as they stand like this, in order."""

        async def look() -> list[dict[str, Any]] | None:
            refunds = await self.refunds(payment_id)
            return refunds if [refund["status"] for refund in refunds] == list(states) else None

        return await eventually(look, within_s=60)

    async def effects(self, payment_id: str) -> list[tuple[str, int]]:
        """What the acquirer did with the payment's money: kind and minor units, in order."""
        return [(effect["kind"], effect["amount_minor"]) for effect in await self.world.effects_of([payment_id])]

    async def decision(self, path: str, attempt: str) -> dict[str, Any] | None:
        """What the acquirer decided about an attempt, in its own words; None when it has never seen it."""
        async with self.sims.session.get(f"{self.sims.acquirer}/{path}/{attempt}") as response:
            return await response.json() if response.status == 200 else None

    async def published(self, payment_id: str, count: int) -> list[dict[str, Any]]:
        """The lines of the events file about a payment, as soon as there are so many. Their chain is held together."""

        async def look() -> list[dict[str, Any]] | None:
            lines = self.lines_of(payment_id)
            return lines if len(lines) >= count else None

        lines = await eventually(look, within_s=60)
        bodies = (await self.world.get(f"{PAYMENTS}/{payment_id}/events", auth=service_token())).json["events"]
        assert [line["value"] for line in lines] == bodies, "the API and the file tell different stories"
        previous = ""
        for number, (line, raw) in enumerate(zip(lines, self.raw_of(payment_id), strict=True), start=1):
            headers = line["headers"]
            assert headers["ce_id"] == f"{payment_id}-{number}"
            assert headers["ce_sequence"] == str(number)
            assert headers["ce_type"] == line["value"]["event_type"]
            assert headers["ce_subject"] == line["key"] == line["value"]["payment_id"] == payment_id
            assert headers["ce_prevhash"] == previous
            previous = hashlib.sha256(raw).hexdigest()
        assert len(lines) == count
        return lines

    def lines_of(self, payment_id: str) -> list[dict[str, Any]]:
        """The lines of the events file about a payment, each read."""
        return [json.loads(line) for line in self._raw_lines(payment_id)]

    def raw_of(self, payment_id: str) -> list[bytes]:
        """The bodies of those lines, byte for byte."""
        return [line.partition(b'"value":')[2].rstrip()[:-1] for line in self._raw_lines(payment_id)]

    def _raw_lines(self, payment_id: str) -> list[bytes]:
        if not self.engine.events_file.exists():
            return []
        whole = self.engine.events_file.read_bytes().rpartition(b"\n")[0]
        return [line for line in whole.split(b"\n") if json.loads(line)["key"] == payment_id] if whole else []

    async def run(self, *arguments: str) -> Ran:
        """`python -m app …` with the engine's settings, in a process of its own."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app", *arguments, env={**os.environ, **self.engine.environment}, cwd=ROOT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    async def audit_is_clean(self) -> dict[str, Any]:
        """Hold the dataset against the engine's invariants, at rest."""
        await self.world.at_rest()
        ran = await self.run("audit")
        report: dict[str, Any] = json.loads(ran.out)
        assert (ran.code, report["ok"], report["findings"]) == (0, True, []), ran
        return report

    def balance(self, payment_id: str) -> dict[str, int]:
        """The sums of a payment's ledger rows, by account."""
        client = self.world.redis.client()
        sums: dict[str, int] = {}
        for raw in client.lrange(_shard(payment_id).ledger(payment_id), 0, -1):
            for account, _, minor in json.loads(raw)[2]:
                sums[account] = sums.get(account, 0) + minor
        client.close()
        return sums

    def look_again_at(self, payment_id: str, due_ms: int) -> None:
        """Move the time when the reconciler looks at a payment: `FAR_MS` is never, 0 is now."""
        client = self.world.redis.client()
        assert client.zadd(_shard(payment_id).due, {payment_id: due_ms}, xx=True, ch=True) == 1
        client.close()

    async def leave_alone(self, payment_id: str) -> None:
        """Let nobody look at the payment any more, also not whoever does so now and will write a time of its own."""
        while True:
            self.look_again_at(payment_id, FAR_MS)
            await asyncio.sleep(0.5)
            with contextlib.closing(self.world.redis.client()) as client:
                if client.zscore(_shard(payment_id).due, payment_id) == FAR_MS:
                    return

    async def block(self, path: str) -> None:
        """The acquirer acts on the next request at this path, but answers neither it nor any question about it."""
        await self.sims.fault(self.sims.acquirer, "silence_after", path_contains=path, method="POST", times=1)
        await self.sims.fault(self.sims.acquirer, "status", status=503, path_contains=path, method="GET")

    async def unknown_charge(self, price: float = 75.48) -> dict[str, Any]:
        """A charge that was made and is unknown here; nobody will ask about it."""
        await self.block("/charges")
        order = await self.world.order(price=price)
        answer = await self.world.pay(payment_body(order, amount=price))
        payment = await self.until(answer.json["id"], unknown)
        self.look_again_at(payment["id"], FAR_MS)
        await self.sims.clear_faults(self.sims.acquirer)
        return payment


def _shard(payment_id: str) -> Any:
    return Keys(16).of(PaymentId(payment_id))


@contextlib.asynccontextmanager
async def running_shop(settings: Mapping[str, str] | None = None, **acquirer: Any) -> AsyncIterator[Shop]:
    """An engine with everything around it; `acquirer` are the simulator's own arguments."""
    async with simulators(**acquirer) as sims:
        await sims.user()
        async with shop_around(sims, settings or {}) as shop:
            yield shop


@contextlib.asynccontextmanager
async def shop_around(sims: Sims, settings: Mapping[str, str]) -> AsyncIterator[Shop]:
    """An engine with simulators that are there already."""
    async with world_around(sims, **{**QUICK, **settings}) as world:
        yield Shop(world)


def status(wanted: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a payment has this status."""
    return lambda payment: bool(payment["status"] == wanted)


def not_authorized(payment: dict[str, Any]) -> bool:
    """Whether a payment is decided."""
    return bool(payment["status"] != "authorized")


def unknown(payment: dict[str, Any]) -> bool:
    """Whether nobody knows."""
    return bool(payment["outcome"] == "unknown")


async def at_once(asked: Sequence[Awaitable[Answer]]) -> list[Answer]:
    """All answers to requests that race."""
    return list(await asyncio.gather(*asked))
