"""Where a request comes from, through the proxies that are ours."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_REMEMBERED_MAX: Final = 4096
_IPV6_PREFIX: Final = 64
"""What one customer usually gets: with single addresses, each has more of them than there are requests."""


class ClientAddresses:
    """Tells the client's address. `X-Forwarded-For` counts only when the peer is a trusted proxy."""

    def __init__(self, trusted_proxies: Sequence[str] = ()) -> None:
        """Raises `ValueError` for what is no network in CIDR form."""
        self._trusted = tuple(ipaddress.ip_network(text, strict=False) for text in trusted_proxies)
        # Parsing costs ten times the look-up, and most requests come from where the last ones came from.
        self._find: Callable[[str, str], str] = functools.lru_cache(_REMEMBERED_MAX)(self._walk)

    def of(self, request: web.Request) -> str:
        """The client's address as text; the peer's where the header is missing, not to be believed, or no sense."""
        peer = request.remote or ""
        if not self._trusted:
            return peer
        return self._find(peer, ",".join(request.headers.getall("X-Forwarded-For", ())))

    def _walk(self, peer: str, forwarded: str) -> str:
        """From the nearest hop outwards, past our own proxies; the first that is not ours is the client.

        What stands farther left was sent by that client, and may be anything.
        """
        if not forwarded or not self._is_ours(parse(peer)):
            return peer
        client = peer
        for hop in reversed(forwarded.split(",")):
            address = parse(hop)
            if address is None:
                return peer
            client = str(address)
            if not self._is_ours(address):
                return client
        return client

    def _is_ours(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def parse(text: str) -> Address | None:
    """An address, also in brackets, with a port, with a zone, or as IPv4 within IPv6; None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
    else:
        port = ""
    if port and not (port.isascii() and port.isdigit()):
        return None
    try:
        # What names the interface says nothing about the client, and may be any text.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def limit_key(address: str) -> str:
    """What is counted as one client: an IPv4 address, or the /64 that an IPv6 address lies in."""
    parsed = parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed), _IPV6_PREFIX), strict=False))
    return str(parsed) if parsed else address
