"""The arguments of `python -m app simulate`. Apart from what they start, which takes a while to import."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PORTS: Final = {"users": 3002, "orders": 3001, "acquirer": 3009, "gateway": 3008, "daraja": 3010}
TOKEN_VARIABLE: Final = "ENGINE_TOKEN"  # noqa: S105 (a variable's name)
_TOPICS: Final = {"users": "user-events", "orders": "order-events"}

Command = Callable[..., argparse.ArgumentParser]


def add_commands(command: Command, run: object, group: Any) -> None:
    """The arguments of every kind."""
    texts = {
        "users": "the user service",
        "orders": "the order service",
        "acquirer": "the card acquirer",
        "gateway": "the gateway behind the orders surface",
        "daraja": "Safaricom's Daraja, with phones",
    }
    for kind, text in texts.items():
        sub = command(kind, run, f"{text}; faults are scripted over HTTP at /_faults", group)
        sub.set_defaults(kind=kind)
        sub.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
        sub.add_argument("--port", type=_port, default=PORTS[kind], help=f"0 is any free one; default: {PORTS[kind]}")
        kept = sub.add_mutually_exclusive_group()
        kept.add_argument("--journal", type=Path, metavar="FILE", help="keep the state here; default: in memory only")
        if kind in _TOPICS:
            kept.add_argument("--redis", metavar="URL", help="keep the state there, in a database without the engine's")
            _add_events(sub, _TOPICS[kind])
        if kind == "users":
            sub.add_argument("--tokens", action="store_true", help="ask for bearer tokens signed with auth.secret")
        if kind == "orders":
            _add_neighbours(sub)


def _add_events(sub: argparse.ArgumentParser, topic: str) -> None:
    told = sub.add_mutually_exclusive_group()
    told.add_argument("--kafka", metavar="BROKERS", help="publish to Kafka, and listen to it")
    told.add_argument("--events", type=Path, metavar="FILE", help="publish to the event file, and listen to it")
    sub.add_argument("--topic", help=f"default: {topic}")


def _add_neighbours(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--users-url", default="", metavar="URL", help="where users are looked up, with {id}")
    sub.add_argument("--engine-url", default="", metavar="URL", help="who is asked to refund cancelled orders")
    sub.add_argument(
        "--token",
        default="",
        help=f"for the engine, role service; default: {TOKEN_VARIABLE}, else signed with auth.secret",
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return int(text)
