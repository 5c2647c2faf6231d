"""Messages to endpoints: signed, in order, tried for days, and sent once more rather than never."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest
from aiohttp import web
from standardwebhooks import Webhook

from engine.accepting import Caller
from engine.errors import (
    StoreUnavailable,
    TooManyWebhookEndpoints,
    WebhookDeliveryNotFound,
    WebhookEndpointDisabled,
    WebhookEndpointNotFound,
)
from engine.notifying import Notice, Sink
from engine.store.deliveries import Deliveries
from engine.store.endpoints import RedisEndpoints
from engine.webhook_endpoints import changed, disabled
from engine.webhook_sender import PostAnswer
from engine.webhooks import ENDPOINT_DISABLED, Endpoint
from tests.store.datasets import Dataset, connected, eventually, running
from tests.support import RedisServer
from tests.webhooks.world import (
    ADA,
    BOB,
    DAY_S,
    INTERVALS,
    LEASE_S,
    RETRYING,
    SHOP,
    TIMEOUT_S,
    Clock,
    Got,
    Hooks,
    Receiver,
    notice,
    running_sender,
)


def failing(status: int = 500, **headers: str) -> web.Response:
    """An answer that is none that we want."""
    return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def waits(hooks: Hooks, count: int) -> bool:
    """Whether so many messages wait."""
    return (await hooks.deliveries.depth()).waiting == count


async def shows(hooks: Hooks, gauge: str, value: float) -> bool:
    """Whether a gauge has this value."""
    return hooks.data.metric(gauge) == value


# What is sent, and to whom


async def test_a_message_is_verified_by_the_library_of_standard_webhooks(hooks: Hooks, receiver: Receiver) -> None:
    _, secret = await hooks.made(receiver.url + "/hooks?shop=1")
    await hooks.told(notice())
    assert await hooks.sent() == 1
    (got,) = receiver.got
    assert Webhook(secret).verify(got.body.decode(), dict(got.headers)) == {
        "type": "payment_completed",
        "timestamp": "2026-11-21T05:00:00.000Z",
        "data": {"event_type": "payment_completed", "payment_id": "pay-1", "number": 1},
    }
    assert (got.path, got.id, got.headers["Content-Type"]) == ("/hooks", "pay-1-1", "application/json")
    assert not got.is_signed_by("whsec_" + "A" * 43 + "=")


async def test_the_body_of_the_event_is_sent_as_it_was_byte_for_byte(hooks: Hooks, receiver: Receiver) -> None:
    await hooks.made(receiver.url)
    body = b'{ "amount" : 75.480,\n"note":"\\u00fc" }'
    await hooks.told(notice(body=body))
    await hooks.sent()
    assert receiver.got[0].body.endswith(b',"data":' + body + b"}")


async def test_after_a_rotation_both_secrets_sign_until_the_old_one_ends(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, old = await hooks.made(receiver.url)
    _, rotated = await hooks.endpoints.rotate_secret(endpoint_id, ADA)
    new = rotated.reveal()
    await hooks.told(notice(1))
    await hooks.sent()
    clock.move(DAY_S)
    await hooks.told(notice(2))
    await hooks.sent()
    both, late = receiver.got
    assert [both.is_signed_by(each) for each in (new, old)] == [True, True]
    assert both.headers["webhook-signature"].count("v1,") == 2
    assert Webhook(old).verify(both.body.decode(), dict(both.headers))
    assert [late.is_signed_by(each) for each in (new, old)] == [True, False]


async def test_a_rotation_that_is_repeated_leaves_the_receiver_s_secret_its_time(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    """The answer with the second secret was lost, so the receiver has the first until it knows the third."""
    endpoint_id, first = await hooks.made(receiver.url)
    secrets = [first]
    for _ in range(2):
        secrets.append((await hooks.endpoints.rotate_secret(endpoint_id, ADA)).secret.reveal())
        clock.move(DAY_S / 4)
    for number in range(4):
        await hooks.told(notice(number))
        await hooks.sent()
        clock.move(DAY_S / 4)
    signed = [[got.is_signed_by(each) for each in secrets] for got in receiver.got]
    assert signed == [[True, True, True], [True, True, True], [False, True, True], [False, False, True]]


async def test_of_many_rotations_the_latest_secrets_and_the_oldest_sign(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, first = await hooks.made(receiver.url)
    secrets = [first]
    for _ in range(6):
        clock.move(1)
        secrets.append((await hooks.endpoints.rotate_secret(endpoint_id, ADA)).secret.reveal())
    await hooks.told(notice())
    await hooks.sent()
    assert [receiver.got[0].is_signed_by(each) for each in secrets] == [True, False, False, False, True, True, True]
    assert receiver.got[0].headers["webhook-signature"].count("v1,") == 4


async def test_an_endpoint_as_it_was_written_before_signs_and_rotates(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    """Records had one earlier secret, and did not say whether anybody was told that the endpoint is disabled."""
    endpoint_id, first = await hooks.made(receiver.url)
    second = (await hooks.endpoints.rotate_secret(endpoint_id, ADA)).secret.reveal()
    name = next(name for name in await hooks.data.names() if ":hook:" in name)
    record = msgspec.json.decode(await hooks.data.ask("GET", name))
    del record["older"], record["disabled_told"]
    await hooks.data.ask("SET", name, msgspec.json.encode(record))
    await hooks.told(notice(1))
    await hooks.sent()
    third = (await hooks.endpoints.rotate_secret(endpoint_id, ADA)).secret.reveal()
    await hooks.told(notice(2))
    await hooks.sent()
    signed = [[got.is_signed_by(each) for each in (first, second, third)] for got in receiver.got]
    assert signed == [[True, True, False], [True, True, True]]


async def test_an_endpoint_is_told_of_its_owner_s_payments_and_a_service_s_of_everybody_s(
    hooks: Hooks, receiver: Receiver
) -> None:
    await hooks.made(receiver.url + "/ada")
    await hooks.made(receiver.url + "/shop", SHOP)
    await hooks.made(receiver.url + "/failed", SHOP, ("payment_failed",))
    users = {"ada": "a", "bob": "b", "shop": "s", "": "nobody"}
    await hooks.told(*(notice(subject=subject, user=user) for user, subject in users.items()))
    await hooks.told(notice(2, subject="b", user="bob", kind="payment_failed"))
    await hooks.sent()
    assert receiver.ids("/ada") == ["a-1"]
    assert sorted(receiver.ids("/shop")) == ["a-1", "b-1", "b-2", "nobody-1", "s-1"]
    assert receiver.ids("/failed") == ["b-2"]


async def test_a_client_of_mpesa_with_the_name_of_an_owner_is_somebody_else(hooks: Hooks, receiver: Receiver) -> None:
    """Clients are named by the configuration, owners by whoever issues tokens."""
    await hooks.made(receiver.url + "/ada")
    await hooks.made(receiver.url + "/shop", SHOP)
    await hooks.told(notice(1)._replace(source="/payments/mpesa"), notice(2)._replace(source="/payments/orders"))
    await hooks.sent()
    assert receiver.ids("/ada") == ["pay-1-2"]
    assert receiver.ids("/shop") == ["pay-1-1", "pay-1-2"]


async def test_events_that_come_again_are_told_once(hooks: Hooks, receiver: Receiver) -> None:
    """The worker died before its offset was committed, or somebody replays them; also after they were delivered."""
    await hooks.made(receiver.url)
    for _ in range(2):
        await hooks.told(notice(1), notice(2))
    await hooks.sent()
    await hooks.told(notice(1), notice(2), notice(3))
    await hooks.sent()
    assert receiver.ids() == ["pay-1-1", "pay-1-2", "pay-1-3"]


async def test_ids_that_are_no_header_and_no_path_become_one(hooks: Hooks, receiver: Receiver) -> None:
    endpoint_id, secret = await hooks.made(receiver.url)
    wild = "a/b?\r\nX-Evil: 1\r\n\r\n.ü" + "x" * 500
    await hooks.told(*(notice()._replace(id=wild + tail, subject=wild) for tail in "12"))
    await hooks.sent()
    first, second = receiver.got
    assert first.id != second.id
    assert all(got.id.startswith("msg_") and got.is_signed_by(secret) for got in receiver.got)
    assert "X-Evil" not in first.headers
    assert [delivery_id for delivery_id, _, _ in await hooks.listed(endpoint_id)] == [second.id, first.id]


async def test_a_batch_of_any_size_is_taken_whole(redis_server: RedisServer, clock: Clock, receiver: Receiver) -> None:
    """What the batcher lets wait bounds what is asked together, and must not bound what can be told."""
    async with running(connected(redis_server.url), waiting_max=180) as small:
        hooks = Hooks(small, clock, endpoints_max=1000)
        everybody = [f"user-{number}" for number in range(180)]
        for owner in everybody:
            await hooks.made(receiver.url, Caller(owner, privileged=False))
        for number in range(150):
            await hooks.made(f"{receiver.url}/{number}", Caller(f"shop-{number}", privileged=True), ("payment_failed",))
        told = [notice(subject=f"pay-{owner}", user=owner) for owner in everybody]
        await hooks.told(*told, notice(subject="pay-failed", kind="payment_failed"))
        await hooks.sent()
    assert sorted(receiver.ids()) == sorted([*(each.id for each in told), *["pay-failed-1"] * 150])


# Tries


async def test_what_is_not_taken_is_tried_again_in_growing_intervals_and_then_given_up(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    """Just below the three days after which the endpoint itself would be disabled is no limit here."""
    endpoint_id, _ = await hooks.made(receiver.url)
    patient = Hooks(hooks.data, clock, retrying=RETRYING._replace(disable_after_s=30 * DAY_S))
    receiver.answer = lambda _: failing()
    await hooks.told(notice())
    for tried, interval_s in enumerate(INTERVALS, 1):
        assert await patient.sent() == 1
        assert len(receiver.got) == tried
        clock.move(interval_s * 0.89)
        assert await patient.sent() == 0, "not before its time"
        clock.move(interval_s * 0.22)
    assert await patient.sent() == 1
    clock.move(90 * DAY_S)
    assert await patient.sent() == 0
    tries = len(INTERVALS) + 1
    assert await hooks.listed(endpoint_id) == [("pay-1-1", "failed", [500] * tries)]
    assert receiver.ids() == ["pay-1-1"] * tries
    assert len({got.body for got in receiver.got}) == 1
    assert (hooks.outcome("failed"), hooks.outcome("ended")) == (tries - 1, 1)


async def test_retry_after_puts_the_next_try_off_but_not_beyond_its_bound(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    await hooks.made(receiver.url)
    answers = iter([failing(503, Retry_After="120"), failing(429, Retry_After="99999999999"), failing(503)])
    receiver.answer = lambda _: next(answers)
    await hooks.told(notice())
    for wait_s in (119, 24 * 3600 - 1):
        assert await hooks.sent() == 1
        clock.move(wait_s)
        assert await hooks.sent() == 0
        clock.move(1)
    assert await hooks.sent() == 1


@pytest.mark.parametrize("status", [100 * n + 1 for n in (3, 4, 5)] + [300, 304, 307, 308, 400, 404])
async def test_everything_but_2xx_is_no_delivery(status: int, hooks: Hooks, receiver: Receiver) -> None:
    endpoint_id, _ = await hooks.made(receiver.url)
    receiver.answer = lambda _: failing(status, Location=receiver.url + "/elsewhere")
    await hooks.told(notice())
    await hooks.sent()
    assert await hooks.listed(endpoint_id) == [("pay-1-1", "waiting", [status])]
    assert "/elsewhere" not in [got.path for got in receiver.got], "no redirect is followed"


async def test_a_later_event_of_a_payment_waits_for_the_earlier_and_other_payments_do_not(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    await hooks.made(receiver.url)
    down = True
    receiver.answer = lambda got: failing() if down and got.id == "pay-1-1" else web.Response()
    await hooks.told(notice(1), notice(2), notice(1, subject="pay-2"), notice(3))
    await hooks.sent()
    assert sorted(receiver.ids()) == ["pay-1-1", "pay-2-1"]
    down = False
    clock.move(6)
    await hooks.sent()
    assert receiver.ids()[2:] == ["pay-1-1", "pay-1-2", "pay-1-3"]


async def test_the_line_goes_on_when_the_first_is_given_up(hooks: Hooks, receiver: Receiver, clock: Clock) -> None:
    hasty = Hooks(hooks.data, clock, retrying=RETRYING._replace(intervals_s=(1.0,)))
    await hooks.made(receiver.url)
    receiver.answer = lambda got: failing() if got.id == "pay-1-1" else web.Response()
    await hooks.told(notice(1), notice(2))
    await hasty.sent()
    clock.move(2)
    await hasty.sent()
    assert receiver.ids() == ["pay-1-1", "pay-1-1", "pay-1-2"]


# Disabled, resent, gone


async def test_410_disables_the_endpoint_at_once_and_what_waits_goes_on_when_it_is_enabled(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, _ = await hooks.made(receiver.url)
    receiver.answer = lambda _: failing(410)
    await hooks.told(notice(1), notice(2))
    await hooks.sent()
    endpoint = await hooks.endpoints.find(endpoint_id, ADA)
    assert (endpoint.disabled, endpoint.disabled_ms) == ("gone", clock())
    assert hooks.data.metric("webhook_endpoints_disabled_total", reason="gone") == 1
    await hooks.told(notice(3))
    clock.move(DAY_S)
    await hooks.sent()
    assert len(receiver.got) == 1
    with pytest.raises(WebhookEndpointDisabled):
        await hooks.endpoints.resend(endpoint_id, "pay-1-1", ADA)
    receiver.answer = lambda _: web.Response()
    assert (await hooks.endpoints.enable(endpoint_id, ADA)).disabled == ""
    await hooks.sent()
    assert receiver.ids()[1:] == ["pay-1-1", "pay-1-2", "pay-1-3"]


class EnabledThen(RedisEndpoints):
    """The store of a sender that has just read an endpoint when somebody enables it."""

    others: Hooks

    async def get(self, endpoint_id: str) -> Endpoint | None:
        endpoint = await super().get(endpoint_id)
        await self.others.endpoints.enable(endpoint_id, ADA)
        return endpoint


async def test_what_waits_goes_on_also_when_a_sender_still_thought_the_endpoint_disabled(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    await hooks.made(receiver.url)
    receiver.answer = lambda _: failing(410)
    await hooks.told(notice())
    await hooks.sent()
    clock.move(10)
    EnabledThen.others = hooks
    late = Hooks(hooks.data, clock, endpoints=EnabledThen)
    async with late.poster:
        assert await late.sender.pass_once() == 1
    assert receiver.ids() == ["pay-1-1"]
    receiver.answer = lambda _: web.Response()
    clock.move(60)
    await hooks.sent()
    assert receiver.ids() == ["pay-1-1", "pay-1-1"]


async def test_an_endpoint_that_takes_nothing_for_three_days_is_disabled(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, _ = await hooks.made(receiver.url)
    receiver.answer = lambda _: failing()
    await hooks.told(notice(1))
    for _ in INTERVALS:
        await hooks.sent()
        if (await hooks.endpoints.find(endpoint_id, ADA)).disabled:
            break
        clock.move(DAY_S)
    endpoint = await hooks.endpoints.find(endpoint_id, ADA)
    assert endpoint.disabled == "failing"
    assert endpoint.disabled_ms - endpoint.failing_since_ms == 3 * DAY_S * 1000
    assert hooks.data.metric("webhook_endpoints_disabled_total", reason="failing") == 1


async def test_the_owners_other_endpoints_are_told_once_that_one_was_disabled(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, _ = await hooks.made(receiver.url + "/bad", types=("payment_completed",))
    await hooks.made(receiver.url + "/good", types=(ENDPOINT_DISABLED,))
    await hooks.made(receiver.url + "/all", caller=SHOP, types=(ENDPOINT_DISABLED,))
    await hooks.made(receiver.url + "/others", caller=BOB)
    receiver.answer = lambda got: failing(410) if got.path == "/bad" else web.Response()
    await hooks.told(notice(1), notice(1, subject="pay-2"))
    for _ in range(3):
        await hooks.sent()
        clock.move(61)
    told = [got for got in receiver.got if got.path != "/bad"]
    assert sorted(got.path for got in told) == ["/all", "/good"]
    assert len({got.id for got in told}) == 1
    body = told[0].json
    assert body["type"] == body["data"]["event_type"] == ENDPOINT_DISABLED
    assert (body["data"]["endpoint_id"], body["data"]["user_id"]) == (endpoint_id, "ada")
    assert body["data"]["data"] == {"reason": "gone", "disabled_at": body["timestamp"]}


async def test_an_endpoint_is_never_told_of_itself(hooks: Hooks, receiver: Receiver, clock: Clock) -> None:
    endpoint_id, _ = await hooks.made(receiver.url)
    receiver.answer = lambda _: failing(410)
    await hooks.told(notice(1))
    await hooks.sent()
    receiver.answer = lambda _: web.Response()
    await hooks.endpoints.enable(endpoint_id, ADA)
    await hooks.sent()
    assert receiver.ids() == ["pay-1-1", "pay-1-1"]


class Dies:
    """A sink of a process that dies before anything is written."""

    async def take(self, notices: Sequence[Notice]) -> None:
        raise StoreUnavailable("gone")


class DiesAfterTelling(RedisEndpoints):
    """The store, for whoever dies before it can write down that it has told."""

    async def change(self, endpoint: Endpoint) -> bool:
        if endpoint.disabled_told:
            raise StoreUnavailable("gone")
        return await super().change(endpoint)


class Counting:
    """A sink that counts what it takes, and may have something happen meanwhile."""

    def __init__(self, sink: Sink, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        self.ids = list[str]()
        self._sink = sink
        self._meanwhile = meanwhile

    async def take(self, notices: Sequence[Notice]) -> None:
        self.ids += [each.id for each in notices]
        await self._sink.take(notices)
        if self._meanwhile is not None:
            await self._meanwhile()


async def one_of_two_is_gone(hooks: Hooks, receiver: Receiver) -> str:
    """An endpoint of Ada's answers 410 to what it is about to be told, another wants to know. The first one's id."""
    endpoint_id, _ = await hooks.made(receiver.url + "/bad", types=("payment_completed",))
    await hooks.made(receiver.url + "/good", types=(ENDPOINT_DISABLED,))
    receiver.answer = lambda got: failing(410) if got.path == "/bad" else web.Response()
    await hooks.told(notice(1))
    return endpoint_id


@pytest.mark.parametrize("later_s", [61, 3600, 4 * DAY_S], ids=["a minute", "an hour", "four days"])
@pytest.mark.parametrize("intervals_s", [INTERVALS, ()], ids=["first try", "last try"])
@pytest.mark.parametrize("death", [{"telling": Dies()}, {"endpoints": DiesAfterTelling}], ids=["before", "after"])
async def test_whoever_looks_next_tells_of_it_when_the_first_died_meanwhile(
    hooks: Hooks,
    receiver: Receiver,
    clock: Clock,
    later_s: float,
    intervals_s: tuple[float, ...],
    death: dict[str, Any],
) -> None:
    """Also when it was the last try of the only message that waited."""
    endpoint_id = await one_of_two_is_gone(hooks, receiver)
    dying = Hooks(hooks.data, clock, retrying=RETRYING._replace(intervals_s=intervals_s), **death)
    with pytest.raises(StoreUnavailable):
        async with dying.poster:
            await dying.sender.pass_once()
    assert [got.path for got in receiver.got] == ["/bad"]
    for _ in range(3):
        clock.move(later_s)
        await hooks.sent()
    assert [got.path for got in receiver.got] == ["/bad", "/good"]
    assert (await hooks.endpoints.find(endpoint_id, ADA)).disabled_told


async def test_what_was_told_is_not_told_again_while_messages_wait(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    await one_of_two_is_gone(hooks, receiver)
    telling = Counting(hooks.sink)
    counted = Hooks(hooks.data, clock, telling=telling)
    for _ in range(4):
        await counted.sent()
        clock.move(61)
    assert len(telling.ids) == 1


async def test_an_endpoint_that_was_enabled_before_anybody_told_is_told_of_when_it_is_disabled_again(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    """Of the first time nobody needs to know any more."""
    endpoint_id = await one_of_two_is_gone(hooks, receiver)
    with pytest.raises(StoreUnavailable):
        await Hooks(hooks.data, clock, telling=Dies()).sent()
    clock.move(1)
    await hooks.endpoints.enable(endpoint_id, ADA)
    clock.move(61)
    second_ms = clock()
    await hooks.sent()
    assert [(got.path, got.id) for got in receiver.got[1:]] == [
        ("/bad", "pay-1-1"),
        ("/good", f"{endpoint_id}-disabled-{second_ms}"),
    ]
    clock.move(1)
    await hooks.endpoints.enable(endpoint_id, ADA)
    assert not (await hooks.endpoints.find(endpoint_id, ADA)).disabled_told
    await hooks.sent()
    assert receiver.ids("/good")[1:] == [f"{endpoint_id}-disabled-{clock()}"]


async def test_who_told_late_does_not_say_so_of_the_next_time(hooks: Hooks, receiver: Receiver, clock: Clock) -> None:
    """While the others are told it is enabled, and disabled again by somebody who dies."""
    endpoint_id = await one_of_two_is_gone(hooks, receiver)

    async def again() -> None:
        await hooks.endpoints.enable(endpoint_id, ADA)
        clock.move(1)
        await changed(hooks.store, endpoint_id, lambda found: disabled(found, "gone", clock()))

    late = Hooks(hooks.data, clock, telling=Counting(hooks.sink, again))
    async with late.poster:
        await late.sender.pass_once()
    endpoint = await hooks.endpoints.find(endpoint_id, ADA)
    assert (endpoint.disabled, endpoint.disabled_told) == ("gone", False)
    clock.move(61)
    await hooks.sent()
    assert len(set(receiver.ids("/good"))) == 2


async def test_enabling_an_endpoint_that_fails_and_is_enabled_gives_it_no_more_time(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, _ = await hooks.made(receiver.url)
    receiver.answer = lambda _: failing()
    await hooks.told(notice(1))
    await hooks.sent()
    since_ms = (await hooks.endpoints.find(endpoint_id, ADA)).failing_since_ms
    assert since_ms > 0
    clock.move(60)
    assert (await hooks.endpoints.enable(endpoint_id, ADA)).failing_since_ms == since_ms


async def test_one_success_in_between_begins_the_three_days_anew(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, _ = await hooks.made(receiver.url)
    answers = itertools.chain([failing(), failing(), web.Response()], (failing() for _ in itertools.count()))
    receiver.answer = lambda _: next(answers)
    await hooks.told(notice(1), notice(2))
    for _ in range(5):
        await hooks.sent()
        clock.move(DAY_S)
    endpoint = await hooks.endpoints.find(endpoint_id, ADA)
    assert not endpoint.disabled
    assert endpoint.failing_since_ms > 0


async def test_a_success_while_another_try_hangs_keeps_the_endpoint_enabled(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    """Two tries begin after three days of failures; the one that fails ends when the other was taken."""
    endpoint_id, _ = await hooks.made(receiver.url)
    receiver.answer = lambda _: failing()
    await hooks.told(notice(1))
    await hooks.sent()

    async def mended() -> bool:
        return (await hooks.endpoints.find(endpoint_id, ADA)).failing_since_ms == 0

    async def answer(got: Got) -> web.StreamResponse:
        if got.id == "pay-2-1":
            return web.Response()
        await eventually(mended)
        return failing()

    receiver.answer = answer
    clock.move(3 * DAY_S)
    await hooks.told(notice(1, subject="pay-2"))
    await hooks.sent()
    assert receiver.ids().count("pay-1-1") == 2
    assert not (await hooks.endpoints.find(endpoint_id, ADA)).disabled


async def test_what_waits_for_a_disabled_endpoint_is_given_up_after_its_time(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, _ = await hooks.made(receiver.url)
    receiver.answer = lambda _: failing(410)
    await hooks.told(notice(1), notice(2), notice(1, subject="pay-2"))
    await hooks.sent()
    clock.move(3 * DAY_S + 1)
    await hooks.sent()
    assert (await hooks.deliveries.depth()).waiting == 0
    await hooks.told(notice(9))
    assert (await hooks.deliveries.depth()).waiting == 0, "nothing is kept for it any more"
    receiver.answer = lambda _: web.Response()
    await hooks.endpoints.enable(endpoint_id, ADA)
    await hooks.told(notice(10))
    await hooks.sent()
    assert receiver.ids()[-1] == "pay-1-10"


async def test_a_delivered_message_is_resent_with_its_own_id(hooks: Hooks, receiver: Receiver, clock: Clock) -> None:
    endpoint_id, _ = await hooks.made(receiver.url)
    await hooks.told(notice())
    await hooks.sent()
    assert (await hooks.endpoints.resend(endpoint_id, "pay-1-1", ADA)).state == "waiting"
    await hooks.sent()
    assert receiver.ids() == ["pay-1-1", "pay-1-1"]
    assert await hooks.listed(endpoint_id) == [("pay-1-1", "delivered", [200, 200])]
    for missing in ("pay-1-2", "", "x" * 500):
        with pytest.raises(WebhookDeliveryNotFound):
            await hooks.endpoints.resend(endpoint_id, missing, ADA)


async def test_one_that_was_given_up_has_all_its_tries_again_when_it_is_resent(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    hasty = Hooks(hooks.data, clock, retrying=RETRYING._replace(intervals_s=()))
    endpoint_id, _ = await hooks.made(receiver.url)
    receiver.answer = lambda _: failing()
    await hooks.told(notice())
    await hasty.sent()
    assert await hooks.listed(endpoint_id) == [("pay-1-1", "failed", [500])]
    await hooks.endpoints.resend(endpoint_id, "pay-1-1", ADA)
    await hooks.sent()
    assert await hooks.listed(endpoint_id) == [("pay-1-1", "waiting", [500, 500])]
    receiver.answer = lambda _: web.Response()
    await hooks.endpoints.resend(endpoint_id, "pay-1-1", ADA)
    await hooks.sent()
    assert await hooks.listed(endpoint_id) == [("pay-1-1", "delivered", [500, 500, 200])]


async def test_a_deleted_endpoint_leaves_nothing_and_is_told_nothing(hooks: Hooks, receiver: Receiver) -> None:
    kept, _ = await hooks.made(receiver.url + "/kept")
    before = await hooks.data.names()
    endpoint_id, _ = await hooks.made(receiver.url + "/gone", SHOP)
    await hooks.endpoints.rotate_secret(endpoint_id, SHOP)
    await hooks.told(notice(1, user="bob"), notice(2, user="bob"))
    await hooks.endpoints.delete(endpoint_id, SHOP)
    await hooks.told(notice(3, user="bob"))
    assert await hooks.sent() == 0
    assert await hooks.data.names() == before
    with pytest.raises(WebhookEndpointNotFound):
        await hooks.endpoints.find(endpoint_id, SHOP)
    assert [endpoint.id for endpoint in await hooks.endpoints.of(ADA)] == [kept]


async def test_what_was_added_for_an_endpoint_while_it_was_deleted_is_dropped(hooks: Hooks, receiver: Receiver) -> None:
    """The sink had read the endpoint; then it was deleted; then the message was added."""
    endpoint_id, _ = await hooks.made(receiver.url)
    await hooks.told(notice())
    await hooks.store.delete(await hooks.endpoints.find(endpoint_id, ADA))
    await hooks.sent()
    assert await hooks.data.names() == set()
    assert receiver.got == []


# Bounds and secrets


async def test_an_owner_has_no_more_endpoints_than_it_may_however_many_ask_at_once(hooks: Hooks) -> None:
    made = await asyncio.gather(*(hooks.made(f"http://127.0.0.1/{n}") for n in range(8)), return_exceptions=True)
    assert sum(isinstance(each, TooManyWebhookEndpoints) for each in made) == 5
    assert len(await hooks.endpoints.of(ADA)) == 3
    await hooks.made("http://127.0.0.1/", BOB)
    first = (await hooks.endpoints.of(ADA))[0]
    await hooks.endpoints.delete(first.id, ADA)
    await hooks.made("http://127.0.0.1/")


async def test_beyond_what_may_wait_nothing_more_is_kept_and_that_is_counted(
    data: Dataset, clock: Clock, receiver: Receiver
) -> None:
    hooks = Hooks(data, clock, waiting_max=3)
    await hooks.made(receiver.url + "/ada")
    await hooks.made(receiver.url + "/bob", BOB)
    await hooks.told(*(notice(number) for number in range(5)), notice(user="bob"))
    assert hooks.outcome("full") == 2
    await hooks.sent()
    assert receiver.ids("/ada") == ["pay-1-0", "pay-1-1", "pay-1-2"]
    assert receiver.ids("/bob") == ["pay-1-1"]


async def test_no_secret_is_in_redis_as_it_is(hooks: Hooks, receiver: Receiver, redis_server: RedisServer) -> None:
    endpoint_id, first = await hooks.made(receiver.url)
    second = (await hooks.endpoints.rotate_secret(endpoint_id, ADA)).secret.reveal()
    await hooks.told(notice())
    receiver.answer = lambda _: failing()
    await hooks.sent()
    record = await hooks.data.ask("GET", next(name for name in await hooks.data.names() if ":hook:" in name))
    assert len(msgspec.json.decode(record)["secret"]) > 60, "the sealed one is there"
    written = (redis_server.folder / "redis.log").read_bytes()
    for name in await hooks.data.names():
        written += await hooks.data.ask("DUMP", name)
    for file in redis_server.folder.rglob("*.aof"):
        written += file.read_bytes()
    assert endpoint_id.encode() in written, "it has been looked at"
    for secret in (first, second):
        bare = secret.removeprefix("whsec_")
        assert bare[:20].encode() not in written
        assert b64encode(secret.encode())[:40] not in written, "as a record keeps bytes"
    endpoint = await hooks.endpoints.find(endpoint_id, ADA)
    assert first not in repr(endpoint) + repr(hooks.secrets.live(endpoint, hooks.clock()))


async def test_a_secret_whose_key_is_gone_is_tried_again_and_never_sent_unsigned(
    hooks: Hooks, receiver: Receiver
) -> None:
    endpoint_id, _ = await hooks.made(receiver.url)
    endpoint = await hooks.endpoints.find(endpoint_id, ADA)
    broken = msgspec.structs.replace(endpoint, secret=b"\x02kx" + endpoint.secret[3:], version=2)
    assert await hooks.store.change(broken)
    await hooks.told(notice())
    await hooks.sent()
    assert receiver.got == []
    assert await hooks.listed(endpoint_id) == [("pay-1-1", "waiting", [0])]


# Several senders, and death


async def test_two_senders_send_everything_once(hooks: Hooks, receiver: Receiver, redis_server: RedisServer) -> None:
    await hooks.made(receiver.url, SHOP)
    notices = [notice(number, subject=f"pay-{payment}") for number in range(3) for payment in range(40)]
    async with running(connected(redis_server.url)) as other, contextlib.AsyncExitStack() as senders:
        await senders.enter_async_context(running_sender(hooks))
        await senders.enter_async_context(running_sender(Hooks(other, hooks.clock)))
        await hooks.told(*notices)
        await eventually(lambda: waits(hooks, 0))
    assert sorted(receiver.ids()) == sorted(each.id for each in notices)
    for payment in range(40):
        mine = [name for name in receiver.ids() if name.startswith(f"pay-{payment}-")]
        assert mine == sorted(mine), "in order"


class Forgetful(Deliveries):
    """The store, for whoever dies before it can write down what it has done."""

    async def done(self, *_: object, **__: object) -> bool:
        raise StoreUnavailable("we are dead")


async def test_who_dies_between_sending_and_writing_it_down_leads_to_the_same_message_once_more(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    endpoint_id, secret = await hooks.made(receiver.url)
    mortal = Hooks(hooks.data, clock, schedule=Forgetful)
    await hooks.told(notice(1), notice(2))
    with pytest.raises(StoreUnavailable):
        await mortal.sent()
    assert receiver.ids() == ["pay-1-1"]
    assert await hooks.sent() == 0, "nobody knows yet that it died"
    clock.move(LEASE_S)
    await hooks.sent()
    assert receiver.ids() == ["pay-1-1", "pay-1-1", "pay-1-2"]
    assert receiver.got[0].body == receiver.got[1].body
    assert all(got.is_signed_by(secret) for got in receiver.got)
    assert await hooks.listed(endpoint_id) == [("pay-1-2", "delivered", [200]), ("pay-1-1", "delivered", [200])]


class Slow(RedisEndpoints):
    """The store, when an answer takes long."""

    clock: Clock
    takes_s: float

    async def get(self, endpoint_id: str) -> Endpoint | None:
        self.clock.move(self.takes_s)
        return await super().get(endpoint_id)


@pytest.mark.parametrize("takes_s", [LEASE_S, LEASE_S - TIMEOUT_S])
async def test_nothing_is_sent_that_might_end_after_its_lease(
    takes_s: float, hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    """It may be another's by then, who sends it as well, and the next of its line after it."""
    await hooks.made(receiver.url)
    Slow.clock, Slow.takes_s = clock, takes_s
    slow = Hooks(hooks.data, clock, endpoints=Slow)
    await hooks.told(notice())
    async with slow.poster:
        assert await slow.sender.pass_once() == 1
    assert receiver.got == []
    clock.move(LEASE_S - takes_s)
    await hooks.sent()
    assert receiver.ids() == ["pay-1-1"]


