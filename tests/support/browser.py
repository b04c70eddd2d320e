"""Chromium without a window, and the page of examples/web in it."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By


def installed() -> tuple[str, str]:
    """Returns the programs of Chromium and its driver, as Debian has them. Skips the test where they are missing."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium and its driver are not installed: apt-get install chromium chromium-driver")
    return browser, driver


@contextlib.contextmanager
def opened() -> Iterator[webdriver.Chrome]:
    """A browser that trusts the certificates of the tests."""
    browser, driver = installed()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.accept_insecure_certs = True
    # Its sandbox does not run as root, and containers have a small /dev/shm.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


TOLD = """
window.told = [];
const look = () => window.told.push(["state", "problem"].map((id) => document.getElementById(id).innerText).join(" "));
new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
"""
"""Keeps what the lines on the state of the watch have said: some of it is soon replaced."""


class Page:
    """The page, as somebody sees it."""

    def __init__(self, chrome: webdriver.Chrome, url: str) -> None:
        self.chrome = chrome
        chrome.get(url)
        chrome.execute_script(TOLD)

    def watch(self, token: str = "") -> "Page":
        field = self.chrome.find_element(By.ID, "token")
        field.clear()
        field.send_keys(token)
        self.chrome.find_element(By.TAG_NAME, "button").click()
        return self

    def says(self, *words: str) -> bool:
        """Whether the lines on the state of the watch have these words."""
        said = " ".join(self.chrome.find_element(By.ID, place).text for place in ("state", "problem"))
        return all(word in said for word in words)

    def has_said(self, *words: str) -> bool:
        """Whether these lines have had these words at one moment since the page was opened."""
        return any(all(word in said for word in words) for said in self.chrome.execute_script("return window.told"))

    def rows(self) -> dict[str, str]:
        """The text of each sandbox's row, by its id."""
        script = "return [...document.querySelectorAll('#sandboxes tr')].map((row) => row.innerText)"
        return {text.split()[0]: " ".join(text.split()) for text in self.chrome.execute_script(script)}

    def sequences(self) -> list[int]:
        """The sequences of the events, oldest first."""
        script = "return [...document.querySelectorAll('#events li')].map((event) => event.dataset.sequence)"
        return [int(sequence) for sequence in reversed(self.chrome.execute_script(script))]
