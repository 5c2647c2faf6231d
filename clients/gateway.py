"""The API gateway: asked whether a user or an order exists. Nothing else of its answers counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from clients.http import HttpCounterparty, url_for
from engine.errors import BadUpstreamAnswer, TryLater
from resilience.errors import BadAnswer, CounterpartyError, Refused

_NOT_FOUND: Final = 404
_OK: Final = 200
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class GatewayLookup:
    """Things of one kind by id. What exists is believed for `cache_s` seconds; what does not is asked for again."""

    def __init__(
        self,
        counterparty: HttpCounterparty,
        url_template: str,
        unavailable: type[TryLater],
        *,
        cache_s: float = 0.0,
        cache_max: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counterparty = counterparty
        self._url_template = url_template
        self._unavailable = unavailable
        self._cache_s = cache_s
        self._cache_max = cache_max
        self._clock = clock
        self._known_until: dict[str, float] = {}

    def known(self, identifier: str) -> bool:
        """Whether it existed within the last `cache_s` seconds."""
        return self._known_until.get(identifier, 0.0) > self._clock()

    async def exists(self, identifier: str) -> bool:
        """Whether the gateway knows it. Raises the kind of `unavailable`, or `BadUpstreamAnswer`."""
        name = self._counterparty.name
        try:
            url = url_for(self._url_template, identifier)
            found = await self._counterparty.call("GET", url, _read, idempotent=True)
        except Refused as error:
            raise self._unavailable(
                "the gateway is not asked now", retry_after_s=error.retry_after_s, counterparty=name
            ) from error
        except BadAnswer as error:
            raise BadUpstreamAnswer("the gateway gave no usable answer", counterparty=name) from error
        except CounterpartyError as error:
            raise self._unavailable("the gateway does not answer", counterparty=name) from error
        if found and self._cache_s > 0:
            self._keep(identifier)
        return found

    def _keep(self, identifier: str) -> None:
        if len(self._known_until) >= self._cache_max:
            self._known_until.clear()
        self._known_until[identifier] = self._clock() + self._cache_s


def _read(status: int, body: bytes) -> bool:
    if status == _NOT_FOUND:
        return False
    if status != _OK:
        raise ValueError("neither found nor not found")
    _decode_object(body)
    return True
