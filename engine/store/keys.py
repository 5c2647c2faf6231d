"""The names of every Redis key. All keys of one payment carry the hash tag of its shard, `{pNN}`.

One step therefore touches one slot, and the same code runs on one Redis, on Sentinel and on Redis Cluster.
"""

from __future__ import annotations

from engine.ids import PaymentId, qualified, shard_of, shard_of_payment

DATASET = "payments:dataset"
"""The marker of a dataset: a hash with its id, format and number of shards."""

NUMBERS = "payments:numbers:"
"""Before a surface's name: the counter of the numbers that its users know payments by."""

FENCE = "payments:fence"
"""Written behind steps whose replication is waited for."""

REVOKED = "payments:revoked:"
"""With a token's digest, string with a time to live: it was logged out."""

LIMITS = "payments:limits:"
"""With a digest of rule and caller, list with a time to live: when the requests in its window came."""

CIRCUITS = "payments:{circuits}:orders"
"""String: the latest order about each counterparty's circuit, as JSON. One hash tag with its log."""

CIRCUIT_LOG = "payments:{circuits}:log"
"""List: the orders given lately, the latest first, as JSON."""

PROCESSES = "payments:{console}:members:all"
"""Set: the processes that tell of themselves. One hash tag with what they tell."""

PROCESS = "payments:{console}:members:"
"""With a process's name, string with a time to live: what it tells of itself, as JSON."""

JOBS_GROUP = "workers"


class ShardKeys:
    """The keys that a shard has once."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.tag = f"{{p{shard:02x}}}"
        self.jobs = f"{self.tag}:jobs"
        self.outbox = f"{self.tag}:outbox"
        self.parked = f"{self.tag}:parked"
        self.due = f"{self.tag}:due"
        self.unknown = f"{self.tag}:unknown"
        self.balances = f"{self.tag}:balances"
        self.items = f"{self.tag}:items"
        self.hooks_of_all = f"{self.tag}:hooks-of-all"
        self._payment = f"{self.tag}:payment:"
        self._card = f"{self.tag}:card:"
        self._cvv = f"{self.tag}:cvv:"
        self._ledger = f"{self.tag}:ledger:"
        self._events = f"{self.tag}:events:"
        self._order = f"{self.tag}:order:"
        self._item = f"{self.tag}:item:"
        self._user = f"{self.tag}:user:"
        self._key = f"{self.tag}:key:"
        self._number = f"{self.tag}:number:"
        self._lease = f"{self.tag}:lease:"
        self._account = f"{self.tag}:account:"
        self._email = f"{self.tag}:email:"
        self._vault = f"{self.tag}:vault:"
        self._cardmark = f"{self.tag}:cardmark:"
        self._cardmove = f"{self.tag}:cardmove:"
        self._cardof = f"{self.tag}:cardof:"
        self._purchase = f"{self.tag}:purchase:"
        self._checkout = f"{self.tag}:checkout:"
        self._void = f"{self.tag}:void:"

    def payment(self, payment_id: str) -> str:
        """String: the payment's record as JSON."""
        return self._payment + payment_id

    def card(self, payment_id: str) -> str:
        """String: the sealed instrument, until the charge is settled."""
        return self._card + payment_id

    def cvv(self, payment_id: str) -> str:
        """String with a time to live: the sealed CVV."""
        return self._cvv + payment_id

    def ledger(self, payment_id: str) -> str:
        """List: the payment's ledger transactions as JSON."""
        return self._ledger + payment_id

    def events(self, payment_id: str) -> str:
        """List: the bodies of the payment's events, in sequence."""
        return self._events + payment_id

    def order(self, order_id: str) -> str:
        """String: the id of the payment that has claimed the order, while it is live or completed."""
        return self._order + order_id

    def item(self, item_id: str) -> str:
        """String: something at an acquirer that our books do not show, open or closed, as JSON."""
        return self._item + item_id

    def user(self, user_id: str) -> str:
        """Sorted set, all scores 0: the user's payment ids of this shard, which sort by time."""
        return self._user + user_id

    def idempotency(self, digest: str) -> str:
        """String: the record of an idempotency key."""
        return self._key + digest

    def number(self, name: str) -> str:
        """String: the id of the payment that a number stands for, by the number's qualified name."""
        return self._number + name

    def push(self, attempt_id: str) -> str:
        """String: what an attempt's push to a phone is called at the other end, as JSON."""
        return f"{self.tag}:push:{attempt_id}"

    def push_name(self, checkout_id: str) -> str:
        """String: the id of the payment whose push has this name at the other end."""
        return f"{self.tag}:pushname:{checkout_id}"

    def hints(self, payment_id: str) -> str:
        """List: what callbacks have claimed about the payment, as JSON."""
        return f"{self.tag}:hints:{payment_id}"

    def stored_card(self, card_id: str) -> str:
        """String: a stored card's record as JSON."""
        return self._vault + card_id

    def card_mark(self, digest: str) -> str:
        """String: the id of the stored card whose number has this fingerprint."""
        return self._cardmark + digest

    def card_move(self, move_id: str) -> str:
        """String: what was moved on a stored card other than by a payment of its own surface, as JSON."""
        return self._cardmove + move_id

    def card_of(self, payment_id: str) -> str:
        """String, in the payment's shard: the stored card that it is charged to."""
        return self._cardof + payment_id

    def purchase(self, payment_id: str) -> str:
        """String: what a payment of the vault surface was for, as JSON."""
        return self._purchase + payment_id

    def checkout(self, checkout_id: str) -> str:
        """String: the id of the payment that the checkout stands for."""
        return self._checkout + checkout_id

    def void(self, payment_id: str) -> str:
        """String with a time to live: a payment of this id must not be made any more."""
        return self._void + payment_id

    def hook(self, endpoint_id: str) -> str:
        """String: a webhook endpoint's record as JSON."""
        return f"{self.tag}:hook:{endpoint_id}"

    def hooks(self, owner: str) -> str:
        """String: the ids of the owner's webhook endpoints, as JSON."""
        return f"{self.tag}:hooks:{owner}"

    def lease(self, role: str) -> str:
        """String with a time to live: the process that does `role` for this shard."""
        return self._lease + role

    def account(self, account_id: str) -> str:
        """String: the account's record as JSON."""
        return self._account + account_id

    def email(self, digest: str) -> str:
        """String: the id of the account that has the e-mail address of this keyed digest."""
        return self._email + digest

    def notification(self, event_id: str) -> str:
        """Hash with a time to live: `n`, the notification of this event as JSON; beside it each channel's state."""
        return f"{self.tag}:notification:{event_id}"


class Keys:
    """The keys of a dataset of `shards` shards."""

    def __init__(self, shards: int) -> None:
        self.shards = tuple(ShardKeys(shard) for shard in range(shards))

    def of(self, payment_id: PaymentId) -> ShardKeys:
        """The shard that holds the payment. Raises `IndexError` for an id of another dataset's shard."""
        return self.shards[shard_of_payment(payment_id)]

    def number(self, surface: str, number: int) -> str:
        """String: the id of the payment that the number stands for on this surface, in the number's own shard."""
        name = qualified(surface, str(number))
        return self.shards[shard_of(name, len(self.shards))].number(name)
