"""The OpenAPI 3.1 document of a surface, made from the same types and routes that serve it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import UNSET

from engine.errors import EngineError, Retry, SigningKeysUnavailable, TryLater
from handlers.envelopes import Envelope, ErrorInfo
from handlers.http import BODY_BYTES_MAX
from handlers.routes import ErrorTable, Param, Route, Surface
from resilience.limit_settings import Rule

_JSON: Final = "application/json"
_PATH_NAME: Final = re.compile(r"\{(\w+)\}")
# Only Python's `$` needs the look-ahead, and many users' regex engines (RE2: Go, Rust) refuse it.
_PYTHON_END: Final = r"$(?!\n)"

_CONVENTIONS: Final = """\
Every error is JSON: {shape}. Programs read `code` and `retry`; the message is for people and may change.

`retry` says what to do: `never` (the same request will be refused again), `same_key` (repeat it with the same
`Idempotency-Key`), `new_key` (send it with another one), `after` (repeat it after `Retry-After` seconds).

Send `X-Request-Id` (1 to 128 visible ASCII characters) and `traceparent` (W3C Trace Context) to find a request again;
they are echoed, or made where they are missing. Unknown fields in a body are ignored."""


class _Refusal(msgspec.Struct, frozen=True):
    """One way in which an operation says no."""

    status: int
    code: str
    text: str
    retry: Retry = "never"
    later: bool = False

    def example(self) -> ErrorInfo:
        """How it looks."""
        return ErrorInfo(self.code, self.text, "5f0c8d1e2b3a4967", self.retry, {})


_UNAUTHORIZED: Final = _Refusal(401, "UNAUTHORIZED", "The bearer token is missing, has expired, or is not valid.")
_INVALID_REQUEST: Final = _Refusal(422, "INVALID_REQUEST", "A field or parameter is missing or of the wrong form.")
_INVALID_KEY: Final = _Refusal(
    400, "INVALID_IDEMPOTENCY_KEY", "Idempotency-Key must be 1 to 255 printable ASCII characters, once."
)
_INTERNAL: Final = _Refusal(500, "INTERNAL", "Something broke here; it is logged.", "same_key")
_RATE_LIMITED: Final = _Refusal(429, "RATE_LIMITED", "Too many requests in a time.", "after", later=True)
_CANNOT_COUNT: Final = _Refusal(503, "RATE_LIMITER_UNAVAILABLE", "Requests cannot be counted now.", "after", later=True)
_OF_BODIES: Final = (
    _Refusal(400, "INVALID_JSON", "The body is not JSON."),
    _Refusal(408, "REQUEST_TIMEOUT", "The body did not arrive in time.", "same_key"),
    _Refusal(413, "BODY_TOO_LARGE", f"The body is larger than {BODY_BYTES_MAX} bytes."),
    _Refusal(415, "UNSUPPORTED_MEDIA_TYPE", "The body is not sent as application/json, or is encoded."),
)

_LIMIT_HEADERS: Final = {
    "RateLimit-Limit": "How many requests are taken in the window of the rule that is nearest to its end.",
    "RateLimit-Remaining": "How many of them are left.",
    "RateLimit-Reset": "Seconds until one more is.",
}
_HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's id: the one sent, or a new one.",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    },
    "traceparent": {
        "description": "W3C Trace Context: the one sent, or a new one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {
        "description": "The challenge (RFC 6750).",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait before trying again.",
        "schema": {"type": "integer", "minimum": 1},
    },
    **{
        name: {"description": text, "schema": {"type": "integer", "minimum": 0}}
        for name, text in _LIMIT_HEADERS.items()
    },
    "Location": {
        "description": "The path of what was made.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotent-Replayed": {
        "description": "Present when an earlier request with this Idempotency-Key made it.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Preference-Applied": {
        "description": "The seconds that `Prefer: wait` was honoured with (RFC 7240).",
        "schema": {"type": "string"},
    },
}


def openapi_document(
    surface: Surface, routes: Sequence[Route], *, version: str = "0.1.0", rule: Rule | None = None
) -> bytes:
    """The document as JSON; `rule` is the surface's rate limit.

    Raises `KeyError` for a route's refusal that has no status on the surface.
    """
    schemas = _Schemas(routes, surface.envelope)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, surface.errors, schemas, rule)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": surface.title,
            "version": version,
            "description": _CONVENTIONS.replace("{shape}", surface.envelope.shape),
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": _HEADERS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }
    return msgspec.json.encode(document)


class _Schemas:
    """The JSON Schemas of every type that the routes read or answer."""

    def __init__(self, routes: Iterable[Route], envelope: Envelope) -> None:
        self._envelope = envelope
        kinds: dict[Any, None] = {envelope.body: None}
        for route in routes:
            kinds.update(dict.fromkeys(kind for kind in (route.body, *route.answers.values()) if kind is not None))
        shown, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
        self._shown: dict[Any, dict[str, Any]] = dict(zip(kinds, shown, strict=True))
        self.components: dict[str, dict[str, Any]] = _tidy(components)

    def errors(self, refusals: Sequence[_Refusal]) -> dict[str, Any]:
        """A media type object for refusals of one status."""
        narrowed: dict[str, Any] = {"enum": [refusal.code for refusal in refusals]}
        for name in reversed(self._envelope.code_path):
            narrowed = {"properties": {name: narrowed}}
        return {
            "schema": {"allOf": [self.of(self._envelope.body), narrowed]},
            "examples": {refusal.code: {"value": self._envelope.dress(refusal.example())} for refusal in refusals},
        }

    def of(self, kind: Any) -> dict[str, Any]:
        """A type's schema, mostly a reference."""
        return self._shown[kind]

    def content(self, kind: Any) -> dict[str, Any]:
        """A media type object for a type: its schema, and an example where its fields have some."""
        schema = self.of(kind)
        example = self._example(schema)
        return {"schema": schema} if example is UNSET else {"schema": schema, "example": example}

    def _example(self, schema: Mapping[str, Any]) -> Any:
        """A value made of the examples that stand beside the fields; `UNSET` where a required field has none."""
        match schema:
            case {"examples": [first, *_]} | {"enum": [first, *_]}:
                return first
            case {"$ref": str(ref)}:
                return self._example(self.components[ref.rpartition("/")[2]])
            case {"anyOf": options}:
                return next((value for value in map(self._example, options) if value is not UNSET), UNSET)
            case {"type": "array", "items": items}:
                item = self._example(items)
                return UNSET if item is UNSET else [item]
            case {"type": "null"}:
                return None
            case {"properties": properties, "required": required}:
                fields = {name: self._example(properties[name]) for name in required}
                return UNSET if UNSET in fields.values() else fields
            case _:
                return UNSET


