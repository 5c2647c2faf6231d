"""A pretend user service: real users with their events, over the user service's contract.

Passwords are dropped: nobody logs in here, so nobody needs them. What a real service would mail, the token that
verifies an account, is at `GET /_users/{id}/verification-token`, which only a simulator has.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final
from uuid import uuid4

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware
from msgspec import UNSET, UnsetType

from simulators.base import Clock, utc_now
from simulators.companion import Companion, State
from simulators.companion_metrics import UserMetrics
from simulators.telling import Publisher, Record, event, event_id
from simulators.tokens import require_tokens
from simulators.wire import Refusal, decode, reply

TOPIC: Final = "user-events"
CREATED: Final = "user_created"
VERIFIED: Final = "user_verified"

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
ProfileText = Annotated[str, msgspec.Meta(max_length=1000)]
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

    def __repr__(self) -> str:
        return "NewUser(…)"


class Profile(msgspec.Struct, frozen=True):
    """What users tell about themselves."""

    bio: ProfileText = ""
    country: ProfileText = ""
    city: ProfileText = ""


class UserChange(msgspec.Struct, frozen=True):
    """The body of `PUT /api/users/{id}`: what is left out stays as it is."""

    first_name: Text | UnsetType = UNSET
    last_name: Text | UnsetType = UNSET
    phone: Text | UnsetType = UNSET
    profile: Profile | UnsetType = UNSET


class Verification(msgspec.Struct, frozen=True):
    """The body of `POST /api/users/{id}/verify`."""

    verification_token: Text

    def __repr__(self) -> str:
        return "Verification(…)"


def _new_token() -> str:
    return secrets.token_urlsafe(16)


class User(Record, frozen=True, kw_only=True):
    """A user as kept."""

    email: str
    username: str
    first_name: str
    last_name: str
    phone: str
    is_active: bool
    is_verified: bool
    created_at: str
    profile: Profile = Profile()
    verification_token: str = msgspec.field(default_factory=_new_token)

    def __repr__(self) -> str:
        return f"User({self.id})"

    def view(self) -> dict[str, object]:
        """The user as shown after its creation."""
        return {name: getattr(self, name) for name in _SHOWN}

    def full_view(self) -> dict[str, object]:
        """The user as read."""
        return {**self.view(), "profile": self.profile}


_SHOWN: Final = (
    "id", "email", "username", "first_name", "last_name", "phone", "is_active", "is_verified", "created_at",
)  # fmt: skip


def _new_user_id() -> str:
    return str(uuid4())


class UserServiceSim(Companion[User]):
    """The user service."""

    def __init__(
        self,
        journal_path: Path | None,
        *,
        clock: Clock = utc_now,
        new_id: Callable[[], str] = _new_user_id,
        state: State | None = None,
        publisher: Publisher | None = None,
        topic: str = TOPIC,
        jwt_secret: str = "",
    ) -> None:
        self._counts = UserMetrics()
        super().__init__(
            journal_path, User, self._counts, clock,
            source="/users", topic=topic, state=state, publisher=publisher,
        )  # fmt: skip
        self._new_id = new_id
        self._jwt_secret = jwt_secret
        self._new_user = msgspec.json.Decoder(NewUser)
        self._change = msgspec.json.Decoder(UserChange)
        self._verification = msgspec.json.Decoder(Verification)

    def _middlewares(self) -> list[Middleware]:
        asking = [require_tokens(self._jwt_secret)] if self._jwt_secret else []
        return [*super()._middlewares(), *asking]

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/users", self._create),
            web.get("/api/users/{id}", self._read),
            web.put("/api/users/{id}", self._update),
            web.post("/api/users/{id}/verify", self._verify),
            web.get("/api/users/{id}/events", self._events),
            web.get("/internal/users/{id}", self._read),
            web.get("/_users/{id}/verification-token", self._token),
        ]

    def _forget(self) -> None:
        self._emails: set[str] = set()
        self._usernames: set[str] = set()

    def _index(self, record: User) -> None:
        self._emails.add(record.email.casefold())
        self._usernames.add(record.username)

    async def _create(self, request: web.Request) -> web.Response:
        wanted = await decode(request, self._new_user)
        now = self._now()
        told = {"email": wanted.email, "username": wanted.username, "created_at": now}
        user_id = wanted.id or self._new_id()
        user = User(
            id=user_id,
            email=wanted.email,
            username=wanted.username,
            first_name=wanted.first_name,
            last_name=wanted.last_name,
            phone=wanted.phone,
            is_active=wanted.is_active,
            is_verified=False,
            created_at=now,
            events=(event(CREATED, now, {"user_id": user_id, "data": told}),),
        )
        async with self._turn():
            self._refuse_taken(user)
            self._refuse_when_full()
            await self._keep(user)
        self._counts.registrations.inc()
        return reply(201, user.view())

    def _refuse_taken(self, user: User) -> None:
        if user.email.casefold() in self._emails:
            raise Refusal(409, "USER_001", "Email already exists")
        if user.username in self._usernames:
            raise Refusal(409, "USER_002", "Username already exists")
        if user.id in self._records:
            raise Refusal(409, "ID_TAKEN", "Id already exists")

    async def _read(self, request: web.Request) -> web.Response:
        return reply(200, self._find(request).full_view())

    async def _update(self, request: web.Request) -> web.Response:
        wanted = await decode(request, self._change)
        changes = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
        async with self._turn():
            user = self._find(request)
            changed = msgspec.structs.replace(user, **changes)
            if changed != user:
                await self._keep(changed)
        return reply(200, changed.full_view())

    async def _verify(self, request: web.Request) -> web.Response:
        given = (await decode(request, self._verification)).verification_token
        async with self._turn():
            user = self._find(request)
            if not hmac.compare_digest(given.encode(), user.verification_token.encode()):
                raise Refusal(400, "USER_003", "Invalid verification token")
            if not user.is_verified:
                user = await self._keep(self._verified(user))
                self._counts.verifications.inc()
        return reply(200, user.full_view())

    def _verified(self, user: User) -> User:
        now = self._now()
        told = event(VERIFIED, now, {"user_id": user.id, "data": {"verified_at": now}})
        return msgspec.structs.replace(user, is_verified=True, events=(*user.events, told))

    async def _events(self, request: web.Request) -> web.Response:
        user = self._find(request)
        events = [
            {
                "id": event_id(user, number),
                "event_type": each.event_type,
                "data": msgspec.json.decode(each.body)["data"],
                "created_at": each.created_at,
            }
            for number, each in enumerate(user.events, start=1)
        ]
        return reply(200, {"events": events})

    async def _token(self, request: web.Request) -> web.Response:
        return reply(200, {"verification_token": self._find(request).verification_token})

    def _find(self, request: web.Request) -> User:
        user = self._records.get(request.match_info["id"])
        if user is None:
            raise Refusal(404, "USER_004", "User not found")
        return user
