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
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import pytest
from yarl import URL

from tests.docs.matching import Differs, filled, match_json, match_text
from tests.docs.pages import Block, blocks
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


class Pasted(NamedTuple):
    """Lines for a shell, and what they print as JSON, if the page says it."""

    script: str
    output: str | None
    line: int


def examples(text: str) -> list[Example | Told]:
    """What a page promises of HTTP, in order."""
    found: list[Example | Told] = []
    asked: Block | None = None
    for block in blocks(text):
        match block.info.split():
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

    def moved(self, text: str) -> str:
        """The text with the real addresses."""
        return _LOCAL.sub(lambda found: self.ports[found[1]], text)


class Run:
    """One page against one engine. `names` are those that it may use without having given them."""

    def __init__(self, engine: Engine, port: str, names: Mapping[str, str]) -> None:
        self._engine, self._base = engine, engine.ports[port]
        self._names = dict(names)

    async def page(self, text: str) -> int:
        """Run all of it; gives how many promises it makes. Raises `Differs` naming the line."""
        promises = examples(text)
        for promise in promises:
            try:
                await (self._told(promise) if isinstance(promise, Told) else self._asked(promise))
            except Differs as differs:
                raise Differs(f"line {promise.line}: {differs}") from None
        return len(promises)

    async def _asked(self, example: Example) -> None:
        ends_at = time.monotonic() + _WITHIN_S
        while True:
            try:
                self._names |= await self._answered(example)
            except Differs:
                if not example.until or time.monotonic() > ends_at:
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _answered(self, example: Example) -> dict[str, str]:
        target = filled(example.request.target, self._names)
        url = self._engine.moved(target) if target.startswith("http") else self._base + target
        headers = {name: filled(value, self._names) for name, value in example.request.headers}
        body = filled(example.request.body, self._names).encode() or None
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        async with self._engine.session.request(
            example.request.method,
            URL(url, encoded=True),
            data=body,
            headers=headers,
            skip_auto_headers=("Content-Type",),
        ) as answer:
            return self._held(example.answer, answer, await answer.text())

    def _held(self, wanted: Message, answer: aiohttp.ClientResponse, text: str) -> dict[str, str]:
        if wanted.status != answer.status:
            raise Differs(f"status {answer.status}: {text}")
        names = dict(self._names)
        for name, value in wanted.headers:
            if name not in answer.headers:
                raise Differs(f"the answer has no header {name}")
            names |= match_text(value, answer.headers[name], names, name)
        if wanted.body.startswith(("{", "[")):
            names |= match_json(wanted.body, text, names)
        else:
            names |= match_text(wanted.body, text.strip(), names)
        return names

    async def _told(self, told: Told) -> None:
        ends_at = time.monotonic() + _WITHIN_S
        while True:
            path = self._engine.events_file
            lines = path.read_text().splitlines() if path.exists() else []
            for line in reversed(lines):
                try:
                    self._names |= match_json(told.event, line, self._names)
                except Differs:
                    continue
                return
            if time.monotonic() > ends_at:
                raise Differs(f"no such event among {lines[-5:]}")
            await asyncio.sleep(_PAUSE_S)


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
