"""The line to Stripe: the secret key, the pinned version, form bodies; and how its intents are looked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

from clients.http import HttpCounterparty
from clients.stripe_answers import Intent, IntentPage, decode_intents
from clients.wire import parse_url
from engine.secret import Secret

T = TypeVar("T")

VERSION: Final = "2025-03-31.basil"
"""Answers keep this version's shapes, whatever the account's default becomes."""

_PAGE: Final = 50
"""An intent is 2 to 4 KB, and an answer may have 256 KiB."""
_PAGES_MAX: Final = 20
_OK: Final = 200


class ApiKey(Secret):
    """Stripe's secret key."""

    __slots__ = ()


class StripeLine:
    """Requests to Stripe, through the counterparty's guard. Both raise `CounterpartyError`."""

    def __init__(self, counterparty: HttpCounterparty, url: str, api_key: ApiKey) -> None:
        self._counterparty = counterparty
        self._url = url.rstrip("/") + "/v1/"
        self._api_key = api_key

    @property
    def name(self) -> str:
        """The configured name, as in metrics and records."""
        return self._counterparty.name

    async def get(self, path: str, read: Callable[[int, bytes], T]) -> T:
        """Ask. It is repeated by the guard."""
        return await self._counterparty.call(
            "GET", parse_url(self._url + path), read, headers=self._headers(), idempotent=True
        )

    async def post(
        self, path: str, form: bytes, read: Callable[[int, bytes], T], *, key: str = "", moves_nothing: bool = False
    ) -> T:
        """Do. What moves no money is repeated by the guard; what became of the rest is a question, asked later."""
        headers = {**self._headers(), "Content-Type": "application/x-www-form-urlencoded"}
        if key:
            headers["Idempotency-Key"] = key
        return await self._counterparty.call(
            "POST", parse_url(self._url + path), read, body=form, headers=headers, idempotent=moves_nothing
        )

    async def search(self, attempt_id: str) -> list[Intent]:
        """The attempt's intents that Stripe's search knows of. Finding none means nothing: it is up to hours behind,
        and not offered everywhere.
        """
        query = urlencode({"query": f"metadata['attempt_id']:'{attempt_id}'", "limit": 10}, quote_via=quote)

        def read(status: int, body: bytes) -> list[Intent]:
            return decode_intents(body).data if status == _OK else []

        found = await self.get(f"payment_intents/search?{query}", read)
        return [intent for intent in found if intent.metadata.get("attempt_id") == attempt_id]

    async def listed(self, attempt_id: str, *, since_s: int) -> list[Intent] | None:
        """The attempt's intents among all that were made since then; None when there are too many to be sure.

        Stripe's lists, unlike its search, show what was written at once.
        """
        found: list[Intent] = []
        after = ""
        for _ in range(_PAGES_MAX):
            page = await self.get(f"payment_intents?created%5Bgte%5D={since_s}&limit={_PAGE}{after}", _read_page)
            if page is None:
                return None
            found += [intent for intent in page.data if intent.metadata.get("attempt_id") == attempt_id]
            if not page.has_more or not page.data:
                return found
            after = f"&starting_after={quote(page.data[-1].id, safe='')}"
        return found or None

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._api_key.reveal()}", "Stripe-Version": VERSION}


def _read_page(status: int, body: bytes) -> IntentPage | None:
    return decode_intents(body) if status == _OK else None
