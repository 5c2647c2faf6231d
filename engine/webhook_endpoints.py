"""Webhook endpoints: making, changing and forgetting them, and looking at what was sent to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import msgspec

from engine.accepting import Caller
from engine.delivering import Listed
from engine.errors import (
    Overloaded,
    TooManyWebhookEndpoints,
    WebhookDeliveryNotFound,
    WebhookEndpointDisabled,
    WebhookEndpointNotFound,
)
from engine.ids import Clock
from engine.webhook_signing import SECRET_BYTES, WebhookSecret, secret_of
from engine.webhook_urls import check_url
from engine.webhooks import EARLIER_SECRETS_MAX, Disabled, Earlier, Endpoint, Message, line_of, pack, unpack

_CONFLICTS_MAX: Final = 16


class EndpointStore(Protocol):
    """Where endpoints live."""

    def shard_of(self, owner: str) -> int: ...
    async def create(self, endpoint: Endpoint, *, endpoints_max: int) -> bool: ...
    async def delete(self, endpoint: Endpoint) -> None: ...
    async def get(self, endpoint_id: str) -> Endpoint | None: ...
    async def change(self, endpoint: Endpoint) -> bool: ...
    async def of_owner(self, owner: str) -> list[Endpoint]: ...


class SentMessages(Protocol):
    """What was sent to endpoints, and waits to be."""

    async def find(self, lane: str, delivery_id: str) -> bytes | None: ...
    async def page(self, lane: str, *, limit: int, before: int | None = None) -> list[Listed]: ...
    async def resend(
        self, lane: str, line: str, delivery_id: str, *, known: bytes, item: bytes, now_ms: int
    ) -> bool: ...
    async def wake(self, lane: str, *, now_ms: int) -> None: ...
    async def drop(self, lane: str, *, ended_too: bool) -> None: ...


class Sealer(Protocol):
    """Seals with the first key, opens with any."""

    def seal_text(self, bound_to: str, text: str) -> bytes: ...
    def open_text(self, bound_to: str, sealed: bytes) -> str: ...


class Made(NamedTuple):
    """An endpoint, and the secret that is told only now."""

    endpoint: Endpoint
    secret: WebhookSecret


class Delivered(NamedTuple):
    """A message in the list of its endpoint; `number` is its place there."""

    number: int
    message: Message


class WebhookSecrets:
    """The secrets of endpoints, sealed at rest and bound to their endpoint."""

    def __init__(self, sealer: Sealer, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._sealer = sealer
        self._random_bytes = random_bytes

    def new(self, endpoint_id: str) -> tuple[WebhookSecret, bytes]:
        """A new secret, and the same sealed."""
        secret = secret_of(self._random_bytes(SECRET_BYTES))
        return secret, self._sealer.seal_text(_bound_to(endpoint_id), secret.reveal())

    def resealed(self, endpoint_id: str, sealed: bytes) -> bytes:
        """The same secret under the first key. Raises `SealBroken`."""
        bound_to = _bound_to(endpoint_id)
        return self._sealer.seal_text(bound_to, self._sealer.open_text(bound_to, sealed))

    def live(self, endpoint: Endpoint, now_ms: int) -> list[WebhookSecret]:
        """The secrets to sign with now, the current one first. Raises `SealBroken`."""
        sealed = [endpoint.secret, *(each.secret for each in endpoint.earlier(now_ms))]
        return [WebhookSecret(self._sealer.open_text(_bound_to(endpoint.id), each)) for each in sealed]


class WebhookEndpoints:
    """What callers may do with their endpoints. A privileged caller may also with those of others, by their ids."""

    def __init__(
        self,
        store: EndpointStore,
        sent: SentMessages,
        secrets: WebhookSecrets,
        mint: Callable[[int], str],
        clock: Clock,
        admit: Callable[[], None],
        *,
        endpoints_max: int,
        overlap_s: float,
        allow_http: bool = False,
        allow_private: bool = False,
    ) -> None:
        self._store = store
        self._sent = sent
        self._secrets = secrets
        self._mint = mint
        self._clock = clock
        self._admit = admit
        self._endpoints_max = endpoints_max
        self._overlap_ms = int(overlap_s * 1000)
        self._allow_http = allow_http
        self._allow_private = allow_private

    async def create(self, caller: Caller, *, url: str, event_types: tuple[str, ...], description: str) -> Made:
        """A new endpoint. A privileged caller's is told of everybody's payments.

        Raises `WebhookUrlRefused` and `TooManyWebhookEndpoints`. Asked twice, there are two.
        """
        check_url(url, allow_http=self._allow_http, allow_private=self._allow_private)
        self._admit()
        endpoint_id = self._mint(self._store.shard_of(caller.subject))
        secret, sealed = self._secrets.new(endpoint_id)
        endpoint = Endpoint(
            version=1,
            id=endpoint_id,
            owner=caller.subject,
            everything=caller.privileged,
            url=url,
            event_types=tuple(dict.fromkeys(event_types)),
            description=description,
            created_ms=self._clock(),
            secret=sealed,
        )
        if not await self._store.create(endpoint, endpoints_max=self._endpoints_max):
            raise TooManyWebhookEndpoints(self._endpoints_max)
        return Made(endpoint, secret)

    async def of(self, caller: Caller) -> list[Endpoint]:
        """The caller's own, the latest first."""
        return await self._store.of_owner(caller.subject)

    async def find(self, endpoint_id: str, caller: Caller) -> Endpoint:
        """The endpoint. Raises `WebhookEndpointNotFound`, also when it is somebody else's."""
        endpoint = await self._store.get(endpoint_id)
        if endpoint is None or not caller.may_act_for(endpoint.owner):
            raise WebhookEndpointNotFound("no such webhook endpoint")
        return endpoint

    async def delete(self, endpoint_id: str, caller: Caller) -> None:
        """Forget the endpoint, and all that was sent to it or waits."""
        endpoint = await self.find(endpoint_id, caller)
        self._admit()
        # The endpoint first: if we die now, what waits for it finds nobody, and is dropped by the sender.
        await self._store.delete(endpoint)
        await self._sent.drop(endpoint.id, ended_too=True)

    async def rotate_secret(self, endpoint_id: str, caller: Caller) -> Made:
        """A new secret; the one before signs along for a while.

        Those before that do so until their time is over, at most two of them. Whoever repeats a rotation whose answer
        was lost still has a secret that signs.
        """
        self._admit()
        for _ in range(_CONFLICTS_MAX):
            endpoint = await self.find(endpoint_id, caller)
            secret, sealed = self._secrets.new(endpoint.id)
            now_ms = self._clock()
            rotated = msgspec.structs.replace(
                endpoint,
                version=endpoint.version + 1,
                secret=sealed,
                previous=endpoint.secret,
                previous_until_ms=now_ms + self._overlap_ms,
                older=_older(endpoint.earlier(now_ms)),
            )
            if await self._store.change(rotated):
                return Made(rotated, secret)
        raise Overloaded("changes of one webhook endpoint")

    async def enable(self, endpoint_id: str, caller: Caller) -> Endpoint:
        """Tell it of events again; what has waited goes out now. Changes nothing when it is enabled."""
        endpoint = await self.find(endpoint_id, caller)
        self._admit()
        enabled = await changed(self._store, endpoint.id, _enabled)
        if enabled is None:
            raise WebhookEndpointNotFound("no such webhook endpoint")
        await self._sent.wake(endpoint.id, now_ms=self._clock())
        return enabled

    async def deliveries(
        self, endpoint_id: str, caller: Caller, *, limit: int, before: int | None
    ) -> tuple[list[Delivered], int | None]:
        """What was sent to the endpoint, the latest first, and where the next page begins; None at the end."""
        endpoint = await self.find(endpoint_id, caller)
        listed = await self._sent.page(endpoint.id, limit=limit + 1, before=before)
        page = [Delivered(each.number, unpack(each.item)[0]) for each in listed[:limit] if each.item]
        return page, listed[limit - 1].number if len(listed) > limit else None

    async def resend(self, endpoint_id: str, delivery_id: str, caller: Caller) -> Message:
        """Send a message once more, with its own id. One that still waits is tried now.

        Raises `WebhookDeliveryNotFound` and `WebhookEndpointDisabled`.
        """
        endpoint = await self.find(endpoint_id, caller)
        if endpoint.disabled:
            raise WebhookEndpointDisabled("the endpoint is disabled: enable it first")
        self._admit()
        for _ in range(_CONFLICTS_MAX):
            known = await self._sent.find(endpoint.id, delivery_id)
            if known is None:
                raise WebhookDeliveryNotFound("no such delivery")
            message, body = unpack(known)
            again = msgspec.structs.replace(message, state="waiting", tries=0)
            if await self._sent.resend(
                endpoint.id, line_of(again), again.id, known=known, item=pack(again, body), now_ms=self._clock()
            ):
                return again
        raise Overloaded("deliveries of one webhook endpoint")


