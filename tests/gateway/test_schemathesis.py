"""Schemathesis, with all its checks, on the gateway's own document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.api.test_schemathesis import config, schemathesis
from tests.gateway.world import PASSWORD, Gateway, running_gateway


async def known_values(gateway: Gateway) -> tuple[dict[str, list[Any]], str]:
    """Payments in every state, an account, and what a good request is made of; with the account's token."""
    ada = await gateway.person()
    made = [await ada.paid(), await ada.create(), await ada.paid(100)]
    declined = await ada.create(cardNumber="4000000000000002")
    await ada.process(declined["id"])
    waiting = [await ada.create() for _ in range(20)]
    await ada.refund(made[0]["id"])
    await ada.refund(made[2]["id"], {"amount": 10})
    ids = [payment["id"] for payment in (*made, declined, *waiting)]
    values = {
        "path.payment_id": ids,
        "body.paymentId": ids,
        "body.email": [ada.email],
        "body.password": [PASSWORD],
        "body.amount": [75.48, 1],
        "body.currency": ["USD"],
        "body.details.cardNumber": ["4242424242424242", "5555555555554444"],
        "body.details.expiryYear": ["2040"],
    }
    return values, ada.token


LOGOUT = "/api/auth/logout"


async def test_the_gateway_keeps_to_its_document(tmp_path: Path) -> None:
    async with running_gateway() as gateway:
        values, token = await known_values(gateway)
        arguments = ["--max-examples", "20", "--header", f"Authorization: Bearer {token}"]
        file = config(tmp_path, values)
        # Whoever logs out knocks on closed doors from then on: that comes at the end, with a run of its own.
        staying = [*arguments, "--exclude-path", LOGOUT]
        code, report = await schemathesis(gateway.base, tmp_path, file, staying)
        assert code == 0, report
        code, report = await schemathesis(gateway.base, tmp_path, file, [*arguments, "--include-path", LOGOUT])
        assert code == 0, report
        for status, route in (
            (200, "/api/auth/login"), (401, "/api/auth/login"), (409, "/api/auth/register"), (200, "/api/auth/profile"),
            (201, "/api/payments"), (422, "/api/payments"), (200, "/api/payments/process"),
            (404, "/api/payments/process"), (200, "/api/payments/{payment_id}/status"),
            (200, "/api/payments/{payment_id}/refund"), (409, "/api/payments/{payment_id}/refund"),
            (200, "/api/transactions"),
        ):  # fmt: skip
            seen = await gateway.world.metric("http_requests_total", surface="gateway", status=str(status), route=route)
            assert seen, f"schemathesis never saw {status} of {route}"
        assert await gateway.world.metric("http_requests_total", status="500") == 0
        await gateway.audit_is_clean()


async def test_the_gateway_keeps_to_its_document_without_a_token(tmp_path: Path) -> None:
    async with running_gateway() as gateway:
        phases = ["--phases", "examples,coverage,fuzzing", "--max-examples", "5"]
        code, report = await schemathesis(gateway.base, tmp_path, config(tmp_path, {}), phases)
        assert code == 0, report
        assert await gateway.world.metric("http_requests_total", surface="gateway", status="401") > 30
        assert await gateway.world.metric("http_requests_total", status="500") == 0
