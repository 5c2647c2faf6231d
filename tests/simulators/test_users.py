"""The user service over its contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from simulators.server import serve
from simulators.users import UserServiceSim
from tests.simulators.helpers import a_user, call

MOMENT = datetime(2023, 1, 1, tzinfo=UTC)


@pytest.fixture
async def base() -> AsyncIterator[str]:
    """A served user service whose clock stands still."""
    async with serve(UserServiceSim(None, clock=lambda: MOMENT)) as url:
        yield url


async def test_a_new_user_is_answered_as_in_the_contract(http: aiohttp.ClientSession, base: str) -> None:
    answer = await call(http, "POST", f"{base}/api/users", a_user())
    assert answer.status == 201
    assert str(UUID(answer.body["id"])) == answer.body["id"]
    assert {**answer.body, "id": ""} == {
        "id": "",
        "email": "user@example.com",
        "username": "username",
        "first_name": "John",
        "last_name": "Doe",
        "phone": "+1234567890",
        "is_active": True,
        "is_verified": False,
        "created_at": "2023-01-01T00:00:00.000Z",
    }


@pytest.mark.parametrize("path", ["api", "internal"])
async def test_a_user_is_read_with_a_profile(http: aiohttp.ClientSession, base: str, path: str) -> None:
    created = (await call(http, "POST", f"{base}/api/users", a_user())).body
    answer = await call(http, "GET", f"{base}/{path}/users/{created['id']}")
    assert answer.status == 200
    assert answer.body == {**created, "profile": {"bio": "", "country": "", "city": ""}}


@pytest.mark.parametrize("path", ["api", "internal"])
async def test_an_unknown_user_is_404(http: aiohttp.ClientSession, base: str, path: str) -> None:
    answer = await call(http, "GET", f"{base}/{path}/users/550e8400-e29b-41d4-a716-446655440001")
    assert (answer.status, answer.body) == (404, {"error": {"code": "USER_004", "message": "User not found"}})


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (a_user(username="other"), "USER_001"),
        (a_user(username="other", email="USER@example.com"), "USER_001"),
        (a_user(email="other@example.com"), "USER_002"),
        (a_user(email="other@example.com", username="other", id="user-1"), "ID_TAKEN"),
    ],
)
async def test_what_is_taken_is_409(http: aiohttp.ClientSession, base: str, second: dict[str, Any], code: str) -> None:
    await call(http, "POST", f"{base}/api/users", a_user(id="user-1"))
    answer = await call(http, "POST", f"{base}/api/users", second)
    assert (answer.status, answer.body["error"]["code"]) == (409, code)


async def test_of_racing_requests_for_one_email_one_wins(http: aiohttp.ClientSession, base: str) -> None:
    answers = await asyncio.gather(*(call(http, "POST", f"{base}/api/users", a_user()) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 9


@pytest.mark.parametrize("missing", ["email", "username", "password", "first_name", "last_name", "phone"])
async def test_a_missing_field_is_422(http: aiohttp.ClientSession, base: str, missing: str) -> None:
    body = a_user()
    del body[missing]
    answer = await call(http, "POST", f"{base}/api/users", body)
    assert (answer.status, answer.body["error"]["code"]) == (422, "INVALID_REQUEST")
    assert missing in answer.body["error"]["message"]


@pytest.mark.parametrize(
    "wrong",
    [{"email": "nobody"}, {"email": 7}, {"username": ""}, {"is_active": "yes"}, {"id": 7}, {"id": "../1"}, {"id": ""}],
)
async def test_a_wrong_field_is_422(http: aiohttp.ClientSession, base: str, wrong: dict[str, Any]) -> None:
    answer = await call(http, "POST", f"{base}/api/users", a_user(**wrong))
    assert (answer.status, answer.body["error"]["code"]) == (422, "INVALID_REQUEST")


@pytest.mark.parametrize("user_id", ["550e8400-e29b-41d4-a716-446655440001", "1"])
async def test_a_test_may_choose_the_id_and_an_inactive_user(
    http: aiohttp.ClientSession, base: str, user_id: str
) -> None:
    await call(http, "POST", f"{base}/api/users", a_user(id=user_id, is_active=False))
    found = (await call(http, "GET", f"{base}/internal/users/{user_id}")).body
    assert (found["id"], found["is_active"]) == (user_id, False)


async def test_users_survive_a_restart_and_their_emails_stay_taken(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "users.jsonl"
    async with serve(UserServiceSim(path)) as base:
        created = (await call(http, "POST", f"{base}/api/users", a_user(is_active=False))).body
    async with serve(UserServiceSim(path)) as base:
        found = (await call(http, "GET", f"{base}/api/users/{created['id']}")).body
        assert {key: found[key] for key in created} == created
        email = await call(http, "POST", f"{base}/api/users", a_user(username="other"))
        username = await call(http, "POST", f"{base}/api/users", a_user(email="other@example.com"))
        assert [answer.body["error"]["code"] for answer in (email, username)] == ["USER_001", "USER_002"]


async def test_the_password_is_neither_answered_nor_kept(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "users.jsonl"
    async with serve(UserServiceSim(path)) as base:
        created = await call(http, "POST", f"{base}/api/users", a_user(password="correct-horse"))
        found = await call(http, "GET", f"{base}/api/users/{created.body['id']}")
    assert "password" not in created.body and "password" not in found.body
    assert b"user@example.com" in path.read_bytes()
    assert b"correct-horse" not in path.read_bytes()
