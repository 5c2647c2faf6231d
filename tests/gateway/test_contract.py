"""Every endpoint of the contract's table, as a customer uses them in order."""

from __future__ import annotations

import json
import time

import jwt
import pytest

from tests.api.world import TIME
from tests.gateway.world import PASSWORD, Gateway, Person, payment_body
from tests.support import SECRET, service_token

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_register_answers_the_account_without_its_password(gateway: Gateway) -> None:
    answer = await gateway.register("Grace.Hopper@Example.com", name="Grace Hopper")
    assert answer.status == 201, answer
    account = answer.json
    assert set(account) == {"id", "name", "email", "created_at"}
    assert (account["name"], account["email"]) == ("Grace Hopper", "Grace.Hopper@Example.com")
    assert TIME.fullmatch(account["created_at"])
    assert not answer.shows(PASSWORD)


async def test_login_answers_a_token_of_one_hour_for_the_account(gateway: Gateway, ada: Person) -> None:
    answer = await gateway.login(ada.email.upper())
    assert answer.status == 200, answer
    assert answer.headers["Cache-Control"] == "no-store"
    shown = answer.json
    assert (shown["token_type"], shown["expires_in"]) == ("Bearer", 3600)
    claims = jwt.decode(shown["token"], SECRET, algorithms=["HS256"])
    assert claims["sub"] == ada.id
    assert claims["exp"] - claims["iat"] == 3600
    assert abs(claims["iat"] - time.time()) < 60
    other = jwt.decode(ada.token, SECRET, algorithms=["HS256"])
    assert claims["jti"] != other["jti"], "each token can be told from the others"


async def test_profile_answers_the_account_of_the_token(ada: Person) -> None:
    answer = await ada.get("/api/auth/profile")
    assert (answer.status, answer.json) == (200, ada.account)


async def test_create_answers_the_payment_itself_pending_with_its_card_masked(gateway: Gateway, ada: Person) -> None:
    answer = await ada.post("/api/payments", {**payment_body(75.48), "status": "completed"})
    assert answer.status == 201, answer
    payment = answer.json
    assert TIME.fullmatch(payment.pop("created_at"))
    assert answer.headers["Location"] == f"/api/payments/{payment['id']}/status"
    assert payment.pop("id").startswith("pay-")
    assert payment == {
        "user_id": ada.id,
        "amount": 75.48,
        "currency": "USD",
        "status": "pending",
        "payment_method": "credit_card",
        "details": {"cardNumber": "**** **** **** 4242", "brand": "visa"},
    }


async def test_nothing_is_charged_before_somebody_asks(gateway: Gateway, ada: Person) -> None:
    payment = await ada.create()
    await gateway.world.at_rest()
    assert await ada.status(payment["id"]) == "pending"
    assert await gateway.charges(payment["id"]) == []


@pytest.mark.parametrize(
    ("method", "details", "shown"),
    [
        ("credit_card", {}, {"cardNumber": "**** **** **** 4242", "brand": "visa"}),
        (
            "debit_card",
            {"cardNumber": "5555555555554444"},
            {"cardNumber": "**** **** **** 4444", "brand": "mastercard"},
        ),
        ("digital_wallet", {"token": "tok_visa_4242"}, {}),
    ],
)
async def test_process_charges_by_every_method_and_answers_the_payment_completed(
    gateway: Gateway, ada: Person, method: str, details: dict[str, str], shown: dict[str, str]
) -> None:
    payment = await ada.create(method=method, **details)
    answer = await ada.process(payment["id"])
    assert answer.status == 200, answer
    assert answer.json == {**payment, "status": "completed"}
    assert (answer.json["payment_method"], answer.json["details"]) == (method, shown)
    assert await gateway.charges(payment["id"]) == [("charge", 7548)]
    assert await ada.status(payment["id"]) == "completed"


async def test_process_answers_a_declined_payment_failed_with_the_reason(ada: Person) -> None:
    payment = await ada.create(cardNumber="4000000000009995")
    answer = await ada.process(payment["id"])
    assert (answer.status, answer.json["status"], answer.json["failure_code"]) == (200, "failed", "PAY_002")
    again = await ada.process(payment["id"])
    assert (again.status, again.json) == (200, answer.json)


async def test_status_answers_id_and_status_and_nothing_else(ada: Person) -> None:
    payment = await ada.create()
    answer = await ada.get(f"/api/payments/{payment['id']}/status")
    assert (answer.status, answer.json) == (200, {"id": payment["id"], "status": "pending"})


