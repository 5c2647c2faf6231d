"""The OpenAPI document: valid, complete, and true — what the server answers is what the document says."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, cast

import aiohttp
import jsonschema_rs
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from schemathesis.specs.openapi import definitions

import app
import clients
import engine
import resilience
from engine import errors
from engine.accepting import Accepted, Accepting, AcceptPayment, Caller, KeyState
from engine.cards import Card
from engine.changing import Asked, Changing, Refunded
from engine.context import RequestContext
from engine.errors import EngineError
from engine.facts import Failure, Method, Refund, RefundState, Status
from engine.ids import PaymentId, is_payment_id
from engine.money import Money
from engine.payment import Payment
from engine.waking import Changed
from handlers import mpesa_api, orders_api, vault_api
from handlers.auth import Authenticator, AuthSettings
from handlers.core_api import ERRORS, CoreApi
from handlers.core_changes import CoreChanges
from handlers.core_types import CreatePayment
from handlers.core_waiting import OutcomeWaiting
from handlers.gateway_api import ERRORS as GATEWAY_ERRORS
from handlers.http import BODY_BYTES_MAX, Edge, reply
from handlers.openapi import openapi_document
from handlers.ops import HEALTH, Ops
from handlers.routes import Route
from metrics.instruments import Instruments
from resilience.status import BreakerStatus

Client = TestClient[web.Request, web.Application]

SECRET = "a secret of at least thirty-two characters"
PAYMENT = Payment(
    version=1,
    id=PaymentId("pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a"),
    surface="core",
    order_id="order-123",
    user_id="550e8400-e29b-41d4-a716-446655440001",
    amount=Money(7548, "USD"),
    method=Method("credit_card", "visa", "4242"),
    created_ms=1_778_051_289_123,
)
REFUND = Refund("ref-01kqxw3v5n8t2r7d9m4c6b1hzj", 2000, "Order cancelled", RefundState.PENDING, PAYMENT.created_ms + 50)


def begun(payment: Payment) -> Payment:
    """With the intent to do what is next."""
    operation = payment.operation
    assert operation is not None
    return payment.begin(operation, "bank", now_ms=1, lease_ms=1)


LATER_MS = PAYMENT.created_ms + 40
REFUSED = Failure("PAY_002", "INSUFFICIENT_FUNDS", "not enough money")
COMPLETED = begun(PAYMENT).charged("txn-1", now_ms=LATER_MS)
FAILED = begun(PAYMENT).fail(REFUSED, now_ms=LATER_MS)
AUTHORIZED = begun(msgspec.structs.replace(PAYMENT, manual=True)).authorized(
    "txn-1", now_ms=LATER_MS, until_ms=LATER_MS + 9
)
CAPTURED_IN_PART = begun(AUTHORIZED.ask_capture(5000)).captured(now_ms=LATER_MS)
CANCELLED = begun(AUTHORIZED.ask_cancel("Out of stock")).voided(now_ms=LATER_MS)
REFUNDING = COMPLETED.ask_refund(REFUND.id, REFUND.minor, REFUND.reason, now_ms=REFUND.created_ms)
REFUNDED_IN_PART = begun(REFUNDING).refund_ended("txn-2", None, now_ms=LATER_MS)
REFUND_FAILED = begun(REFUNDING).refund_ended("", REFUSED, now_ms=LATER_MS)
REFUNDED = begun(COMPLETED.ask_refund(REFUND.id, 7548, "all", now_ms=LATER_MS)).refund_ended(
    "txn-2", None, now_ms=LATER_MS
)
STORIES = {
    "pending": msgspec.structs.replace(PAYMENT, held_until_ms=PAYMENT.created_ms + 1),
    "processing": PAYMENT,
    "sending": begun(PAYMENT),
    "completed": COMPLETED,
    "failed": FAILED,
    "authorized": AUTHORIZED,
    "capturing": AUTHORIZED.ask_capture(5000),
    "captured in part": CAPTURED_IN_PART,
    "cancelled": CANCELLED,
    "refunding": REFUNDING,
    "partially refunded": REFUNDED_IN_PART,
    "refund failed": REFUND_FAILED,
    "refunded": REFUNDED,
}


class FakeEngine:
    """Answers every question with one payment, or refuses every one with one error."""

    def __init__(self, payment: Payment = PAYMENT, *, refusal: Exception | None = None, replayed: bool = False) -> None:
        self._payment = payment
        self._refusal = refusal
        self._replayed = replayed

    async def accept(self, wanted: AcceptPayment, caller: Caller, key: str | None) -> Accepted:
        return Accepted(self._answer(), self._replayed)

    async def find(self, payment_id: str, caller: Caller) -> Payment:
        return self._answer()

    async def key_state(self, caller: Caller, key: str) -> KeyState:
        payment = self._answer()
        return KeyState(payment.id, payment.created_ms, payment)

    async def of_user(self, user_id: str, *, limit: int, before: PaymentId | None) -> list[Payment]:
        return [self._answer()] * limit

    async def events_of(self, payment_id: PaymentId) -> list[bytes]:
        return [b'{"event_type": "payment_completed"}']

    async def refund(
        self, payment_id: str, caller: Caller, *, amount: str | None, reason: str | None, key: str | None
    ) -> Refunded:
        payment = self._answer()
        return Refunded(payment, payment.refund(REFUND.id) or REFUND, self._replayed)

    async def find_refund(self, payment_id: str, refund_id: str, caller: Caller) -> Refunded:
        payment = self._answer()
        return Refunded(payment, payment.refund(REFUND.id) or REFUND, replayed=False)

    async def capture(self, payment_id: str, caller: Caller, *, amount: str | None, key: str | None) -> Asked:
        return Asked(self._answer(), self._replayed)

    async def cancel(self, payment_id: str, caller: Caller, *, reason: str | None, key: str | None) -> Asked:
        return Asked(self._answer(), self._replayed)

    def _answer(self) -> Payment:
        if self._refusal is not None:
            raise self._refusal
        return self._payment


class FakeBreakers:
    """One open circuit."""

    def statuses(self) -> Mapping[str, BreakerStatus]:
        opened = datetime(2026, 5, 6, tzinfo=UTC)
        status = BreakerStatus(
            state="open",
            failure_count=5,
            last_failure=opened,
            retry_after_s=2.5,
            opened_at=opened,
            window_calls=10,
            window_failure_rate=0.5,
            window_slow_rate=0.0,
            trials_in_flight=0,
            generation=1,
        )
        return {"bank": status}


class FakeReadiness:
    """A process that is ready, or whose store is away."""

    def __init__(self, *, ready: bool = True) -> None:
        self._ready = ready

    def parts(self) -> Mapping[str, str]:
        return {"store": "ok" if self._ready else "unreachable"}

    def ready(self) -> bool:
        return self._ready


def core_api(fake: FakeEngine | None = None, *, mode: str = "none") -> CoreApi:
    fake = fake or FakeEngine()
    settings = msgspec.convert({"mode": mode, "secret": SECRET}, AuthSettings)
    auth = Authenticator(settings)
    waiting = OutcomeWaiting(cast(Accepting, fake), Changed(), wait_max_s=1, waiters_max=10)
    changes = CoreChanges(cast(Changing, fake), waiting, auth)
    return CoreApi(cast(Accepting, fake), fake, FakeBreakers(), auth, waiting, changes)


def all_routes(api: CoreApi, *, ready: bool = True) -> list[Route]:
    return [*api.routes(), *Ops(FakeReadiness(ready=ready), lambda: b"up 1\n", HEALTH).routes()]


def document_of(api: CoreApi, routes: Sequence[Route] | None = None) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(openapi_document(api, routes or all_routes(api)))
    return document


DOCUMENT = document_of(core_api())
BODY = DOCUMENT["paths"]["/api/payments"]["post"]["requestBody"]["content"]["application/json"]["example"]


@asynccontextmanager
async def serving(api: CoreApi, *, ready: bool = True) -> AsyncIterator[Client]:
    """The surface on a socket, mounted as the composition root mounts it."""
    edge = Edge(api.name, api.errors, Instruments(CollectorRegistry()))
    application = web.Application(middlewares=[edge.middleware()], client_max_size=BODY_BYTES_MAX)
    for route in all_routes(api, ready=ready):
        application.router.add_route(route.method, route.path, route.handler)
    async with TestClient(TestServer(application)) as client:
        yield client


async def ask(client: Client, method: str, path: str) -> aiohttp.ClientResponse:
    """Send a good request to a route."""
    content = DOCUMENT["paths"][path][method.lower()].get("requestBody", {}).get("content", {})
    body = content["application/json"].get("example", {}) if content else None
    ids = {"payment_id": PAYMENT.id, "refund_id": REFUND.id}
    for name in ("payment_id", "refund_id", "user_id", "key"):
        path = path.replace(f"{{{name}}}", ids.get(name, "someone"))
    return await client.request(method, path, json=body)


async def assert_documented(response: aiohttp.ClientResponse, method: str, path: str) -> Any:
    """The answer's status, headers and body are those that the document promises. Returns the body."""
    promised = DOCUMENT["paths"][path][method.lower()]["responses"][str(response.status)]
    for name, header in DOCUMENT["components"]["headers"].items():
        if name in response.headers:
            assert name in promised["headers"], name
            text = response.headers[name]
            validate(header["schema"], int(text) if header["schema"]["type"] == "integer" else text)
        else:
            assert not (header.get("required") and name in promised["headers"]), name
    content = promised["content"][response.content_type]
    body = await (response.json() if response.content_type == "application/json" else response.text())
    validate(content["schema"], body)
    return body


