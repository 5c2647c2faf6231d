"""Whether there is tracing, and where spans go."""

from __future__ import annotations

import importlib.util
import re
from typing import Final

import msgspec

from clients.wire import parse_url

_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")
_PACKAGES: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
NOT_INSTALLED: Final = (
    "tracing.enabled (PAYMENTS__TRACING__ENABLED) needs packages that are not installed: "
    "make tracing, or pip install -r requirements/tracing.txt"
)


class TracingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Spans of payments, sent to a collector by OTLP over HTTP. They need `requirements/tracing.txt`."""

    enabled: bool = False
    """Whether spans are made at all."""
    endpoint: str = "http://127.0.0.1:4318/v1/traces"
    """The collector's URL for traces, OTLP over HTTP."""
    service_name: str = "payments"
    """What this engine is called in the traces."""
    sample_ratio: float = 1.0
    """The share of the traces that begin here; who comes with a `traceparent` has decided already."""
    headers: str = ""
    """`name=value,name=value`: what the collector wants to be shown, mostly a secret."""
    queue_max: int = 8192
    """How many spans may wait for the collector. More are dropped, and counted."""
    timeout_s: float = 5.0
    """How long one batch may take, with the exporter's own repetitions."""

    def __post_init__(self) -> None:
        if "@" in self.endpoint:
            raise ValueError("tracing.endpoint must hold no password: use tracing.headers")
        try:
            parse_url(self.endpoint)
        except ValueError:
            raise ValueError("tracing.endpoint must be an http or https URL") from None
        if not self.service_name or len(self.service_name) > 128 or not self.service_name.isprintable():
            raise ValueError("tracing.service_name must be 1 to 128 printable characters")
        for name, least, most in (("sample_ratio", 0, 1), ("queue_max", 1, 1_000_000), ("timeout_s", 0.1, 60)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"tracing.{name} must be between {least:g} and {most:g}")
        self.header_pairs()

    def __repr__(self) -> str:
        return f"TracingSettings(enabled={self.enabled}, endpoint={self.endpoint!r}, …)"

    def header_pairs(self) -> dict[str, str]:
        """The headers by name. Raises `ValueError` without a word of what they are."""
        pairs = [_HEADER.fullmatch(each.strip()) for each in self.headers.split(",")] if self.headers else []
        if not all(pairs):
            raise ValueError("tracing.headers must look like name=value,name=value, in visible ASCII characters")
        return {pair.group(1): pair.group(2) for pair in pairs if pair}


def installed() -> bool:
    """Whether the packages are there. Loads none of them beyond their empty parents."""
    try:
        return all(importlib.util.find_spec(name) for name in _PACKAGES)
    except ModuleNotFoundError:
        return False
