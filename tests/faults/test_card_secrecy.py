"""A canary card goes through every path, the broken ones too; then everything that was written is searched for it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import redis

from simulators import cards
from tests.faults.proxy import Fate
from tests.faults.side_by_side import side_by_side
from tests.faults.world import Wish, World, eventually, world
from tests.support import payment_body, token
from tests.tracing.collector import collecting

ACCEPTS = rb'\{"v":1,"id"'
INTENDS = rb'\{"v":2,"id"'


class Canary(NamedTuple):
    """A card that nobody else has."""

    number: str
    cvv: str

    @property
    def wrong_number(self) -> str:
        """The number with another check digit: as secret, because one digit is soon guessed."""
        return self.number[:-1] + str((int(self.number[-1]) + 1) % 10)

    def fields(self, number: str = "") -> dict[str, str]:
        """The card's fields in a request."""
        return {"cardNumber": number or self.number, "cvv": self.cvv}

    def found_in(self, place: str, text: bytes) -> Iterator[str]:
        """Every form of the card that stands in the text."""
        for number in (self.number, self.wrong_number, cards.DECLINED):
            for form, needle in _forms(number):
                if needle in text:
                    yield f"{place}: the number, {form}: …{_around(text, text.index(needle))!r}…"
        code = self.cvv.encode()
        for pattern in (rb"(?i)cvv\W{0,5}" + code + rb"\b", rb'"' + code + rb'"', rb"\$3\r\n" + code + rb"\r\n"):
            if match := re.search(pattern, text):
                yield f"{place}: the cvv: …{_around(text, match.start())!r}…"


def _forms(number: str) -> Iterator[tuple[str, bytes]]:
    plain = number.encode()
    yield "plain", plain
    yield "in groups", b" ".join(plain[at : at + 4] for at in range(0, 16, 4))
    yield "hex", plain.hex().encode()
    for shift in range(3):
        # What base64 makes of the digits, without the characters that their neighbours share.
        encoded = base64.b64encode(b"\0" * shift + plain)
        yield "base64", encoded[4 if shift else 0 : -4]


def _around(text: bytes, at: int) -> bytes:
    return text[max(0, at - 60) : at + 20]


def _canary(chance: random.Random) -> Canary:
    while True:
        digits = "4" + "".join(str(chance.randrange(10)) for _ in range(14))
        number = next(digits + str(last) for last in range(10) if cards.luhn_valid(digits + str(last)))
        if not number.startswith("400"):  # the simulator's own cards
            # Above 600, so that no status code in a log line looks like it.
            return Canary(number, str(chance.randrange(600, 1000)))


def test_the_search_finds_the_card_in_every_form_it_knows() -> None:
    """A search that cannot find would prove nothing."""
    canary = _canary(random.Random(1))
    body = json.dumps(payment_body("order-1", **canary.fields())).encode()
    assert len(list(canary.found_in("body", body))) == 3
    for text in (
        base64.b64encode(b"x" + body), base64.b64encode(body), body.hex().encode(), b"cvv=" + canary.cvv.encode(),
        b"$3\r\n" + canary.cvv.encode() + b"\r\n", canary.wrong_number.encode(),
    ):  # fmt: skip
        assert list(canary.found_in("text", text)), text
    assert not list(canary.found_in("text", b"1234567890123456 " + canary.number[-4:].encode()))


