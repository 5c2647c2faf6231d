"""What is refused: nothing is written, and no phone is asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.mpesa.world import BASE, CLIENT, OTHER_PACKAGE, SECRET, Mpesa, told, wish

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest_asyncio.fixture(loop_scope="package", autouse=True)
async def nothing_happens(mpesa: Mpesa) -> AsyncIterator[None]:
    """Holds every test here to it."""
    payments, pushes = mpesa.all_records(), (await mpesa.get_of_daraja("/journal/summary"))["pushes"]
    yield
    assert mpesa.all_records() == payments
    assert (await mpesa.get_of_daraja("/journal/summary"))["pushes"] == pushes
    assert await mpesa.world.metric("http_requests_total", status="500") == 0


@pytest.mark.parametrize(
    "number",
    [
        "+255712345678", "+14155550123", "+44 7700 900123", "0812345678", "+25471234567", "+2547123456789", "712345678",
        "+254 712 345 678", "+254712345678\n", "+2547１2345678", "", " ", 254712345678, None, ["+254712345678"],
    ],
)  # fmt: skip
async def test_a_phone_that_is_no_kenyan_mobile_number_is_refused(mpesa: Mpesa, number: Any) -> None:
    body = wish() | {"phone_number": number}
    error = mpesa.refused(await mpesa.post(f"{BASE}/initiate", body), 400)
    missing = number in ("", None)
    assert error["error"] == ("Missing required fields: phone_number" if missing else "Invalid phone_number format")


async def test_a_package_of_another_client_is_refused(mpesa: Mpesa) -> None:
    answer = await mpesa.initiate(package_id=OTHER_PACKAGE)
    mpesa.refused(answer, 400, "INVALID_PACKAGE", "Invalid package_id")


async def test_a_package_that_is_not_there_is_refused_alike(mpesa: Mpesa) -> None:
    answer = await mpesa.initiate(package_id="660e8400-e29b-41d4-a716-4466554400ff")
    mpesa.refused(answer, 400, "INVALID_PACKAGE", "Invalid package_id")


@pytest.mark.parametrize("field", ["client_id", "package_id", "phone_number", "description"])
@pytest.mark.parametrize("value", [1, True, 1.5, [], {}, ["x"]])
async def test_a_field_of_the_wrong_type_is_refused_by_name(mpesa: Mpesa, field: str, value: Any) -> None:
    answer = await mpesa.post(f"{BASE}/initiate", wish() | {field: value})
    mpesa.refused(answer, 400, "INVALID_FIELD", f"Invalid {field} format")


@pytest.mark.parametrize("value", [1, True, [], {}, "x" * 129, "a\nb"])
async def test_a_checkout_of_the_wrong_form_is_refused(mpesa: Mpesa, value: Any) -> None:
    mpesa.refused(await mpesa.status(value), 400, "INVALID_FIELD", "Invalid checkout_id format")


@pytest.mark.parametrize("description", ["x" * 256, "a\nb", "a\x00b", "\u202e"])
async def test_a_description_that_cannot_be_shown_is_refused(mpesa: Mpesa, description: str) -> None:
    answer = await mpesa.initiate(description=description)
    mpesa.refused(answer, 400, "INVALID_FIELD", "Invalid description format")


@pytest.mark.parametrize("path", ["initiate", "status"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "INVALID_JSON"), (b"{", "INVALID_JSON"), (b"client_id=1", "INVALID_JSON"), (b"\xff\xfe", "INVALID_JSON"),
        (b'{"client_id": "\\ud800"}', "INVALID_JSON"), (b"[" * 20_000, "INVALID_JSON"),
        (b"[]", "INVALID_FIELD"), (b"null", "INVALID_FIELD"), (b'"x"', "INVALID_FIELD"), (b"1", "INVALID_FIELD"),
    ],
)  # fmt: skip
async def test_what_is_no_json_object_is_refused(mpesa: Mpesa, path: str, body: bytes, code: str) -> None:
    mpesa.refused(await mpesa.post(f"{BASE}/{path}", body), 400, code)


@pytest.mark.parametrize("path", ["initiate", "status", f"callback/{SECRET}"])
async def test_a_huge_body_and_another_media_type_are_refused(mpesa: Mpesa, path: str) -> None:
    huge = json.dumps(wish(description="x" * 70_000)).encode()
    mpesa.refused(await mpesa.post(f"{BASE}/{path}", huge), 413, "BODY_TOO_LARGE")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await mpesa.send("POST", f"{BASE}/{path}", body=b"a=b", headers=form)
    mpesa.refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_another_path_and_another_method_are_refused(mpesa: Mpesa) -> None:
    mpesa.refused(await mpesa.post(f"{BASE}/refund", {}), 404, "NOT_FOUND")
    answer = await mpesa.send("GET", f"{BASE}/initiate")
    mpesa.refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b"x", b'{"Body": {}}', b'{"Body": {"stkCallback": {}}}', b"\xff",
        json.dumps(told("")).encode(), json.dumps(told("a b")).encode(), json.dumps(told("x" * 129)).encode(),
        json.dumps(told("ws_CO_1", phone="254712345678", shillings=True)).encode(),
        json.dumps(told("ws_CO_1", phone="254712345678", shillings="1,500")).encode(),
        json.dumps(told("ws_CO_1", phone="1")).encode(),
    ],
)  # fmt: skip
async def test_a_callback_that_is_garbage_is_refused(mpesa: Mpesa, body: bytes) -> None:
    mpesa.refused(await mpesa.post(f"{BASE}/callback/{SECRET}", body), 400)


@pytest.mark.parametrize("secret", ["x", SECRET[:-1], SECRET + "x", SECRET.upper(), "%00", "%C3%A4", "%FF", CLIENT])
async def test_a_callback_under_a_wrong_secret_finds_nothing_there(mpesa: Mpesa, secret: str) -> None:
    for attempt in ("", "pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a-a1"):
        mpesa.refused(await mpesa.callback(told("ws_CO_1"), attempt, secret), 404, "NOT_FOUND")
    assert (await mpesa.callback({}, secret=secret)).status == 404, "not even that its body is wrong"
