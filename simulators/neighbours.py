"""Whom the order service asks: the user service whether somebody is there, and the engine for a refund."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

T = TypeVar("T")

TIMEOUT_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 256 * 1024
_PERHAPS_LATER: Final = (401, 403, 408, 429)
"""A token that is not taken is a mistake in somebody's configuration: asked again until it is mended."""
_UNDECIDED: Final = ("pending", "processing", "authorized")
"""A payment that the engine refuses to refund, and that may complete all the same."""
_FINAL: Final = ("never", "new_key")
"""What the engine says of a refusal that the same request will always get."""


class NoAnswer(Exception):
    """Nobody knows what became of the request: ask again, in the same words."""


class Asked(NamedTuple):
    """The engine's word on a refund: its id, or the code of a refusal that asking again will not change."""

    refund_id: str | None
    code: str | None = None

    @property
    def status(self) -> Literal["asked", "refused"]:
        """What became of it."""
        return "refused" if self.refund_id is None else "asked"


class _User(msgspec.Struct):
    id: str | int


class _Payment(msgspec.Struct, rename="camel"):
    order_id: str | None = None
    status: str = ""


class _Refund(msgspec.Struct):
    id: str


class _Reason(msgspec.Struct):
    code: str
    retry: str = ""
    """The engine always says; whoever says nothing is somebody in between, and it is no last word."""


class _Error(msgspec.Struct):
    error: _Reason


class Neighbours:
    """The user service and the engine, over HTTP. An empty URL: there is none, and it is not asked."""

    def __init__(
        self, *, users_url: str = "", engine_url: str = "", token: Callable[[], str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:  # fmt: skip
        """`users_url` is a template with `{id}`; `token` makes a bearer token that may refund everybody's payments."""
        self._users_url = users_url
        self._engine_url = engine_url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    @property
    def asks_users(self) -> bool:
        """Whether there is a user service."""
        return bool(self._users_url)

    @property
    def asks_engine(self) -> bool:
        """Whether there is an engine."""
        return bool(self._engine_url)

    async def open(self) -> None:
        """Before the first question. Connects nowhere yet."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s))

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()

    async def knows_user(self, user_id: str) -> bool:
        """Whether there is such a user. Raises `NoAnswer`."""
        status, body = await self._exchange("GET", self._users_url.replace("{id}", quote(user_id, safe="")))
        if 400 <= status < 500 and status not in _PERHAPS_LATER:
            return False
        return str(_read(body, _User, status, 200).id) == user_id

    async def refund(self, payment_id: str, order_id: str, key: str) -> Asked:
        """Ask for all that is left of an order's payment. Safe to repeat with its key. Raises `NoAnswer` until known.

        The token opens every payment, and anybody may have told us this one's id: so the engine is asked whose it is.
        """
        url = f"{self._engine_url}/api/payments/{quote(payment_id, safe='')}"
        headers = {"Authorization": f"Bearer {self._token()}"} if self._token is not None else {}
        status, body = await self._exchange("GET", url, headers=headers)
        if code := _refusal(status, body):
            return Asked(None, code)
        payment = _read(body, _Payment, status, 200)
        if payment.order_id != order_id:
            return Asked(None, "NOT_OF_THIS_ORDER")
        if payment.status in _UNDECIDED:
            raise NoAnswer(f"the payment is {payment.status}")
        headers["Idempotency-Key"] = key
        status, body = await self._exchange("POST", f"{url}/refund", {"reason": "Order cancelled"}, headers)
        if code := _refusal(status, body):
            return Asked(None, code)
        return Asked(_read(body, _Refund, status, 201).id)

    async def _exchange(
        self, method: str, url: str, asked: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        assert self._session is not None, "not open"
        try:
            async with self._session.request(
                method, URL(url, encoded=True), json=asked, headers=headers, allow_redirects=False
            ) as response:
                body = bytearray()
                async for part in response.content.iter_any():
                    body += part
                    if len(body) > _ANSWER_BYTES_MAX:
                        raise NoAnswer("too large an answer")
                return response.status, bytes(body)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise NoAnswer(type(error).__name__) from error


def _refusal(status: int, body: bytes) -> str | None:
    """The code of a refusal that the same request will always get."""
    if not 400 <= status < 500 or status in _PERHAPS_LATER:
        return None
    reason = _read(body, _Error, status, status).error
    return reason.code if reason.retry in _FINAL else None


def _read(body: bytes, kind: type[T], status: int, wanted: int) -> T:
    if status != wanted:
        raise NoAnswer(f"answered {status}")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise NoAnswer("an answer that cannot be read") from error