class ChangeableEndpoints(Protocol):
    """Where one endpoint is changed."""

    async def get(self, endpoint_id: str) -> Endpoint | None: ...
    async def change(self, endpoint: Endpoint) -> bool: ...


async def changed(
    store: ChangeableEndpoints, endpoint_id: str, change: Callable[[Endpoint], Endpoint]
) -> Endpoint | None:
    """Change an endpoint, on whatever others make of it meanwhile. None when it is gone."""
    for _ in range(_CONFLICTS_MAX):
        endpoint = await store.get(endpoint_id)
        if endpoint is None:
            return None
        newer = change(endpoint)
        if newer == endpoint:
            return endpoint
        newer = msgspec.structs.replace(newer, version=endpoint.version + 1)
        if await store.change(newer):
            return newer
    raise Overloaded("changes of one webhook endpoint")


def disabled(endpoint: Endpoint, reason: Disabled, now_ms: int) -> Endpoint:
    """The endpoint, disabled; as it is when it was."""
    if endpoint.disabled:
        return endpoint
    return msgspec.structs.replace(endpoint, disabled=reason, disabled_ms=now_ms)


def _enabled(endpoint: Endpoint) -> Endpoint:
    if not endpoint.disabled:
        return endpoint
    return msgspec.structs.replace(endpoint, disabled="", disabled_ms=0, disabled_told=False, failing_since_ms=0)


def _older(earlier: tuple[Earlier, ...]) -> tuple[Earlier, ...]:
    """What is kept beside the one that ends now: when there is no room for all, the latest and the oldest."""
    room = EARLIER_SECRETS_MAX - 1
    # The oldest is what a receiver has that was told of none since.
    return earlier if len(earlier) <= room else (*earlier[: room - 1], earlier[-1])


def _bound_to(endpoint_id: str) -> str:
    return f"webhook:{endpoint_id}"
