"""The audit's sample in a running engine: what is broken behind its back shows in the metrics and the log."""

from __future__ import annotations

from tests.api.world import eventually
from tests.changes.shop import running_shop


async def test_a_running_engine_finds_what_was_broken_behind_its_back() -> None:
    """Nothing at first, while it pays; then one ledger is gone, and the rule is named."""
    async with running_shop({"PAYMENTS__AUDIT__PAYMENTS_PER_S": "500"}) as shop:
        payment = await shop.paid()

        async def checked() -> bool:
            return await shop.world.metric("audit_payments_checked_total") >= 2

        await eventually(checked, within_s=10)
        assert await shop.world.metric("audit_violations_total") == 0
        client = shop.world.redis.client()
        (ledger,) = client.keys(f"*:ledger:{payment['id']}")
        client.delete(ledger)
        client.close()

        async def told() -> bool:
            return await shop.world.metric("audit_violations_total", rule="ledger") >= 1

        await eventually(told, within_s=10)

        async def logged() -> bool:
            return f"payment:{payment['id']}" in shop.engine.log.read_text()

        await eventually(logged, within_s=10)
        assert await shop.world.metric("audit_violations_total", rule="events") == 0
