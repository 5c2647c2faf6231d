"""The event file under crashes, full disks and company."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clients.event_file import EventFile
from tests.kafka_support import make_event

TREE = Path(__file__).parents[2]


def ids_in(path: Path) -> list[str]:
    """The event ids in the file; fails when a line is not whole."""
    assert path.read_bytes().endswith(b"\n")
    return [json.loads(line)["headers"]["ce_id"] for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("torn", [b"{", b'{"topic":"t","ke', b'"' + b"x" * 200_000])
async def test_a_torn_last_line_is_cut_off_before_the_next_batch(tmp_path: Path, torn: bytes) -> None:
    """It was never acknowledged, so its event comes again; joined to the next line it would spoil that one too."""
    path = tmp_path / "events.jsonl"
    await EventFile(path).publish([make_event("t", "pay-1", n) for n in (1, 2)])
    with path.open("ab") as file:
        file.write(torn)

    assert await EventFile(path).publish([make_event("t", "pay-1", 3)]) == [True]

    assert ids_in(path) == ["pay-1-1", "pay-1-2", "pay-1-3"]


async def test_a_file_that_holds_only_a_torn_line_is_started_again(tmp_path: Path) -> None:
    """A crash may hit the very first write."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"topic"')

    assert await EventFile(path).publish([make_event("t", "pay-1", 1)]) == [True]

    assert ids_in(path) == ["pay-1-1"]


FULL_DISK = """
import asyncio, json, resource, sys
from clients.event_file import EventFile
from tests.kafka_support import make_event

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(path):
    file = EventFile(path)
    told = [await file.publish([make_event("t", "pay-1", n) for n in (1, 2)])]
    limit(1000)
    told.append(await file.publish([make_event("t", "pay-2", n) for n in range(1, 101)]))
    size = len(open(path, "rb").read())
    limit(resource.RLIM_INFINITY)
    told.append(await file.publish([make_event("t", "pay-2", 1)]))
    print(json.dumps({"told": told, "size_while_full": size}))

asyncio.run(main(sys.argv[1]))
"""


def test_when_the_disk_is_full_nothing_is_acknowledged_and_nothing_torn_stays(tmp_path: Path) -> None:
    """A write that fails half-way is taken back; with room again the next batch goes in."""
    path = tmp_path / "events.jsonl"

    ran = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], cwd=TREE, stdout=subprocess.PIPE, check=True)

    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen["told"] == [[True, True], [False] * 100, [True]]
    assert seen["size_while_full"] == len(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert ids_in(path) == ["pay-1-1", "pay-1-2", "pay-2-1"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
async def test_a_device_without_room_is_an_answer_not_an_exception() -> None:
    """The relay goes on with False as with any other trouble."""
    file = EventFile("/dev/full")

    assert await file.publish([make_event("t", "pay-1", 1)]) == [False]
    assert not file.connected


async def test_a_path_that_cannot_be_opened_is_not_ready_and_acknowledges_nothing(tmp_path: Path) -> None:
    """A directory in the place of the file, for example."""
    file = EventFile(tmp_path)

    assert not await file.ready()
    assert await file.publish([make_event("t", "pay-1", 1)]) == [False]


async def test_two_writers_of_one_file_do_not_mix_their_lines(tmp_path: Path) -> None:
    """Two processes of the engine may be given the same file."""
    path = tmp_path / "events.jsonl"
    writers = [EventFile(path), EventFile(path)]

    told = await asyncio.gather(
        *(writers[n % 2].publish([make_event("t", f"pay-{n}", m) for m in range(20)]) for n in range(20))
    )

    assert all(map(all, told))
    assert len(ids_in(path)) == 400


async def test_a_file_that_somebody_else_keeps_locked_acknowledges_nothing(tmp_path: Path) -> None:
    """A stopped process may hold the lock for ever; the relay must not wait that long."""
    path = tmp_path / "events.jsonl"
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert await EventFile(path, lock_timeout_s=0.05).publish([make_event("t", "pay-1", 1)]) == [False]

    assert await EventFile(path).publish([make_event("t", "pay-1", 1)]) == [True]


async def test_a_renamed_file_is_left_alone_and_a_new_one_begun(tmp_path: Path) -> None:
    """Log rotation must not swallow acknowledged events."""
    path, kept = tmp_path / "events.jsonl", tmp_path / "events.jsonl.1"
    file = EventFile(path)
    await file.publish([make_event("t", "pay-1", 1)])
    path.rename(kept)

    assert await file.publish([make_event("t", "pay-1", 2)]) == [True]

    assert (ids_in(kept), ids_in(path)) == (["pay-1-1"], ["pay-1-2"])


async def _opened(path: Path, times: int) -> None:
    """Wait until this process has the file open so often: a thread that waits for the lock has opened it."""
    wanted, count = path.stat(), 0
    async with asyncio.timeout(30):
        while count < times:
            await asyncio.sleep(0.01)
            count = 0
            for number in os.listdir("/dev/fd"):  # noqa: PTH208 (iterdir would keep one more open)
                with contextlib.suppress(OSError):
                    count += os.path.samestat(os.fstat(int(number)), wanted)


async def test_a_cancelled_publish_does_not_mix_with_the_next_one(tmp_path: Path) -> None:
    """Its thread may still be writing when the next batch comes."""
    path = tmp_path / "events.jsonl"
    file = EventFile(path, lock_timeout_s=60)
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        first = asyncio.create_task(file.publish([make_event("t", "pay-1", n) for n in range(500)]))
        await _opened(path, 2)
        first.cancel()
        second = asyncio.create_task(file.publish([make_event("t", "pay-2", n) for n in range(500)]))
        await _opened(path, 3)

    assert await second == [True] * 500

    assert first.cancelled()
    for _ in range(3000):  # its thread goes on without it
        if len(ids := ids_in(path)) == 1000:
            break
        await asyncio.sleep(0.01)
    assert ids[:500] == [f"{ids[0][:5]}-{n}" for n in range(500)]
    assert len(ids) == len(set(ids)) == 1000


async def test_line_breaks_between_the_tokens_of_a_body_do_not_break_the_line(tmp_path: Path) -> None:
    """A body is one line whatever its author's taste."""
    path = tmp_path / "events.jsonl"
    await EventFile(path).publish([make_event("t", "pay-1", 1, value=b'{\n  "a": 1\n}\n')])

    assert [json.loads(line)["value"] for line in path.read_bytes().splitlines()] == [{"a": 1}]
