"""A real browser for tests: headless Chromium by Selenium, and the server that it looks at."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-extensions",
    ),
    *("--disable-dev-shm-usage", "--mute-audio", "--no-default-browser-check", "--disable-default-apps"),
)
PATIENCE = 60.0  # seconds that the page may take for anything, on a busy machine


def why_not() -> str | None:
    """Why there is no browser to test with; None if there is one."""
    if not find_browser():
        return "no Chromium here: apt-get install chromium chromium-driver"
    if not shutil.which("chromedriver"):
        return "no chromedriver here: apt-get install chromium-driver"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "no Selenium here: pip install -r requirements-dev.txt"
    return None


def find_browser() -> str | None:
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


@contextmanager
def serve(app: Any, **settings: Any) -> Iterator[str]:
    """The address of `app`, served from a thread of this process; `settings` are uvicorn's."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, **settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        assert server.started, "the server did not start"
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


class Browser:
    """One window; `profile` is an empty folder."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(find_browser())
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.set_page_load_timeout(PATIENCE)

    def close(self) -> None:
        self.driver.quit()

    def open(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """A fresh page in a window of that size, ready for typing."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")  # or the same address would be a reload
        self.driver.get(address)
        self.wait("#query input, #query textarea")

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def wait(self, selector: str) -> Any:
        """Wait for an element and return the first."""
        return wait_for(lambda: next(iter(self.all(selector)), None), what=selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """Wait for text in the elements and return it."""
        return str(wait_for(lambda: self.run(_TEXT, selector), what=selector))

    def search(self, words: str) -> None:
        """Type, press Enter and wait for the heading of the results or an error."""
        self.type(words)
        self.press("ENTER")
        wait_for(
            lambda: words in self.run(_TEXT, ".heading h2") or bool(self.all("#results .error")),
            what=f"answer to {words}",
        )

    def type(self, words: str) -> None:
        box = self.wait("#query input, #query textarea")
        box.clear()
        box.send_keys(words)

    def press(self, key: str) -> None:
        """Press a key on the element that has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.driver).send_keys(getattr(Keys, key, key)).perform()

    def upload(self, file: Path) -> None:
        self.wait("#file").send_keys(str(file))

    def reveal(self, selector: str) -> Any:
        """An element of the options, which are opened for it."""
        if not self.all(selector):
            self.wait("#more button").click()
        return self.wait(selector)

    def hosts(self) -> set[str]:
        """All hosts that got a request since the last call."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                params = message["params"]
                parts = urlsplit(params.get("url") or params["request"]["url"])
                if parts.scheme in ("http", "https", "ws", "wss"):
                    found.add(parts.hostname or "")
        return found

    def complaints(self) -> list[str]:
        """Errors of the page's own scripts."""
        entries = self.driver.get_log("browser")
        return [
            entry["message"]
            for entry in entries
            if entry["level"] == "SEVERE" and entry["source"] == "javascript"
        ]


_TEXT = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join(' ').trim()"


def wait_for(condition: Callable[[], Any], *, what: str = "the condition", seconds: float = PATIENCE) -> Any:
    """Wait until `condition()` is true and return it. Tries again if an element vanishes meanwhile."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except Exception as error:
            if type(error).__name__ != "StaleElementReferenceException":
                raise
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
