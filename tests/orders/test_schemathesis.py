"""Schemathesis, with all its checks: what this surface's OpenAPI document says and what it does are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.test_schemathesis import config, schemathesis, seen
from tests.orders.world import ADMIN, PAYMENTS, OrdersWorld, orders_world

ORDERS = 100


async def known_values(world: OrdersWorld) -> dict[str, list[Any]]:
    """Payments that are there, and orders that can be paid."""
    made = [await world.created(user_id=number) for number in range(1, 6)]
    await world.put_status(made[0]["paymentId"], "cancelled")
    return {
        "path.payment_id": [str(payment["paymentId"]) for payment in made],
        "path.user_id": ["1", "2", "3"],
        "body.userId": [1, 2, 3],
        "body.orderId": [world.new_order() for _ in range(ORDERS)],
        "body.amount": [99.99],
        "body.status": ["success", "cancelled"],
    }


def allowing_400(file: Path) -> Path:
    """A status that JSON Schema can describe may be refused with 400 all the same: an order that is paid."""
    file.write_text(file.read_text().replace('"2xx"', '"2xx", "400"'))
    return file


async def test_the_surface_keeps_to_its_document_with_a_token(tmp_path: Path) -> None:
    async with orders_world() as world:
        file = allowing_400(config(tmp_path, await known_values(world)))
        token_header = ("--header", f"Authorization: Bearer {ADMIN}")
        code, report = await schemathesis(world, tmp_path, file, ["--max-examples", "15", *token_header])
        assert code == 0, report
        await seen(world, 200, f"{PAYMENTS}/{{payment_id}}")
        await seen(world, 200, f"{PAYMENTS}/user/{{user_id}}")
        await seen(world, 200, f"{PAYMENTS}/{{payment_id}}/status")
        for status in (201, 400, 401, 404, 415, 422):
            await seen(world, status, PAYMENTS)
        assert await world.metric("http_requests_total", status="500") == 0
        await world.at_rest()
        assert world.audit()["findings"] == []


@pytest.mark.asyncio(loop_scope="package")
async def test_the_surface_keeps_to_its_document_without_a_token(world: OrdersWorld, tmp_path: Path) -> None:
    async with world.nothing_written():
        phases = ["--phases", "examples,coverage", "--max-examples", "5"]
        code, report = await schemathesis(world, tmp_path, config(tmp_path, {}), phases)
        assert code == 0, report
