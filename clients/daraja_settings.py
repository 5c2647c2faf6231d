"""The settings of M-Pesa: Safaricom's Daraja, and who we are there."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from clients.wire import parse_url
from resilience.guard import GuardSettings

_SHORTCODE: Final = re.compile(r"[0-9]{5,7}\Z")
_SECRET: Final = re.compile(r"[!-~]{1,256}\Z")
_NEEDED: Final = ("consumer_key", "consumer_secret", "shortcode", "passkey", "callback_base_url")


class DarajaGuardSettings(GuardSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Daraja takes its time: seconds for a push are nothing unusual."""

    timeout_s: float = 10.0
    deadline_s: float = 15.0
    slow_call_s: float = 8.0
    concurrency_max: int = 256


class DarajaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`base_url` switches M-Pesa on: https://sandbox.safaricom.co.ke or https://api.safaricom.co.ke.

    With it everything up to `callback_base_url` is required. Consumer secret and passkey come from the environment,
    never from a file in a repository. Raises `ValueError` with the name of the key, and without its value.
    """

    base_url: str = ""
    """`https://sandbox.safaricom.co.ke` or `https://api.safaricom.co.ke`; empty: no M-Pesa at all."""
    consumer_key: str = ""
    """The key of the Daraja app."""
    consumer_secret: str = ""
    """The secret of the Daraja app."""
    shortcode: str = ""
    """The paybill number; for `CustomerBuyGoodsOnline` the number of the store or the head office."""
    passkey: str = ""
    """The passkey of the shortcode."""
    callback_base_url: str = ""
    """Where Safaricom reaches us from outside; the callback's path is put after it."""
    transaction_type: Literal["CustomerPayBillOnline", "CustomerBuyGoodsOnline"] = "CustomerPayBillOnline"
    """Whether a bill is paid, or goods are bought at a till."""
    till: str = ""
    """For `CustomerBuyGoodsOnline`: who gets the money, if it is not `shortcode` itself."""
    token_early_s: float = 60.0
    """How long before its end the access token is renewed; at most a tenth of its life."""
    guard: DarajaGuardSettings = DarajaGuardSettings()

    def __post_init__(self) -> None:
        _require(0 <= self.token_early_s <= 600, "token_early_s", "must be 0 to 600")
        for key in ("base_url", "callback_base_url"):
            _require(not getattr(self, key) or _is_base(getattr(self, key)), key, "must be an http or https URL")
        for key in ("shortcode", "till"):
            _require(
                not getattr(self, key) or _SHORTCODE.match(getattr(self, key)) is not None, key, "must be 5 to 7 digits"
            )
        for key in ("consumer_key", "consumer_secret", "passkey"):
            # A blank at its end is easily copied with a key, and never part of one.
            visible = not getattr(self, key) or _SECRET.match(getattr(self, key)) is not None
            _require(visible, key, "must be at most 256 visible characters")
        # RFC 7617 §2: the first colon ends the user name.
        _require(":" not in self.consumer_key, "consumer_key", "must not have a colon")
        _require(not self.till or self.transaction_type == "CustomerBuyGoodsOnline", "till", "is for buy goods only")
        for key in _NEEDED if self.base_url else ():
            _require(bool(getattr(self, key)), key, "is required with mpesa.base_url")

    @property
    def receiver(self) -> str:
        """Who gets the money."""
        return self.till or self.shortcode

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r}, shortcode={self.shortcode!r}, …)"


def _is_base(url: str) -> bool:
    """Whether paths can be put after the URL. User and password in it would end up in logs."""
    try:
        parse_url(url)
    except ValueError:
        return False
    return not any(character in url for character in "?#@ ")


def _require(holds: bool, key: str, rule: str) -> None:
    if not holds:
        raise ValueError(f"mpesa.{key} {rule}")
