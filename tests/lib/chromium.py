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

    def until(self, condition: Callable[[], object], what: str) -> None:
        WebDriverWait(self.driver, SAFETY, poll_frequency=0.05).until(
            lambda _: condition(), f"waited in vain until {what}"
        )

    def run(self, script: str, *args: object) -> Any:
        return self.driver.execute_script(script, *args)

    def find(self, css: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def click(self, css: str) -> None:
        found = self.find(css)
        self.run("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()

    def text(self, css: str) -> str:
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", css)

    def complaints(self) -> list[str]:
        """What the console has said since this was called last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]
