"""Secrets and phone numbers go through every path of the surface; then everything written is searched for them."""

from __future__ import annotations

import re

from simulators.daraja import MERCHANT
from tests.api.world import Answer, eventually
from tests.mpesa.world import BASE, PUSH, QUERY, SECRET, Mpesa, running_mpesa, told

LASTS = ("5678", "1032", "0001", "7002", "7003", "7004", "7006", "7009", "7010", "7011", "7012", "7101", "7102", "7103")


async def _use(mpesa: Mpesa) -> tuple[list[str], list[Answer]]:
    phones = [mpesa.phone(last) for last in LASTS]
    answers = [await mpesa.initiate(phone) for phone in phones]
    answers.append(await mpesa.initiate(phones[0], description=f"call {phones[0]}"))
    # What is wrong with a request is told without quoting it.
    answers.append(await mpesa.initiate(phones[0], phone_number=f"+{phones[0]}0"))
    answers.append(await mpesa.initiate(phones[0], phone_number=[phones[0]]))
    answers.append(await mpesa.post(f"{BASE}/initiate", f'{{"phone_number": "+{phones[0]}"'.encode()))
    answers.append(await mpesa.callback(told("ws_CO_1", phone=phones[0]), secret=SECRET + "x"))
    answers.append(await mpesa.callback({"Body": {"stkCallback": {"PhoneNumber": phones[0]}}}))
    answers.append(await mpesa.callback(told(f"ws_CO_{phones[0]}", phone=phones[0])))
    for path, kind in ((PUSH, "wrong_json"), (PUSH, "error_before"), (QUERY, "wrong_json"), ("oauth", "error_before")):
        await mpesa.fault(kind, path_contains=path, times=1)
        async with mpesa.sims.session.delete(f"{mpesa.daraja}/_tokens") as response:
            assert response.status == 200
        answers.append(await mpesa.initiate(phones[0]))
    await mpesa.fault("status", status=400, code="400.002.02", path_contains=PUSH, times=1,
                      message=f"Bad Request - Invalid PhoneNumber {phones[0]}")  # fmt: skip
    answers.append(await mpesa.initiate(phones[0]))
    await mpesa.clear_faults()
    return phones, answers


async def test_no_secret_and_no_phone_number_is_where_it_does_not_belong() -> None:
    async with running_mpesa(PAYMENTS__SERVER__LOG_LEVEL="debug") as mpesa:
        phones, answers = await _use(mpesa)
        for phone in phones:
            for push in await mpesa.pushes(phone):
                await mpesa.status(push["checkout"])

        async def resting() -> bool:
            return not any(":jobs" in name or ":outbox" in name for name in mpesa.world.written())

        await eventually(resting)
        await mpesa.world.log_lines()
        folder = mpesa.world.redis.folder
        stored = b"".join(
            path.read_bytes() for path in folder.rglob("*") if path.is_file() and "redis" not in path.name
        )
        places = {
            "answers": b"\n".join(repr((answer.headers, answer.body)).encode() for answer in answers),
            "log": mpesa.world.engine.log.read_bytes(),
            "events": mpesa.world.engine.events_file.read_bytes(),
            "metrics": (await mpesa.send("GET", "/metrics")).body,
            "document": (await mpesa.send("GET", "/openapi.json")).body,
        }
        assert b"push callback" in places["log"]
        found = [
            f"{place}: {phone}" for phone in phones for place, text in places.items() if phone[3:].encode() in text
        ]
        secrets = (SECRET, MERCHANT.consumer_key, MERCHANT.consumer_secret, MERCHANT.passkey)
        found += [
            f"{place}: {secret}" for secret in secrets for place, text in places.items() if secret.encode() in text
        ]
        found += [f"redis: {secret}" for secret in secrets if secret.encode() in stored]
        tokens = re.compile(rb"Bearer [A-Za-z0-9._~+/-]{12,}")
        found += [f"{place}: a token" for place, text in places.items() if tokens.search(text)]
        assert not found, "\n".join(found)
        assert phones[0].encode() in stored, "the record has it: a search that cannot find would prove nothing"