def validate(schema: Mapping[str, Any], value: Any) -> None:
    """Raises `ValidationError` unless the value is what a schema of the document says."""
    rooted = {**schema, "components": DOCUMENT["components"]}
    jsonschema_rs.Draft202012Validator(rooted, validate_formats=True).validate(value)


def values_of(node: Any, name: str) -> Iterator[Any]:
    """Every value that stands under a name, anywhere."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == name:
                yield value
            yield from values_of(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from values_of(value, name)


def codes(method: str, path: str) -> dict[int, list[str]]:
    """The error codes of an operation by status, as its schemas restrict them."""
    found = {}
    for status, response in DOCUMENT["paths"][path][method]["responses"].items():
        content = response["content"].get("application/json", {})
        if "allOf" in content.get("schema", {}):
            narrowed = content["schema"]["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"]
            assert list(content["examples"]) == narrowed
            found[int(status)] = sorted(narrowed)
    return found


def refusal_of(kind: type[EngineError]) -> EngineError:
    """An error of this kind, with what its constructor asks for."""
    if kind is errors.IllegalMove:
        return errors.IllegalMove("completed", "authorized", ("refunded",))
    return kind("no", field="paymentMethod") if kind is errors.PaymentMethodRefused else kind("no")


def test_the_document_is_valid_openapi_3_1() -> None:
    """By the OpenAPI Initiative's own meta-schema, and JSON Schema's for every schema in it."""
    problems = list(definitions.OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT))

    assert [str(problem) for problem in problems] == []
    for schema in [*values_of(DOCUMENT, "schema"), *DOCUMENT["components"]["schemas"].values()]:
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_a_broken_document_is_not_valid_openapi_3_1() -> None:
    """The check above can fail."""
    broken = {**DOCUMENT, "paths": {"no-slash": {"get": {"responses": 5}}}}

    assert not definitions.OPENAPI_31_VALIDATOR.is_valid(broken)


def test_every_reference_leads_somewhere() -> None:
    references = set(values_of(DOCUMENT, "$ref"))
    references |= {ref for mapping in values_of(DOCUMENT, "mapping") for ref in mapping.values()}

    assert len(references) > 10
    for reference in references:
        node: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert node


def test_every_route_is_an_operation_and_nothing_else_is() -> None:
    routes = all_routes(core_api())

    operations = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}

    assert operations == {(route.method, route.path) for route in routes}
    assert len(operations) == len(routes)


def test_operation_ids_are_unique_and_tags_are_declared() -> None:
    operations = [operation for item in DOCUMENT["paths"].values() for operation in item.values()]

    ids = [operation["operationId"] for operation in operations]

    assert len(set(ids)) == len(ids)
    assert {tag for operation in operations for tag in operation["tags"]} == {tag["name"] for tag in DOCUMENT["tags"]}


def test_an_operation_with_a_body_requires_it_unless_every_field_has_a_default() -> None:
    for route in core_api().routes():
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert ("requestBody" in operation) is (route.body is not None)
        if route.body is not None:
            needs = any(field.required for field in msgspec.structs.fields(route.body))
            assert operation["requestBody"]["required"] is route.body_required is needs


def test_path_parameters_are_those_of_the_path() -> None:
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            named = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
            assert path.count("{") == len(named)
            assert all(f"{{{name}}}" in path for name in named)


def test_the_error_table_holds_every_refusal_of_the_engine() -> None:
    """An error without a status would be a 500 at the worst moment, and missing from the document."""
    for package in (engine, clients, resilience):
        import_all(package)

    of_surfaces = (ERRORS, orders_api.ERRORS, GATEWAY_ERRORS, mpesa_api.ERRORS, vault_api.ERRORS)
    assert set(leaves(EngineError)) == {error for table in of_surfaces for error in table}


def import_all(package: ModuleType) -> None:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def leaves(kind: type[EngineError]) -> Iterator[type[EngineError]]:
    below = [child for child in kind.__subclasses__() if not child.__module__.startswith("tests.")]
    if not below:
        yield kind
    for child in below:
        yield from leaves(child)


def test_a_refusal_that_has_no_status_stops_the_document() -> None:
    class Unheard(EngineError):
        """Of no surface."""

    api = core_api()
    route = Route("GET", "/odd", api.get, "Odd", {200: None}, errors=(Unheard,))

    with pytest.raises(KeyError):
        openapi_document(api, [route])


def test_every_refusal_of_the_create_operation_stands_under_its_status() -> None:
    assert codes("post", "/api/payments") == {
        400: ["INVALID_IDEMPOTENCY_KEY", "INVALID_JSON"],
        401: ["UNAUTHORIZED"],
        403: ["FORBIDDEN"],
        404: ["ORDER_003", "USER_004"],
        408: ["REQUEST_TIMEOUT"],
        409: ["PAY_003"],
        413: ["BODY_TOO_LARGE"],
        415: ["UNSUPPORTED_MEDIA_TYPE"],
        422: [
            "IDEMPOTENCY_KEY_REUSED", "INVALID_AMOUNT", "INVALID_REQUEST", "ORDER_MISMATCH", "PAY_001", "USER_INACTIVE",
        ],
        500: ["INTERNAL"],
        502: ["BAD_UPSTREAM_ANSWER"],
        503: [
            "ORDER_SERVICE_UNAVAILABLE", "OVERLOADED", "SIGNING_KEYS_UNAVAILABLE", "STORE_UNAVAILABLE",
            "USER_SERVICE_UNAVAILABLE",
        ],
    }  # fmt: skip


def test_every_refusal_of_a_change_stands_under_its_status() -> None:
    common = {
        400: ["INVALID_IDEMPOTENCY_KEY", "INVALID_JSON"],
        401: ["UNAUTHORIZED"],
        404: ["PAYMENT_NOT_FOUND"],
        408: ["REQUEST_TIMEOUT"],
        413: ["BODY_TOO_LARGE"],
        415: ["UNSUPPORTED_MEDIA_TYPE"],
        500: ["INTERNAL"],
        503: ["OVERLOADED", "SIGNING_KEYS_UNAVAILABLE", "STORE_UNAVAILABLE"],
    }
    used, bad = "IDEMPOTENCY_KEY_REUSED", "INVALID_REQUEST"
    assert codes("post", "/api/payments/{payment_id}/refund") == {
        **common, 409: ["PAY_004"], 422: [used, "INVALID_AMOUNT", bad, "PAY_004"],
    }  # fmt: skip
    assert codes("post", "/api/payments/{payment_id}/capture") == {
        **common, 409: ["ILLEGAL_MOVE"], 422: [used, "INVALID_AMOUNT", bad],
    }  # fmt: skip
    assert codes("post", "/api/payments/{payment_id}/cancel") == {
        **common, 409: ["ILLEGAL_MOVE"], 422: [used, bad],
    }  # fmt: skip


def test_an_operation_gives_only_the_refusals_of_its_kind() -> None:
    lookup = {
        404: ["PAYMENT_NOT_FOUND"],
        500: ["INTERNAL"],
        503: ["OVERLOADED", "SIGNING_KEYS_UNAVAILABLE", "STORE_UNAVAILABLE"],
    }

    assert codes("get", "/api/payments/{payment_id}") == {401: ["UNAUTHORIZED"], **lookup}
    assert codes("get", "/api/payments/user/{user_id}") == {
        401: ["UNAUTHORIZED"], 422: ["INVALID_REQUEST"], **lookup,
    }  # fmt: skip
    assert codes("get", "/api/payments/{payment_id}/refunds") == {401: ["UNAUTHORIZED"], **lookup}
    assert codes("get", "/api/payments/{payment_id}/refunds/{refund_id}") == {
        401: ["UNAUTHORIZED"], **lookup, 404: ["PAYMENT_NOT_FOUND", "REFUND_NOT_FOUND"],
    }  # fmt: skip
    assert codes("get", "/health") == {500: ["INTERNAL"]}


def test_a_refusal_is_described_by_its_docstring_and_its_advice() -> None:
    described = DOCUMENT["paths"]["/api/payments"]["post"]["responses"]["409"]["description"]

    assert described == (
        "- `PAY_003` (retry: never): The order is cancelled, paid, or has a payment that is live or completed."
    )


def test_only_operations_with_a_token_ask_for_one() -> None:
    for route in all_routes(core_api()):
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert operation["security"] == ([{"bearer": []}] if route.auth else [])
        assert ("401" in operation["responses"]) is route.auth
    assert DOCUMENT["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_the_example_of_a_payment_is_taken_by_the_real_decoder() -> None:
    """Whoever presses Execute in the documentation gets a payment."""
    wanted = msgspec.json.decode(msgspec.json.encode(BODY), type=CreatePayment)

    command = wanted.to_command(RequestContext("r", "t"))

    assert (command.order_id, command.user_id) == ("order-123", "550e8400-e29b-41d4-a716-446655440001")
    assert command.amount == Money(7548, "USD")
    assert isinstance(command.instrument, Card)
    assert (command.instrument.pan.last4, command.instrument.expiry_month) == ("4242", 12)
    assert command.instrument.expiry_year == 2030


def test_every_example_fits_its_own_schema() -> None:
    seen = 0
    for content in values_of(DOCUMENT["paths"], "application/json"):
        shown = [content["example"]] if "example" in content else []
        for example in [*shown, *(named["value"] for named in content.get("examples", {}).values())]:
            validate(content["schema"], example)
            seen += 1

    assert seen > 20
    assert is_payment_id(DOCUMENT["components"]["schemas"]["PaymentView"]["properties"]["id"]["examples"][0])


@pytest.mark.parametrize("kind", ["CreditCard", "DebitCard", "Wallet"])
def test_the_examples_of_every_payment_method_pass_the_engines_own_checks(kind: str) -> None:
    schema = DOCUMENT["components"]["schemas"][kind]
    method = {name: field.get("examples", field.get("enum"))[0] for name, field in schema["properties"].items()}

    wanted = msgspec.convert({**BODY, "amount": msgspec.Raw(b"1"), "paymentMethod": method}, CreatePayment)

    assert wanted.payment_method.instrument()


def test_the_schemas_are_fit_for_readers_outside_python() -> None:
    """RE2 knows no look-ahead, and four blanks at a line's start are a code block in Markdown."""
    patterns = list(values_of(DOCUMENT["components"]["schemas"], "pattern"))

    assert "^[A-Z]{3}$" in patterns
    assert not [pattern for pattern in patterns if "(?" in pattern]
    assert not [text for text in values_of(DOCUMENT, "description") if "\n  " in text]


