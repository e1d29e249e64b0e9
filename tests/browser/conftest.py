"""Pages in a real headless Chromium. Without it, or without selenium, these tests are skipped, by name."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [] if importlib.util.find_spec("selenium") else ["selenium (the extra `browser`)"]
    missing += [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    for item in items:
        if missing and HERE in item.path.parents:
            reason = f"not installed: {', '.join(missing)}; see tests/browser/install-chromium"
            item.add_marker(pytest.mark.skip(reason=reason))


class Browser:
    """A window, with what these tests ask of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(
        self,
        page: Path,
        width: int = 1200,
        *,
        dark: bool = False,
        media: str = "screen",
        script: bool = True,
    ) -> None:
        """Load a page from disk, with nothing left of the one before."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        features = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)
        self.command(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": name, "value": value} for name, value in features.items()],
        )
        self.command("Emulation.setScriptExecutionDisabled", value=not script)
        self.complaints()  # what is read is gone
        self.requests()
        self.driver.get(page.as_uri())

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def ask(self, expression: str, *arguments: Any) -> Any:
        """What an expression of JavaScript gives."""
        return self.driver.execute_script(f"return {expression}", *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """What elements show; those that are hidden are left out."""
        shown = "[...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility())"
        return list(self.ask(f"{shown}.map(e => e.innerText.trim())", selector))

    def complaints(self) -> list[str]:
        """Of the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = (event for event in events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    # Without a sandbox, for CI runs as root, where Chromium has none; the pages are our own.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield Browser(driver)
    driver.quit()


WritePage = Callable[[str], Path]


@pytest.fixture
def write_page(tmp_path: Path) -> WritePage:
    """Write a page into a folder whose name needs quoting, and say where."""

    def write(text: str) -> Path:
        folder = tmp_path / "a folder & more #1"
        folder.mkdir(exist_ok=True)
        (folder / "page.html").write_text(text, encoding="utf-8")
        return folder / "page.html"

    return write
