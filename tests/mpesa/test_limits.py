"""A hundred requests a minute for each client; and pages of every origin may use the surface."""

from __future__ import annotations

import asyncio

import pytest

from tests.mpesa.world import BASE, CLIENT, OTHER_CLIENT, OTHER_PACKAGE, Mpesa, running_mpesa, told, wish

pytestmark = pytest.mark.asyncio(loop_scope="package")

# Windows of an hour, and a patient limiter: nothing here depends on the machine.
FIVE = {
    "PAYMENTS__LIMITS__MPESA__REQUESTS": "5",
    "PAYMENTS__LIMITS__MPESA__WINDOW_S": "3600",
    "PAYMENTS__LIMITS__TIMEOUT_S": "10",
}


async def test_each_client_has_a_window_of_its_own_and_who_names_none_is_counted_by_address() -> None:
    async with running_mpesa(**FIVE) as mpesa:
        answers = [await mpesa.status("unknown") for _ in range(5)]
        assert [answer.status for answer in answers] == [404] * 5
        assert [int(answer.headers["RateLimit-Remaining"]) for answer in answers] == [4, 3, 2, 1, 0]
        for answer in (await mpesa.status("unknown"), await mpesa.initiate(), await mpesa.status("x", CLIENT.upper())):
            error = mpesa.refused(answer, 429, "RATE_LIMITED")
            assert (error["details"], error["retry"]) == ({"rule": "mpesa"}, "after")
            assert int(answer.headers["Retry-After"]) > 0

        other = await mpesa.initiate(mpesa.phone("7002"), client_id=OTHER_CLIENT, package_id=OTHER_PACKAGE)
        assert (other.status, other.headers["RateLimit-Remaining"]) == (200, "4")

        # Clients that are made up share the window of the address, with bodies that name none.
        for number in range(3):
            made_up = f"550e8400-e29b-41d4-a716-99999999999{number}"
            mpesa.refused(await mpesa.initiate(client_id=made_up), 403)
        mpesa.refused(await mpesa.post(f"{BASE}/initiate", {}), 400)
        mpesa.refused(await mpesa.post(f"{BASE}/initiate", b"{"), 400)
        mpesa.refused(await mpesa.initiate(client_id="550e8400-e29b-41d4-a716-999999999990"), 429)

        for _ in range(10):
            assert (await mpesa.callback(told("ws_CO_1"))).status == 200, "Safaricom is not counted"
        assert len((await mpesa.get_of_daraja("/journal/pushes"))["pushes"]) == 1


async def test_by_address_all_clients_share_one_window() -> None:
    async with running_mpesa(**FIVE, PAYMENTS__LIMITS__MPESA__PER="address") as mpesa:
        for number in range(5):
            mpesa.refused(await mpesa.status("unknown", CLIENT if number % 2 else OTHER_CLIENT), 404)
        mpesa.refused(await mpesa.status("unknown"), 429)


async def test_the_contracts_hundred_is_the_default() -> None:
    patient = {"PAYMENTS__LIMITS__MPESA__WINDOW_S": "3600", "PAYMENTS__LIMITS__TIMEOUT_S": "10"}
    async with running_mpesa(PAYMENTS__LIMITS__MPESA__REQUESTS="100", **patient) as mpesa:
        answers = await asyncio.gather(*(mpesa.status("unknown") for _ in range(110)))
        assert sorted(answer.status for answer in answers) == [404] * 100 + [429] * 10


async def test_the_document_tells_of_the_limit(mpesa: Mpesa) -> None:
    paths = (await mpesa.send("GET", "/openapi.json")).json["paths"]
    for path in ("initiate", "status"):
        assert "RATE_LIMITED" in paths[f"{BASE}/{path}"]["post"]["responses"]["429"]["description"]
    assert "429" not in paths[f"{BASE}/callback/{{secret}}"]["post"]["responses"]


@pytest.mark.parametrize("path", ["initiate", "status"])
async def test_a_page_of_any_origin_may_ask_without_credentials(mpesa: Mpesa, path: str) -> None:
    origin = {"Origin": "https://shop.example"}
    asks = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = await mpesa.send("OPTIONS", f"{BASE}/{path}", headers=asks)
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Methods"] == "POST"
    assert "Content-Type" in preflight.headers["Access-Control-Allow-Headers"]
    answers = [preflight, await mpesa.post(f"{BASE}/{path}", {}, **origin)]
    if path == "initiate":
        answers.append(await mpesa.post(f"{BASE}/{path}", wish(mpesa.phone("7002")), **origin))
        assert answers[-1].status == 200
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
