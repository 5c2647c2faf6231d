"""A pretend Safaricom Daraja: it asks pretend phones to pay, and keeps the journal that judges double charges.

The phones are in `simulators/daraja_phones.py`: +254712345678 pays at once, and so does every number whose last four
digits are not in the table there. Everything is checked as strictly as the real one does, or more so: key and
secret, token, password, timestamp (East Africa Time), amount, phone, lengths.

* `GET /oauth/v1/generate?grant_type=client_credentials` gives an access token.
* `POST /mpesa/stkpush/v1/processrequest` asks a phone. There is no idempotency here: two pushes are two questions.
* `POST /mpesa/stkpushquery/v1/query` tells what became of a push: 500.001.1001 "being processed" until it is decided.
* The result is posted to the push's `CallBackURL`, as its phone's manners have it.
* `GET /journal?after=` is the money taken, `GET /journal/pushes?after=` every push, `GET /journal/summary` counts.

For tests, beside `/_faults` (a `status` fault with `code` and `message` speaks Daraja's language):

* `POST /_decide` `{"checkout_id", "result_code"}`: the payer decides now.
* `POST /_timing` with any of `token_s`, `latency_s`, `moment_s`, `late_s`: from now on; all answer their values.
* `DELETE /_tokens` ends every token, `GET /_tokens` says how many were issued; `GET /_callbacks` shows the last sent.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from simulators.base import Clock, Simulator, timestamp, utc_now
from simulators.daraja_books import Books, Entry, Push, Result
from simulators.daraja_callbacks import Callbacks, new_receipt
from simulators.daraja_forms import EAST_AFRICA_TIME, Decision, Desk, Merchant, Timing
from simulators.daraja_payers import Payers
from simulators.daraja_phones import PAID, RESULTS, Answers, Manners, manners_of
from simulators.daraja_tokens import Tokens
from simulators.wire import Refusal, decode, reply

MERCHANT: Final = Merchant(
    consumer_key="simulated-consumer-key",
    consumer_secret="simulated-consumer-secret",  # noqa: S106 - opens nothing but this simulator
    shortcode="174379",
    passkey="simulated-passkey-simulated-passkey",
)
OPEN_MAX: Final = 100_000
_ACCEPTED: Final = "Success. Request accepted for processing"


def _error_body(code: str, message: str) -> object:
    return {
        "requestId": f"{secrets.token_hex(4)}-{secrets.randbelow(10**8)}",
        "errorCode": code,
        "errorMessage": message,
    }


class DarajaSim(Simulator[Entry]):
    """Daraja for one merchant; with a journal path its pushes and payments survive a restart, its tokens never do."""

    def __init__(
        self,
        journal_path: Path | None,
        *,
        merchant: Merchant = MERCHANT,
        token_s: float = 3599.0,
        latency_s: float = 0.0,
        moment_s: float = 1.0,
        late_s: float = 15.0,
        clock: Clock = utc_now,
    ) -> None:
        super().__init__(journal_path, Entry, _error_body)
        self._clock = clock
        self._latency_s = latency_s
        self._tokens = Tokens(merchant, clock, life_s=token_s)
        self._desk = Desk(merchant, clock)
        self._callbacks = Callbacks()
        self._payers = Payers(self._write_down, self._callbacks, moment_s=moment_s, late_s=late_s)
        self._decision = msgspec.json.Decoder(Decision)
        self._new_timing = msgspec.json.Decoder(Timing)
        self._books = Books()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/oauth/v1/generate", self._token),
            web.post("/mpesa/stkpush/v1/processrequest", self._push),
            web.post("/mpesa/stkpushquery/v1/query", self._query),
            web.get("/journal", self._effects),
            web.get("/journal/pushes", self._pushes),
            web.get("/journal/summary", self._summary),
            web.post("/_decide", self._decide_by_hand),
            web.post("/_timing", self._timing),
            web.get("/_tokens", self._show_tokens),
            web.delete("/_tokens", self._end_tokens),
            web.get("/_callbacks", self._show_callbacks),
        ]

    def _restore(self, records: list[Entry]) -> None:
        self._books = Books(records)

    async def _start(self, app: web.Application) -> None:
        await super()._start(app)
        self._callbacks.start()
        for push in self._books.open():
            # Its payer still has the phone in the hand.
            self._payers.ask(push)

    async def _stop(self, app: web.Application) -> None:
        await super()._stop(app)
        self._payers.stop()
        # Before the requests are waited for: one of them may wait for its callback.
        await self._callbacks.close()

    async def _token(self, request: web.Request) -> web.Response:
        token = self._tokens.issue(request)
        await self._take_time()
        # A string, as with the real one.
        return reply(200, {"access_token": token, "expires_in": f"{self._tokens.life_s:g}"})

    async def _push(self, request: web.Request) -> web.StreamResponse:
        self._tokens.check(request)
        wish = await self._desk.read_push(request)
        manners = manners_of(wish.phone)
        if manners.refused is not None:
            raise Refusal(*manners.refused)
        if self._books.open_count >= OPEN_MAX:
            raise Refusal(500, "500.003.02", "Error Occurred: Spike Arrest Violation")
        now = self._clock()
        push = Push(
            checkout=f"ws_CO_{now.astimezone(EAST_AFRICA_TIME):%d%m%Y%H%M%S}{secrets.randbelow(10**12):012}",
            merchant_request=f"{secrets.token_hex(2)}-{secrets.token_hex(2)}-{secrets.token_hex(6)}",
            wish=wish,
            at=timestamp(now),
        )
        # Journal first: if the disk refuses, no phone was asked.
        self._keep(Entry(push.checkout, push=push))
        told = self._payers.ask(push)
        await self._take_time()
        return await self._answer_push(request, push, manners, told)

    async def _answer_push(
        self, request: web.Request, push: Push, manners: Manners, told: list[asyncio.Event]
    ) -> web.Response:
        match manners.answers:
            case Answers.NEVER:
                return await self._pauses.silence(request)
            case Answers.WITH_500:
                raise Refusal(500, "500.003.1001", "Internal Server Error")
            case Answers.AFTER_THE_CALLBACK:
                for event in told:
                    await event.wait()
        return reply(
            200,
            {
                "MerchantRequestID": push.merchant_request,
                "CheckoutRequestID": push.checkout,
                "ResponseCode": "0",
                "ResponseDescription": _ACCEPTED,
                "CustomerMessage": _ACCEPTED,
            },
        )

    async def _query(self, request: web.Request) -> web.Response:
        self._tokens.check(request)
        checkout = await self._desk.read_query(request)
        await self._take_time()
        push, result = self._books.push(checkout), self._books.result(checkout)
        if push is None:
            raise Refusal(400, "400.002.02", "Bad Request - Invalid CheckoutRequestID")
        if result is None:
            raise Refusal(500, "500.001.1001", "The transaction is being processed")
        return reply(
            200,
            {
                "ResponseCode": "0",
                "ResponseDescription": "The service request has been accepted successfully",
                "MerchantRequestID": push.merchant_request,
                "CheckoutRequestID": checkout,
                "ResultCode": str(result.code),
                "ResultDesc": result.description,
            },
        )

    def _keep(self, entry: Entry) -> None:
        self._journal.append(entry)
        self._books.add(entry)

    def _write_down(self, push: Push, code: int) -> Result | None:
        if self._books.result(push.checkout) is not None:
            return None
        receipt = new_receipt() if code == PAID else None
        result = Result(code, RESULTS[code], timestamp(self._clock()), receipt)
        self._keep(Entry(push.checkout, result=result))
        return result

    async def _take_time(self) -> None:
        if self._latency_s:
            await self._pauses.sleep(self._latency_s)

    async def _effects(self, request: web.Request) -> web.Response:
        return reply(200, {"effects": self._books.effects(_after(request))})

    async def _pushes(self, request: web.Request) -> web.Response:
        return reply(200, {"pushes": self._books.pushes(_after(request))})

    async def _summary(self, _: web.Request) -> web.Response:
        return reply(200, {**self._books.summary(), "callbacks": self._callbacks.summary()})

    async def _decide_by_hand(self, request: web.Request) -> web.Response:
        wanted = await decode(request, self._decision, invalid_status=400)
        push = self._books.push(wanted.checkout_id)
        if push is None or wanted.result_code not in RESULTS:
            raise Refusal(404, "NOT_FOUND", "no such checkout or result code")
        if self._books.result(push.checkout) is not None:
            raise Refusal(409, "CONFLICT", "the payer has decided")
        self._payers.decide(push, wanted.result_code)
        return reply(200, {"checkout_id": push.checkout, "result_code": wanted.result_code})

    async def _timing(self, request: web.Request) -> web.Response:
        new = await decode(request, self._new_timing, invalid_status=400)
        self._tokens.life_s = self._tokens.life_s if new.token_s is None else new.token_s
        self._latency_s = self._latency_s if new.latency_s is None else new.latency_s
        self._payers.moment_s = self._payers.moment_s if new.moment_s is None else new.moment_s
        self._payers.late_s = self._payers.late_s if new.late_s is None else new.late_s
        return reply(200, Timing(self._tokens.life_s, self._latency_s, self._payers.moment_s, self._payers.late_s))

    async def _show_tokens(self, _: web.Request) -> web.Response:
        return reply(200, {"issued": self._tokens.issued})

    async def _end_tokens(self, _: web.Request) -> web.Response:
        self._tokens.expire()
        return reply(200, {"issued": self._tokens.issued})

    async def _show_callbacks(self, _: web.Request) -> web.Response:
        return reply(200, {"callbacks": self._callbacks.sent()})


def _after(request: web.Request) -> int:
    after = request.query.get("after", "0")
    if not (after.isascii() and after.isdecimal() and len(after) <= 18):
        raise Refusal(400, "INVALID_REQUEST", "after must be a whole number from 0")
    return int(after)
