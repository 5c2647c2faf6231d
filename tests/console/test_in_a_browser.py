"""The page in a real browser: at two widths, dark and light, live, and by keyboard alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.console.world import CONSOLE_TOKEN, Operator
from tests.gateway.browser import browser

pytestmark = pytest.mark.asyncio(loop_scope="package")

WAIT_S = 60
WIDE, NARROW = 1280, 360
MARKUP = '<img src=x onerror="document.title=1"> & <b>bold</b>'


class Page:
    """The console as a person uses it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        driver.get(f"{url}/console")

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Until it holds."""
        return WebDriverWait(self.driver, WAIT_S, poll_frequency=0.05).until(lambda _: condition())

    def text(self, selector: str) -> str:
        """What stands there now."""
        found: str = self.run(f"return document.querySelector({selector!r})?.innerText ?? ''")
        return found

    def shows(self, selector: str, text: str) -> Any:
        """Wait until this stands there."""
        return self.wait(lambda: text in self.text(selector))

    def closed(self, dialog: str) -> Any:
        """Wait until this dialog is closed: before, there is nothing else to press a key on."""
        return self.wait(lambda: not self.run(f"return document.getElementById({dialog!r}).open"))

    def run(self, script: str) -> Any:
        """In the page."""
        return self.driver.execute_script(script)

    def look(self, width: int, theme: str) -> None:
        """Another window, another room."""
        self._cdp(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self._cdp("Emulation.setEmulatedMedia", {"features": features})

    def _cdp(self, command: str, arguments: dict[str, Any]) -> None:
        self.driver.execute_cdp_cmd(command, arguments)

    def brightness(self) -> int:
        """Of the ground, 0 to 765."""
        colour: str = self.run("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.strip("rgb()").split(","))

    def fits(self) -> bool:
        """Whether nothing has to be scrolled sideways."""
        return bool(self.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth"))

    def press(self, *keys: str) -> None:
        """On whatever has the focus."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def tab_to(self, label: str) -> None:
        """Press Tab until the focus is on the button of this name, and can be seen there."""
        name = "return document.activeElement.getAttribute('aria-label')"
        for _ in range(200):
            if self.run(name) == label:
                break
            self.press(Keys.TAB)
        assert self.run(name) == label, f"Tab never comes to {label}"
        assert self.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"

    def circuit(self, name: str) -> str:
        """The row of a circuit."""
        return self.text(f"#circuit-rows tr[data-key={name}]")

    def complaints(self) -> list[str]:
        """What the browser has complained about since the last look."""
        lines: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [line["message"] for line in lines if line["level"] in {"SEVERE", "WARNING"}]


Ask = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs something in the tests' loop, from the browser's thread."""


def _watch(driver: webdriver.Chrome, operator: Operator, ask: Ask, folder: Path) -> None:
    page = Page(driver, operator.console)
    page.look(WIDE, "light")
    page.shows("#link", "live · 2 processes")
    assert page.brightness() > 600
    _a_payment_shows_and_opens(page, operator, ask)
    _a_circuit_is_forced_and_reset_by_keyboard(page, operator, ask)
    for width in (WIDE, NARROW):
        for theme, ground in (("light", range(600, 766)), ("dark", range(200))):
            page.look(width, theme)
            page.wait(partial(_has_ground, page, ground))
            page.wait(page.fits)
            driver.save_screenshot(str(folder / f"{width}-{theme}.png"))
    _the_theme_can_be_chosen(page)
    page.run("location.hash = '#%'")
    page.shows("#link", "live")
    assert page.run("return document.title") == "Payment console"
    assert page.complaints() == [], "nothing is forbidden by the page's own policy, nothing is missing"


def _has_ground(page: Page, ground: range) -> bool:
    return page.brightness() in ground


def _a_payment_shows_and_opens(page: Page, operator: Operator, ask: Ask) -> None:
    payment = ask(operator.world.paid())
    row = f"#payment-rows tr[data-key={payment['id']}]"
    page.shows(row, "completed")
    assert "75.48 USD" in page.text(row)
    page.driver.find_element(By.CSS_SELECTOR, f"{row} button").click()
    page.shows("#timeline", "payment completed")
    timeline = page.text("#timeline")
    assert timeline.index("accepted") < timeline.index("charge") < timeline.index("payment completed")
    assert "•••• 4242" in page.text("#payment-facts")
    page.press(Keys.ESCAPE)
    page.closed("payment")
    page.driver.find_element(By.ID, "q").send_keys(payment["id"], Keys.ENTER)
    page.shows("#payments-title", "Found payments")
    assert page.run("return document.querySelectorAll('#payment-rows tr').length") == 1
    page.driver.find_element(By.ID, "all").click()
    page.shows("#payments-title", "Recent payments")


def _a_circuit_is_forced_and_reset_by_keyboard(page: Page, operator: Operator, ask: Ask) -> None:
    page.run("document.activeElement.blur()")
    page.press(Keys.TAB)
    page.tab_to("Force open user_service")
    page.press(Keys.ENTER)
    page.shows("#confirm-title", "Force open user_service?")
    page.press("Ada", Keys.TAB, MARKUP, Keys.ENTER)
    page.closed("confirm")
    page.wait(lambda: "held open" in page.circuit("user_service"))
    page.wait(lambda: MARKUP in page.circuit("user_service"))
    assert ask(operator.states())["user_service"] == "forced_open"
    page.tab_to("Reset user_service")
    page.press(Keys.ENTER)
    page.shows("#confirm-title", "Reset user_service?")
    # The name is remembered, so the reason has the focus.
    page.press("mended", Keys.ENTER)
    page.closed("confirm")
    page.wait(lambda: "● closed" in page.circuit("user_service").replace("\n", " "))
    assert ask(operator.states())["user_service"] == "closed"
    assert "console: Ada" in page.text("#order-rows")


def _the_theme_can_be_chosen(page: Page) -> None:
    page.look(WIDE, "dark")
    button = page.driver.find_element(By.ID, "theme")
    button.click()
    assert button.text == "Theme: light"
    page.wait(lambda: page.brightness() > 600)
    page.driver.refresh()
    page.wait(lambda: page.brightness() > 600)
    page.shows("#link", "live")


def _sign_in(driver: webdriver.Chrome, operator: Operator) -> None:
    page = Page(driver, operator.guarded)
    page.shows("#signing-title", "Sign in")
    token = driver.find_element(By.ID, "token")
    token.send_keys("a guess", Keys.ENTER)
    page.shows("#signing-error", "not the console's token")
    # The browser itself says that a request was refused, and may say so a moment later.
    assert all("401" in line for line in page.wait(page.complaints))
    token.clear()
    token.send_keys(CONSOLE_TOKEN, Keys.ENTER)
    page.shows("#link", "live")
    assert not page.run("return document.cookie"), "no script can read the session"
    assert CONSOLE_TOKEN not in page.run("return JSON.stringify(localStorage) + document.documentElement.outerHTML")
    driver.refresh()
    page.shows("#link", "live")
    driver.find_element(By.ID, "sign-out").click()
    page.shows("#signing-title", "Sign in")
    assert page.complaints() == []


async def test_an_operator_watches_opens_forces_and_resets(operator: Operator, tmp_path: Path) -> None:
    operator.forget_tries()
    loop = asyncio.get_running_loop()

    def ask(wanted: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(wanted, loop).result(WAIT_S)

    def person() -> None:
        with browser() as driver:
            _watch(driver, operator, ask, tmp_path)
            _sign_in(driver, operator)

    await asyncio.to_thread(person)
    operator.forget_tries()
