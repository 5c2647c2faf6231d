"""Logs: JSON lines, one stream, no locals, and never a reason to break."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from app.logs import BufferedLog, configure
from engine.cards import Pan
from tests.engine.making import PAN


class Terminal(io.StringIO):
    """Counts how often it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


class Log:
    """A configured log whose lines can be read."""

    def __init__(self, level: str = "debug") -> None:
        self.terminal = Terminal()
        self.buffer = configure(level, self.terminal)

    def lines(self) -> list[dict[str, Any]]:
        self.buffer.flush_now()
        return [json.loads(line) for line in self.terminal.getvalue().split("\n")[:-1]]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def log() -> Any:
    return structlog.get_logger()


def test_a_line_is_one_json_object_with_time_level_and_message_first() -> None:
    logged = Log()
    log().info("payment settled", payment_id="pay-1", attempt=2)
    logged.buffer.flush_now()
    text = logged.terminal.getvalue()
    assert text.count("\n") == 1 and text.endswith("}\n")
    line = json.loads(text)
    assert list(line) == ["time", "level", "message", "payment_id", "attempt"]
    assert line | {"time": ""} == {
        "time": "", "level": "info", "message": "payment settled", "payment_id": "pay-1", "attempt": 2,
    }  # fmt: skip
    assert len(line["time"]) == 24 and line["time"].endswith("Z")


def test_line_breaks_in_values_do_not_make_lines() -> None:
    logged = Log()
    log().warning("odd\nvalue", reason='a\nb\r"c"\u2028')
    assert logged.line()["reason"] == 'a\nb\r"c"\u2028' and logged.terminal.getvalue().count("\n") == 1


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_lines_below_the_level_are_not_written(level: str, shown: int) -> None:
    logged = Log(level)
    for name in ("debug", "info", "warning", "error"):
        getattr(log(), name)("line")
    assert [line["level"] for line in logged.lines()] == ["debug", "info", "warning", "error"][-shown:]


def test_lines_of_libraries_come_in_the_same_form_from_warning_up() -> None:
    logged = Log()
    library = logging.getLogger("some.library")
    library.info("not shown")
    library.warning("lost %s of %d", "one", 2)
    library.error("100% broken")
    assert [(line["level"], line["message"], line["logger"]) for line in logged.lines()] == [
        ("warning", "lost one of 2", "some.library"),
        ("error", "100% broken", "some.library"),
    ]


def test_of_a_librarys_exception_only_the_kind_is_written() -> None:
    """Its text and its objects may hold requests."""
    logged = Log()
    try:
        int(PAN + "x")
    except ValueError:
        logging.getLogger("some.library").exception("cannot go on")
    line = logged.line()
    assert line["error"] == "ValueError" and PAN not in logged.terminal.getvalue()


def test_our_own_exceptions_are_written_with_their_way_and_without_locals() -> None:
    logged = Log()
    number = PAN
    try:
        len(number) / 0
    except ZeroDivisionError:
        log().exception("job broke", payment_id="pay-1")
    line = logged.line()
    assert line["level"] == "error" and "ZeroDivisionError: division by zero" in line["exception"]
    assert "test_logs.py" in line["exception"] and PAN not in logged.terminal.getvalue()


class Unshowable:
    """An object of a library."""

    def __repr__(self) -> str:
        return "Unshowable()"


def test_objects_are_written_as_they_show_themselves() -> None:
    logged = Log()
    log().info("line", pan=Pan(PAN), other=Unshowable(), number=2**100, rate=float("nan"), many=(1, None))
    line = logged.line()
    assert (line["pan"], line["other"], line["number"], line["rate"]) == ("Pan(****4242)", "Unshowable()", 2**100, None)
    assert line["many"] == [1, None]


@pytest.mark.parametrize("value", ["\udcff", {"\ud800": 1}, ["ok", "\udfff"]])
def test_text_that_is_no_unicode_is_written_somehow_and_breaks_nobody(value: object) -> None:
    """A log line stands in the middle of a payment."""
    logged = Log()
    log().warning("odd name", reason=value, payment_id="pay-1")
    line = logged.line()
    assert (line["message"], line["payment_id"]) == ("odd name", "pay-1")


