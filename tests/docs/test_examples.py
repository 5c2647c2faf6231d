"""The examples of the documentation are run, and are true.

On a page of `docs/`, a fenced block is run by what stands behind its fence:

| fence | what it is |
|---|---|
| `http`, beginning with a method | a request, sent to the page's surface, or to the address that it names |
| `http`, beginning with `HTTP/1.1` | the answer to it: this status, these headers among others, this body |
| `http until` | a request that is repeated until the answer is the one below it |
| `json event` | a line that the event file will have |
| `http received` | a message that whoever listens on port 9000 gets: this path, these headers among others, this body |
| `python received` | code that takes the `headers` and `body` of the message before, and raises for another body |
| `sh run` | lines to paste into one shell for the whole page, before its requests are sent |
| `json`, behind `sh run` | what these lines print: JSON values, with a blank line between two of them |

In an answer `…` stands for any text within a string, for any value as a value, and at the end of an object or a list
for more of it. `<name>` in an answer gives what stands there a name; wherever the name comes again, it is that.
Numbers are compared as they are written. The addresses are those of `make run`, and are replaced by the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any, Final

import pytest

from tests.docs.conftest import CALLBACK_SECRET
from tests.docs.matching import Differs, match_json, match_text
from tests.docs.pages import DOCS, blocks
from tests.docs.receiving import Got
from tests.docs.running import Engine, Example, Run, examples, paste, pastes
from tests.support import USER, token

pytestmark = pytest.mark.asyncio(loop_scope="package")

ADA: Final = "550e8400-e29b-41d4-a716-446655440002"
PAGES: Final = {
    "surfaces/core.md": "3003",
    "surfaces/orders.md": "3004",
    "surfaces/vault.md": "3005",
    "surfaces/gateway.md": "3000",
    "surfaces/mpesa.md": "8080",
    "webhooks.md": "3003",
}
"""The pages with examples, and whose surface each of them is about, by its port in `make run`."""
PORTS: Final = sorted(set(PAGES.values()))
NAMES: Final = {
    "token of jo": token(USER),
    "token of ada": token(ADA),
    "token of user 1": token("1"),
    "token of user 2": token("2"),
    "token of a service": token("shop", role="service"),
    "token of an admin": token("ops", role="admin"),
    "callback secret": CALLBACK_SECRET,
}
OPERATIONS: Final = {"/health", "/ready", "/metrics", "/openapi.json", "/docs"}
"""What every surface has; the core surface's page shows it."""
ROW: Final = re.compile(r"^\| (\d{3}) \| `([A-Z0-9_]+)` \|", re.MULTILINE)
CODE: Final = re.compile(r"`([A-Z0-9_]+)` \(retry")


def about(port: str) -> str:
    """All that is written about a surface."""
    return "\n".join((DOCS / page).read_text() for page, of in PAGES.items() if of == port)


async def operations(engine: Engine, port: str) -> dict[tuple[str, str], Any]:
    """What the running engine's own document says of the surface, by method and path."""
    async with engine.session.get(engine.ports[port] + "/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    return {(method.upper(), path): operation for path, of in paths.items() for method, operation in of.items()}


@pytest.mark.parametrize("page", PAGES)
async def test_what_a_page_shows_happens(page: str, engine: Engine) -> None:
    text = (DOCS / page).read_text()
    if pastes(text):
        await asyncio.to_thread(paste, engine, text, NAMES)
    assert await Run(engine, PAGES[page], NAMES).page(text) > 0


@pytest.mark.parametrize("path", ["README.md", "docs/getting-started.md"])
async def test_what_a_newcomer_is_told_to_paste_works(path: str, engine: Engine) -> None:
    text = (DOCS.parent / path).read_text()
    assert pastes(text)
    assert await asyncio.to_thread(paste, engine, text, NAMES)


@pytest.mark.parametrize("port", PORTS)
async def test_every_operation_of_a_surface_has_an_example(port: str, engine: Engine) -> None:
    shown = [example for example in examples(about(port)) if isinstance(example, Example)]
    good = [(one.request.method, one.request.target) for one in shown if one.answer.status < 300]
    for method, path in await operations(engine, port):
        if path not in OPERATIONS or port == "3003":
            form = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)) + r"(\?.*)?"
            assert any(verb == method and re.fullmatch(form, target) for verb, target in good), (method, path)


@pytest.mark.parametrize("port", PORTS)
async def test_the_errors_on_a_surface_s_page_are_those_that_there_are(port: str, engine: Engine) -> None:
    refusals = {
        (status, code)
        for operation in (await operations(engine, port)).values()
        for status, answer in operation["responses"].items()
        for code in CODE.findall(answer["description"])
    }
    # Whether a surface is limited is a matter of configuration.
    assert set(ROW.findall(about(port))) - {("429", "RATE_LIMITED")} == refusals - {("429", "RATE_LIMITED")}


async def test_every_key_that_the_examples_left_in_redis_is_in_the_architecture_s_table(engine: Engine) -> None:
    forms = key_forms((DOCS / "architecture.md").read_text())
    with contextlib.closing(engine.redis.client()) as client:
        keys = [str(key) for key in client.scan_iter(count=10_000)]
    assert "payments:dataset" in keys
    assert {key for key in keys if not any(form.fullmatch(key) for form in forms)} == set()


