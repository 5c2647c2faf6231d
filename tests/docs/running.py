"""Runs a page: sends its requests, holds the answers against it, and pastes its shell lines."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import pytest
from yarl import URL

from tests.docs.matching import Differs, filled, match_json, match_text
from tests.docs.pages import Block, blocks
from tests.docs.receiving import Got
from tests.support import ROOT, RedisServer

_LOCAL: Final = re.compile(r"http://(?:127\.0\.0\.1|localhost):([0-9]+)")
_WITHIN_S: Final = 40.0
_PAUSE_S: Final = 0.05
_DONE: Final = "@@@ done @@@"
_PYTHON: Final = ".venv/bin/python"


class Message(NamedTuple):
    """A request or an answer, as it stands on the page."""

    first: str
    headers: list[tuple[str, str]]
    body: str

    @property
    def method(self) -> str:
        """A request's."""
        return self.first.split(" ", 1)[0]

    @property
    def target(self) -> str:
        """A request's, with its names."""
        return self.first.split(" ", 1)[1]

    @property
    def status(self) -> int:
        """An answer's."""
        return int(self.first.split()[1])


class Example(NamedTuple):
    """A request and the answer that the page promises; `until`: asked again until it is that."""

    request: Message
    answer: Message
    until: bool
    line: int


class Told(NamedTuple):
    """An event that the page promises."""

    event: str
    line: int


class Received(NamedTuple):
    """A message that the page promises to whoever listens for webhooks."""

    message: Message
    line: int


class Verified(NamedTuple):
    """Code that takes the message received last, as `headers` and `body`, and no other body with these headers."""

    code: str
    line: int


Promise = Example | Told | Received | Verified


class Pasted(NamedTuple):
    """Lines for a shell, and what they print as JSON, if the page says it."""

    script: str
    output: str | None
    line: int


def examples(text: str) -> list[Promise]:
    """What a page promises of HTTP, in order."""
    found: list[Promise] = []
    asked: Block | None = None
    for block in blocks(text):
        match block.info.split():
            case ["http", "received"]:
                found.append(Received(_message(block), block.line))
            case ["python", "received"]:
                found.append(Verified(block.text, block.line))
            case ["http", *_] if not block.text.startswith("HTTP/"):
                assert asked is None, f"line {block.line}: the request before has no answer"
                asked = block
            case ["http"]:
                assert asked is not None, f"line {block.line}: an answer to no request"
                found.append(Example(_message(asked), _message(block), asked.info == "http until", asked.line))
                asked = None
            case ["json", "event"]:
                found.append(Told(block.text, block.line))
            case _:
                pass
    assert asked is None, "the last request has no answer"
    return found


def pastes(text: str) -> list[Pasted]:
    """What a page has to paste, in order."""
    found: list[Pasted] = []
    everything = blocks(text)
    for number, block in enumerate(everything):
        if block.info == "sh run":
            after = everything[number + 1] if number + 1 < len(everything) else None
            output = after.text if after is not None and after.info == "json" else None
            found.append(Pasted(block.text, output, block.line))
    return found


def _message(block: Block) -> Message:
    head, _, body = block.text.partition("\n\n")
    first, *lines = head.strip().splitlines()
    headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Message(first, headers, body.strip())


class Engine(NamedTuple):
    """A running engine with all doors open: by the port that a page names, where it really is."""

    ports: Mapping[str, str]
    environment: Mapping[str, str]
    events_file: Path
    session: aiohttp.ClientSession
    redis: RedisServer
    received: Sequence[Got]

    def moved(self, text: str) -> str:
        """The text with the real addresses."""
        return _LOCAL.sub(lambda found: self.ports[found[1]], text)


