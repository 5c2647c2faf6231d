"""How to reach Kafka, and the bounds on talking to it."""

from __future__ import annotations

import ssl
from typing import Any

import msgspec
from aiokafka.codec import has_gzip, has_lz4, has_snappy, has_zstd

_CODECS = {"gzip": has_gzip, "snappy": has_snappy, "lz4": has_lz4, "zstd": has_zstd}
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class KafkaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `[kafka]` part of the configuration; wrong values are refused by key name.

    `brokers` is a comma list of `host:port`; empty means that Kafka is not configured.
    `event_bytes_max` and `batch_bytes_max` must stay below the brokers' `message.max.bytes`.
    """

    brokers: str = ""
    """`host:port`, several divided by commas; empty: no Kafka."""
    client_id: str = "payment-service"
    """How the brokers know us."""
    publish_timeout_s: float = 10.0
    """An event that is not acknowledged by then is sent again."""
    start_timeout_s: float = 20.0
    """Time to connect."""
    ready_timeout_s: float = 2.0
    """Time to find out whether a broker answers."""
    in_flight_max: int = 1000
    """Events on their way at the same time."""
    event_bytes_max: int = 1_000_000
    """The largest event; below the brokers' `message.max.bytes`."""
    batch_bytes_max: int = 131_072
    """The largest batch; below the brokers' `message.max.bytes`."""
    compression: str | None = None
    """`gzip`, `snappy`, `lz4` or `zstd`; not set: none."""
    linger_ms: int = 0
    """How long to wait for a batch to fill."""
    security_protocol: str = "PLAINTEXT"
    """`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`."""
    sasl_mechanism: str = "PLAIN"
    """`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`."""
    sasl_username: str = ""
    """Who we are, with `SASL_…`."""
    sasl_password: str = ""
    """The password, with `SASL_…`."""
    ssl_cafile: str = ""
    """The authorities that are believed, with `…SSL`; empty: the system's."""

    def __post_init__(self) -> None:
        for name in ("publish_timeout_s", "start_timeout_s", "ready_timeout_s"):
            _require(getattr(self, name) > 0, f"{name} must be more than 0")
        for name in ("in_flight_max", "event_bytes_max", "batch_bytes_max"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1")
        _require(self.linger_ms >= 0, "linger_ms must not be negative")
        _require(self.security_protocol in _PROTOCOLS, f"security_protocol must be one of {', '.join(_PROTOCOLS)}")
        _require(self.sasl_mechanism in _MECHANISMS, f"sasl_mechanism must be one of {', '.join(_MECHANISMS)}")
        if self.security_protocol.startswith("SASL_"):
            _require(bool(self.sasl_username), "sasl_username is needed with this security_protocol")
            _require(bool(self.sasl_password), "sasl_password is needed with this security_protocol")
        if self.compression is not None:
            _require(self.compression in _CODECS, f"compression must be one of {', '.join(_CODECS)}")
            _require(_CODECS[self.compression](), f"compression: the library for {self.compression} is not installed")

    def __repr__(self) -> str:
        public = [name for name in self.__struct_fields__ if name != "sasl_password"]
        shown = [f"{name}={getattr(self, name)!r}" for name in public]
        return f"KafkaSettings({', '.join(shown)}, sasl_password={'****' if self.sasl_password else None})"

    def connection(self) -> dict[str, Any]:
        """The arguments that every aiokafka client needs. Reads `ssl_cafile`; raises `OSError` when it cannot."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.brokers,
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            arguments["ssl_context"] = ssl.create_default_context(cafile=self.ssl_cafile or None)
        if self.security_protocol.startswith("SASL_"):
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.sasl_username
            arguments["sasl_plain_password"] = self.sasl_password
        return arguments


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