def key_forms(text: str) -> list[re.Pattern[str]]:
    """The keys of the table below "Redis": `{pNN}:ledger:<id>`, and `:events:<id>` behind it in the same shard.

    `…` stands for anything.
    """
    _, _, section = text.partition("\n## Redis\n")
    forms = []
    for row in re.findall(r"^\| (`[^|]*(?:\\\|[^|]*)*`) \|", section.partition("\n## ")[0], re.MULTILINE):
        first, *more = re.findall(r"`([^`]+)`", row)
        before = "{pNN}" if first.startswith("{pNN}") else first.rpartition(":")[0]
        for name in (first, *(before + each for each in more)):
            form = re.sub(r"<[a-z]+>|<n>|…", ".+", re.escape(name.replace("\\|", "|")))
            forms.append(re.compile(form.replace("pNN", "p[0-9a-f]{2}")))
    return forms


# The tests above can fail


async def test_a_key_that_is_not_in_the_table_is_found() -> None:
    table = "\n## Redis\n| `{pNN}:a:<id>`, `:b` | string | |\n| `{pNN}:n:<x>\\|<n>` | string | |\n\n## More\n| `c` | |"
    forms = key_forms(table)
    fitting = [
        key
        for key in ("{p0f}:a:1", "{p0f}:b", "{p0f}:n:y|3", "c", "{p0f}:a", "{pxx}:b")
        if any(form.fullmatch(key) for form in forms)
    ]
    assert fitting == ["{p0f}:a:1", "{p0f}:b", "{p0f}:n:y|3"]


@pytest.mark.parametrize(
    ("example", "answer"),
    [
        ('{"a": 1}', '{"a": 2}'),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": 1, …}', '{"b": 2}'),
        ('{"a": …}', "{}"),
        ('{"a": 20.00}', '{"a": 20.0}'),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": 1}', '{"a": "1"}'),
        ('{"a": null}', '{"a": ""}'),
        ('{"a": "pay-…"}', '{"a": "ref-1"}'),
        ('{"a": "<x>", "b": "<x>"}', '{"a": "1", "b": "2"}'),
        ('{"a": "<known>"}', '{"a": "other"}'),
        ("[1, 2]", "[1]"),
        ("[1]", "[1, 2]"),
        ("[1, …]", "[]"),
        ("[1, …]", "[2, 3]"),
        ('{"a": 1}', "no JSON"),
    ],
)
async def test_an_answer_that_is_not_the_example_s_is_found(example: str, answer: str) -> None:
    with pytest.raises(Differs):
        match_json(example, answer, {"known": "this"})


@pytest.mark.parametrize(
    ("example", "answer", "names"),
    [
        ('{"a": "pay-<x>", …}', '{"a": "pay-1", "b": {}}', {"x": "1"}),
        ('{"a": …, "b": […]}', '{"a": [1], "b": [2, 3]}', {}),
        ('[{"a": "…"}, …]', '[{"a": ""}, 2]', {}),
        ('{"a": "<known>", "…": 1}', '{"a": "this", "…": 1}', {}),
    ],
)
async def test_an_answer_that_is_the_example_s_gives_the_names(example: str, answer: str, names: Any) -> None:
    assert match_json(example, answer, {"known": "this"}) == names


async def test_a_text_is_compared_from_its_beginning_to_its_end() -> None:
    assert match_text("/api/<x>", "/api/1", {}) == {"x": "1"}
    for text in ("an /api/1", "/other/1"):
        with pytest.raises(Differs):
            match_text("/api/<x>", text, {})


async def test_a_page_that_promises_something_else_is_found(engine: Engine) -> None:
    """Each of these differs from the truth in one place."""
    true = "```http\nGET /health\n```\n\n```http\nHTTP/1.1 200 OK\nX-Request-Id: …\n\n{…}\n```\n"
    assert await Run(engine, "3003", {}).page(true) == 1
    for there, instead in (("200", "201"), ("/health", "/healthy"), ("X-Request-Id", "X-Missing"), ("{…}", "[…]")):
        with pytest.raises(Differs, match="line 1"):
            await Run(engine, "3003", {}).page(true.replace(there, instead))


async def test_a_message_that_nobody_received_is_found(engine: Engine) -> None:
    true = "```http received\nPOST /hooks\nwebhook-id: 1\n\n{…}\n```\n"
    told = engine._replace(received=[Got("/hooks", {"webhook-id": "1"}, b'{"a": 1}')])
    assert await Run(told, "3003", {}).page(true) == 1
    for there, instead in (("/hooks", "/others"), ("id: 1", "id: 2"), ("-id", "-missing"), ("{…}", "{}")):
        with pytest.raises(Differs, match="line 1: no such message"):
            await Run(told, "3003", {}, within_s=0).page(true.replace(there, instead))


async def test_code_that_refuses_a_message_or_takes_every_message_is_found(engine: Engine) -> None:
    received = "```http received\nPOST /hooks\n\n{…}\n```\n"
    code = "```python received\nassert body == b'{}'\n```\n"
    told = engine._replace(received=[Got("/hooks", {}, b"{}")])
    assert await Run(told, "3003", {}).page(received + code) == 2
    for page, why in (
        (code, "nothing was received"),
        (received + code.replace("==", "!="), "does not take"),
        (received + code.replace("assert ", ""), "was not signed"),
    ):
        with pytest.raises(Differs, match=why):
            await Run(told, "3003", {}).page(page)


async def test_no_block_is_left_out_by_a_slip_of_its_fence() -> None:
    known = {
        "http",
        "http until",
        "json event",
        "http received",
        "python received",
        "sh run",
        "json",
        "sh",
        "toml",
        "text",
        "mermaid",
        "python",
        "ini",
        "yaml",
    }
    for path in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]:
        for block in blocks(path.read_text()):
            assert block.info in known, f"{path}:{block.line}: {block.info!r}"
