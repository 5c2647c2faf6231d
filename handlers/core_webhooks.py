"""The core surface, third part: endpoints that are told of events, and what was sent to them."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Final, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from engine import errors
from engine.ids import Clock, rfc3339
from engine.webhook_endpoints import WebhookEndpoints
from engine.webhook_signing import WebhookSecret
from engine.webhook_urls import URL_LENGTH_MAX
from engine.webhooks import EVENT_TYPES, Endpoint, Message, State, Try
from handlers.auth import Authenticator
from handlers.core_types import Time
from handlers.http import HttpRefused, decode, read_body, reply
from handlers.paging import CURSOR, LIMIT, limit_of
from handlers.routes import Route

_PATH: Final = "/api/webhook-endpoints"
_ONE: Final = _PATH + "/{endpoint_id}"
_DESCRIPTION_LENGTH_MAX: Final = 255
_CURSOR_DIGITS_MAX: Final = 16

EndpointRef = Annotated[str, Meta(examples=["we_01kqxw3v5n8t2r7d9m4c6b1hzj2a"])]
EndpointUrl = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=URL_LENGTH_MAX,
        extra_json_schema={"format": "uri"},
        description="https, on a public address, without a user and a fragment",
        examples=["https://shop.example.com/hooks"],
    ),
]
EventTypes = Annotated[
    tuple[str, ...],
    Meta(
        max_length=len(EVENT_TYPES),
        extra_json_schema={"items": {"type": "string", "enum": list(EVENT_TYPES)}},
        description="What to be told of; none: everything",
        examples=[["payment_completed", "payment_failed"]],
    ),
]
Description = Annotated[str, Meta(max_length=_DESCRIPTION_LENGTH_MAX, examples=["The shop's books"])]
SecretText = Annotated[
    str,
    Meta(
        description="What messages are verified with (Standard Webhooks). Shown only now.",
        examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"],
    ),
]


class CreateWebhookEndpoint(msgspec.Struct, rename="camel"):
    """A wish to be told of events."""

    url: EndpointUrl
    event_types: EventTypes = ()
    description: Description = ""


class WebhookEndpointView(msgspec.Struct, rename="camel"):
    """An endpoint. Fields that do not apply are absent."""

    id: EndpointRef
    url: EndpointUrl
    event_types: EventTypes
    description: Description
    payments: Annotated[
        Literal["own", "all"],
        Meta(description="Whose: the owner's, or everybody's, when a `service` or `admin` made it", examples=["own"]),
    ]
    status: Annotated[Literal["enabled", "disabled"], Meta(examples=["enabled"])]
    created_at: Time
    disabled_reason: Literal["failing", "gone"] | UnsetType = UNSET
    """`failing`: it took nothing for days; `gone`: it answered 410."""
    disabled_at: Time | UnsetType = UNSET
    failing_since: Time | UnsetType = UNSET
    """Every try since then has failed."""
    previous_secret_until: Time | UnsetType = UNSET
    """Until then messages are signed with the secret before, too."""


class WebhookSecretView(WebhookEndpointView, kw_only=True):
    """An endpoint with its new secret."""

    secret: SecretText


class WebhookEndpointsView(msgspec.Struct):
    """The caller's endpoints, the latest first."""

    endpoints: list[WebhookEndpointView]


class WebhookDeletedView(msgspec.Struct):
    """An endpoint that is no more."""

    id: EndpointRef
    deleted: bool


class WebhookTryView(msgspec.Struct, rename="camel"):
    """One try. Either a status was answered, or there is a reason why none was."""

    at: Time
    duration_ms: int
    status_code: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class WebhookDeliveryView(msgspec.Struct, rename="camel"):
    """A message for an endpoint."""

    id: Annotated[str, Meta(description="The message's `webhook-id`", examples=["pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a-1"])]
    event_type: Annotated[str, Meta(examples=["payment_completed"])]
    subject: Annotated[str, Meta(examples=["pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a"])]
    status: Annotated[State, Meta(examples=["delivered"])]
    created_at: Time
    attempts: list[WebhookTryView]


