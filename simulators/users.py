"""A pretend user service: real users, kept in a journal, over the user service's contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import msgspec
from aiohttp import web

from simulators.base import Clock, Simulator, coded_error, timestamp, utc_now
from simulators.wire import Refusal, decode, reply

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Email = Annotated[str, msgspec.Meta(pattern=r"^[^@\s]+@[^@\s]+\Z", max_length=254)]
# A UUID, or the small whole number that the orders contract knows users by.
UserId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")]


class NewUser(msgspec.Struct, frozen=True):
    """The body of `POST /api/users`; the last two are for tests."""

    email: Email
    username: Text
    password: Text
    first_name: Text
    last_name: Text
    phone: Text
    id: UserId | None = None
    is_active: bool = True


class User(msgspec.Struct, frozen=True):
    """A user as kept and shown. The password is dropped: nobody logs in here, so nobody needs it."""

    id: str
    email: str
    username: str
    first_name: str
    last_name: str
    phone: str
    is_active: bool
    is_verified: bool
    created_at: str


def _new_user_id() -> str:
    return str(uuid4())


class UserServiceSim(Simulator[User]):
    """The user service: create a user, read a user."""

    def __init__(
        self, journal_path: Path | None, *, clock: Clock = utc_now, new_id: Callable[[], str] = _new_user_id
    ) -> None:
        super().__init__(journal_path, User, coded_error)
        self._clock, self._new_id = clock, new_id
        self._decoder = msgspec.json.Decoder(NewUser)
        self._restore([])

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/users", self._create),
            web.get("/api/users/{id}", self._read),
            web.get("/internal/users/{id}", self._read),
        ]

    def _restore(self, records: list[User]) -> None:
        self._users: dict[str, User] = {}
        self._emails: set[str] = set()
        self._usernames: set[str] = set()
        for user in records:
            self._keep(user)

    def _keep(self, user: User) -> None:
        self._users[user.id] = user
        self._emails.add(user.email.casefold())
        self._usernames.add(user.username)

    async def _create(self, request: web.Request) -> web.Response:
        wanted = await decode(request, self._decoder)
        user = User(
            id=wanted.id or self._new_id(),
            email=wanted.email,
            username=wanted.username,
            first_name=wanted.first_name,
            last_name=wanted.last_name,
            phone=wanted.phone,
            is_active=wanted.is_active,
            is_verified=False,
            created_at=timestamp(self._clock()),
        )
        self._refuse_taken(user)
        # No await from the check to here, so two requests cannot both take one email.
        self._journal.append(user)
        self._keep(user)
        return reply(201, user)

    def _refuse_taken(self, user: User) -> None:
        if user.email.casefold() in self._emails:
            raise Refusal(409, "USER_001", "Email already exists")
        if user.username in self._usernames:
            raise Refusal(409, "USER_002", "Username already exists")
        if user.id in self._users:
            raise Refusal(409, "ID_TAKEN", "Id already exists")

    async def _read(self, request: web.Request) -> web.Response:
        user = self._users.get(request.match_info["id"])
        if user is None:
            raise Refusal(404, "USER_004", "User not found")
        profile = {"bio": "", "country": "", "city": ""}
        return reply(200, {**msgspec.structs.asdict(user), "profile": profile})
