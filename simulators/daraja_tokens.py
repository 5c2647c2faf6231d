"""Daraja's access tokens: given for the consumer's key and secret, good for a time. A restart ends them all."""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from datetime import datetime, timedelta

from aiohttp import web

from simulators.base import Clock
from simulators.daraja_forms import Merchant
from simulators.wire import Refusal

TOKENS_MAX = 1000


class Tokens:
    """The tokens of one merchant."""

    def __init__(self, merchant: Merchant, clock: Clock, *, life_s: float) -> None:
        self._merchant = merchant
        self._clock = clock
        self.life_s = life_s
        self.issued = 0
        """How many were ever given out."""
        self._ends: OrderedDict[str, datetime] = OrderedDict()

    def issue(self, request: web.Request) -> str:
        """A new token for whoever proves to be the merchant."""
        if request.query.get("grant_type") != "client_credentials":
            raise Refusal(400, "400.008.02", "Invalid grant type passed")
        pair = f"{self._merchant.consumer_key}:{self._merchant.consumer_secret}".encode()
        if request.headers.get("Authorization") != f"Basic {base64.b64encode(pair).decode()}":
            raise Refusal(400, "400.008.01", "Invalid Authentication passed")
        token = secrets.token_urlsafe(21)
        self.issued += 1
        self._ends[token] = self._clock() + timedelta(seconds=self.life_s)
        while len(self._ends) > TOKENS_MAX:
            self._ends.popitem(last=False)
        return token

    def check(self, request: web.Request) -> None:
        """Refuse a request without a token that is good now. As the real one does, it quotes what it does not know."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        ends_at = self._ends.get(token)
        if scheme != "Bearer" or ends_at is None:
            raise Refusal(401, "401.003.01", f"Error Occurred - Invalid Access Token - {token}")
        if self._clock() >= ends_at:
            raise Refusal(404, "404.001.03", "Invalid Access Token")

    def expire(self) -> None:
        """Let every token that was given out be over."""
        now = self._clock()
        self._ends = OrderedDict((token, min(now, ends_at)) for token, ends_at in self._ends.items())
