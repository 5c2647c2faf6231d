"""A real browser: Debian's chromium, driven through its chromedriver."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.wait import WebDriverWait

_WAIT_S = 60


@contextlib.contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A headless one, with what its pages say on the console. Skips without one, or fails where it is required."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        why = "no browser: install Debian's packages chromium and chromium-driver"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(why)
        pytest.skip(why)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
        "--window-size=1280,1800",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield running
    finally:
        running.quit()


class DocsPage:
    """`/docs` as a person uses it: clicks, types, and reads what comes back."""

    def __init__(self, running: webdriver.Chrome, url: str) -> None:
        self._driver = running
        running.get(url)
        self._wait_for("#swagger-ui .info .title")

    def authorize(self, token: str) -> None:
        """Paste a token behind the button "Authorize"."""
        self._wait_for(".auth-wrapper .btn.authorize").click()
        self._wait_for(".dialog-ux .auth-container input").send_keys(token)
        self._wait_for(".dialog-ux .auth-btn-wrapper .btn.authorize").click()
        self._wait_for(".dialog-ux .auth-btn-wrapper .btn-done").click()

    def is_authorized(self) -> bool:
        """Whether the lock on the button is closed."""
        return "locked" in (self._wait_for(".auth-wrapper .btn.authorize").get_attribute("class") or "").split()

    def execute(self, operation: str, body: str | None = None, **parameters: str) -> tuple[int, str]:
        """Open an operation (`tag-name`), fill it in, execute it, and read the answer's status and body.

        Without a body the page's own example is sent.
        """
        block = f"#operations-{operation}"
        if not self._driver.find_elements(By.CSS_SELECTOR, f"{block} .btn.execute"):
            self._wait_for(f"{block} .opblock-summary-control").click()
        for clear in self._driver.find_elements(By.CSS_SELECTOR, f"{block} .btn-clear"):
            clear.click()  # the answer before this one must not be taken for it
        for name, value in parameters.items():
            self._paste(self._wait_for(f'{block} tr[data-param-name="{name}"] input'), value)
        if body is not None:
            self._paste(self._wait_for(f"{block} textarea.body-param__text"), body)
        self._wait_for(f"{block} .btn.execute").click()
        status = self._wait_for(f"{block} .live-responses-table .response .response-col_status").text
        shown = self._wait_for(f"{block} .live-responses-table .response .highlight-code code").text
        return int(status.split()[0]), shown

    def console(self) -> list[dict[str, Any]]:
        """What the page has complained about since the last look."""
        lines: list[dict[str, Any]] = self._driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [line for line in lines if line["level"] in {"SEVERE", "WARNING"}]

    def _wait_for(self, selector: str) -> WebElement:
        wait = WebDriverWait(self._driver, _WAIT_S, poll_frequency=0.05)
        return wait.until(element_to_be_clickable((By.CSS_SELECTOR, selector)))

    def _paste(self, field: WebElement, text: str) -> None:
        # Typed, the page would be drawn anew for every letter, which takes long.
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        self._driver.execute_cdp_cmd("Input.insertText", {"text": text})