def _operation(route: Route, table: ErrorTable, schemas: _Schemas, rule: Rule | None) -> dict[str, Any]:
    operation: dict[str, Any] = {
        # A handler is a bound method or a function: both have a name.
        "operationId": getattr(route.handler, "__name__"),  # noqa: B009
        "summary": route.summary,
        "tags": [route.tag],
        "security": [{"bearer": []}] if route.auth else [],
        "parameters": [*map(_path_parameter, _PATH_NAME.findall(route.path)), *map(_parameter, route.params)],
    }
    if route.body is not None:
        operation["requestBody"] = {"required": route.body_required, "content": {_JSON: schemas.content(route.body)}}
    operation["responses"] = _responses(route, table, schemas, rule)
    return operation


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _parameter(param: Param) -> dict[str, Any]:
    return {"name": param.name, "in": param.place, "schema": param.schema, "description": param.description}


def _responses(route: Route, table: ErrorTable, schemas: _Schemas, rule: Rule | None) -> dict[str, Any]:
    refusals = [*_refusals(route, table), *_of_limits(route, rule)]
    responses = {}
    for status in sorted({*route.answers, *(refusal.status for refusal in refusals)}):
        of_status = [refusal for refusal in refusals if refusal.status == status]
        texts, content = [], {}
        if status in route.answers:
            kind = route.answers[status]
            texts.append(HTTPStatus(status).phrase)
            content[route.media_type] = {"schema": _free_form(route)} if kind is None else schemas.content(kind)
        if of_status:
            texts += [f"- `{refusal.code}` (retry: {refusal.retry}): {refusal.text}" for refusal in of_status]
            # An answer and a refusal of one status, both in JSON, could not be told apart by the media type.
            assert status not in route.answers or route.media_type != _JSON, f"{route.path} answers {status} twice"
            content[_JSON] = schemas.errors(of_status)
        names = _header_names(route, status, of_status, limited=_RATE_LIMITED in refusals)
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
        responses[str(status)] = {"description": "\n".join(texts), "headers": headers, "content": content}
    return responses


