"""The settings of webhooks: the endpoints on the core surface, and the sending."""

from __future__ import annotations

import msgspec

from app.surface_settings import within

_DAY_S = 86_400


class WebhooksSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Webhooks. Their secrets are sealed with `cards.keys`."""

    enabled: bool = False
    """Offer endpoints on the core surface, and tell them."""
    allow_http: bool = False
    """Take URLs without TLS. For tests."""
    allow_private: bool = False
    """Send to private addresses too: whoever may make endpoints then reaches what this machine reaches. For tests."""
    endpoints_max: int = 20
    """Of one owner."""
    timeout_s: float = 10.0
    """Of one try, all of it."""
    at_once: int = 256
    """Tries under way in one process."""
    each_at_once: int = 4
    """Tries under way at one endpoint, in all processes."""
    retry_s: tuple[float, ...] = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
    """The pauses between the tries."""
    retry_after_max_s: float = _DAY_S
    """An endpoint's `Retry-After` counts for no more than this."""
    disable_after_s: float = 3 * _DAY_S
    """An endpoint that takes nothing for so long is disabled."""
    disabled_keep_s: float = 3 * _DAY_S
    """How long what waits for a disabled endpoint is kept."""
    secret_overlap_s: float = _DAY_S
    """How long the old secret signs along after a rotation."""
    waiting_max: int = 10_000
    """Messages that wait for one endpoint; what comes beyond is not kept."""
    kept_max: int = 1000
    """Ended deliveries in the list of one endpoint, the latest."""
    keep_s: float = 7 * _DAY_S
    """How long an ended delivery stays in that list."""
    remember_s: float = _DAY_S
    """How long the id of one that left the list is known, so that its event is not told again."""

    def __post_init__(self) -> None:
        within("webhooks.endpoints_max", self.endpoints_max, 1, 1000)
        within("webhooks.timeout_s", self.timeout_s, 0.1, 60)
        within("webhooks.at_once", self.at_once, 1, 10_000)
        within("webhooks.each_at_once", self.each_at_once, 1, 100)
        within("webhooks.retry_after_max_s", self.retry_after_max_s, 0, 30 * _DAY_S)
        within("webhooks.disable_after_s", self.disable_after_s, 1, 30 * _DAY_S)
        within("webhooks.disabled_keep_s", self.disabled_keep_s, 0, 30 * _DAY_S)
        within("webhooks.secret_overlap_s", self.secret_overlap_s, 0, 30 * _DAY_S)
        within("webhooks.waiting_max", self.waiting_max, 1, 1_000_000)
        within("webhooks.kept_max", self.kept_max, 1, 100_000)
        within("webhooks.keep_s", self.keep_s, 1, 90 * _DAY_S)
        within("webhooks.remember_s", self.remember_s, 1, 90 * _DAY_S)
        if len(self.retry_s) > 50 or not all(0 < pause_s <= 30 * _DAY_S for pause_s in self.retry_s):
            raise ValueError(f"webhooks.retry_s must be at most 50 pauses, each above 0 and at most {30 * _DAY_S}")
