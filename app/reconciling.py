"""`python -m app reconcile` and `items`: a statement against the ledger, and what the acquirer has that we have not."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Final

from app.offline import Dataset, dataset, print_line
from app.settings import ConfigError, Settings
from engine.changes import Change
from engine.facts import Attempt, AttemptState
from engine.ids import PaymentId, is_payment_id, now_ms, rfc3339, shard_of, shard_of_payment
from engine.items import Item, item_id
from engine.payment import Payment, attempt_id
from engine.settling import late_item, reversed_by_hand
from engine.statement import Difference, Reconciliation, read_statement

_CONFLICTS_MAX: Final = 8
_FOUND_THERE: Final = ("missing_here", "different")
"""What the acquirer has done and our books do not show, or not so: this becomes an item."""


async def reconcile(settings: Settings, given: argparse.Namespace) -> int:
    """Hold an acquirer's statement against the ledger. Exit code 1 when they differ.

    With `--yes`, what the acquirer did and our books do not show is kept as open items, and where a payment had given
    up on that attempt, it asks the acquirer at once, and has the money reversed.
    """
    try:
        with given.statement.open(newline="") as file:
            statement = read_statement(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{given.statement}: {error}") from None
    acquirer = given.acquirer or settings.acquirer.name
    known = (settings.acquirer.name, *settings.fallbacks, *(("mpesa",) if settings.mpesa.base_url else ()))
    if given.yes and acquirer not in known:
        # By a wrong name nothing is matched, and every line would become an item.
        raise ConfigError(f"{acquirer} is no acquirer of ours; we know {', '.join(known)}")
    reconciliation = Reconciliation(statement, acquirer)
    counts: Counter[str] = Counter(matched=0, missing_here=0, missing_there=0, different=0)
    opened = 0
    async with dataset(settings) as data:
        seen: set[str] = set()
        async for payment in data.scan.payments():
            if payment.id in seen:
                continue
            for difference in reconciliation.payment(payment):
                seen.add(payment.id)
                counts[difference.what] += 1
                opened += await _report(data, acquirer, difference, keep=given.yes)
        for difference in reconciliation.rest():
            counts[difference.what] += 1
            opened += await _report(data, acquirer, difference, keep=given.yes)
    differ = bool(counts.total())
    counts["matched"] = reconciliation.matched
    print_line({"ok": not differ, **counts, "items_opened": opened})
    return 1 if differ else 0


async def list_items(settings: Settings, given: argparse.Namespace) -> int:
    """Print every open item, a JSON line each, oldest first; or the closed ones, in no order."""
    async with dataset(settings) as data:
        if given.closed:
            async for item in data.items.closed():
                print_line(await _shown(data, item))
        else:
            for item in await data.items.opened():
                print_line(await _shown(data, item))
    return 0


async def close_item(settings: Settings, given: argparse.Namespace) -> int:
    """Close an item by an operator's word. Refuses what the engine still works on; changes nothing without --yes."""
    by = f"{given.actor}: {given.reason}"
    async with dataset(settings) as data:
        item = await data.items.get(given.id)
        if item is None:
            raise ConfigError("there is no such item")
        if not item.open:
            raise ConfigError(f"the item was closed at {rfc3339(item.closed_ms)} by {item.closed_by}")
        reversal = await _reversal_by_hand(data, item, by)
        about = {**await _shown(data, item), "actor": given.actor, "reason": given.reason}
        if not given.yes:
            print_line({**about, "done": False, "hint": "add --yes to do it"})
            return 1
        if reversal is not None:
            done = await data.payments.apply(reversal) is None
        else:
            done = await data.items.put(item.closed(by, now_ms=now_ms()))
        if not done:
            raise ConfigError("it has changed meanwhile; look again")
        print_line({**about, "done": True})
    return 0


