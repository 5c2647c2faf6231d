"""`python -m app …`: every command of the engine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from app import __version__, logs
from app.settings import NOTIFY, ROLES, ConfigError, Settings, from_process, missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 fine, 1 found something wrong, 2 cannot be done like this."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.command(given))
    except (ConfigError, ValueError) as error:
        print(f"payments: {error}", file=sys.stderr)
        return 2


def _serve(given: argparse.Namespace) -> int:
    settings = from_process(given.config)
    if wrong := missing(settings, given.roles):
        raise ConfigError("cannot serve:\n  " + "\n  ".join(wrong))
    if given.processes > 1:
        return _run(_supervised(settings, given, {}), settings)
    one = _one_process(settings, given.roles, reuse_port=given.reuse_port, alive=given.stop_at_eof)
    return _run(one, settings)


def _notify(given: argparse.Namespace) -> int:
    from app.notifying import settings_of

    settings = settings_of(from_process(given.config))
    return _run(_one_process(settings, (NOTIFY,)), settings)


def _demo(given: argparse.Namespace) -> int:
    return _run(_demo_process(given), from_process(given.config))


async def _demo_process(given: argparse.Namespace) -> int:
    from app.demo import DemoFailed, DemoPorts, banner, environment, surroundings

    try:
        async with surroundings(given.config, given.data, DemoPorts()) as settings:
            print(banner(settings, given.data), flush=True)
            if given.processes == 1:
                return await _one_process(settings, (*ROLES, NOTIFY), create=True)
            await _create(settings)
            return await _supervised(settings, given, environment(settings))
    except DemoFailed as error:
        print(f"payments: {error}", file=sys.stderr)
        return 2


async def _one_process(
    settings: Settings,
    roles: Sequence[str],
    *,
    reuse_port: bool = False,
    create: bool = False,
    alive: int | None = None,
) -> int:
    from app.process import StartRefused, run, stop_at_eof, stop_on_signals

    stop = asyncio.Event()
    stop_on_signals(stop)
    if alive is not None:
        stop_at_eof(stop, alive)
    code = 0
    try:
        await run(settings, roles, stop=stop, reuse_port=reuse_port, create=create)
    except* StartRefused as refused:
        print(f"payments: {_first(refused)}", file=sys.stderr)
        code = 2
    return code


async def _supervised(settings: Settings, given: argparse.Namespace, environment: dict[str, str]) -> int:
    from app.process import stop_on_signals
    from app.supervisor import Supervisor

    roles = ",".join(getattr(given, "roles", ROLES))
    config = ("--config", str(given.config)) if given.config else ()
    stop = asyncio.Event()
    stop_on_signals(stop)
    await Supervisor(
        (sys.executable, "-m", "app", "serve", *config, "--roles", roles, "--reuse-port"),
        environment,
        processes=given.processes,
        stop_s=settings.server.stop_s,
    ).run(stop)
    return 0


def _init(given: argparse.Namespace) -> int:
    settings = from_process(given.config)
    if not settings.redis.url:
        raise ConfigError("redis.url (PAYMENTS__REDIS__URL) is not set")
    created = asyncio.run(_create(settings))
    print("dataset marker written" if created else "there is a dataset marker already; nothing done")
    return 0


async def _create(settings: Settings) -> bool:
    from engine.store.check import RedisCheck
    from engine.store.connect import connect

    client = connect(settings.redis)
    try:
        return await RedisCheck(client, settings.redis).create_dataset()
    finally:
        await client.aclose()


_SECRETS: Final = {
    "secret",
    "previous_secret",
    "keys",
    "fingerprint_secret",
    "api_key",
    "webhook_secret",
    "consumer_key",
    "consumer_secret",
    "passkey",
    "callback_secret",
    "password",
    "console_token",
}


def is_secret(key: str) -> bool:
    """Whether a setting of this name is never shown."""
    return key in _SECRETS or "password" in key


def _masked(shown: Any) -> Any:
    """The settings with every secret that is set shown as just that, wherever it stands."""
    if not isinstance(shown, dict):
        return shown
    return {key: "set" if key in _SECRETS and value else _masked(value) for key, value in shown.items()}


def _check_config(given: argparse.Namespace) -> int:
    settings = from_process(given.config)
    shown = _masked(msgspec.to_builtins(settings))
    shown["kafka"] = {key: value for key, value in shown["kafka"].items() if "password" not in key}
    shown["tracing"]["headers"] = "set" if shown["tracing"]["headers"] else ""
    shown["redis"]["url"] = shown["redis"]["url"].rpartition("@")[2]
    print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    wrong = missing(settings, given.roles)
    for line in wrong:
        print(f"payments: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _config_reference(_: argparse.Namespace) -> int:
    from app.reference import reference

    print(reference(is_secret), end="")
    return 0


def _token(given: argparse.Namespace) -> int:
    from app.demo import demo_secret
    from app.tokens import make_token

    settings = from_process(given.config, demo_secret(given.data))
    print(make_token(settings.auth, subject=given.subject, role=given.role, hours=given.hours))
    return 0


def _load(given: argparse.Namespace) -> int:
    from app.demo import demo_secret
    from app.load import load

    return asyncio.run(load(from_process(given.config, demo_secret(given.data)), given))


def _audit(given: argparse.Namespace) -> int:
    from app.audit import audit

    if given.since and not given.topic:
        raise ConfigError("--since is about the topic: give --topic too")
    return asyncio.run(audit(from_process(given.config), given))


def _unknown(given: argparse.Namespace) -> int:
    from app.operations import list_unknown, resolve_unknown

    settings = from_process(given.config)
    if given.action == "list":
        return asyncio.run(list_unknown(settings))
    for name in ("attempt", "outcome", "actor", "reason"):
        if not getattr(given, name):
            raise ConfigError(f"unknown resolve needs --{name}")
    return asyncio.run(resolve_unknown(settings, given))


def _reconcile(given: argparse.Namespace) -> int:
    from app.reconciling import reconcile

    return asyncio.run(reconcile(from_process(given.config), given))


def _items(given: argparse.Namespace) -> int:
    from app.reconciling import close_item, list_items

    settings = from_process(given.config)
    if given.action == "list":
        return asyncio.run(list_items(settings, given))
    for name in ("id", "actor", "reason"):
        if not getattr(given, name):
            raise ConfigError(f"items close needs {'ID' if name == 'id' else f'--{name}'}")
    return asyncio.run(close_item(settings, given))


def _replay(given: argparse.Namespace) -> int:
    from app.operations import replay

    return asyncio.run(replay(from_process(given.config), given))


def _parked(given: argparse.Namespace) -> int:
    from app.parked import list_parked, retry_parked

    settings = from_process(given.config)
    return asyncio.run(list_parked(settings) if given.what == "list" else retry_parked(settings, given))


def _simulate(given: argparse.Namespace) -> int:
    from app.simulate import simulate

    settings = from_process(given.config)
    return _run(simulate(settings, given), settings)


def _keys(given: argparse.Namespace) -> int:
    from app.keys import rotate

    return asyncio.run(rotate(from_process(given.config)))


def _version(_: argparse.Namespace) -> int:
    print(__version__)
    return 0


def _run(main_task: object, settings: Settings) -> int:
    buffer = logs.configure(settings.server.log_level)

    async def with_logs() -> int:
        flushing = asyncio.ensure_future(buffer.run())
        try:
            return await main_task  # type: ignore[misc,no-any-return]
        finally:
            flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await flushing

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(with_logs())
    finally:
        buffer.flush_now()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


_LOAD_SECONDS_MAX: Final = 3600
_LOAD_RATE_MAX: Final = 200

Command = Callable[..., argparse.ArgumentParser]
"""Adds a command: its name, what runs it, what it does, and the group of commands that it belongs to."""


def _mpesa(action: str) -> Callable[[argparse.Namespace], int]:
    def run(given: argparse.Namespace) -> int:
        from app import catalogue

        return int(asyncio.run(getattr(catalogue, action)(from_process(given.config), given)))

    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description="The payment engine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str, group: Any = commands) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = group.add_parser(name, help=text, description=text)
        sub.add_argument(
            "--config", type=Path, default=None, help="a TOML file (default: ./config.toml if it is there)"
        )
        sub.set_defaults(command=run)
        return sub

    _running(command)
    _settling(command)
    text = "who may take payments over M-Pesa, and what for"
    _mpesa_commands(command, commands.add_parser("mpesa", help=text, description=text))
    text = "a pretend counterparty as a process of its own"
    _simulators(command, commands.add_parser("simulate", help=text, description=text))
    text = "events that were published, and those that could not be"
    _telling(command, commands.add_parser("events", help=text, description=text))
    command("version", _version, "print the version")
    return parser


def _running(command: Command) -> None:
    demo = command("demo", _demo, "run with everything that is not configured embedded")
    demo.add_argument("--data", type=Path, default=Path("data"), help="where everything is kept (default: ./data)")
    demo.add_argument("--processes", type=_processes, default=1, metavar="N")
    serve = command("serve", _serve, "run as configured")
    serve.add_argument(
        "--processes", type=_processes, default=1, metavar="N", help="processes on one port (default: 1)"
    )
    serve.add_argument("--reuse-port", action="store_true", help="share the port with other processes")
    # For the children of `--processes` alone: the pipe that ends when their parent does.
    serve.add_argument("--stop-at-eof", type=int, default=None, metavar="FD", help=argparse.SUPPRESS)
    command("notify", _notify, "tell people of events: notifications to the log and by mail, as configured")
    check = command("check-config", _check_config, "show the effective settings and what `serve` misses")
    for sub in (serve, check):
        sub.add_argument("--roles", type=_roles, default=ROLES, help=f"some of {','.join(ROLES)} (default: all)")
    command("config-reference", _config_reference, "print the page docs/configuration.md")
    command("init", _init, "write the dataset marker into an empty Redis, once")
    token = command("token", _token, "print a bearer token")
    token.add_argument("subject", help="the user id")
    token.add_argument("--role", choices=("service", "admin"), help="act for all users")
    token.add_argument("--hours", type=float, default=1.0)
    token.add_argument("--data", type=Path, default=Path("data"), help="the demo's folder, for its secret")
    load = command("load", _load, "send customers to a demo on this machine, for a while")
    for name, most, default, text in (
        ("--seconds", _LOAD_SECONDS_MAX, 60.0, "how long (default: 60)"),
        ("--rate", _LOAD_RATE_MAX, 20.0, "customers a second (default: 20)"),
    ):
        load.add_argument(name, type=_at_most(most), default=default, metavar="N", help=text)
    load.add_argument("--host", default="127.0.0.1", help="where the engine listens; loopback only")
    load.add_argument("--data", type=Path, default=Path("data"), help="the demo's folder, for its secret")
    audit = command("audit", _audit, "check the invariants of a dataset; exit code 1 when one is broken")
    audit.add_argument("--topic", action="store_true", help="also compare the topic, or the event file, with it")
    audit.add_argument("--since", metavar="TIME", help="RFC 3339: events before it need not be in the topic any more")


def _settling(command: Command) -> None:
    unknown = command("unknown", _unknown, "attempts of unknown outcome: list them, or settle one by your word")
    unknown.add_argument("action", choices=("list", "resolve"))
    unknown.add_argument("--attempt", help="the attempt's id, as `list` shows it")
    unknown.add_argument("--outcome", choices=("approved", "declined"))
    unknown.add_argument("--transaction", default="", help="the acquirer's transaction id, for approved")
    unknown.add_argument("--actor", help="who decides; kept in the payment's history")
    unknown.add_argument("--reason", help="why; kept in the payment's history")
    unknown.add_argument("--yes", action="store_true", help="do it; without this nothing is changed")
    reconcile = command(
        "reconcile", _reconcile, "hold an acquirer's statement against the ledger; exit code 1 if unlike"
    )
    reconcile.add_argument("--statement", type=Path, required=True, metavar="FILE.csv")
    reconcile.add_argument("--acquirer", help="whose it is (default: the first acquirer)")
    reconcile.add_argument("--yes", action="store_true", help="keep what is missing here as open items")
    keys = command("keys", _keys, "seal every stored card anew, with the first of cards.keys; safe to run again")
    keys.add_argument("action", choices=("rotate",))
    items = command("items", _items, "what acquirers did and our books do not show: list it, or close one by your word")
    items.add_argument("action", choices=("list", "close"))
    items.add_argument("id", nargs="?", help="the item's id, as `list` shows it")
    items.add_argument("--closed", action="store_true", help="list those that are closed")
    items.add_argument("--actor", help="who closes it; kept with the item")
    items.add_argument("--reason", help="why; kept with the item")
    items.add_argument("--yes", action="store_true", help="do it; without this nothing is changed")


def _mpesa_commands(command: Command, mpesa: argparse.ArgumentParser) -> None:
    actions = mpesa.add_subparsers(required=True, metavar="ACTION")
    command("list", _mpesa("listed"), "clients and packages that were added, a JSON line each", actions)
    clients, packages = (
        actions.add_parser(what, help=told).add_subparsers(required=True, metavar="ACTION")
        for what, told in (("client", "add, disable or enable a client"), ("package", "add a package"))
    )
    client = command("add", _mpesa("add_client"), "add a client; prints its id", clients)
    package = command("add", _mpesa("add_package"), "add a package of a client; prints its id", packages)
    package.add_argument("--client", required=True, metavar="ID", help="the client's id")
    package.add_argument("--price", required=True, type=int, metavar="SHILLINGS", help="whole shillings")
    for adding in (client, package):
        adding.add_argument("--name", required=True)
        adding.add_argument("--id", help="a UUID (default: a new one)")
    for verb in ("disable", "enable"):
        switching = command(verb, _mpesa(f"{verb}_client"), f"{verb} a client that was added", clients)
        switching.add_argument("id", metavar="ID")


def _simulators(command: Command, simulators: argparse.ArgumentParser) -> None:
    from app.simulate_arguments import add_commands

    add_commands(command, _simulate, simulators.add_subparsers(required=True, metavar="WHO"))


def _telling(command: Command, events_parser: argparse.ArgumentParser) -> None:
    events = events_parser.add_subparsers(required=True, metavar="ACTION")
    replay = command("replay", _replay, "publish events again, with the same ids", events)
    replay.add_argument("--from", dest="first", required=True, metavar="TIME", help="RFC 3339")
    replay.add_argument("--to", dest="last", required=True, metavar="TIME", help="RFC 3339")
    replay.add_argument("--payment", help="only this payment")
    parked = command("parked", _parked, "events that the broker would not take: list them, or put them back", events)
    parked.add_argument("what", choices=("list", "retry"))
    parked.add_argument("--id", action="append", help="only this event, as `list` shows it; may be given again")
    parked.add_argument("--yes", action="store_true", help="do it; without this nothing is changed")


def _roles(text: str) -> tuple[str, ...]:
    roles = tuple(part.strip() for part in text.split(",") if part.strip())
    if not roles or not set(roles) <= set(ROLES):
        raise argparse.ArgumentTypeError(f"must be some of {', '.join(ROLES)}")
    return roles


def _at_most(most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"must be above 0, and {most:g} at most")
        return value

    return number


def _processes(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError("must be 1 to 64")
    return int(text)


if __name__ == "__main__":
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR") == "":
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
    sys.exit(main())
