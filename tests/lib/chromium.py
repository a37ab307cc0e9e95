"""Chromium without a window, driven by its ChromeDriver."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SAFETY = 60.0
# As the mouse does it; null, or why it would hit nothing or something else.
CLICK = """
const e = document.querySelector(arguments[0]);
if (!e) return "there is none";
if (e.disabled) return "it is disabled";
e.scrollIntoView({ block: "center", behavior: "instant" });
const { left, top, width, height } = e.getBoundingClientRect();
const hit = document.elementFromPoint(left + width / 2, top + height / 2);
if (!hit || !e.contains(hit))
  return `${hit?.outerHTML.slice(0, 200)} is in front of it`;
e.focus({ preventScroll: true });
e.click();
return null;
"""


@contextmanager
def running(home: Path) -> Iterator[webdriver.Chrome]:
    """One that has its files in a directory."""
    options = Options()
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it will not run as root otherwise
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-extensions",
        "--no-first-run",
        "--no-proxy-server",
        "--window-size=1280,900",
        f"--user-data-dir={home}/profile",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # What belongs to the interpreter is none of its business, nor is the user's home directory.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    env |= dict.fromkeys(["HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"], str(home))
    service = Service(executable_path=shutil.which("chromedriver"), env=env)
    chrome = webdriver.Chrome(options=options, service=service)
    chrome.set_page_load_timeout(SAFETY)
    chrome.set_script_timeout(SAFETY)
    try:
        yield chrome
    finally:
        chrome.quit()


class Page:
    """What is shown, as its user has it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until the condition holds; what it returns then."""
        return WebDriverWait(self.driver, SAFETY, poll_frequency=0.05).until(
            lambda _: condition(), f"waited in vain until {what}"
        )

    def run(self, script: str, *args: object) -> Any:
        return self.driver.execute_script(script, *args)

    def find(self, css: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def click(self, css: str) -> None:
        """Click on what is there and can be seen, in one go: pages change between two commands."""
        wrong = self.run(CLICK, css)
        assert wrong is None, f"{css} cannot be clicked on: {wrong}"

    def painted(self) -> None:
        """Wait until what has changed is laid out and painted, observers of sizes included."""
        self.driver.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )

    def text(self, css: str) -> str:
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", css)

    def complaints(self) -> list[str]:
        """What the console has said since this was called last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]