async def _reversal_by_hand(data: Dataset, item: Item, by: str) -> Change | None:
    """What closing the item of a late success means for its payment, once its acquirer has refused to reverse it."""
    payment, attempt = await _attempt_of(data, item.attempt)
    if payment is None or attempt is None or attempt.state is not AttemptState.LATE:
        return None
    late = payment.late_success(attempt.number)
    if late_item(payment, late.number, late.transaction_id, now_ms=0).id != item.id:
        return None
    if not late.refused:
        raise ConfigError("the money is on its way back; the item will be closed when it is there")
    return reversed_by_hand(payment, late.number, by, now_ms=now_ms())


async def _report(data: Dataset, acquirer: str, difference: Difference, *, keep: bool) -> bool:
    """Print a difference, and keep it if told so. Whether an item was opened."""
    shown = difference._asdict()
    if difference.what not in _FOUND_THERE:
        del shown["transaction_id"]
        print_line(shown)
        return False
    item = _item(data, acquirer, difference)
    standing = await data.items.get(item.id)
    state = "new" if standing is None else "open" if standing.open else "closed"
    opens = keep and standing is None
    if opens:
        await _keep(data, item)
        state = "open"
    print_line({**shown, "item": item.id, "item_state": state})
    return opens


async def _keep(data: Dataset, item: Item) -> None:
    """Write the item; together with it, make the payment ask again if it had given up on this attempt."""
    for _ in range(_CONFLICTS_MAX):
        now = now_ms()
        payment, attempt = await _attempt_of(data, item.attempt)
        if payment is None or attempt is None or not _is_late(payment, attempt, item):
            await data.items.put(item)
            if payment is not None and attempt == payment.unsettled:
                await data.payments.put_off(payment.id, None, due_ms=now)  # it can be asked about now
            return
        change = Change(
            payment.look_again(now),
            due_ms=now,
            unknown=payment.attempts[-1].state is AttemptState.UNKNOWN,
            items=(item,),
        )
        if await data.payments.apply(change) is None:
            return
    raise ConfigError(f"{item.payment_id} changes all the time; try again")


def _is_late(payment: Payment, attempt: Attempt, item: Item) -> bool:
    """Whether the item states exactly what the payment had asked for and given up on."""
    return attempt in payment.passed and late_item(payment, attempt.number, "", now_ms=0).id == item.id


async def _attempt_of(data: Dataset, attempt: str) -> tuple[Payment | None, Attempt | None]:
    """The payment and its attempt of this id, if they are ours."""
    payment = await data.payments.get(PaymentId(attempt.rpartition("-a")[0]))
    if payment is None:
        return None, None
    return payment, next((each for each in payment.attempts if attempt_id(payment, each) == attempt), None)


def _item(data: Dataset, acquirer: str, difference: Difference) -> Item:
    payment_id = PaymentId(difference.attempt.rpartition("-a")[0])
    shards = len(data.keys.shards)
    ours = is_payment_id(payment_id) and shard_of_payment(payment_id) < shards
    shard = shard_of_payment(payment_id) if ours else shard_of(difference.attempt, shards)
    return Item(
        item_id(acquirer, difference.attempt, difference.stated, shard=shard), acquirer, difference.attempt,
        difference.payment_id, difference.stated, difference.believed, difference.transaction_id, "statement", now_ms(),
    )  # fmt: skip


async def _shown(data: Dataset, item: Item) -> dict[str, object]:
    payment, attempt = await _attempt_of(data, item.attempt)
    shown: dict[str, object] = {
        "id": item.id, "acquirer": item.acquirer, "attempt": item.attempt, "payment": item.payment_id,
        "stated": item.stated, "believed": item.believed, "transaction": item.transaction_id,
        "found_by": item.found_by, "since": rfc3339(item.opened_ms),
        "attempt_now": attempt.state.value if attempt else "",
    }  # fmt: skip
    if payment is not None and attempt is not None and attempt.state is AttemptState.LATE:
        shown["refused"] = payment.late_success(attempt.number).refused
    if not item.open:
        shown |= {"closed_at": rfc3339(item.closed_ms), "closed_by": item.closed_by}
    return shown