@pytest.mark.parametrize("level", [1, 25, 35, 60])
def test_a_librarys_own_level_breaks_nobody(level: int) -> None:
    logged = Log()
    library = logging.getLogger("some.library.with.levels")
    library.setLevel(1)
    library.log(level, "of an odd level")
    library.setLevel(logging.NOTSET)
    assert [line["message"] for line in logged.lines()] == ["of an odd level"] * (level > 10)


@pytest.mark.parametrize("arguments", [(), ("one",), ("one", "two", "three"), ({"a": 1},)])
def test_a_librarys_wrong_arguments_break_nobody_and_are_not_shown(arguments: tuple[object, ...]) -> None:
    logged = Log()
    logging.getLogger("some.library").warning("from %s to %d", *arguments)
    line = logged.line()
    assert line["message"] == "from %s to %d" and "one" not in logged.terminal.getvalue()


def said(logger: str, text: str, at_s: float, *arguments: object) -> None:
    """A line that a library says at a time of our choice."""
    record = logging.LogRecord(logger, logging.WARNING, __file__, 1, text, arguments, None)
    record.created = at_s
    logging.getLogger(logger).handle(record)


def test_aiokafka_says_the_same_thing_once_a_minute_and_everybody_else_as_often_as_they_like() -> None:
    """While a broker is away it says so several times a second, each time of another node or port."""
    logged = Log()
    for at_s in (1000.0, 1000.1, 1059.9, 1060.0, 1061.0):
        said("aiokafka.conn", "cannot reach %s", at_s, f"node {at_s}")
        said("asyncio", "slow", at_s)
    said("aiokafka.conn", "something else", 1000.1)
    said("aiokafka.client", "cannot reach %s", 1000.1, "node")
    lines = [(line["logger"], line["message"]) for line in logged.lines()]
    assert lines.count(("asyncio", "slow")) == 5
    assert sorted(line for line in lines if line[0] != "asyncio") == [
        ("aiokafka.client", "cannot reach node"),
        ("aiokafka.conn", "cannot reach node 1000.0"),
        ("aiokafka.conn", "cannot reach node 1060.0"),
        ("aiokafka.conn", "something else"),
    ]


def test_lines_are_gathered_and_written_in_their_order() -> None:
    logged = Log()
    for number in range(100):
        log().info("line", number=number)
    assert logged.terminal.writes == 0, "a write for every line costs as much as a request"
    assert [line["number"] for line in logged.lines()] == list(range(100)) and logged.terminal.writes == 1
    logged.buffer.flush_now()
    assert logged.terminal.writes == 1


def test_what_is_much_is_written_without_being_asked() -> None:
    terminal = Terminal()
    buffer = BufferedLog(terminal)
    for _ in range(66):
        buffer.write("x" * 1000)
        buffer.flush()
    assert terminal.writes == 1 and len(terminal.getvalue()) == 66_000


async def test_what_is_little_is_written_soon_and_the_rest_at_the_end() -> None:
    terminal = Terminal()
    buffer = BufferedLog(terminal)
    running = asyncio.create_task(buffer.run())
    buffer.write("first\n")
    async with asyncio.timeout(30):
        while not terminal.getvalue():  # noqa: ASYNC110 - written by time
            await asyncio.sleep(0.01)
    buffer.write("last\n")
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled() and terminal.getvalue() == "first\nlast\n"


class Disk(io.RawIOBase):
    """Takes as many bytes as there is room, then fails like a disk that is full, or like a pipe that nobody reads."""

    def __init__(self, room: int, *, blocks: bool = False) -> None:
        super().__init__()
        self.room = room
        self.blocks = blocks
        self.tries = 0
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        self.tries += 1
        part = bytes(data[: self.room])
        if not part and self.blocks:
            return None
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(part)
        self.taken += part
        return len(part)

    def as_stream(self) -> io.TextIOWrapper:
        """As Python opens stderr: text over a buffer over this."""
        return io.TextIOWrapper(io.BufferedWriter(self), encoding="utf-8", line_buffering=True)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.taken.decode().splitlines()]


class Flaky(Terminal):
    """Fails a number of times."""

    def __init__(self, failures: int, error: Exception) -> None:
        super().__init__()
        self.failures = failures
        self.error = error

    def write(self, text: str) -> int:
        if self.failures:
            self.failures -= 1
            raise self.error
        return super().write(text)


