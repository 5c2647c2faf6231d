"""Which doors a process opens: each surface with what it needs of the engine, built from the process's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from app.wiring import Parts
from clients.gateway import GatewayLookup
from clients.jwks import JwksKeys
from clients.orders import OrderService
from clients.users import UserService
from engine.accepting import Accepting
from engine.changing import Changing
from engine.checking import OrderChecks
from engine.errors import OrderServiceUnavailable, UserServiceUnavailable
from engine.existing import ExistenceChecks
from engine.ids import now_ms
from engine.recorded import Recorded
from engine.recording import RecordedPayments
from engine.store.numbers import RedisNumbers
from engine.store.revocations import RedisRevocations
from engine.vault_method import VaultMethod
from engine.vault_paying import VaultPayments
from handlers.auth import Authenticator
from handlers.core_api import CoreApi
from handlers.core_changes import CoreChanges
from handlers.core_waiting import OutcomeWaiting
from handlers.orders_api import OrdersApi
from handlers.routes import Surface
from handlers.vault_api import VaultApi
from resilience.guard import GuardSettings


class Mounted(NamedTuple):
    """A surface and the port that it is served on."""

    surface: Surface
    port: int


def surfaces(parts: Parts, roles: Sequence[str]) -> list[Mounted]:
    """The surfaces that are enabled. Without the role `http` there are none."""
    if "http" not in roles:
        return []
    auth = _authenticator(parts)
    return [
        Mounted(build(parts, auth), getattr(parts.settings, name).port)
        for name, build in _BUILDERS.items()
        if getattr(parts.settings, name).enabled
    ]


def _authenticator(parts: Parts) -> Authenticator:
    """One for all surfaces: a token that one of them takes, the others take too."""
    settings = parts.settings.auth
    keys = None
    if settings.jwks_url:
        counterparty = parts.counterparty("signing_keys", GuardSettings())
        keys = JwksKeys(counterparty, settings.jwks_url, cache_s=settings.jwks_cache_s)
    return Authenticator(settings, keys, RedisRevocations(parts.batcher))


def _core(parts: Parts, auth: Authenticator) -> CoreApi:
    settings = parts.settings
    users = UserService(
        parts.counterparty("user_service", settings.users.guard),
        settings.users.url,
        cache_s=settings.users.cache_s,
        cache_max=settings.users.cache_max,
    )
    orders = OrderService(parts.counterparty("order_service", settings.orders.guard), settings.orders.url)
    accepting = Accepting(
        OrderChecks(users, orders).check,
        parts.payments,
        parts.sealer,
        parts.fingerprints,
        parts.ids,
        now_ms,
        parts.admit,
        redrive_after_s=settings.worker.redrive_after_s,
        stored_cards=VaultMethod(parts.stored_cards, now_ms) if settings.vault.enabled else None,
    )
    changing = Changing(parts.payments, parts.fingerprints, parts.ids.mint_refund, now_ms, parts.admit)
    waiting = OutcomeWaiting(accepting, wait_max_s=settings.core.wait_max_s, waiters_max=settings.core.waiters_max)
    return CoreApi(accepting, parts.payments, parts.guards, auth, waiting, CoreChanges(changing, waiting, auth))


def _orders(parts: Parts, auth: Authenticator) -> OrdersApi:
    settings = parts.settings.orders_api
    users = GatewayLookup(
        parts.counterparty("gateway_users", settings.users_guard),
        settings.users_url,
        UserServiceUnavailable,
        cache_s=settings.users_cache_s,
        cache_max=settings.users_cache_max,
    )
    orders = GatewayLookup(
        parts.counterparty("gateway_orders", settings.orders_guard), settings.orders_url, OrderServiceUnavailable
    )
    payments = RecordedPayments(
        ExistenceChecks(users, orders).check,
        parts.payments,
        RedisNumbers(parts.batcher, parts.keys, surface=OrdersApi.name, cache_max=settings.numbers_cache_max),
        parts.fingerprints,
        parts.ids,
        parts.observer,
        now_ms,
        parts.admit,
        begins=Recorded(settings.begins),
    )
    return OrdersApi(payments, auth, currency=settings.currency)


def _vault(parts: Parts, auth: Authenticator) -> VaultApi:
    payments = VaultPayments(parts.vault, parts.ids, parts.turns, parts.observer, now_ms, parts.admit)
    return VaultApi(parts.stored_cards, payments, auth, currency=parts.settings.vault.currency)


_BUILDERS: Final[Mapping[str, Callable[[Parts, Authenticator], Surface]]] = {
    "core": _core,
    "orders_api": _orders,
    "vault": _vault,
}
"""By the name of the section of settings, in the order of the documentation."""
