"""The API's documentation for browsers: Swagger UI from local files, beside the document that it shows."""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from aiohttp import web

from handlers.routes import Handler, Route

# The wheel is a Flask extension; only its files are used, so it is looked up and never imported.
_PACKAGE: Final = "flask_swagger_ui"
_FILES: Final[Mapping[str, str]] = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_INSTALL: Final = "python -m pip install --require-hashes --no-deps -r requirements/swagger-ui.txt"

# Nothing from elsewhere, no inline script and no frame around the page: it holds the reader's token.
_CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API documentation</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/init.js"></script>
</body>
</html>
"""

_PAGE_WITHOUT_FILES: Final = f"""\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>API documentation</title></head>
<body>
<h1>API documentation</h1>
<p>The OpenAPI document is at <a href="/openapi.json">/openapi.json</a>.</p>
<p>To read it here, install Swagger UI and restart: <code>{html.escape(_INSTALL)}</code></p>
</body>
</html>
"""

# The validator's badge would send the document's address to swagger.io.
_INIT: Final = """\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""


class Docs:
    """`/openapi.json` and `/docs`, both without a token. Without Swagger UI's files, `/docs` says how to get them."""

    def __init__(self, document: bytes, *, package: str = _PACKAGE) -> None:
        self._document = document
        self._folder = _dist_folder(package)

    def routes(self) -> list[Route]:
        """What it offers to people and programs."""
        return [
            Route(
                "GET", "/openapi.json", self.openapi, "The OpenAPI document",
                {200: None}, auth=False, tag="documentation", counted=False,
            ),
            Route(
                "GET", "/docs", self.page, "The documentation as a page",
                {200: None}, auth=False, tag="documentation", counted=False, media_type="text/html",
            ),
        ]  # fmt: skip

    def files(self) -> list[str]:
        """The paths that the page loads."""
        return ["/docs/", *([] if self._folder is None else ["/docs/init.js", *map("/docs/{}".format, _FILES)])]

    def mount_files(self, application: web.Application) -> None:
        """Add what the page loads. Each file has a path of its own: there is no folder to climb out of."""
        router = application.router
        router.add_get("/docs/", self.without_slash)
        if self._folder is None:
            return
        router.add_get("/docs/init.js", self.init)
        for name, content_type in _FILES.items():
            router.add_get(f"/docs/{name}", _file(self._folder / name, content_type))

    async def openapi(self, request: web.Request) -> web.Response:
        """`GET /openapi.json`."""
        return _fresh(self._document, "application/json")

    async def page(self, request: web.Request) -> web.Response:
        """`GET /docs`."""
        page = _PAGE_WITHOUT_FILES if self._folder is None else _PAGE
        response = _fresh(page.encode(), "text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = _CONTENT_SECURITY_POLICY
        return response

    async def init(self, request: web.Request) -> web.Response:
        """`GET /docs/init.js`: a file, because the page's policy forbids inline scripts."""
        return _fresh(_INIT.encode(), "text/javascript; charset=utf-8")

    async def without_slash(self, request: web.Request) -> web.Response:
        """`GET /docs/`."""
        # Returned, not raised: the surface's middleware turns whatever is raised into an error body.
        return web.Response(status=308, headers={"Location": "/docs"})


def _dist_folder(package: str) -> Path | None:
    """Where the package's files are; None when it is not installed or does not have them all."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(place) / "dist"
        if all((folder / name).is_file() for name in _FILES):
            return folder
    return None


def _file(path: Path, content_type: str) -> Handler:
    async def serve(request: web.Request) -> web.FileResponse:
        # They change only with the package; after a day the browser asks again with the ETag.
        headers = {"Content-Type": content_type, "Cache-Control": "public, max-age=86400"}
        return web.FileResponse(path, headers=headers)

    return serve


def _fresh(body: bytes, content_type: str) -> web.Response:
    """What a new version of the engine may change, so it is asked for every time."""
    return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-cache"})