async def test_refund_without_an_amount_gives_back_all(gateway: Gateway, ada: Person) -> None:
    payment = await ada.paid()
    answer = await ada.refund(payment["id"])
    assert answer.status == 200, answer
    refund = answer.json.pop("refund")
    assert (answer.json["status"], answer.json["refunded_amount"]) == ("refunded", 75.48)
    assert (refund["amount"], refund["status"]) == (75.48, "completed")
    assert await gateway.charges(payment["id"]) == [("charge", 7548), ("refund", 7548)]


async def test_refund_of_a_part_leaves_the_rest(gateway: Gateway, ada: Person) -> None:
    payment = await ada.paid()
    first = await ada.refund(payment["id"], {"amount": 20.00, "reason": "One of two came broken"})
    assert (first.status, first.json["status"], first.json["refunded_amount"]) == (200, "partially_refunded", 20)
    rest = await ada.refund(payment["id"])
    assert (rest.status, rest.json["status"], rest.json["refunded_amount"]) == (200, "refunded", 75.48)
    gateway.refused(await ada.refund(payment["id"]), 409, "PAY_004")


async def test_transactions_are_ones_own_newest_first_in_pages(gateway: Gateway, ada: Person) -> None:
    await (await gateway.person()).create()
    # Of one millisecond, ids sort by chance.
    made = sorted([(await ada.create(amount))["id"] for amount in (1, 2, 3)])
    page = (await ada.get("/api/transactions?limit=2")).json
    assert [payment["id"] for payment in page["transactions"]] == made[:0:-1]
    rest = (await ada.get(f"/api/transactions?limit=2&cursor={page['next_cursor']}")).json
    assert [payment["id"] for payment in rest["transactions"]] == made[:1]
    assert rest["next_cursor"] is None
    assert (await ada.get("/api/transactions")).json["transactions"] == page["transactions"] + rest["transactions"]


async def test_the_currency_may_be_another(gateway: Gateway, ada: Person) -> None:
    answer = await ada.post("/api/payments", {**payment_body(1000), "currency": "JPY"})
    assert (answer.status, answer.json["currency"], answer.json["amount"]) == (201, "JPY", 1000)


async def test_anothers_payment_is_not_there(gateway: Gateway, ada: Person) -> None:
    theirs = (await (await gateway.person()).paid())["id"]
    gateway.refused(await ada.get(f"/api/payments/{theirs}/status"), 404, "PAYMENT_NOT_FOUND")
    gateway.refused(await ada.process(theirs), 404, "PAYMENT_NOT_FOUND")
    gateway.refused(await ada.refund(theirs), 404, "PAYMENT_NOT_FOUND")
    assert (await ada.get("/api/transactions")).json == {"transactions": [], "next_cursor": None}
    seen = await gateway.send("GET", f"/api/payments/{theirs}/status", auth=service_token())
    assert (seen.status, seen.json["status"]) == (200, "completed"), "a service acts for everybody"


async def test_a_payment_of_core_is_not_there_either(gateway: Gateway) -> None:
    core = await gateway.world.paid()
    answer = await gateway.send("GET", f"/api/payments/{core['id']}/status", auth=service_token())
    gateway.refused(answer, 404, "PAYMENT_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/auth/profile"),
        ("POST", "/api/payments"),
        ("POST", "/api/payments/process"),
        ("GET", "/api/payments/pay-1/status"),
        ("POST", "/api/payments/pay-1/refund"),
        ("GET", "/api/transactions"),
    ],
)
async def test_without_a_token_nothing_of_a_payment_is_told(gateway: Gateway, method: str, path: str) -> None:
    answer = await gateway.send(method, path)
    error = gateway.refused(answer, 401, "UNAUTHORIZED")
    assert (error["message"], answer.headers["WWW-Authenticate"]) == ("Access token required", "Bearer")


async def test_its_token_opens_the_core_surface_too(gateway: Gateway, ada: Person) -> None:
    """They share the secret."""
    answer = await gateway.world.get(f"/api/payments/user/{ada.id}", auth=ada.token)
    assert (answer.status, answer.json["payments"]) == (200, [])


async def test_its_events_go_to_its_own_topic(gateway: Gateway, ada: Person) -> None:
    payment = await ada.paid()
    await gateway.world.at_rest()
    lines = [json.loads(line) for line in gateway.world.engine.events_file.read_text().splitlines()]
    (told,) = [line for line in lines if line["key"] == payment["id"]]
    assert told["topic"] == "payment-gateway-events"
    assert told["value"]["event_type"] == "payment_completed"
    assert told["value"]["user_id"] == ada.id
    assert "order_id" not in told["value"]