@side_by_side
async def test_a_card_is_nowhere_in_clear_whatever_goes_wrong(folder: Path) -> None:
    """Logs, answers, metrics, events, spans, and every byte that Redis holds or has written."""
    seed = random.randrange(10**6)
    canary = _canary(random.Random(seed))
    settings = {
        "PAYMENTS__SERVER__LOG_LEVEL": "debug",
        "PAYMENTS__USERS__CACHE_S": "0",
        "PAYMENTS__TRACING__ENABLED": "true",
    }
    async with collecting() as collector, world(folder, settings, redis_proxy=True, start=False) as w:
        w.engine.environment["PAYMENTS__TRACING__ENDPOINT"] = collector.url
        await w.engine.start()
        answers: list[bytes] = []
        await _ends_well_and_badly(w, canary)
        await _bad_input(w, canary, answers)
        await _upstream_errors(w, canary)
        await _lost_connections(w, canary)
        while_sealed = await _killed_while_it_charges(w, canary)
        evidence = await w.judge()
        assert {"completed", "failed"} == {payment["status"] for payment in evidence.shown.values()}

        metrics = await (await w.engine.get("/metrics")).text()
        _, audit = await w.audit()
        last = (await w.engine.get("/api/payments/last")).headers["traceparent"][3:35]
        await eventually(lambda: collector.of(last))
        places = {
            "answers": b"\n".join(answers + w.shop.answers),
            "engine log": w.engine_log().encode(),
            "metrics": metrics.encode(),
            "audit": audit.encode(),
            "events": w.engine.events_file.read_bytes(),
            "spans": b"\n".join(collector.raw),
            "redis while a card is sealed": while_sealed,
            "redis": _everything_in_redis(w),
            **{f"redis's {path.name}": path.read_bytes() for path in w.redis.folder.rglob("*") if path.is_file()},
        }
        payment_id = w.shop.posted[0].payment_id.encode()
        written = [place for place, text in places.items() if payment_id in text]
        assert {"answers", "engine log", "events", "spans", "redis", "redis while a card is sealed"} <= set(written), (
            written
        )
        assert any("aof" in place for place in written), written
        assert b"payments_processed_total" in places["metrics"]
        found = [each for place, text in places.items() for each in canary.found_in(place, text)]
        assert not found, f"seed {seed}\n" + "\n".join(found)


async def _ends_well_and_badly(w: World, canary: Canary) -> None:
    good = await w.shop.wish(canary.fields())
    posted = await w.shop.insist(good)
    await w.shop.insist(good)
    bad = await w.shop.insist(await w.shop.wish(canary.fields(cards.DECLINED)))
    for each in (posted, bad):
        await w.engine.wait_status(each.payment_id)
        await w.shop.look(each.payment_id)
    # The same key with another card: the fingerprint tells them apart without keeping the number.
    other = await w.shop.post(Wish(good.order_id, good.key, good.amount_minor, {"cardNumber": cards.APPROVED}))
    assert other.detail == "422 IDEMPOTENCY_KEY_REUSED"


async def _bad_input(w: World, canary: Canary, answers: list[bytes]) -> None:
    wish = await w.shop.wish()
    number, cvv = canary.number, canary.cvv
    broken_cards: list[dict[str, Any]] = [
        {"cardNumber": canary.wrong_number}, {"cardNumber": int(number)}, {"cardNumber": number + "\n"},
        {"cardNumber": " ".join((number[:4], number[4:]))}, {"cardNumber": number * 2}, {"cardNumber": [number]},
        {"cvv": cvv * 2}, {"cvv": number}, {"cvv": int(cvv)}, {"cvv": cvv + "x"}, {"cvv": {"cvv": cvv}},
        {"expiryMonth": number}, {"expiryMonth": "13"}, {"expiryYear": number}, {"expiryYear": "2020"},
        {"type": number}, {"type": "wallet", "token": number[:7]}, {"type": "wallet"}, {"type": None},
    ]  # fmt: skip
    bodies = [
        payment_body(wish.order_id, amount=wish.amount_minor / 100, **{**canary.fields(), **card})
        for card in broken_cards
    ]
    plain = payment_body(wish.order_id, amount=wish.amount_minor / 100, **canary.fields())
    bodies += [
        {**plain, "paymentMethod": number}, {**plain, "currency": number}, {**plain, "currency": "EUR"},
        {**plain, "amount": number}, {**plain, "amount": int(number)}, {**plain, "amount": 1},
        {**plain, "capture": number}, {**plain, "orderId": "no-such-order"}, {**plain, "userId": "somebody-else"},
        {**plain, "cardNumber": number, "cvv": cvv, "amount": None},
    ]  # fmt: skip
    texts = [json.dumps(body).encode() for body in bodies]
    whole = json.dumps(plain).encode()
    texts += [whole[:-3], whole.replace(b"{", b"[", 1), b"\xff" + whole, whole + b"\xff", whole + b" " * 66_000]
    for text in texts:
        await _ask(w, answers, text)
    await _ask(w, answers, whole, {"Content-Type": "text/plain"})
    await _ask(w, answers, whole, {"Content-Encoding": "gzip"})
    await _ask(w, answers, whole, {"Authorization": "Bearer nonsense"})
    async with w.session.get(f"{w.engine.base}/api/payments/{number}", headers=_login()) as response:
        assert response.status == 404
        answers.append(repr((response.headers, await response.read())).encode())