async def test_a_cancelled_sender_ends_at_once_and_what_it_was_sending_is_sent_again(
    hooks: Hooks, receiver: Receiver, clock: Clock
) -> None:
    await hooks.made(receiver.url)
    arrived = asyncio.Event()

    async def hang(_: Got) -> web.StreamResponse:
        arrived.set()
        await asyncio.sleep(600)
        raise AssertionError("nobody waited")

    receiver.answer = hang
    await hooks.told(notice())
    task = asyncio.create_task(hooks.sender.run())
    await asyncio.wait_for(arrived.wait(), 30)
    task.cancel()
    await asyncio.wait([task], timeout=30)
    assert task.cancelled()
    receiver.answer = lambda _: web.Response()
    clock.move(LEASE_S)
    assert await Hooks(hooks.data, clock).sent() == 1


class Scripted:
    """A poster that goes wrong in a way that nobody has thought of, then works."""

    def __init__(self) -> None:
        self.posts = 0

    async def __aenter__(self) -> Scripted:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> PostAnswer:
        self.posts += 1
        if self.posts == 1:
            raise KeyError("a bug of ours")
        return PostAnswer(204)


async def test_one_message_that_breaks_something_does_not_end_the_sender(data: Dataset, clock: Clock) -> None:
    poster = Scripted()
    hooks = Hooks(data, clock, poster)
    await hooks.made("http://127.0.0.1:1/")
    await hooks.told(notice(1), notice(1, subject="pay-2"))
    async with running_sender(hooks):
        await eventually(lambda: waits(hooks, 1))
        clock.move(LEASE_S)
        await eventually(lambda: waits(hooks, 0))
    assert poster.posts == 3


async def test_an_item_that_cannot_be_read_ends_and_does_not_hold_up_its_line(hooks: Hooks, receiver: Receiver) -> None:
    await hooks.made(receiver.url)
    await hooks.told(notice(1), notice(2))
    name = next(name for name in await hooks.data.names() if name.endswith("|pay-1-1"))
    await hooks.data.ask("SET", name, b"not ours")
    await hooks.sent()
    assert receiver.ids() == ["pay-1-2"]
    assert hooks.outcome("unreadable") == 1


async def test_the_gauges_show_what_waits(hooks: Hooks, clock: Clock, receiver: Receiver) -> None:
    await hooks.made(receiver.url)
    receiver.answer = lambda _: failing()
    await hooks.told(notice(1), notice(2))
    clock.move(7)
    async with running_sender(hooks):
        await eventually(lambda: shows(hooks, "webhook_deliveries_waiting", 2))
    assert hooks.data.metric("webhook_deliveries_oldest_seconds") == 7
