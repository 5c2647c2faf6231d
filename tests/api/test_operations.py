"""What operators and tools rely on: health, metrics, circuit status, request ids, and unknown paths and methods."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.api.raw import exchange
from tests.api.world import PAYMENTS, TIME, USER, World, eventually, payment_body, running_world, service_token

pytestmark = pytest.mark.asyncio(loop_scope="package")

PROMISED_METRICS = {
    "http_requests_total",
    "http_request_duration_seconds_count",
    "events_published_total",
    "database_connections_active",
    "payments_processed_total",
    "payment_success_rate",
    "circuit_breaker_state",
}
ODD_METHODS = ("PROPFIND", "TRACE", "MKCOL", "PURGE", "SUBSCRIBE", "LOCK", "M-SEARCH")
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/openapi.json", "/docs", "/api/circuit-breaker/status"]
)
async def test_operators_need_no_token(world: World, path: str) -> None:
    assert (await world.send("GET", path, auth=None)).status == 200


async def test_a_ready_engine_says_so_part_by_part(world: World) -> None:
    answer = await world.send("GET", "/ready", auth=None)
    assert answer.json["status"] == "ready"
    assert set(answer.json["parts"].values()) == {"ok"}
    assert (await world.send("GET", "/health", auth=None)).json == {"status": "ok"}


async def test_the_circuit_status_has_the_contracts_shape(world: World) -> None:
    status = (await world.send("GET", "/api/circuit-breaker/status", auth=None)).json
    assert {"user_service", "order_service", "card_acquirer"} <= set(status)
    for circuit in status.values():
        assert list(circuit)[:3] == ["state", "failure_count", "last_failure"]
        assert circuit["state"] in {"closed", "open", "half_open"}
        assert circuit["failure_count"] >= 0
        assert circuit["last_failure"] is None or TIME.fullmatch(circuit["last_failure"])


async def test_the_last_failure_is_a_time_and_failures_are_counted(world: World) -> None:
    await world.sims.fault(world.sims.orders, "error_before", times=1, method="GET")
    await world.paid()
    order_service = (await world.send("GET", "/api/circuit-breaker/status", auth=None)).json["order_service"]
    assert TIME.fullmatch(order_service["last_failure"])
    assert order_service["state"] == "closed"


async def test_the_metrics_have_the_contracts_names(world: World) -> None:
    await world.paid()
    await world.paid(cardNumber="4000000000000002")

    async def promised() -> set[str]:
        text = (await world.send("GET", "/metrics", auth=None)).text
        names = {re.split(r"[{ ]", line)[0] for line in text.splitlines()}
        return names if names >= PROMISED_METRICS else set()

    # The event is published, and counted, a moment after the payment has ended.
    assert await eventually(promised) >= PROMISED_METRICS


async def test_metrics_are_served_in_prometheus_text_format(world: World) -> None:
    answer = await world.send("GET", "/metrics", auth=None)
    assert answer.headers["Content-Type"].startswith("text/plain; version=")


async def test_metrics_count_what_happened() -> None:
    async with running_world() as world:  # of its own: what other tests have left open may end meanwhile
        await counted(world)


async def counted(world: World) -> None:
    """Three payments, seen in the counts."""

    async def now() -> dict[str, float]:
        return {
            "posts": await world.metric("http_requests_total", method="POST", route=PAYMENTS, status="201"),
            "timed": await world.metric("http_request_duration_seconds_count", method="POST", route=PAYMENTS),
            "completed": await world.metric("payments_processed_total", status="completed"),
            "failed": await world.metric("payments_processed_total", status="failed"),
        }

    before = await now()
    for card in ("4242424242424242", "4242424242424242", "4000000000000002"):
        await world.paid(cardNumber=card)
    after = await now()
    assert {name: after[name] - before[name] for name in after} == {
        "posts": 3, "timed": 3, "completed": 2, "failed": 1,
    }  # fmt: skip
    assert await world.metric("database_connections_active") >= 1
    assert {labels["counterparty"] for labels, _ in await world.samples("circuit_breaker_state")} >= {
        "user_service",
        "order_service",
        "card_acquirer",
    }


async def test_labels_are_bounded_whatever_clients_ask_for(world: World) -> None:
    for number in range(20):
        await world.get(f"{PAYMENTS}/pay-{number}")
        await world.get(f"/no/such/path/{number}")
        await world.send(ODD_METHODS[number % len(ODD_METHODS)], "/health")
        await world.get(f"{PAYMENTS}/user/{USER}?limit={number + 200}")
        await world.pay(payment_body(f"order-unknown-{number}"))
    labels = [labels for labels, _ in await world.samples("http_requests_total")]
    document = (await world.send("GET", "/openapi.json", auth=None)).json
    assert {label["route"] for label in labels} <= {*document["paths"], "/openapi.json", "/docs", "unmatched"}
    assert {label["method"] for label in labels} <= {"GET", "HEAD", "POST", "other"}
    text = (await world.send("GET", "/metrics", auth=None)).text
    for unbounded in (USER, "order-", "pay-", "such"):
        assert unbounded not in text


async def test_a_request_id_is_echoed_and_stands_in_the_error(world: World) -> None:
    longest = "".join(chr(33 + number % 94) for number in range(128))
    for request_id in ("checkout-7:2026/05", "x", longest):
        answer = await world.send("GET", f"{PAYMENTS}/nope", headers={"X-Request-Id": request_id})
        assert answer.headers.getall("X-Request-Id") == [request_id]
        assert world.refused(answer, 404)["request_id"] == request_id


async def test_a_request_without_an_id_gets_a_new_one(world: World) -> None:
    answers = [await world.get(f"{PAYMENTS}/nope") for _ in range(20)]
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == 20
    assert all(re.fullmatch(r"[!-~]{8,128}", request_id) for request_id in ids)


@pytest.mark.parametrize("sent", [b"x" * 129, b"", b"caf\xc3\xa9", b"a\tb", b"\x80"])
async def test_a_request_id_that_is_too_long_or_not_printable_is_replaced(world: World, sent: bytes) -> None:
    answer = await exchange(
        world.engine.port,
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + sent + b"\r\nConnection: close\r\n\r\n",
    )
    assert answer.status == 200
    assert re.fullmatch(r"[!-~]{8,128}", answer.headers["x-request-id"])
    assert answer.headers["x-request-id"] != sent.decode("latin-1")


async def test_a_trace_is_continued_or_begun(world: World) -> None:
    sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    continued = await world.send("GET", "/health", headers={"traceparent": sent})
    assert continued.headers["traceparent"].split("-")[1] == sent.split("-")[1]
    for bad in (None, "", "00-" + "0" * 32 + "-b7ad6b7169203331-01", sent.upper(), "hello", "ff" + sent[2:]):
        begun = await world.send("GET", "/health", headers={} if bad is None else {"traceparent": bad})
        assert TRACEPARENT.fullmatch(begun.headers["traceparent"])
        assert begun.headers["traceparent"] != bad


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/payment", "/api/payments/", "/API/payments", "//health", "/health/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_path_is_404(world: World, path: str, method: str) -> None:
    world.refused(await world.send(method, path), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (PAYMENTS, {"POST"}),
        (f"{PAYMENTS}/pay-1", {"GET"}),
        (f"{PAYMENTS}/pay-1/events", {"GET"}),
        (f"{PAYMENTS}/user/{USER}", {"GET"}),
        ("/api/idempotency-keys/k", {"GET"}),
        ("/api/circuit-breaker/status", {"GET"}),
        ("/health", {"GET"}),
        ("/metrics", {"GET"}),
    ],
)
async def test_a_wrong_method_is_405_and_names_the_right_ones(world: World, path: str, allowed: set[str]) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} - allowed:
        answer = await world.send(method, path)
        world.refused(answer, 405, "METHOD_NOT_ALLOWED")
        assert {name.strip() for name in answer.headers["Allow"].split(",")} - {"HEAD"} == allowed


async def test_the_document_names_every_operation_of_the_contract(world: World) -> None:
    document = (await world.send("GET", "/openapi.json", auth=None)).json
    operations = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert document["openapi"].startswith("3.1.")
    assert {
        ("post", PAYMENTS),
        ("get", f"{PAYMENTS}/{{payment_id}}"),
        ("get", f"{PAYMENTS}/{{payment_id}}/events"),
        ("get", f"{PAYMENTS}/user/{{user_id}}"),
        ("get", "/api/idempotency-keys/{key}"),
        ("get", "/api/circuit-breaker/status"),
        ("get", "/health"),
        ("get", "/ready"),
        ("get", "/metrics"),
    } <= operations


async def test_the_page_of_the_documentation_loads_nothing_from_elsewhere(world: World) -> None:
    page = (await world.send("GET", "/docs", auth=None)).text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any("swagger-ui" in link for link in loaded)
    for link in loaded:
        assert link.startswith("/") and not link.startswith("//")
        assert (await world.send("GET", link, auth=None)).status == 200


async def test_a_log_line_of_a_payment_is_json_with_its_ids(world: World) -> None:
    order = await world.order()
    answer = await world.pay(payment_body(order), wait_s=10, headers={"X-Request-Id": "find-me-again"})
    lines = [line for line in await world.log_lines() if line.get("payment_id") == answer.json["id"]]
    assert [line["request_id"] for line in lines] == ["find-me-again"]
    assert TIME.fullmatch(lines[0]["time"])


async def test_a_service_token_reads_operations_as_well(world: World) -> None:
    status: dict[str, Any] = (await world.get("/ready", auth=service_token())).json
    assert status["status"] == "ready"
