"""The user service over its contract."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import jwt
import pytest

from simulators.server import serve
from simulators.users import UserServiceSim
from tests.simulators.helpers import a_user, call
from tests.support import SECRET, token

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


async def a_known_user(http: aiohttp.ClientSession, base: str) -> str:
    """The id of a user that was made."""
    user_id: str = (await call(http, "POST", f"{base}/api/users", a_user())).body["id"]
    return user_id


async def its_token(http: aiohttp.ClientSession, base: str, user_id: str) -> str:
    """What a real service would mail."""
    answer = await call(http, "GET", f"{base}/_users/{user_id}/verification-token")
    token: str = answer.body["verification_token"]
    return token


async def test_a_user_is_changed_as_in_the_contract(http: aiohttp.ClientSession, base: str) -> None:
    user = f"{base}/api/users/{await a_known_user(http, base)}"
    before = (await call(http, "GET", user)).body
    change = {"first_name": "Jane", "last_name": "Smith", "phone": "+1234567891"}
    answer = await call(http, "PUT", user, change)
    assert (answer.status, answer.body) == (200, {**before, **change})
    assert (await call(http, "GET", user)).body == answer.body


async def test_what_a_change_leaves_out_stays_and_a_profile_can_be_told(http: aiohttp.ClientSession, base: str) -> None:
    user = f"{base}/api/users/{await a_known_user(http, base)}"
    profile = {"bio": "Software developer", "country": "USA", "city": "San Francisco"}
    assert (await call(http, "PUT", user, {"profile": profile})).body["profile"] == profile
    changed = await call(http, "PUT", user, {"phone": "+4912345", "email": "other@example.com", "is_verified": True})
    assert (changed.body["phone"], changed.body["first_name"], changed.body["profile"]) == ("+4912345", "John", profile)
    assert (changed.body["email"], changed.body["is_verified"]) == ("user@example.com", False)


@pytest.mark.parametrize(
    "change", [{"first_name": ""}, {"phone": None}, {"last_name": 7}, {"profile": "me"}, {"profile": {"bio": 7}}, []]
)
async def test_a_wrong_change_is_422_and_changes_nothing(http: aiohttp.ClientSession, base: str, change: Any) -> None:
    user = f"{base}/api/users/{await a_known_user(http, base)}"
    before = (await call(http, "GET", user)).body
    answer = await call(http, "PUT", user, change)
    assert (answer.status, answer.body["error"]["code"]) == (422, "INVALID_REQUEST")
    assert (await call(http, "GET", user)).body == before


async def test_a_user_is_verified_with_its_token_and_again_to_no_effect(http: aiohttp.ClientSession, base: str) -> None:
    user_id = await a_known_user(http, base)
    body = {"verification_token": await its_token(http, base, user_id)}
    for _ in range(2):
        answer = await call(http, "POST", f"{base}/api/users/{user_id}/verify", body)
        assert (answer.status, answer.body["is_verified"]) == (200, True)
    assert len((await call(http, "GET", f"{base}/api/users/{user_id}/events")).body["events"]) == 2


@pytest.mark.parametrize("token", ["abc123", "\u00fc", "x" * 255])
async def test_a_wrong_verification_token_is_400(http: aiohttp.ClientSession, base: str, token: str) -> None:
    user_id = await a_known_user(http, base)
    answer = await call(http, "POST", f"{base}/api/users/{user_id}/verify", {"verification_token": token})
    assert (answer.status, answer.body["error"]["code"]) == (400, "USER_003")
    assert (await call(http, "GET", f"{base}/api/users/{user_id}")).body["is_verified"] is False


async def test_another_users_token_does_not_verify(http: aiohttp.ClientSession, base: str) -> None:
    user_id = await a_known_user(http, base)
    other = (await call(http, "POST", f"{base}/api/users", a_user(email="o@example.com", username="o"))).body["id"]
    body = {"verification_token": await its_token(http, base, other)}
    assert (await call(http, "POST", f"{base}/api/users/{user_id}/verify", body)).status == 400


async def test_a_users_events_are_listed_as_in_the_contract(http: aiohttp.ClientSession, base: str) -> None:
    user_id = await a_known_user(http, base)
    body = {"verification_token": await its_token(http, base, user_id)}
    await call(http, "POST", f"{base}/api/users/{user_id}/verify", body)
    answer = await call(http, "GET", f"{base}/api/users/{user_id}/events")
    now = "2023-01-01T00:00:00.000Z"
    created = {"email": "user@example.com", "username": "username", "created_at": now}
    assert answer.status == 200
    assert answer.body == {
        "events": [
            {"id": f"{user_id}-1", "event_type": "user_created", "data": created, "created_at": now},
            {"id": f"{user_id}-2", "event_type": "user_verified", "data": {"verified_at": now}, "created_at": now},
        ]
    }


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/events", None),
        ("PUT", "", {"first_name": "Jane"}),
        ("POST", "/verify", {"verification_token": "abc123"}),
    ],
)
async def test_whatever_is_asked_about_an_unknown_user_is_404(
    http: aiohttp.ClientSession, base: str, method: str, path: str, body: Any
) -> None:
    answer = await call(http, method, f"{base}/api/users/nobody{path}", body)
    assert (answer.status, answer.body["error"]["code"]) == (404, "USER_004")


async def test_the_verification_token_is_in_no_answer_and_no_event(http: aiohttp.ClientSession, base: str) -> None:
    user_id = await a_known_user(http, base)
    token = await its_token(http, base, user_id)
    body = {"verification_token": token}
    asked = [("POST", "/verify", body), ("GET", "", None), ("GET", "/events", None), ("PUT", "", {"phone": "1"})]
    for method, path, sent in asked:
        answer = await call(http, method, f"{base}/api/users/{user_id}{path}", sent)
        assert answer.status == 200
        assert token not in str(answer.body)


async def test_users_of_an_older_journal_are_read_and_can_be_verified(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "users.jsonl"
    old = {
        "id": "user-1", "email": "old@example.com", "username": "old", "first_name": "O", "last_name": "L",
        "phone": "1", "is_active": True, "is_verified": False, "created_at": "2023-01-01T00:00:00.000Z",
    }  # fmt: skip
    path.write_text(json.dumps(old) + "\n")
    async with serve(UserServiceSim(path)) as base:
        found = (await call(http, "GET", f"{base}/api/users/user-1")).body
        assert {name: found[name] for name in old} == old
        body = {"verification_token": await its_token(http, base, "user-1")}
        assert (await call(http, "POST", f"{base}/api/users/user-1/verify", body)).status == 200
    async with serve(UserServiceSim(path)) as base:
        assert (await call(http, "GET", f"{base}/api/users/user-1")).body["is_verified"] is True


@pytest.fixture
async def guarded() -> AsyncIterator[str]:
    """A user service that asks for tokens."""
    async with serve(UserServiceSim(None, jwt_secret=SECRET)) as url:
        await create_one(url)
        yield url


def with_roles(roles: object) -> str:
    """A service's token that says so in `roles`."""
    return jwt.encode({"sub": "shop", "exp": time.time() + 86_400, "roles": roles}, SECRET, algorithm="HS256")


