"""Which addresses a webhook may be sent to: public ones, said in one way only."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

from engine.errors import WebhookUrlRefused

URL_LENGTH_MAX: Final = 2048
_HOST_LENGTH_MAX: Final = 253
_PUBLIC_V6: Final = ipaddress.ip_network("2000::/3")
# Within the public range, but they lead on to an IPv4 address (6to4, Teredo) or nowhere (documentation).
_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
            "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
            "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
        ),
    )
)  # fmt: skip


def is_public(address: str) -> bool:
    """Whether an address may be connected to. Everything that is not certainly out in the internet is not.

    Addresses of IPv6 that carry one of IPv4 (mapped, NAT64, 6to4, Teredo) are not, whatever they carry: a gateway
    would take them back into the private network.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and (parsed.scope_id is not None or parsed not in _PUBLIC_V6):
        return False
    return parsed.is_global and not any(parsed in network for network in _NOT_PUBLIC)


def check_url(url: str, *, allow_http: bool, allow_private: bool) -> None:
    """Raises `WebhookUrlRefused` for what will never be sent to. A name is looked up only at the delivery."""
    if len(url) > URL_LENGTH_MAX:
        raise WebhookUrlRefused(f"the URL is longer than {URL_LENGTH_MAX} characters")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise WebhookUrlRefused("the URL must be printable ASCII; a name in another script is written as xn--…")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise WebhookUrlRefused("this is not a URL") from None
    if parts.scheme not in ("https", "http") or not host or len(host) > _HOST_LENGTH_MAX:
        raise WebhookUrlRefused("the URL must be https://host/…")
    if parts.scheme == "http" and not allow_http:
        raise WebhookUrlRefused("the URL must be https")
    if "@" in parts.netloc:
        raise WebhookUrlRefused("the URL must not hold a user or a password")
    if "#" in url:
        raise WebhookUrlRefused("the URL must not have a fragment")
    if port == 0 or "%" in host or host.startswith("."):
        raise WebhookUrlRefused("the URL's host or port is none")
    if not allow_private and _is_private_for_certain(host):
        raise WebhookUrlRefused("the URL leads to a private address")


def _is_private_for_certain(host: str) -> bool:
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith((".localhost", ".local", ".internal")):
        return True
    literal = _literal(name)
    return literal is not None and not is_public(literal)


def _literal(host: str) -> str | None:
    """The address that a host is without looking it up, in any spelling: `2130706433` and `0x7f.1` are 127.0.0.1."""
    if ":" in host:
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None
