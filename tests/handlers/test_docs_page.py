"""The documentation page over a real socket: it works from local files alone and gives away nothing else."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from handlers.docs import Docs
from handlers.http import Edge
from metrics.instruments import Instruments

Client = TestClient[web.Request, web.Application]

DOCUMENT = b'{"openapi":"3.1.0"}'
SPEC = find_spec("flask_swagger_ui")
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png"}


@asynccontextmanager
async def serving(docs: Docs) -> AsyncIterator[Client]:
    """The documentation as the composition root mounts it, behind a surface's middleware."""
    edge = Edge("core", {}, Instruments(CollectorRegistry()))
    application = web.Application(middlewares=[edge.middleware()])
    for route in docs.routes():
        application.router.add_route(route.method, route.path, route.handler)
    docs.mount_files(application)
    async with TestClient(TestServer(application)) as client:
        yield client


def dist() -> Path:
    assert SPEC is not None and SPEC.submodule_search_locations
    return Path(SPEC.submodule_search_locations[0]) / "dist"


async def raw_status(client: Client, target: str) -> int:
    """The answer's status to a request line that no HTTP client would send unchanged."""
    assert client.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])


async def test_the_document_is_served_as_it_is() -> None:
    async with serving(Docs(DOCUMENT)) as client:
        response = await client.get("/openapi.json")

        assert response.status == 200
        assert response.content_type == "application/json"
        assert response.headers["Cache-Control"] == "no-cache"
        assert await response.read() == DOCUMENT


async def test_everything_that_the_page_loads_is_served_from_here() -> None:
    """A page that asks a CDN tells it who reads, and shows nothing where there is no internet."""
    async with serving(Docs(DOCUMENT)) as client:
        response = await client.get("/docs")
        page = await response.text()
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
        answers = {path: await client.get(path) for path in loaded}

    assert response.status == 200 and response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert sorted(loaded) == sorted(["/docs/init.js", *(f"/docs/{name}" for name in FILES)])
    assert {path: answer.status for path, answer in answers.items()} == dict.fromkeys(loaded, 200)
    assert "//" not in page


async def test_the_page_forbids_whatever_is_not_from_here() -> None:
    async with serving(Docs(DOCUMENT)) as client:
        response = await client.get("/docs")
        page = await response.text()

    rules = dict(rule.split(" ", 1) for rule in response.headers["Content-Security-Policy"].split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    # What the policy forbids would be silently dead: no inline script, no inline style, no handler attribute.
    assert re.findall(r"<script(?! src=)|<style|\son\w+=|\sstyle=", page) == []


async def test_the_start_script_shows_our_document_and_no_other_server() -> None:
    async with serving(Docs(DOCUMENT)) as client:
        response = await client.get("/docs/init.js")
        script = await response.text()

    assert response.status == 200 and response.content_type == "text/javascript"
    assert 'url: "/openapi.json"' in script
    assert "persistAuthorization: true" in script and "tryItOutEnabled: true" in script
    assert "validatorUrl: null" in script and "//" not in script


@pytest.mark.parametrize(("name", "content_type"), list(FILES.items()))
async def test_a_file_is_the_packages_and_may_be_kept(name: str, content_type: str) -> None:
    async with serving(Docs(DOCUMENT)) as client:
        response = await client.get(f"/docs/{name}")
        body = await response.read()
        again = await client.get(f"/docs/{name}", headers={"If-None-Match": response.headers["ETag"]})

    assert response.status == 200 and response.content_type == content_type
    assert body == (dist() / name).read_bytes()
    assert response.headers["Cache-Control"] == "public, max-age=86400"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert again.status == 304


def test_swagger_ui_is_new_enough_for_openapi_3_1() -> None:
    """Version 4 renders an OpenAPI 3.1 document as an error."""
    version = (dist() / "VERSION").read_text()

    assert int(version.lstrip("v").split(".")[0]) >= 5


def test_the_flask_extension_is_never_imported() -> None:
    """Flask is not installed; only the files are used."""
    Docs(DOCUMENT)

    assert "flask_swagger_ui" not in sys.modules


async def test_a_slash_at_the_end_leads_to_the_page() -> None:
    """Through the middleware, which would make an error of a raised redirect."""
    async with serving(Docs(DOCUMENT)) as client:
        response = await client.get("/docs/", allow_redirects=False)
        followed = await client.get("/docs/")

    assert (response.status, response.headers["Location"]) == (308, "/docs")
    assert followed.status == 200 and followed.url.path == "/docs"


@pytest.mark.parametrize(
    "target",
    [
        "/docs/../../../../etc/passwd",
        "/docs/..%2f..%2f..%2fetc%2fpasswd",
        "/docs/%2e%2e/%2e%2e/etc/passwd",
        "/docs/..%5c..%5cetc%5cpasswd",
        "/docs//etc/passwd",
        "/docs/swagger-ui.css/../VERSION",
        "/docs/swagger-ui.css%00.js",
        "/docs/../flask_swagger_ui.py",
        "/docs/VERSION",
        "/docs/index.html",
        "/docs/oauth2-redirect.html",
    ],
)
async def test_nothing_but_the_named_files_can_be_read(target: str) -> None:
    async with serving(Docs(DOCUMENT)) as client:
        status = await raw_status(client, target)
        known = await raw_status(client, "/docs/swagger-ui.css")

    assert (status, known) == (404, 200)


async def test_without_the_package_the_page_says_how_to_get_it() -> None:
    async with serving(Docs(DOCUMENT, package="no_such_package")) as client:
        page = await client.get("/docs")
        text = await page.text()
        document = await client.get("/openapi.json")
        bundle = await client.get("/docs/swagger-ui-bundle.js")

        assert page.status == 200 and page.content_type == "text/html"
        assert "requirements/swagger-ui.txt" in text and "<script" not in text
        assert await document.read() == DOCUMENT
        assert bundle.status == 404


async def test_a_package_without_the_files_counts_as_missing() -> None:
    """A module of the name but of another make must not become a page that loads nothing."""
    async with serving(Docs(DOCUMENT, package="json")) as client:
        page = await client.get("/docs")

        assert "requirements/swagger-ui.txt" in await page.text()


def test_the_install_line_names_a_file_that_exists() -> None:
    assert (Path(__file__).parents[2] / "requirements" / "swagger-ui.txt").is_file()


def test_the_documentation_needs_no_token() -> None:
    routes = Docs(DOCUMENT).routes()

    assert {route.path: route.auth for route in routes} == {"/openapi.json": False, "/docs": False}