class Run:
    """One page against one engine. `names` are those that it may use without having given them."""

    def __init__(self, engine: Engine, port: str, names: Mapping[str, str], *, within_s: float = _WITHIN_S) -> None:
        """`within_s`: how long it is waited for what comes by itself."""
        self._engine, self._base = engine, engine.ports[port]
        self._names = dict(names)
        self._within_s = within_s
        self._last: Got | None = None

    async def page(self, text: str) -> int:
        """Run all of it; gives how many promises it makes. Raises `Differs` naming the line."""
        promises = examples(text)
        for promise in promises:
            try:
                await self._kept(promise)
            except Differs as differs:
                raise Differs(f"line {promise.line}: {differs}") from None
        return len(promises)

    async def _kept(self, promise: Promise) -> None:
        match promise:
            case Example(until=True):
                await self._in_time(lambda: self._answered(promise))
            case Example():
                await self._answered(promise)
            case Told():
                await self._in_time(lambda: self._told(promise))
            case Received():
                await self._in_time(lambda: self._received(promise))
            case Verified():
                self._verified(promise)

    async def _in_time(self, look: Callable[[], Awaitable[None]]) -> None:
        ends_at = time.monotonic() + self._within_s
        while True:
            try:
                await look()
            except Differs:
                if time.monotonic() > ends_at:
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _answered(self, example: Example) -> None:
        target = filled(example.request.target, self._names)
        url = self._engine.moved(target) if target.startswith("http") else self._base + target
        headers = {name: filled(value, self._names) for name, value in example.request.headers}
        body = filled(self._engine.moved(example.request.body), self._names).encode() or None
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        async with self._engine.session.request(
            example.request.method,
            URL(url, encoded=True),
            data=body,
            headers=headers,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            text = await answer.text()
        if example.answer.status != answer.status:
            raise Differs(f"status {answer.status}: {text}")
        self._names = self._held(example.answer, answer.headers, text)

    def _held(self, wanted: Message, headers: Mapping[str, str], text: str) -> dict[str, str]:
        names = dict(self._names)
        for name, value in wanted.headers:
            if name not in headers:
                raise Differs(f"there is no header {name}")
            names |= match_text(value, headers[name], names, name)
        body = self._engine.moved(wanted.body)
        if body.startswith(("{", "[")):
            names |= match_json(body, text, names)
        else:
            names |= match_text(body, text.strip(), names)
        return names

    async def _told(self, told: Told) -> None:
        path = self._engine.events_file
        lines = path.read_text().splitlines() if path.exists() else []
        for line in reversed(lines):
            try:
                self._names |= match_json(told.event, line, self._names)
            except Differs:
                continue
            return
        raise Differs(f"no such event among {lines[-5:]}")

    async def _received(self, received: Received) -> None:
        wanted = received.message
        for got in reversed(self._engine.received):
            if wanted.first != f"POST {got.path}":
                continue
            try:
                self._names = self._held(wanted, got.headers, got.body.decode())
            except Differs:
                continue
            self._last = got
            return
        raise Differs(f"no such message among {self._engine.received[-5:]}")

    def _verified(self, verified: Verified) -> None:
        if self._last is None:
            raise Differs("nothing was received before")
        code = compile(filled(verified.code, self._names), f"line {verified.line}", "exec")
        try:
            exec(code, {"headers": dict(self._last.headers), "body": self._last.body})
        except Exception as error:
            raise Differs(f"the code does not take what was received: {error!r}") from error
        try:
            exec(code, {"headers": dict(self._last.headers), "body": self._last.body.replace(b"{", b"{ ", 1)})
        except Exception:
            return
        raise Differs("the code takes a body that was not signed")


def paste(engine: Engine, text: str, names: Mapping[str, str]) -> int:
    """Paste all shell lines of a page into one shell, and hold what they print against it; gives how many blocks."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    everything = pastes(text)
    script = f"\necho; echo '{_DONE}'\n".join(one.script for one in everything)
    script = engine.moved(script).replace(_PYTHON, sys.executable).replace("data/events.jsonl", str(engine.events_file))
    done = subprocess.run(
        ["/bin/sh", "-ec", script],
        env={**os.environ, **engine.environment}, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    known = dict(names)
    for one, output in zip(everything, done.stdout.split(_DONE), strict=True):
        if one.output is None:
            continue
        shown = _values(output)
        wanted = _examples_of(one.output)
        if len(shown) != len(wanted):
            raise Differs(f"line {one.line}: printed {output}")
        for example, value in zip(wanted, shown, strict=True):
            known |= match_json(example, value, known)
    return len(everything)


def _values(output: str) -> list[str]:
    """The JSON values that were printed, one behind the other."""
    decoder, found, rest = json.JSONDecoder(), list[str](), output.strip()
    while rest:
        _, end = decoder.raw_decode(rest)
        found.append(rest[:end])
        rest = rest[end:].strip()
    return found


def _examples_of(block: str) -> list[str]:
    """The examples in a block: one value after the other, a blank line between them."""
    return [part for part in re.split(r"\n\s*\n", block.strip()) if part]
