"""Schemathesis, with all its checks: what this surface's OpenAPI document says and what it does are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.test_schemathesis import config, schemathesis, seen
from tests.orders.test_schemathesis import allowing_400
from tests.vault.world import ADMIN, BASE, USER, VaultWorld, vault_world

CARDS = 30


async def known_values(world: VaultWorld) -> dict[str, list[Any]]:
    """Cards and payments that are there, and what a good request is made of."""
    cards = [await world.added(money=100_000) for _ in range(5)]
    payments = [await world.bought(card["id"]) for card in cards]
    return {
        "path.card_id": [card["id"] for card in cards],
        "path.payment_id": [payment["id"] for payment in payments],
        "path.checkout_id": [world.new_checkout() for _ in range(50)],
        "body.cardNumber": [int(world.new_pan()) for _ in range(CARDS)],
        "body.expireDate": ["12/40", "2040-12"],
        "body.cvv": [123, "123"],
        "body.money": [500.5],
        "body.userId": [USER],
        "body.creditCardId": [card["id"] for card in cards],
        "body.totalPrice": [29.99],
    }


def allowing_402(file: Path) -> Path:
    """JSON Schema has no words for what is on a card."""
    file.write_text(file.read_text().replace('"2xx"', '"2xx", "402"'))
    return file


async def test_the_surface_keeps_to_its_document_with_a_token(tmp_path: Path) -> None:
    async with vault_world() as world:
        file = allowing_402(allowing_400(config(tmp_path, await known_values(world))))
        token_header = ("--header", f"Authorization: Bearer {ADMIN}")
        code, report = await schemathesis(world.engine.base, tmp_path, file, ["--max-examples", "15", *token_header])
        assert code == 0, report
        await seen(world, 200, f"{BASE}/get/{{card_id}}")
        await seen(world, 200, f"{BASE}/find/{{payment_id}}")
        for status in (201, 400, 401, 415, 422):
            await seen(world, status, f"{BASE}/add")
        for status in (201, 400, 401, 404, 422):
            await seen(world, status, f"{BASE}/pay/{{checkout_id}}")
        assert await world.metric("http_requests_total", status="500") == 0
        await world.sound()


@pytest.mark.asyncio(loop_scope="package")
async def test_the_surface_keeps_to_its_document_without_a_token(world: VaultWorld, tmp_path: Path) -> None:
    async with world.nothing_written():
        phases = ["--phases", "examples,coverage", "--max-examples", "5"]
        code, report = await schemathesis(world.engine.base, tmp_path, config(tmp_path, {}), phases)
        assert code == 0, report
