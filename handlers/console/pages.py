"""The page's files: each has a path of its own, so there is no folder to climb out of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiohttp import web

_FOLDER: Final = Path(__file__).parent / "static"
PAGE: Final = "console.html"
FILES: Final[Mapping[str, str]] = {
    "console.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "theme.js": "text/javascript; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "format.js": "text/javascript; charset=utf-8",
    "circuits.js": "text/javascript; charset=utf-8",
    "plots.js": "text/javascript; charset=utf-8",
    "payments.js": "text/javascript; charset=utf-8",
    "signing.js": "text/javascript; charset=utf-8",
}

# Nothing from elsewhere, nothing inline, nothing to be framed by, no form that leaves.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)


def page() -> web.FileResponse:
    """The page, with its policy."""
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    }
    return web.FileResponse(_FOLDER / PAGE, headers=headers)


def file(name: str) -> web.FileResponse | None:
    """One of the files that the page loads; None for any other name."""
    if name not in FILES:
        return None
    # A new version of the engine may change them, so the browser asks every time, with the ETag.
    return web.FileResponse(_FOLDER / name, headers={"Content-Type": FILES[name], "Cache-Control": "no-cache"})
