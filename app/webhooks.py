"""Webhooks, put together: what a surface needs to manage endpoints, and what a worker needs to tell them."""

from __future__ import annotations

from typing import Final, NamedTuple

from app.settings import Settings
from app.webhook_settings import WebhooksSettings
from app.wiring import Parts
from clients.webhooks import WebhookPoster
from engine.ids import now_ms
from engine.sealing import AesGcmSealer, parse_keys
from engine.store.batch import Batcher
from engine.store.deliveries import Deliveries
from engine.store.endpoints import RedisEndpoints
from engine.store.keys import Keys
from engine.webhook_endpoints import WebhookEndpoints, WebhookSecrets
from engine.webhook_sender import Retrying, WebhookSender
from engine.webhook_sink import WebhookSink
from handlers.auth import Authenticator
from handlers.core_webhooks import CoreWebhooks
from handlers.routes import Route
from metrics.instruments import Instruments

_QUEUE: Final = "webhooks"
_LEASE_MARGIN_S: Final = 20.0
"""Beyond a try's own time: for those that wait for the store, so that nobody sends what is being sent."""


class WebhookParts(NamedTuple):
    """What tells endpoints: `sink` takes events in, `sender.run()` sends until `sender.stop()`."""

    sink: WebhookSink
    sender: WebhookSender


def webhooks(settings: Settings, batcher: Batcher, keys: Keys, instruments: Instruments) -> WebhookParts:
    """The sink and the sender of one process. Building them opens nothing."""
    wanted = settings.webhooks
    endpoints, deliveries = RedisEndpoints(batcher, keys), _deliveries(wanted, batcher, keys)
    secrets = WebhookSecrets(AesGcmSealer(parse_keys(settings.cards.keys)))
    sink = WebhookSink(endpoints, deliveries, instruments, now_ms, disabled_keep_s=wanted.disabled_keep_s)
    poster = WebhookPoster(
        now_ms, timeout_s=wanted.timeout_s, allow_http=wanted.allow_http, allow_private=wanted.allow_private
    )
    retrying = Retrying(wanted.retry_s, wanted.retry_after_max_s, wanted.disable_after_s, wanted.disabled_keep_s)
    sender = WebhookSender(
        deliveries, endpoints, sink, poster, secrets, instruments, now_ms, retrying,
        at_once=wanted.at_once, longest_s=wanted.timeout_s,
    )  # fmt: skip
    return WebhookParts(sink, sender)


def webhook_routes(parts: Parts, auth: Authenticator) -> list[Route]:
    """The endpoints' paths on the core surface; none unless they are enabled."""
    wanted = parts.settings.webhooks
    if not wanted.enabled:
        return []
    endpoints = WebhookEndpoints(
        RedisEndpoints(parts.batcher, parts.keys),
        _deliveries(wanted, parts.batcher, parts.keys),
        WebhookSecrets(parts.sealer),
        parts.ids.mint_endpoint,
        now_ms,
        parts.admit,
        endpoints_max=wanted.endpoints_max,
        overlap_s=wanted.secret_overlap_s,
        allow_http=wanted.allow_http,
        allow_private=wanted.allow_private,
    )
    return CoreWebhooks(endpoints, auth, now_ms).routes()


def _deliveries(wanted: WebhooksSettings, batcher: Batcher, keys: Keys) -> Deliveries:
    return Deliveries(
        batcher,
        keys,
        queue=_QUEUE,
        each_max=wanted.each_at_once,
        lease_ms=int((wanted.timeout_s + _LEASE_MARGIN_S) * 1000),
        waiting_max=wanted.waiting_max,
        kept_max=wanted.kept_max,
        keep_ms=int(wanted.keep_s * 1000),
        remember_ms=int(wanted.remember_s * 1000),
    )