def test_the_version_is_the_engines_unless_another_is_given() -> None:
    api = core_api()

    given = msgspec.json.decode(openapi_document(api, all_routes(api), version="9.8.7"))

    assert DOCUMENT["info"]["version"] == app.__version__
    assert given["info"]["version"] == "9.8.7"
    assert DOCUMENT["info"]["title"] == "Payment Service"


def test_an_operation_may_not_answer_one_status_in_two_json_shapes() -> None:
    api = core_api()
    route = Route("GET", "/odd", api.get, "Odd", {404: None}, errors=(errors.PaymentNotFound,))

    with pytest.raises(AssertionError, match="answers 404 twice"):
        openapi_document(api, [route])


REFUSALS = [
    pytest.param(route.method, route.path, kind, id=f"{getattr(route.handler, '__name__', '')}-{kind.__name__}")
    for route in core_api().routes()
    for kind in route.errors
]


@pytest.mark.parametrize(("method", "path", "kind"), REFUSALS)
async def test_the_server_refuses_as_documented(method: str, path: str, kind: type[EngineError]) -> None:
    async with serving(core_api(FakeEngine(refusal=refusal_of(kind)))) as client:
        response = await ask(client, method, path)

        body = await assert_documented(response, method, path)

    assert body["error"]["code"] == kind.code
    assert ("Retry-After" in response.headers) is issubclass(kind, errors.TryLater)
    promised = DOCUMENT["paths"][path][method.lower()]["responses"][str(response.status)]
    example = promised["content"]["application/json"]["examples"][kind.code]["value"]
    assert body["error"]["retry"] == example["error"]["retry"]