ENOUGH = 10**9


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), BrokenPipeError(), BlockingIOError(), ValueError("closed file")]
)
def test_what_could_not_be_written_is_written_by_the_next_flush(error: Exception) -> None:
    terminal = Flaky(2, error)
    buffer = configure("info", terminal)
    log().info("first")
    buffer.flush_now()
    log().info("second")
    buffer.flush_now()
    assert terminal.getvalue() == ""
    buffer.flush_now()
    assert [json.loads(line)["message"] for line in terminal.getvalue().splitlines()] == ["first", "second"]


@pytest.mark.parametrize("blocks", [False, True])
def test_a_line_that_is_half_out_is_finished_and_nothing_is_written_twice(blocks: bool) -> None:
    """Every split of three lines: inside a line, inside a letter, and between two lines."""
    lines = ["one\n", "zw\u00f6lf\n", "three\n"]
    whole = "".join(lines).encode()
    for room in range(len(whole) + 1):
        disk = Disk(room, blocks=blocks)
        buffer = BufferedLog(disk.as_stream())
        for line in lines:
            buffer.write(line)
        buffer.flush_now()
        assert disk.taken == whole[:room]
        buffer.flush_now()
        disk.room = ENOUGH
        buffer.write("later\n")
        buffer.flush_now()
        assert disk.taken == whole + b"later\n"


def test_a_file_that_fails_for_long_costs_the_oldest_lines_and_one_line_says_how_many() -> None:
    """Nobody who logs hears of it, and the memory has a bound."""
    disk = Disk(50)
    buffer = configure("info", disk.as_stream())
    for number in range(5000):
        log().info("line", number=number, padding="x" * 100)
        if number % 500 == 0:
            buffer.flush_now()
    disk.room = 10  # too little for anything but a part of the line that is half out
    buffer.flush_now()
    assert buffer._size <= 256 * 1024
    assert disk.tries < 50, "a try at every line costs as much as a request"

    disk.room = ENOUGH
    buffer.flush_now()
    log().info("all is well")
    buffer.flush_now()

    *kept, lost, last = disk.lines()
    numbers = [line["number"] for line in kept]
    assert numbers == [0, *range(numbers[1], 5000)] and len(disk.taken) > 250 * 1024
    assert list(lost) == ["time", "level", "message", "count"] and len(lost["time"]) == 24
    assert (lost["level"], lost["message"], lost["count"]) == ("warning", "log lines lost", 5000 - len(kept))
    assert last["message"] == "all is well"


@pytest.mark.parametrize("room", [0, 20])
def test_the_line_about_lost_lines_may_itself_have_to_wait(room: int) -> None:
    disk = Disk(0)
    buffer = BufferedLog(disk.as_stream())
    buffer.write("x" * 300_000)
    buffer.flush_now()
    disk.room = room
    buffer.flush_now()
    buffer.write("x" * 300_000)
    disk.room = ENOUGH
    buffer.flush_now()
    buffer.flush_now()
    counts = [line["count"] for line in disk.lines()]
    assert counts == ([1, 1] if room else [2]), "what was begun is finished, what was not is counted anew"


async def test_writing_by_time_goes_on_after_failures_and_the_stop_is_quiet() -> None:
    disk = Disk(0)
    buffer = BufferedLog(disk.as_stream())
    running = asyncio.create_task(buffer.run())
    buffer.write("first\n")
    async with asyncio.timeout(30):
        while disk.tries < 2:  # noqa: ASYNC110 - tried by time
            await asyncio.sleep(0.01)
        disk.room = 6
        while not disk.taken:  # noqa: ASYNC110 - written by time
            await asyncio.sleep(0.01)
    buffer.write("last\n")
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled() and disk.taken == b"first\n"


def test_a_pipe_without_a_reader_breaks_nobody() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        buffer = BufferedLog(pipe)
        buffer.write("first\n")
        buffer.flush_now()
        assert os.read(reading, 100) == b"first\n"
        os.close(reading)
        for _ in range(3):
            buffer.write("x" * 100_000)
            buffer.flush_now()
    buffer.flush_now()
