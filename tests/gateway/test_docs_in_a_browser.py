"""`/docs` in a real browser: a person registers, logs in, pastes the token, pays and gets the money back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.gateway.browser import DocsPage, browser
from tests.gateway.world import Gateway, running_gateway


def _person_at(url: str, screenshots: Path) -> dict[str, Any]:
    """Everything by clicking and pasting; gives what the page has shown."""
    with browser() as running:
        page = DocsPage(running, f"{url}/docs")
        seen: dict[str, Any] = {"title": running.title, "without a token": page.execute("payments-transactions")}
        # A refusal is told to the console too; what comes after this line must be silent.
        page.console()
        seen["register"] = page.execute("accounts-register")
        seen["login"] = page.execute("accounts-login")
        page.authorize(json.loads(seen["login"][1])["token"])
        seen["authorized"] = page.is_authorized()
        seen["profile"] = page.execute("accounts-profile")
        seen["create"] = page.execute("payments-create")
        payment_id = json.loads(seen["create"][1])["id"]
        seen["process"] = page.execute("payments-process", json.dumps({"paymentId": payment_id}))
        seen["status"] = page.execute("payments-status", payment_id=payment_id)
        running.save_screenshot(str(screenshots / "processed.png"))
        seen["refund"] = page.execute("payments-refund", json.dumps({"amount": 20.00}), payment_id=payment_id)
        seen["transactions"] = page.execute("payments-transactions")
        running.set_window_size(1280, 6000)
        running.save_screenshot(str(screenshots / "whole.png"))
        running.refresh()
        seen["authorized after a reload"] = page.is_authorized()
        seen["console"] = page.console()
        return seen


async def test_a_person_logs_in_pays_and_is_refunded_all_from_the_page(tmp_path: Path) -> None:
    async with running_gateway() as gateway:
        seen = await asyncio.to_thread(_person_at, gateway.base, tmp_path)
        assert seen["title"] == "API documentation"
        assert seen["without a token"][0] == 401
        statuses = {name: shown[0] for name, shown in seen.items() if isinstance(shown, tuple)}
        assert statuses == {
            "without a token": 401, "register": 201, "login": 200, "profile": 200, "create": 201, "process": 200,
            "status": 200, "refund": 200, "transactions": 200,
        }  # fmt: skip
        assert seen["authorized"] and seen["authorized after a reload"]
        await _the_page_has_told_the_truth(gateway, seen)
        assert seen["console"] == [], "nothing is forbidden by the page's own policy, nothing is missing"


async def _the_page_has_told_the_truth(gateway: Gateway, seen: dict[str, Any]) -> None:
    created, processed, refunded = (json.loads(seen[name][1]) for name in ("create", "process", "refund"))
    assert (created["status"], processed["status"], refunded["status"]) == (
        "pending", "completed", "partially_refunded",
    )  # fmt: skip
    assert json.loads(seen["profile"][1])["id"] == created["user_id"]
    (listed,) = json.loads(seen["transactions"][1])["transactions"]
    assert (listed["id"], listed["refunded_amount"]) == (created["id"], 20)
    assert await gateway.charges(created["id"]) == [("charge", 7548), ("refund", 2000)]
