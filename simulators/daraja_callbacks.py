"""Daraja's callbacks: made from what happened (or, forged, from what did not), and posted once each."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import aiohttp
import msgspec

from simulators.daraja_books import Push, Result
from simulators.daraja_forms import EAST_AFRICA_TIME, TIMESTAMP_FORM
from simulators.daraja_phones import PAID, RESULTS, Telling

AT_ONCE_MAX: Final = 32
WAITING_MAX: Final = 50_000
TIMEOUT_S: Final = 5.0
REMEMBERED_MAX: Final = 1000

_encode = msgspec.json.Encoder(decimal_format="number").encode


def new_receipt() -> str:
    """Ten letters and digits, as on an M-Pesa receipt."""
    return "".join(secrets.choice("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789") for _ in range(10))


def body_of(push: Push, result: Result, telling: Telling) -> bytes:
    """The callback's JSON. `Balance` has no value, as with the real one; a failure has no metadata at all."""
    code, description, receipt = result.code, result.description, result.receipt
    checkout, phone, amount = push.checkout, push.wish.phone, push.wish.amount
    match telling:
        case Telling.OTHER_AMOUNT:
            amount += 1
        case Telling.OTHER_PHONE:
            phone = f"{phone[:-1]}{9 - int(phone[-1])}"
        case Telling.OTHER_CHECKOUT:
            checkout = f"ws_CO_{secrets.randbelow(10**24):024}"
        case Telling.PAID:
            code, description, receipt = PAID, RESULTS[PAID], new_receipt()
    callback: dict[str, object] = {
        "MerchantRequestID": push.merchant_request,
        "CheckoutRequestID": checkout,
        "ResultCode": code,
        "ResultDesc": description,
    }
    if code == PAID:
        moment = datetime.fromisoformat(result.at).astimezone(EAST_AFRICA_TIME)
        items: list[dict[str, object]] = [
            {"Name": "Amount", "Value": Decimal(f"{amount}.00")},
            {"Name": "MpesaReceiptNumber", "Value": receipt},
            {"Name": "Balance"},
            {"Name": "TransactionDate", "Value": int(moment.strftime(TIMESTAMP_FORM))},
            {"Name": "PhoneNumber", "Value": int(phone)},
        ]
        callback["CallbackMetadata"] = {"Item": items}
    return _encode({"Body": {"stkCallback": callback}})


class Post(NamedTuple):
    """One callback to send."""

    push: Push
    result: Result
    telling: Telling
    done: asyncio.Event


class Callbacks:
    """Sends callbacks, a few at once and each but once. `start` and `close` belong to the server that runs."""

    def __init__(self) -> None:
        self._remembered: deque[dict[str, object]] = deque(maxlen=REMEMBERED_MAX)
        self._counts: Counter[str] = Counter()
        self._waiting: asyncio.Queue[Post] = asyncio.Queue(WAITING_MAX)
        self._senders: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._open = False

    def start(self) -> None:
        """Begin to send."""
        self._open = True
        self._waiting = asyncio.Queue(WAITING_MAX)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            connector=aiohttp.TCPConnector(limit=AT_ONCE_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._senders = [asyncio.create_task(self._send_all(self._session)) for _ in range(AT_ONCE_MAX)]

    async def close(self) -> None:
        """Stop; what was not sent is lost, as it may be with the real one. Safe to call twice."""
        self._open = False
        senders, self._senders = self._senders, []
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        while not self._waiting.empty():
            self._give_up(self._waiting.get_nowait(), "the simulator stops")
        if self._session is not None:
            await self._session.close()
            self._session = None

    def put(self, push: Push, result: Result, telling: Telling) -> asyncio.Event:
        """Send a callback soon; the event tells when it was sent or could not be."""
        post = Post(push, result, telling, asyncio.Event())
        if not self._open:
            self._give_up(post, "the simulator stops")
        elif self._waiting.full():
            self._give_up(post, "too many callbacks wait")
        else:
            self._waiting.put_nowait(post)
        return post.done

    def sent(self) -> list[dict[str, object]]:
        """The last callbacks, oldest first: about which checkout, what was told, and what was answered."""
        return list(self._remembered)

    def summary(self) -> dict[str, int]:
        """How many callbacks were answered with 2xx, with something else, and not at all."""
        return {name: self._counts[name] for name in ("delivered", "refused", "lost")}

    def _give_up(self, post: Post, why: str) -> None:
        self._note(post, error=why)
        post.done.set()

    async def _send_all(self, session: aiohttp.ClientSession) -> None:
        while True:
            post = await self._waiting.get()
            try:
                await self._send(session, post)
            finally:
                post.done.set()

    async def _send(self, session: aiohttp.ClientSession, post: Post) -> None:
        body = body_of(post.push, post.result, post.telling)
        try:
            # A redirect is an answer like any other: who may choose the URL must not choose a second one too.
            async with session.post(
                post.push.wish.callback_url,
                data=body,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                self._note(post, status=response.status)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._note(post, error=type(error).__name__)

    def _note(self, post: Post, *, status: int | None = None, error: str | None = None) -> None:
        outcome = "lost" if status is None else "delivered" if 200 <= status < 300 else "refused"
        self._counts[outcome] += 1
        told: dict[str, object] = {"checkout": post.push.checkout, "told": post.telling.value, "outcome": outcome}
        self._remembered.append(told | ({"status": status} if error is None else {"error": error}))