def _refusals(route: Route, table: ErrorTable) -> list[_Refusal]:
    """What the route names, and what every operation of its kind can say. A code is listed once."""
    found = [_of_engine(error, table[error]) for error in route.errors]
    if route.auth:
        found.append(_UNAUTHORIZED)
        # A document that does not depend on the configuration: keys of others may have to be fetched.
        found.append(_of_engine(SigningKeysUnavailable, table[SigningKeysUnavailable]))
    if route.body is not None:
        found += _OF_BODIES
    if route.body is not None or any(param.place == "query" for param in route.params):
        found.append(_INVALID_REQUEST)
    if _reads_header(route, "Idempotency-Key"):
        found.append(_INVALID_KEY)
    found.append(_INTERNAL)
    return list({(refusal.status, refusal.code): refusal for refusal in found}.values())


def _of_limits(route: Route, rule: Rule | None) -> list[_Refusal]:
    """What a route can say that is counted. Which of its own rules fail closed is a matter of configuration."""
    counted = rule is not None and route.counted
    closed = bool(route.limits) or (counted and rule is not None and rule.on_failure == "closed")
    return [*([_RATE_LIMITED] if counted or route.limits else []), *([_CANNOT_COUNT] if closed else [])]


def _of_engine(error: type[EngineError], status: int) -> _Refusal:
    text = inspect.cleandoc(error.__doc__ or "").partition("\n")[0]
    return _Refusal(status, error.code, text, error.retry, issubclass(error, TryLater))


def _header_names(route: Route, status: int, refusals: Sequence[_Refusal], *, limited: bool) -> list[str]:
    names = ["X-Request-Id", "traceparent"]
    if any(refusal.status == 401 for refusal in refusals):
        names.append("WWW-Authenticate")
    if any(refusal.later for refusal in refusals):
        names.append("Retry-After")
    if limited:
        names += _LIMIT_HEADERS
    if status == 201:
        names.append("Location")
    if status in route.answers and _reads_header(route, "Idempotency-Key"):
        names.append("Idempotent-Replayed")
    if status in route.answers and _reads_header(route, "Prefer"):
        names.append("Preference-Applied")
    return names


def _reads_header(route: Route, name: str) -> bool:
    return any(param.place == "header" and param.name == name for param in route.params)


def _free_form(route: Route) -> dict[str, Any]:
    return {} if route.media_type == _JSON else {"type": "string"}


def _tidy(value: Any, keyword: str = "") -> Any:
    """The schema for readers outside Python: no docstring indentation, no regex syntax of Python's own."""
    match value:
        case dict():
            return {name: _tidy(inner, name) for name, inner in value.items()}
        case list():
            return [_tidy(inner) for inner in value]
        case str() if keyword == "description":
            return inspect.cleandoc(value)
        case str() if keyword == "pattern":
            return value.replace(_PYTHON_END, "$")
        case _:
            return value
