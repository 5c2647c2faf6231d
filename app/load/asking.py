"""Where the load goes, who asks, and what came back."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from app.settings import ConfigError, Settings

ANSWER_TIMEOUT_S: Final = 30.0
NO_ANSWER: Final = "no answer"
_ORDERS_URL: Final = "http://127.0.0.1:3001/api/orders"


class Doors(NamedTuple):
    """The base URL of each surface, and where orders are made."""

    core: str
    orders: str
    vault: str
    gateway: str
    mpesa: str
    order_service: str


def doors_of(settings: Settings, host: str) -> Doors:
    """The doors of a demo on this machine. Raises `ConfigError` for any other: this makes payments by the hundred."""
    ports = (settings.core, settings.orders_api, settings.vault, settings.gateway, settings.mpesa)
    core, orders, vault, gateway, mpesa = (f"http://{host}:{section.port}" for section in ports)
    order_service = settings.orders.url.removesuffix("/{id}") or _ORDERS_URL
    doors = Doors(core, orders, vault, gateway, mpesa, order_service)
    for url in doors:
        if not _is_loopback(urlsplit(url).hostname or ""):
            raise ConfigError(f"load is for a demo on this machine only: {url} is not a loopback address")
    return doors


def _is_loopback(host: str) -> bool:
    # A name could be resolved to anything; this one is reserved (RFC 6761).
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Answer(NamedTuple):
    """What came back; status 0 is no answer."""

    status: int
    body: Mapping[str, Any]


class Asker:
    """Sends requests and remembers what became of them."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """How often each kind of request was answered with each status."""
        self.seconds: list[float] = []

    async def ask(
        self, kind: str, method: str, url: str, *, token: str = "", body: Any = None, **headers: str
    ) -> Answer:
        """Send a request with a JSON body; bytes are sent as they are. Never raises for what the other side does."""
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        content: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        if isinstance(body, bytes):
            sent["Content-Type"] = "application/json"
        timeout = aiohttp.ClientTimeout(ANSWER_TIMEOUT_S)
        began_s = time.perf_counter()
        try:
            # Redirected, a loopback address could lead anywhere.
            async with self._session.request(
                method, url, headers=sent, timeout=timeout, allow_redirects=False, **content
            ) as response:
                answer = Answer(response.status, _object(await response.json()))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            self.statuses[kind][NO_ANSWER] += 1
            return Answer(0, {})
        self.seconds.append(time.perf_counter() - began_s)
        self.statuses[kind][str(answer.status)] += 1
        return answer


def _object(body: Any) -> Mapping[str, Any]:
    return body if isinstance(body, dict) else {}
