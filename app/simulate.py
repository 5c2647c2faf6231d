"""`python -m app simulate users|orders|acquirer|gateway|daraja`: one pretend counterparty as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from app.companions import Footing, order_service, user_service
from app.process import stop_on_signals
from app.settings import ConfigError, Settings
from app.simulate_arguments import TOKEN_VARIABLE
from app.tokens import make_token
from engine.errors import StoreUnavailable
from engine.store.connect import RedisSettings
from simulators import orders, users
from simulators.acquirer import AcquirerSim
from simulators.daraja import DarajaSim
from simulators.internal_gateway import InternalGatewaySim
from simulators.journal import JournalDamaged
from simulators.neighbours import Neighbours
from simulators.server import serve

_PLAIN: Final = {"acquirer": AcquirerSim, "gateway": InternalGatewaySim, "daraja": DarajaSim}
_SERVICE: Final = "order-service"


async def simulate(settings: Settings, given: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGHUP or Ctrl-C. Returns the exit code: 0 after such a stop, 2 when it cannot start."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    try:
        async with _serving(settings, given) as url:
            # One line, so that whoever started it knows the port and that it may be asked now.
            print(f"{given.kind} simulator at {url}", flush=True)
            await stop.wait()
    except BlockingIOError:
        return _refuse(f"{given.journal} is in use by another process")
    except (JournalDamaged, StoreUnavailable, OSError) as error:
        return _refuse(str(error))
    return 0


def _serving(settings: Settings, given: argparse.Namespace) -> contextlib.AbstractAsyncContextManager[str]:
    if given.kind in _PLAIN:
        return serve(_PLAIN[given.kind](given.journal), given.host, given.port)
    footing = Footing(
        given.journal,
        RedisSettings(url=given.redis) if given.redis else None,
        msgspec.structs.replace(settings.kafka, brokers=given.kafka) if given.kafka else None,
        given.events,
    )
    if given.kind == "users":
        if given.tokens and not settings.auth.secret:
            raise ConfigError("--tokens needs auth.secret (JWT_SEC)")
        secret = settings.auth.secret if given.tokens else ""
        return user_service(footing, given.host, given.port, topic=given.topic or users.TOPIC, jwt_secret=secret)
    if given.users_url and "{id}" not in given.users_url:
        raise ConfigError("--users-url must be a template with {id}")
    neighbours = Neighbours(users_url=given.users_url, engine_url=given.engine_url, token=_token(settings, given))
    return order_service(
        footing, given.host, given.port,
        topic=given.topic or orders.TOPIC, payments_topic=settings.events.topic, neighbours=neighbours,
    )  # fmt: skip


def _token(settings: Settings, given: argparse.Namespace) -> Callable[[], str] | None:
    ready_made: str = given.token or os.environ.get(TOKEN_VARIABLE, "")
    return (lambda: ready_made) if ready_made else service_token(settings)


def service_token(settings: Settings) -> Callable[[], str] | None:
    """Signs a token for each request to the engine, so that none is ever too old; None where none is needed."""
    if settings.auth.mode == "none" or not settings.auth.secret:
        return None
    return lambda: make_token(settings.auth, subject=_SERVICE, role="service", hours=1)


def _refuse(reason: str) -> int:
    print(f"payments: {reason}", file=sys.stderr)
    return 2