@pytest.mark.parametrize(
    ("status", "code", "request_of"),
    [
        (400, "INVALID_JSON", {"data": b"{"}),
        (400, "INVALID_IDEMPOTENCY_KEY", {"json": BODY, "headers": {"Idempotency-Key": "k" * 256}}),
        (413, "BODY_TOO_LARGE", {"data": b" " * (BODY_BYTES_MAX + 1)}),
        (415, "UNSUPPORTED_MEDIA_TYPE", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
        (422, "INVALID_REQUEST", {"json": {**BODY, "orderId": 5}}),
        (422, "PAY_001", {"json": {**BODY, "paymentMethod": {"type": "cash"}}}),
    ],
)
async def test_a_bad_body_is_refused_as_documented(status: int, code: str, request_of: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json", **request_of.pop("headers", {})}
    async with serving(core_api()) as client:
        response = await client.post("/api/payments", headers=headers, **request_of)

        body = await assert_documented(response, "post", "/api/payments")

    assert (response.status, body["error"]["code"]) == (status, code)


async def test_a_bad_page_size_is_refused_as_documented() -> None:
    path = "/api/payments/user/{user_id}"
    async with serving(core_api()) as client:
        response = await client.get("/api/payments/user/someone?limit=101")

        body = await assert_documented(response, "get", path)

    assert (response.status, body["error"]["code"]) == (422, "INVALID_REQUEST")


async def test_a_missing_token_is_refused_as_documented() -> None:
    routes = core_api().routes()
    async with serving(core_api(mode="jwt")) as client:
        for route in routes:
            response = await ask(client, route.method, route.path)
            body = await assert_documented(response, route.method, route.path)
            assert (response.status == 401) is route.auth
            assert not route.auth or body["error"]["code"] == "UNAUTHORIZED"


async def test_a_breakdown_is_answered_as_documented() -> None:
    async with serving(core_api(FakeEngine(refusal=RuntimeError("bang")))) as client:
        response = await client.get(f"/api/payments/{PAYMENT.id}")

        body = await assert_documented(response, "get", "/api/payments/{payment_id}")

    assert (response.status, body["error"]["code"]) == (500, "INTERNAL")


MAKES = ("/api/payments", "/api/payments/{payment_id}/refund")


@pytest.mark.parametrize("payment", STORIES.values(), ids=STORIES)
async def test_every_operation_answers_as_documented(payment: Payment) -> None:
    changed = 200 if payment.operation is None else 202
    async with serving(core_api(FakeEngine(payment))) as client:
        for route in all_routes(core_api()):
            response = await ask(client, route.method, route.path)
            answered = 200 if route.method == "GET" else 201 if route.path in MAKES else changed
            assert response.status == answered
            await assert_documented(response, route.method, route.path)


def test_every_status_is_among_the_answers_that_are_tried() -> None:
    assert {payment.status for payment in STORIES.values()} == set(Status)


async def test_a_body_that_is_not_required_may_be_left_out() -> None:
    left_out = [route for route in core_api().routes() if route.body is not None and not route.body_required]
    assert len(left_out) == 3
    async with serving(core_api(FakeEngine(COMPLETED))) as client:
        for route in left_out:
            response = await client.post(route.path.replace("{payment_id}", PAYMENT.id))
            assert response.status in (200, 201)
            await assert_documented(response, route.method, route.path)


@pytest.mark.parametrize("path", MAKES)
async def test_a_replayed_and_awaited_payment_carries_the_documented_headers(path: str) -> None:
    async with serving(core_api(FakeEngine(REFUNDED_IN_PART, replayed=True))) as client:
        headers = {"Idempotency-Key": "k", "Prefer": "wait=1"}
        body = BODY if path == MAKES[0] else {}
        response = await client.post(path.replace("{payment_id}", PAYMENT.id), json=body, headers=headers)

        await assert_documented(response, "post", path)

    assert {"Location", "Idempotent-Replayed", "Preference-Applied"} <= set(response.headers)


@pytest.mark.parametrize("payment", [COMPLETED, REFUNDING], ids=["done", "under way"])
@pytest.mark.parametrize("what", ["capture", "cancel"])
async def test_a_replayed_and_awaited_change_carries_the_documented_headers(what: str, payment: Payment) -> None:
    path = f"/api/payments/{{payment_id}}/{what}"
    async with serving(core_api(FakeEngine(payment, replayed=True))) as client:
        headers = {"Idempotency-Key": "k", "Prefer": "wait=1"}
        response = await client.post(path.replace("{payment_id}", PAYMENT.id), json={}, headers=headers)

        await assert_documented(response, "post", path)

    assert {"Idempotent-Replayed", "Preference-Applied"} <= set(response.headers)


async def test_a_process_that_is_not_ready_says_so_as_documented() -> None:
    async with serving(core_api(), ready=False) as client:
        response = await client.get("/ready")

        body = await assert_documented(response, "get", "/ready")

    assert response.status == 503
    assert body["parts"] == {"store": "unreachable"}


async def test_a_body_of_free_form_has_no_schema_of_its_own() -> None:
    async def odd(request: web.Request) -> web.Response:
        return reply(200, {})

    document = document_of(core_api(), [Route("GET", "/odd", odd, "Odd", {200: None}, auth=False)])

    assert document["paths"]["/odd"]["get"]["operationId"] == "odd"
    assert document["paths"]["/odd"]["get"]["responses"]["200"]["content"] == {"application/json": {"schema": {}}}
