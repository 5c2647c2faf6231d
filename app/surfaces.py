"""Which doors a process opens: each surface with what it needs of the engine, built from the process's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from app.settings import acquirers
from app.webhooks import webhook_routes
from app.wiring import Parts
from clients.gateway import GatewayLookup
from clients.jwks import JwksKeys
from clients.orders import OrderService
from clients.stripe_events import attempt_of, is_signed
from clients.users import UserService
from engine.accepting import Accepting, AcceptPayment, Check
from engine.accounts import Accounts
from engine.asking import TogetherAsking
from engine.catalogue import Catalogue
from engine.changing import Changing
from engine.charging import Acquirers
from engine.checking import OrderChecks
from engine.errors import OrderServiceUnavailable, UserServiceUnavailable
from engine.existing import ExistenceChecks
from engine.ids import now_ms
from engine.passwords import Argon2Passwords
from engine.pushing import PushHints
from engine.recorded import Recorded
from engine.recording import RecordedPayments
from engine.store.accounts import RedisAccounts
from engine.store.catalogue import RedisCatalogue
from engine.store.numbers import RedisNumbers
from engine.store.revocations import RedisRevocations
from engine.vault_method import VaultMethod
from engine.vault_paying import VaultPayments
from handlers.auth import Authenticator
from handlers.core_api import CoreApi
from handlers.core_breakers import CoreBreakers
from handlers.core_changes import CoreChanges
from handlers.core_waiting import OutcomeWaiting
from handlers.gateway_accounts import GatewayAccounts
from handlers.gateway_api import GatewayApi
from handlers.limits import Identify
from handlers.mpesa_api import Callbacks, MpesaApi
from handlers.mpesa_limits import CountedRequests
from handlers.orders_api import OrdersApi
from handlers.routes import Route, Surface
from handlers.stripe_hook import StripeHook
from handlers.tokens import TokenSigner
from handlers.vault_api import VaultApi
from resilience.guard import GuardSettings


class Mounted(NamedTuple):
    """A surface, the port that it is served on, and how its rate limit tells callers apart; None: by address."""

    surface: Surface
    port: int
    identify: Identify | None


def surfaces(parts: Parts, roles: Sequence[str]) -> list[Mounted]:
    """The surfaces that are enabled. Without the role `http` there are none."""
    if "http" not in roles:
        return []
    auth = _authenticator(parts)
    identify = auth.caller if parts.settings.auth.mode == "jwt" else None
    return [
        Mounted(build(parts, auth), getattr(parts.settings, name).port, identify)
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


def _accepting(parts: Parts, check: Check, *, surface: str, stored_cards: VaultMethod | None = None) -> Accepting:
    return Accepting(
        check,
        parts.payments,
        parts.sealer,
        parts.fingerprints,
        parts.ids,
        now_ms,
        parts.admit,
        redrive_after_s=parts.settings.worker.redrive_after_s,
        surface=surface,
        stored_cards=stored_cards,
    )


def _core(parts: Parts, auth: Authenticator) -> CoreApi:
    settings = parts.settings
    users = UserService(
        parts.counterparty("user_service", settings.users.guard),
        settings.users.url,
        cache_s=settings.users.cache_s,
        cache_max=settings.users.cache_max,
    )
    orders = OrderService(parts.counterparty("order_service", settings.orders.guard), settings.orders.url)
    stored_cards = VaultMethod(parts.stored_cards, now_ms) if settings.vault.enabled else None
    accepting = _accepting(parts, OrderChecks(users, orders).check, surface=CoreApi.name, stored_cards=stored_cards)
    changing = Changing(parts.payments, parts.fingerprints, parts.ids.mint_refund, now_ms, parts.admit)
    waiting = OutcomeWaiting(
        accepting, parts.changed, wait_max_s=settings.core.wait_max_s, waiters_max=settings.core.waiters_max
    )
    changes = CoreChanges(changing, waiting, auth)
    phones = parts.phones is not None
    more = [*CoreBreakers(parts.circuits, auth).routes(), *_stripe_hook(parts), *webhook_routes(parts, auth)]
    return CoreApi(accepting, parts.payments, parts.circuits, auth, waiting, changes, more=more, phones=phones)


def _stripe_hook(parts: Parts) -> list[Route]:
    """The path for Stripe's events; none without a secret that they are signed with."""
    secrets = [one.webhook_secret for one in acquirers(parts.settings).values() if one.webhook_secret]

    def signed(header: str, body: bytes) -> bool:
        return is_signed(header, body, secrets, now_s=now_ms() / 1000)

    return StripeHook(signed, attempt_of, parts.payments, now_ms).routes() if secrets else []


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


def _gateway(parts: Parts, auth: Authenticator) -> GatewayApi:
    settings = parts.settings.gateway
    passwords = Argon2Passwords(
        parts.instruments,
        passes=settings.argon2_passes,
        memory_kib=settings.argon2_memory_kib,
        lanes=settings.argon2_lanes,
        at_once=settings.logins_at_once,
        waiting_max=settings.logins_waiting_max,
    )
    store = RedisAccounts(parts.batcher, parts.keys)
    accounts = Accounts(store, passwords, parts.fingerprints, parts.ids.mint_account, now_ms, parts.admit)
    accepting = _accepting(parts, _nothing_to_check, surface="gateway")
    changing = Changing(
        parts.payments, parts.fingerprints, parts.ids.mint_refund, now_ms, parts.admit, surface="gateway"
    )
    return GatewayApi(
        GatewayAccounts(
            accounts,
            TokenSigner(parts.settings.auth),
            auth,
            parts.limiting.of(GatewayApi.name),
            token_hours=settings.token_hours,
        ),
        accepting,
        changing,
        parts.payments,
        auth,
        OutcomeWaiting(accepting, parts.changed, wait_max_s=0, waiters_max=settings.waiters_max),
        hold_s=settings.hold_s,
        process_wait_s=settings.process_wait_s,
    )


def _mpesa(parts: Parts, auth: Authenticator) -> MpesaApi:
    settings, phones = parts.settings.mpesa, parts.phones
    assert phones is not None, "an enabled surface has its base_url"
    accepting = _accepting(parts, _nothing_to_check, surface=MpesaApi.name)
    hints = PushHints(parts.payments, parts.pushes, now_ms, parts.observer.push_callback)
    catalogue = Catalogue(settings.clients, settings.packages, RedisCatalogue(parts.batcher))
    limits, rule = parts.limiting.of(MpesaApi.name), parts.settings.limits.mpesa
    return MpesaApi(
        CountedRequests(limits, catalogue, per_client=rule.per == "caller"),
        catalogue,
        accepting,
        TogetherAsking(parts.charging(Acquirers({phones.name: phones}, {}))),
        parts.pushes,
        Callbacks(
            hints,
            parts.limiting.addresses.of,
            secret=settings.callback_secret,
            sources=settings.callback_sources,
            waiting_max=settings.callbacks_waiting_max,
        ),
        OutcomeWaiting(accepting, parts.changed, wait_max_s=0, waiters_max=settings.waiters_max),
        initiate_wait_s=settings.initiate_wait_s,
    )


async def _nothing_to_check(_: AcceptPayment) -> None:
    """A payment for no order, whose user is whoever asks."""


_BUILDERS: Final[Mapping[str, Callable[[Parts, Authenticator], Surface]]] = {
    "core": _core,
    "orders_api": _orders,
    "gateway": _gateway,
    "mpesa": _mpesa,
    "vault": _vault,
}
"""By the name of the section of settings, in the order of the documentation."""