class WebhookDeliveriesPage(msgspec.Struct):
    """Deliveries, the latest first. `next_cursor` is null at the end."""

    deliveries: list[WebhookDeliveryView]
    next_cursor: str | None


_STORE: Final = (errors.StoreUnavailable, errors.Overloaded)
_FOUND: Final = (errors.WebhookEndpointNotFound, *_STORE)


class CoreWebhooks:
    """Webhook endpoints."""

    def __init__(self, endpoints: WebhookEndpoints, auth: Authenticator, clock: Clock) -> None:
        self._endpoints = endpoints
        self._auth = auth
        self._clock = clock
        self._create = msgspec.json.Decoder(CreateWebhookEndpoint)

    def routes(self) -> list[Route]:
        """What it offers."""
        return [
            Route(
                "POST", _PATH, self.create_webhook_endpoint, "Be told of events",
                {201: WebhookSecretView}, body=CreateWebhookEndpoint,
                errors=(errors.WebhookUrlRefused, errors.TooManyWebhookEndpoints, *_STORE), tag="webhooks",
            ),
            Route(
                "GET", _PATH, self.webhook_endpoints, "One's own endpoints, the latest first",
                {200: WebhookEndpointsView}, errors=_STORE, tag="webhooks",
            ),
            Route(
                "GET", _ONE, self.webhook_endpoint, "An endpoint",
                {200: WebhookEndpointView}, errors=_FOUND, tag="webhooks",
            ),
            Route(
                "DELETE", _ONE, self.delete_webhook_endpoint, "Forget an endpoint, and all that waits for it",
                {200: WebhookDeletedView}, errors=_FOUND, tag="webhooks",
            ),
            Route(
                "POST", f"{_ONE}/rotate-secret", self.rotate_webhook_secret, "A new secret; the old one signs along",
                {200: WebhookSecretView}, errors=_FOUND, tag="webhooks",
            ),
            Route(
                "POST", f"{_ONE}/enable", self.enable_webhook_endpoint, "Go on with an endpoint that was disabled",
                {200: WebhookEndpointView}, errors=_FOUND, tag="webhooks",
            ),
            Route(
                "GET", f"{_ONE}/deliveries", self.webhook_deliveries, "What was sent to an endpoint, the latest first",
                {200: WebhookDeliveriesPage}, params=(LIMIT, CURSOR), errors=_FOUND, tag="webhooks",
            ),
            Route(
                "POST", f"{_ONE}/deliveries/{{delivery_id}}/resend", self.resend_webhook, "Send a message once more",
                {200: WebhookDeliveryView},
                errors=(errors.WebhookDeliveryNotFound, errors.WebhookEndpointDisabled, *_FOUND), tag="webhooks",
            ),
        ]  # fmt: skip

    async def create_webhook_endpoint(self, request: web.Request) -> web.Response:
        """`POST /api/webhook-endpoints`."""
        caller = await self._auth.caller(request)
        wanted = decode(await read_body(request), self._create)
        if not set(wanted.event_types) <= set(EVENT_TYPES):
            raise HttpRefused(422, "INVALID_REQUEST", "an unknown event type", details={"field": "eventTypes"})
        endpoint, secret = await self._endpoints.create(
            caller, url=wanted.url, event_types=wanted.event_types, description=wanted.description
        )
        return reply(201, self._with_secret(endpoint, secret), {"Location": f"{_PATH}/{endpoint.id}"})

    async def webhook_endpoints(self, request: web.Request) -> web.Response:
        """`GET /api/webhook-endpoints`."""
        found = await self._endpoints.of(await self._auth.caller(request))
        return reply(200, WebhookEndpointsView([self._view(endpoint) for endpoint in found]))

    async def webhook_endpoint(self, request: web.Request) -> web.Response:
        """`GET /api/webhook-endpoints/{endpoint_id}`."""
        caller = await self._auth.caller(request)
        return reply(200, self._view(await self._endpoints.find(request.match_info["endpoint_id"], caller)))

    async def delete_webhook_endpoint(self, request: web.Request) -> web.Response:
        """`DELETE /api/webhook-endpoints/{endpoint_id}`."""
        caller, endpoint_id = await self._auth.caller(request), request.match_info["endpoint_id"]
        await self._endpoints.delete(endpoint_id, caller)
        return reply(200, WebhookDeletedView(endpoint_id, deleted=True))

    async def rotate_webhook_secret(self, request: web.Request) -> web.Response:
        """`POST /api/webhook-endpoints/{endpoint_id}/rotate-secret`."""
        caller = await self._auth.caller(request)
        endpoint, secret = await self._endpoints.rotate_secret(request.match_info["endpoint_id"], caller)
        return reply(200, self._with_secret(endpoint, secret))

    async def enable_webhook_endpoint(self, request: web.Request) -> web.Response:
        """`POST /api/webhook-endpoints/{endpoint_id}/enable`."""
        caller = await self._auth.caller(request)
        return reply(200, self._view(await self._endpoints.enable(request.match_info["endpoint_id"], caller)))

    async def webhook_deliveries(self, request: web.Request) -> web.Response:
        """`GET /api/webhook-endpoints/{endpoint_id}/deliveries`."""
        caller = await self._auth.caller(request)
        limit, before = limit_of(request), _before(request.query.get("cursor"))
        page, after = await self._endpoints.deliveries(
            request.match_info["endpoint_id"], caller, limit=limit, before=before
        )
        cursor = None if after is None else urlsafe_b64encode(str(after).encode()).decode()
        return reply(200, WebhookDeliveriesPage([_delivery_view(each.message) for each in page], cursor))

    async def resend_webhook(self, request: web.Request) -> web.Response:
        """`POST /api/webhook-endpoints/{endpoint_id}/deliveries/{delivery_id}/resend`."""
        caller, names = await self._auth.caller(request), request.match_info
        message = await self._endpoints.resend(names["endpoint_id"], names["delivery_id"], caller)
        return reply(200, _delivery_view(message))

    def _view(self, endpoint: Endpoint) -> WebhookEndpointView:
        return WebhookEndpointView(**self._fields(endpoint))  # type: ignore[arg-type]

    def _with_secret(self, endpoint: Endpoint, secret: WebhookSecret) -> WebhookSecretView:
        return WebhookSecretView(**self._fields(endpoint), secret=secret.reveal())  # type: ignore[arg-type]

    def _fields(self, endpoint: Endpoint) -> dict[str, object]:
        overlaps = bool(endpoint.previous) and self._clock() < endpoint.previous_until_ms
        return {
            "id": endpoint.id,
            "url": endpoint.url,
            "event_types": endpoint.event_types,
            "description": endpoint.description,
            "payments": "all" if endpoint.everything else "own",
            "status": "disabled" if endpoint.disabled else "enabled",
            "created_at": rfc3339(endpoint.created_ms),
            "disabled_reason": endpoint.disabled or UNSET,
            "disabled_at": rfc3339(endpoint.disabled_ms) if endpoint.disabled else UNSET,
            "failing_since": rfc3339(endpoint.failing_since_ms) if endpoint.failing_since_ms else UNSET,
            "previous_secret_until": rfc3339(endpoint.previous_until_ms) if overlaps else UNSET,
        }


def _delivery_view(message: Message) -> WebhookDeliveryView:
    return WebhookDeliveryView(
        message.id,
        message.type,
        message.subject,
        message.state,
        rfc3339(message.created_ms),
        [_try_view(attempt) for attempt in message.attempts],
    )


def _try_view(attempt: Try) -> WebhookTryView:
    return WebhookTryView(rfc3339(attempt.at_ms), attempt.duration_ms, attempt.status or UNSET, attempt.reason or UNSET)


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    try:
        text = urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
    except ValueError:
        text = ""
    if not text.isdecimal() or len(text) > _CURSOR_DIGITS_MAX:
        raise HttpRefused(422, "INVALID_REQUEST", "cursor is not one of ours", details={"field": "cursor"})
    return int(text)
