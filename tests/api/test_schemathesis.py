"""Schemathesis, with all its checks: what the OpenAPI document says and what the engine does are the same."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.api.world import PAYMENTS, USER, World, payment_body, running_world, service_token

# The same requests in every run: a suite must not be red by luck. Other seeds are for whoever looks for trouble.
SEED = "20"
ORDERS = 100
HOOKS = "/api/webhook-endpoints"

# No check is left out. One is told what it cannot know: a request of the documented form may still be refused with
# 422, because JSON Schema has no words for Luhn's check, a card's expiry, the decimals of a currency, the amount of
# an order, cursors that were given out, and names that lead to private addresses.
ACCEPTANCE = ("2xx", "401", "403", "404", "409", "422")


def config(folder: Path, dictionaries: dict[str, list[Any]]) -> Path:
    """A configuration that makes schemathesis use real ids and cards in most of its requests, and its own in others."""
    lines = ["[parameters]"]
    lines += [f'"{name}" = {{ dictionary = "{name}", probability = 0.8 }}' for name in dictionaries]
    lines += ["[checks.positive_data_acceptance]", f"expected-statuses = {json.dumps(ACCEPTANCE)}"]
    for name, values in dictionaries.items():
        lines += [f'[dictionaries."{name}"]', f"values = {json.dumps(values)}"]
    path = folder / "schemathesis.toml"
    path.write_text("\n".join(lines))
    return path


async def schemathesis(base: str, folder: Path, config_file: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """Run it against a surface in a folder of its own, where it leaves its notes; gives exit code and report."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config_file), "--no-color",
        "run", f"{base}/openapi.json", "--checks", "all", "--seed", SEED, *arguments,
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    report, _ = await process.communicate()
    return process.returncode or 0, report.decode()


async def known_values(world: World) -> dict[str, list[Any]]:
    """Payments of every kind that are there, orders that can be paid, and what a good request is made of."""
    made = [await world.paid(), await world.paid(cardNumber="4000000000009995"), await world.paid(type="debit_card")]
    for number in range(ORDERS):
        await world.sims.order(f"order-to-pay-{number}")
    keyed = await world.pay(payment_body(await world.order()), key="known-key", auth=service_token())
    assert keyed.status == 201
    ids = [payment["id"] for payment in made]
    wanted = b'{"url": "https://shop.example.com/hooks"}'
    headers = {"Content-Type": "application/json"}
    hooks = [await world.send("POST", HOOKS, body=wanted, auth=service_token(), headers=headers) for _ in range(9)]
    return {
        "path.endpoint_id": [answer.json["id"] for answer in hooks],
        "body.url": ["https://shop.example.com/hooks"],
        "path.payment_id": ids,
        "path.user_id": [USER],
        "path.key": ["known-key"],
        "body.orderId": [f"order-to-pay-{number}" for number in range(ORDERS)],
        "body.userId": [USER],
        "body.amount": [75.48],
        "body.currency": ["USD"],
        "body.paymentMethod.cardNumber": ["4242424242424242", "5555555555554444", "4000000000000002"],
        "body.paymentMethod.expiryYear": ["2040"],
    }


async def test_the_engine_keeps_to_its_document_with_a_token(tmp_path: Path) -> None:
    async with running_world(PAYMENTS__WEBHOOKS__ENABLED="true") as world:
        file = config(tmp_path, await known_values(world))
        token_header = ("--header", f"Authorization: Bearer {service_token()}")
        code, report = await schemathesis(world.engine.base, tmp_path, file, ["--max-examples", "20", *token_header])
        assert code == 0, report
        await seen(world, 200, f"{PAYMENTS}/{{payment_id}}")
        await seen(world, 200, f"{PAYMENTS}/{{payment_id}}/events")
        await seen(world, 200, f"{PAYMENTS}/user/{{user_id}}")
        await seen(world, 200, "/api/idempotency-keys/{key}")
        for status in (201, 400, 401, 404, 409, 415, 422):
            await seen(world, status, PAYMENTS)
        for status in (201, 400, 401, 409, 415, 422):
            await seen(world, status, HOOKS)
        for path in ("", "/enable", "/rotate-secret", "/deliveries"):
            await seen(world, 200, f"{HOOKS}/{{endpoint_id}}{path}")
        assert await world.metric("http_requests_total", status="500") == 0
        assert "request broke" not in {line["message"] for line in await world.log_lines()}


@pytest.mark.asyncio(loop_scope="package")
async def test_the_engine_keeps_to_its_document_without_a_token(world: World, tmp_path: Path) -> None:
    refused = await world.metric("http_requests_total", status="401")
    async with world.nothing_written():
        phases = ["--phases", "examples,coverage,fuzzing", "--max-examples", "5"]
        code, report = await schemathesis(world.engine.base, tmp_path, config(tmp_path, {}), phases)
        assert code == 0, report
    assert await world.metric("http_requests_total", status="401") > refused + 50


async def seen(world: World, status: int, route: str) -> None:
    """Assert that this answer was among those that were checked."""
    if not await world.metric("http_requests_total", status=str(status), route=route):
        pytest.fail(f"schemathesis never saw {status} of {route}: its requests no longer reach what they should")
