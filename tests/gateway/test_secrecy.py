"""A card, a password and a token go through every door of the gateway; then everything written is searched for them."""

from __future__ import annotations

import json
from pathlib import Path

from simulators import cards
from tests.api.world import Answer, eventually
from tests.faults.test_card_secrecy import Canary
from tests.gateway.world import Gateway, Person, payment_body, running_gateway

CANARY = Canary("4539578763621486", "739")
PASSWORD = "canary-Qx7-password"
WRONG = "canary-Qx8-password"


async def _use(gateway: Gateway) -> tuple[Person, list[Answer]]:
    email = "canary@example.com"
    answers = [
        await gateway.register(email, PASSWORD),
        await gateway.register(email, PASSWORD),
        await gateway.register("no email", PASSWORD),
        await gateway.register("other@example.com", PASSWORD * 9),
        await gateway.post("/api/auth/register", {"name": "x", "email": email, "password": [PASSWORD]}),
        await gateway.post("/api/auth/login", json.dumps({"email": email, "password": PASSWORD}).encode()[:-3]),
        await gateway.login(email, WRONG),
        await gateway.login("unknown@example.com", WRONG),
    ]
    token = (await gateway.login(email, PASSWORD)).json["token"]
    account = await gateway.send("GET", "/api/auth/profile", auth=token)
    ada = Person(gateway, email, token, account.json)
    answers += [account, await gateway.send("GET", "/api/auth/profile", auth=token[:-3] + "abc")]
    card = {"cardNumber": CANARY.number, "cvv": CANARY.cvv}
    for changed in (
        {"cardNumber": CANARY.wrong_number}, {"cardNumber": CANARY.number + "\n"}, {"cvv": CANARY.cvv * 2},
        {"expiryMonth": CANARY.number}, {"expiryYear": "2020"},
    ):  # fmt: skip
        answers.append(await ada.post("/api/payments", payment_body(**{**card, **changed})))
    answers.append(await ada.post("/api/payments", payment_body(method=CANARY.number, **card)))
    answers.append(await ada.post("/api/payments", json.dumps(payment_body(**card)).encode()[:-2]))
    assert all(400 <= answer.status < 500 for answer in answers[-7:])
    paid = await ada.post("/api/payments", payment_body(**card), Idempotency_Key="k1")
    answers += [paid, await ada.post("/api/payments", payment_body(**card), Idempotency_Key="k1")]
    answers.append(await ada.process(paid.json["id"]))
    answers.append(await ada.refund(paid.json["id"], {"amount": 1}))
    declined = await ada.create(cardNumber=cards.DECLINED, cvv=CANARY.cvv)
    answers.append(await ada.process(declined["id"]))
    for kind in ("silence_after", "wrong_json", "error_after"):
        await gateway.sims.fault(gateway.sims.acquirer, kind, times=1, method="POST")
        answers.append(await ada.process((await ada.create(**card))["id"]))
    held = await ada.create(**card)
    assert await ada.status(held["id"]) == "pending"
    answers.append(await ada.get("/api/transactions"))
    return ada, answers


async def test_no_card_password_hash_or_token_is_anywhere_in_clear() -> None:
    async with running_gateway(
        PAYMENTS__SERVER__LOG_LEVEL="debug", PAYMENTS__GATEWAY__PROCESS_WAIT_S="0.3",
        PAYMENTS__ACQUIRER__GUARD__TIMEOUT_S="1", PAYMENTS__ACQUIRER__GUARD__DEADLINE_S="1.5",
    ) as gateway:  # fmt: skip
        ada, answers = await _use(gateway)
        engine, redis = gateway.world.engine, gateway.world.redis

        async def resting() -> bool:
            listed = (await ada.get("/api/transactions")).json["transactions"]
            return "processing" not in {payment["status"] for payment in listed}

        await eventually(resting, within_s=25)
        written = gateway.world.written()
        assert any(":card:" in name for name in written), "one is held, and sealed"
        await gateway.world.log_lines()
        places = {
            "answers": b"\n".join(repr((answer.headers, answer.body)).encode() for answer in answers),
            "log": engine.log.read_bytes(),
            "events": engine.events_file.read_bytes(),
            "metrics": (await gateway.send("GET", "/metrics")).body,
            "redis": repr(written).encode(),
            **{f"redis's {path.name}": path.read_bytes() for path in redis.folder.rglob("*") if path.is_file()},
        }
        assert ada.id.encode() in places["answers"] and ada.id.encode() in places["redis"]
        assert any("aof" in place for place in places)
        hashes = [line for line in places["redis"].split(b'"') if line.startswith(b"$argon2id$")]
        assert len(hashes) == 1
        found = [each for place, text in places.items() for each in CANARY.found_in(place, text)]
        for secret in (PASSWORD, WRONG, ada.token, ada.token.rpartition(".")[2]):
            found += [f"{place}: {secret}" for place, text in places.items() if secret.encode() in text]
        outside = {place: text for place, text in places.items() if not place.startswith("redis")}
        found += [f"{place}: a hash" for place, text in outside.items() if b"argon2id" in text]
        assert b"canary@example.com" not in places["log"] + places["events"] + places["metrics"]
        assert not found, "\n".join(found)
        assert_the_search_finds(Path(__file__))


def assert_the_search_finds(path: Path) -> None:
    """A search that cannot find would prove nothing: this file has the canary in it."""
    assert list(CANARY.found_in("here", path.read_bytes()))
