"""`python -m simulators users|orders|acquirer|gateway`: one pretend counterparty as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from simulators.acquirer import AcquirerSim
from simulators.internal_gateway import InternalGatewaySim
from simulators.journal import JournalDamaged
from simulators.orders import OrderServiceSim
from simulators.server import HasApp, serve
from simulators.users import UserServiceSim


class Kind(NamedTuple):
    """What can be started, and the port it has when none is asked for."""

    make: type[UserServiceSim] | type[OrderServiceSim] | type[AcquirerSim] | type[InternalGatewaySim]
    port: int


KINDS: Final = {
    "users": Kind(UserServiceSim, 3002),
    "orders": Kind(OrderServiceSim, 3001),
    "acquirer": Kind(AcquirerSim, 3009),
    "gateway": Kind(InternalGatewaySim, 3008),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the exit code: 0 after such a stop, 2 when it cannot start."""
    given = _parser().parse_args(arguments)
    kind = KINDS[given.kind]
    port = kind.port if given.port is None else given.port
    try:
        asyncio.run(_serve(given.kind, kind.make(given.journal), given.host, port))
    except BlockingIOError:
        return _refuse(f"{given.journal} is in use by another process")
    except (JournalDamaged, OSError) as error:
        return _refuse(str(error))
    return 0


async def _serve(name: str, sim: HasApp, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(sim, host, port) as url:
        # One line, so that whoever started it knows the port and that it may be asked now.
        sys.stdout.write(f"{name} simulator at {url}\n")
        sys.stdout.flush()
        await stop.wait()


def _refuse(reason: str) -> int:
    sys.stderr.write(f"simulators: {reason}\n")
    return 2


def _parser() -> argparse.ArgumentParser:
    ports = ", ".join(f"{name} {kind.port}" for name, kind in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m simulators", description="A pretend counterparty; faults are scripted over HTTP at /_faults."
    )
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument("--port", type=_port, help=f"0 is any free one; default: {ports}")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="keep the state here; default: in memory only")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
