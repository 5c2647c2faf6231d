"""The numbers of the rate limits, checked when they are read."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

OnFailure = Literal["open", "closed"]

_REQUESTS_MAX: Final = 10_000
"""A window keeps a time for each request in it, so this bounds what one caller takes of the store."""
_WINDOW_S_MAX: Final = 86_400


class Rule(NamedTuple):
    """So many requests in any `window_s` seconds; `on_failure` says what happens while nobody can count."""

    name: str
    requests: int
    window_s: int
    on_failure: OnFailure


class RuleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit that a handler checks with a key of its own. `requests = 0`: no limit."""

    requests: int = 0
    """How many are taken in any `window_s` seconds, at most 10000; 0: no limit."""
    window_s: int = 60
    """The window: 1 to 86400."""
    on_failure: OnFailure = "open"
    """While nobody can count: `open` takes every request, `closed` refuses with 503."""

    def rule(self, name: str) -> Rule | None:
        """The rule, if there is a limit."""
        return Rule(name, self.requests, self.window_s, self.on_failure) if self.requests else None


class SurfaceRuleSettings(RuleSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit on all requests of a surface, for each caller or each client address. A caller without token: address."""

    per: Literal["caller", "address"] = "caller"
    """`caller` is the token's subject, and without a valid token the address."""


class GatewayRuleSettings(SurfaceRuleSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gateway's contract: 100 in 15 minutes per address."""

    requests: int = 100
    window_s: int = 900
    per: Literal["caller", "address"] = "address"


class MpesaRuleSettings(SurfaceRuleSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The M-Pesa surface's contract: 100 in a minute per client."""

    requests: int = 100


class LoginByAccountSettings(RuleSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guesses at one password, from wherever they come."""

    requests: int = 10
    window_s: int = 900
    # Without the store nobody can log in anyway; while it is merely slow, passwords must not be free to guess.
    on_failure: OnFailure = "closed"


class LoginByAddressSettings(RuleSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guesses from one place, at whichever account."""

    requests: int = 30
    window_s: int = 900
    on_failure: OnFailure = "closed"


class LimitsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many requests are taken: a rule per surface, by its name, and rules that handlers check themselves."""

    timeout_s: float = 0.05
    """How long a request waits for being counted."""
    failures_to_rest: int = 3
    """So many failures in a row, and nobody is counted for a while."""
    rest_s: float = 1.0
    """How long nobody is counted then; after it one request tries again."""
    core: SurfaceRuleSettings = SurfaceRuleSettings()
    orders: SurfaceRuleSettings = SurfaceRuleSettings()
    vault: SurfaceRuleSettings = SurfaceRuleSettings()
    mpesa: MpesaRuleSettings = MpesaRuleSettings()
    gateway: GatewayRuleSettings = GatewayRuleSettings()
    login_by_account: LoginByAccountSettings = LoginByAccountSettings()
    login_by_address: LoginByAddressSettings = LoginByAddressSettings()

    def __post_init__(self) -> None:
        _within("timeout_s", self.timeout_s, 0.001, 10)
        _within("failures_to_rest", self.failures_to_rest, 1, 1000)
        _within("rest_s", self.rest_s, 0.01, 60)
        for name in self.__struct_fields__:
            if isinstance(settings := getattr(self, name), RuleSettings):
                _within(f"{name}.requests", settings.requests, 0, _REQUESTS_MAX)
                _within(f"{name}.window_s", settings.window_s, 1, _WINDOW_S_MAX)

    def surface(self, name: str) -> SurfaceRuleSettings | None:
        """The settings for a surface of this name."""
        found = getattr(self, name, None)
        return found if isinstance(found, SurfaceRuleSettings) else None

    def rules(self) -> dict[str, Rule | None]:
        """Every rule by its name; None where the limit is off."""
        named = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: each.rule(name) for name, each in named.items() if isinstance(each, RuleSettings)}


def _within(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"limits.{key} must be {low:g} to {high:g}")
