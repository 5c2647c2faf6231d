"""A canary card goes through every path of the vault; then everything that was written is searched for it."""

from __future__ import annotations

import random

import redis

from tests.faults.test_card_secrecy import Canary
from tests.support import service_token
from tests.vault.test_method import Core
from tests.vault.test_rotation import rotate
from tests.vault.world import ADMIN, BASE, USER, VaultWorld, luhn, vault_world


async def test_a_stored_card_is_nowhere_in_clear_whatever_goes_wrong() -> None:
    """Logs, answers, metrics, events, the audit, and every byte that Redis holds or has written."""
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    canary = Canary(luhn(f"4{chance.randrange(10**10, 10**11)}"), str(chance.randrange(600, 1000)))
    async with vault_world(PAYMENTS__SERVER__LOG_LEVEL="debug") as world:
        answers = await every_path(world, canary)
        rotate(world)
        await world.at_rest()
        places = {
            "answers": b"\n".join(answers),
            "metrics": (await world.send("GET", "/metrics", auth=None)).body,
            "audit": str(world.audit()).encode(),
            "events": world.engine.events_file.read_bytes(),
            "redis": dump(world),
            "log": world.engine.log.read_bytes(),
            **{f"redis's {path.name}": path.read_bytes() for path in world.redis.folder.rglob("*") if path.is_file()},
        }
        card_id = b"card-"
        assert [place for place in ("answers", "events", "redis") if card_id not in places[place]] == []
        found = [line for place, text in places.items() for line in canary.found_in(place, text)]
    assert found == [], f"seed {seed}"


async def every_path(world: VaultWorld, canary: Canary) -> list[bytes]:
    """Good requests and bad ones; gives all the answers."""
    answers: list[bytes] = []

    async def post(path: str, **fields: object) -> bytes:
        answer = await world.post(path, world.card(**fields), auth=ADMIN)
        answers.append(answer.body + str(answer.headers).encode())
        return answer.body

    number, cvv = canary.number, canary.cvv
    for fields in (
        {"cardNumber": int(number), "cvv": int(cvv)}, {"cardNumber": number, "cvv": cvv},
        {"cardNumber": canary.wrong_number, "cvv": cvv}, {"cardNumber": number + " ", "cvv": cvv},
        {"cardNumber": [number], "cvv": [cvv]}, {"cardNumber": number, "cvv": cvv, "money": -1},
        {"cardNumber": number, "cvv": cvv + "1"}, {"cardNumber": number, "cvv": cvv, "expireDate": "13/30"},
        {"cardNumber": number, "cvv": cvv, "cardHolderName": 5}, {"cardNumber": float(number), "cvv": cvv},
    ):  # fmt: skip
        await post("/add", **fields)
    raw = f'{{"cardNumber": {number}, "cvv": "{cvv}"'.encode()
    answers.append((await world.post("/add", raw)).body)
    [card_id] = {name.rpartition(":")[2] for name in world.written() if ":vault:card-" in name}
    paid = await world.pays(card_id)
    poor = await world.pays(card_id, products=[{"productId": "p", "price": 5000}], totalPrice=5000)
    core = await Core(world).paid(card_id)
    refund = await Core(world).ask("POST", f"/api/payments/{core['id']}/refund", {}, auth=service_token())
    answers += [paid.body, poor.body, str(core).encode(), str(refund).encode()]
    for path in (f"/get/{card_id}", f"/find/{paid.json['payment']['id']}"):
        answers.append((await world.get(BASE + path)).body)
    await Core(world).settled(core["id"], "refunded")
    assert (await world.send("DELETE", f"{BASE}/delete-card/{card_id}")).status == 200
    await post("/add", cardNumber=number, cvv=cvv, cardUserId=USER)
    return answers


def dump(world: VaultWorld) -> bytes:
    """Every key's name and value."""
    client = redis.Redis(port=world.redis.port)
    try:
        return (
            b"\n".join(name + b" " + (client.dump(name) or b"") for name in client.scan_iter(count=1000))
            + str(world.written()).encode()
        )
    finally:
        client.close()
