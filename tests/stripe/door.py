"""A door before localstripe that fills its gaps, with Stripe's own shapes, and breaks on demand.

What localstripe has not: idempotency keys, card data in a confirmation, most declines, `decline_code` and the intent in
errors, `error_on_requires_action`, `amount_received`, cancellation reasons, the `created` filter and search. The state
of every intent, charge and refund is localstripe's own: what it has charged is what was charged.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import web

OWNER_NEEDED: Final = "4000002500003155"
_ALWAYS_FAILS: Final = "4000000000000341"
DECLINES: Final = {
    "4000000000000002": ("card_declined", "generic_decline"),
    "4000000000009995": ("card_declined", "insufficient_funds"),
    "4000000000009987": ("card_declined", "lost_card"),
    "4000000000009979": ("card_declined", "stolen_card"),
    "4000000000000069": ("expired_card", None),
    "4000000000000127": ("incorrect_cvc", None),
    "4000000000000119": ("processing_error", None),
}
"""Stripe's test cards. The code, and the decline code if there is one."""


class Seen(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    form: Mapping[str, str]


class Fault(NamedTuple):
    """What happens to a request whose path matches. `acts`: whether it is carried out all the same."""

    path: str
    acts: bool
    status: int = 0
    """The answer's status; 0 is silence, -1 a cut connection."""
    body: Any = None


class Door:
    """Stripe, for tests. Give `faults` what shall go wrong next; each happens once."""

    def __init__(self, localstripe: str) -> None:
        self._base = localstripe
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.fails_when_owner_needed = True
        self.search_is_behind = False
        self._answers: dict[str, tuple[str, Mapping[str, str], asyncio.Future[tuple[int, Any]]]] = {}
        self._over: dict[str, dict[str, Any]] = {}
        self._ended = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_shutdown.append(self._end)
        return app

    def forget(self) -> None:
        """A day later, no idempotency key is known any more."""
        self._answers.clear()

    def posts(self, path: str) -> list[Seen]:
        """The POSTs whose path ends like this."""
        return [seen for seen in self.seen if seen.method == "POST" and seen.path.endswith(path)]

    async def all(self, what: str) -> list[dict[str, Any]]:
        """Everything of a kind that localstripe holds: `charges`, `refunds` or `payment_intents`."""
        _, page = await self._ask("GET", f"/v1/{what}?limit=100000")
        found: list[dict[str, Any]] = page["data"]
        return found

    async def tell(self, url: str, secret: str) -> None:
        """Have localstripe send its events there."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self._base}/_config/webhooks/tests", data={"url": url, "secret": secret}) as response,
        ):
            assert response.status == 200

    async def _end(self, app: web.Application) -> None:
        self._ended.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.seen.append(Seen(request.method, request.path, dict(request.headers), form))
        fault = next(
            (fault for fault in self.faults if re.search(fault.path, f"{request.method} {request.path}")), None
        )
        if fault is None:
            status, body = await self._once(request, form)
            return _json(status, body)
        self.faults.remove(fault)
        if fault.acts:
            await self._once(request, form)
        if fault.status > 0:
            return _json(fault.status, fault.body or {"error": {"type": "api_error"}})
        if fault.status == 0:
            await self._ended.wait()
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _once(self, request: web.Request, form: Mapping[str, str]) -> tuple[int, Any]:
        key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
        if not request.headers.get("Authorization", "").startswith("Bearer sk_"):
            return 401, {"error": {"type": "invalid_request_error", "message": "no key"}}
        if key is None:
            return await self._act(request, form)
        known = self._answers.get(key)
        if known is not None:
            if known[:2] != (request.path, form):
                return 400, {"error": {"type": "idempotency_error", "message": "other parameters"}}
            if not known[2].done():
                return 409, {"error": {"type": "invalid_request_error", "code": "idempotency_key_in_use"}}
            return known[2].result()
        answer: asyncio.Future[tuple[int, Any]] = asyncio.get_running_loop().create_future()
        self._answers[key] = (request.path, form, answer)
        done = await self._act(request, form)
        answer.set_result(done)
        return done

    async def _act(self, request: web.Request, form: Mapping[str, str]) -> tuple[int, Any]:
        path, expanded = request.path, "expand[]" in request.query or "expand[]" in form
        sent = {name: value for name, value in form.items() if name != "expand[]"}
        if request.method == "GET" and path == "/v1/payment_intents/search":
            found = [] if self.search_is_behind else await self.all("payment_intents")
            wanted = re.fullmatch(r"metadata\['attempt_id'\]:'([^']+)'", request.query["query"])
            assert wanted is not None
            return 200, {"data": [self._shown(i) for i in found if i["metadata"].get("attempt_id") == wanted[1]]}
        if request.method == "GET" and path == "/v1/payment_intents":
            return 200, await self._listed(request.query)
        if path.endswith("/confirm"):
            return await self._confirm(path.removesuffix("/confirm"), sent, expanded)
        if path.endswith("/cancel"):
            reason = sent.pop("cancellation_reason", None)
            status, body = await self._ask("POST", path, sent)
            if status == 200:
                self._over.setdefault(body["id"], {})["cancellation_reason"] = reason
            return await self._with_intent(path.removesuffix("/cancel"), status, body)
        if path.endswith("/capture"):
            status, body = await self._ask("POST", path, sent)
            if status == 200:
                self._over.setdefault(body["id"], {})["amount_received"] = int(sent["amount_to_capture"])
            return await self._with_intent(path.removesuffix("/capture"), status, body)
        status, body = await self._ask(
            request.method, request.path_qs.partition("&expand")[0].partition("?expand")[0], sent
        )
        return status, self._shown(body, expanded) if body.get("object") == "payment_intent" else body

    async def _confirm(self, path: str, sent: dict[str, str], expanded: bool) -> tuple[int, Any]:
        number = sent["payment_method_data[card][number]"]
        code = DECLINES.get(number)
        if number == OWNER_NEEDED and self.fails_when_owner_needed:
            code = ("authentication_required", "authentication_required")
        card = {
            name.removeprefix("payment_method_data").replace("[card]", "card").replace("[type]", "type"): value
            for name, value in sent.items()
            if name.startswith("payment_method_data")
        }
        card["card[number]"] = _ALWAYS_FAILS if code else number
        status, method = await self._ask("POST", "/v1/payment_methods", card)
        if status != 200:
            return 402, {"error": {"type": "card_error", "code": "incorrect_number", "message": "No such card."}}
        _, intent = await self._ask("GET", path)
        if intent["status"] == "requires_payment_method":
            await self._ask("POST", path, {"payment_method": method["id"]})
        if code:
            error = {
                "type": "card_error",
                "code": code[0],
                "decline_code": code[1],
                "message": "Your card was declined.",
            }
            self._over.setdefault(intent["id"], {})["last_payment_error"] = error
        status, body = await self._ask("POST", path + "/confirm", {})
        if status == 402:
            _, intent = await self._ask("GET", path)
            shown = self._shown(intent)
            return 402, {"error": {**shown["last_payment_error"], "payment_intent": shown}}
        return await self._with_intent(path, status, body, expanded)

    async def _with_intent(self, path: str, status: int, body: Any, expanded: bool = False) -> tuple[int, Any]:
        """An intent as Stripe shows it, or an error with the intent in it."""
        if status == 200:
            return 200, self._shown(body, expanded)
        found, intent = await self._ask("GET", path)
        if found != 200:
            return found, {"error": {"type": "invalid_request_error", "code": "resource_missing"}}
        error = {"type": "invalid_request_error", "code": "payment_intent_unexpected_state", "message": "Not now."}
        return status, {"error": {**error, "payment_intent": self._shown(intent)}}

    def _shown(self, intent: dict[str, Any], expanded: bool = False) -> dict[str, Any]:
        over = dict(self._over.get(intent["id"], {}))
        if intent["last_payment_error"] is None:
            over.pop("last_payment_error", None)
        charge = intent["latest_charge"]
        if charge is not None and not expanded:
            over["latest_charge"] = charge["id"]
        elif charge is not None:
            over["latest_charge"] = {
                **charge, "payment_method_details": {"card": {"capture_before": intent["created"] + 5 * 86_400}}
            }  # fmt: skip
        received = intent["amount"] if intent["status"] == "succeeded" else 0
        return {**intent, "amount_received": received, **over}

    async def _listed(self, query: Mapping[str, str]) -> dict[str, Any]:
        found = [i for i in await self.all("payment_intents") if i["created"] >= int(query["created[gte]"])]
        found.reverse()
        after = query.get("starting_after")
        first = next((n for n, i in enumerate(found, 1) if i["id"] == after), 0)
        page = found[first : first + int(query["limit"])]
        return {"data": [self._shown(i) for i in page], "has_more": first + len(page) < len(found)}

    async def _ask(self, method: str, path: str, form: Mapping[str, str] | None = None) -> tuple[int, Any]:
        headers = {"Authorization": "Bearer sk_test_door"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, self._base + path, data=form if method == "POST" else None) as response,
        ):
            return response.status, await response.json()


def _json(status: int, body: Any) -> web.Response:
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")


def hours_ago_ms(hours: float) -> int:
    """A time in the past."""
    return int((time.time() - hours * 3600) * 1000)
