"""The journal: what was appended comes back, and half of a record never does."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from simulators.journal import Journal, JournalDamaged


class Note(msgspec.Struct, frozen=True):
    """A small record."""

    text: str


@contextmanager
def opened(path: Path | None) -> Iterator[tuple[Journal[Note], list[Note] | None]]:
    """A journal, and what it held when it was opened."""
    journal = Journal(path, Note)
    try:
        yield journal, journal.open()
    finally:
        journal.close()


@contextmanager
def files_no_longer_than(size_bytes: int) -> Iterator[None]:
    """As on a full disk: writes beyond this size are cut short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_records_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "notes.jsonl"
    with opened(path) as (journal, held):
        assert held == []
        for text in ("one", "two\nlines", "three"):
            journal.append(Note(text))
    with opened(path) as (_, held):
        assert held == [Note("one"), Note("two\nlines"), Note("three")]


@pytest.mark.parametrize("torn", [b'{"te', b'{"text":"whole but without its newline"}', b"\x00\xff"])
def test_a_torn_last_line_is_dropped_and_does_not_spoil_the_next(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text":"one"}\n' + torn)
    with opened(path) as (journal, held):
        assert held == [Note("one")]
        journal.append(Note("two"))
    assert path.read_bytes() == b'{"text":"one"}\n{"text":"two"}\n'


@pytest.mark.parametrize("damage", [b"oops", b"", b'{"text":7}', b'{"text":"\xff"}'])
def test_a_damaged_line_in_the_middle_is_refused_with_its_number(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text":"one"}\n' + damage + b'\n{"text":"three"}\n')
    journal = Journal(path, Note)
    with pytest.raises(JournalDamaged, match="line 2") as caught:
        journal.open()
    assert (caught.value.path, caught.value.line) == (path, 2)


def test_two_journals_on_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    with opened(path), pytest.raises(BlockingIOError):
        Journal(path, Note).open()


def test_a_write_cut_short_by_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    with opened(path) as (journal, _):
        journal.append(Note("one"))
        with files_no_longer_than(path.stat().st_size + 5), pytest.raises(OSError, match="short write"):
            journal.append(Note("two"))
        journal.append(Note("three"))
    with opened(path) as (_, held):
        assert held == [Note("one"), Note("three")]


def test_a_journal_that_is_not_open_refuses_a_record(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        Journal(tmp_path / "notes.jsonl", Note).append(Note("one"))


def test_without_a_path_nothing_is_written_and_nothing_is_held() -> None:
    with opened(None) as (journal, held):
        assert held is None
        journal.append(Note("one"))