async def test_a_token_that_is_no_utf8_is_none(guarded: str) -> None:
    port = int(guarded.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /api/users/user-1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\nConnection: close\r\n\r\n"
    )
    assert (await reader.readline()).split()[1] == b"401"
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_is_nested_too_deeply_is_no_json_to_us(http: aiohttp.ClientSession, guarded: str) -> None:
    body = b'{"zz": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    async with http.post(f"{guarded}/api/users", data=body, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 400


async def create_one(base: str) -> None:
    """Anybody may become a user."""
    async with aiohttp.ClientSession() as session:
        assert (await call(session, "POST", f"{base}/api/users", a_user(id="user-1"))).status == 201


@pytest.mark.parametrize(
    ("bearer", "status"),
    [
        ("", 401),
        ("Bearer nonsense", 401),
        (f"Basic {token('user-1')}", 401),
        (f"Bearer {token('user-1', secret='another-secret-another-secret-another')}", 401),
        (f"Bearer {token('user-1', hours=-1)}", 401),
        (f"Bearer {token('user-2')}", 403),
        (f"Bearer {token('user-1')}", 200),
        (f"Bearer {token('shop', role='service')}", 200),
        (f"Bearer {with_roles(['service'])}", 200),
        (f"Bearer {with_roles('admin')}", 200),
        (f"Bearer {with_roles(['user'])}", 403),
        (f"Bearer {with_roles({'service': 1})}", 403),
    ],
)
@pytest.mark.parametrize("path", ["", "/events"])
async def test_with_a_secret_a_user_is_shown_to_itself_and_to_services(
    http: aiohttp.ClientSession, guarded: str, path: str, bearer: str, status: int
) -> None:
    headers = {"Authorization": bearer} if bearer else {}
    answer = await call(http, "GET", f"{guarded}/api/users/user-1{path}", headers=headers)
    assert answer.status == status
    if status != 200:
        assert answer.body["error"]["code"] == {401: "UNAUTHORIZED", 403: "FORBIDDEN"}[status]