async def _ask(w: World, answers: list[bytes], body: bytes, headers: Mapping[str, str] | None = None) -> None:
    sent = {"Content-Type": "application/json", **_login(), **(headers or {})}
    with contextlib.suppress(OSError):  # a body that is too large may be cut off while we send
        async with w.session.post(f"{w.engine.base}/api/payments", data=body, headers=sent) as response:
            answers.append(repr((response.headers, await response.read())).encode())
            assert 400 <= response.status < 500, answers[-1]


def _login() -> dict[str, str]:
    return {"Authorization": f"Bearer {token()}"}


async def _upstream_errors(w: World, canary: Canary) -> None:
    for base, kind in ((w.sims.users, "error_before"), (w.sims.orders, "wrong_json"), (w.sims.orders, "reset")):
        wish = await w.shop.wish(canary.fields())
        await w.sims.fault(base, kind)
        assert (await w.shop.post(wish)).outcome != "ok"
        await w.sims.clear_faults(base)
        await w.shop.insist(wish)
    for kind in ("silence_after", "error_after", "wrong_json", "reset", "status"):
        await w.sims.fault(w.sims.acquirer, kind, times=1, method="POST", status=400)
        await w.shop.insist(await w.shop.wish(canary.fields()))
        await _fired(w, kind)


async def _lost_connections(w: World, canary: Canary) -> None:
    for pattern in (ACCEPTS, INTENDS):
        for fate in (Fate.RESET, Fate.LOSE_REPLY):
            rule = w.proxy.on(pattern, fate, times=5)
            wish = await w.shop.wish(canary.fields())
            insisting = asyncio.ensure_future(w.shop.insist(wish))
            await rule.seen()
            await insisting
            w.proxy.clear()


async def _killed_while_it_charges(w: World, canary: Canary) -> bytes:
    await w.sims.fault(w.sims.acquirer, "silence_after", times=1, method="POST", delay_s=7)
    await w.shop.insist(await w.shop.wish(canary.fields()))
    await _fired(w, "silence_after", times=2)
    w.engine.kill()
    sealed = _everything_in_redis(w)
    assert b":card:" in sealed and b":cvv:" in sealed
    await w.restart()
    return sealed


async def _fired(w: World, kind: str, times: int = 1) -> None:
    async def has() -> bool:
        return bool((await w.sims.faults(w.sims.acquirer))["fired"][kind] >= times)

    await eventually(has)


def _everything_in_redis(w: World) -> bytes:
    """Every key: its name, its raw bytes as Redis would move them, and each of its values in plain."""
    found: list[bytes] = []
    with contextlib.closing(redis.Redis(port=w.redis.port)) as client:
        readers: dict[bytes, Any] = {
            b"string": client.get,
            b"list": lambda name: client.lrange(name, 0, -1),
            b"hash": client.hgetall,
            b"zset": lambda name: client.zrange(name, 0, -1, withscores=True),
            b"stream": client.xrange,
        }
        for name in client.scan_iter(count=1000):
            kind: Any = client.type(name)
            dumped: Any = client.dump(name)
            value = readers[kind](name) if kind in readers else b""
            found += [name, dumped or b"", value if isinstance(value, bytes) else repr(value).encode()]
    return b"\n".join(found)
