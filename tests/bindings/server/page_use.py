"""Fixtures: the page in headless Chromium, against a server that says what the test tells it to; and using the page."""

from collections.abc import Iterator

import pytest

from tests.bindings.server.browser import NAMES, Browser, Page, found_browser, started_browser
from tests.bindings.server.page_fake import Fake, adapter, serving

PAIR = [adapter("tone-lora", "lora"), adapter("stop", "alora", ("yes", "no")), adapter("tone-alora", "alora")]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = found_browser()
    if binary is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    with started_browser(binary, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving(Fake(adapters=[dict(known) for known in PAIR])) as served:
        yield served


@pytest.fixture
def page(browser: Browser, fake: Fake) -> Iterator[Page]:
    """The opened page; at the end there was no complaint and no request to anyone else."""
    with browser.page() as opened:
        opened.resize(1280, 900)
        opened.open(fake.url)
        opened.wait("document.querySelector('.choice, .problem, dialog[open]')")
        yield opened
        assert [url for url in opened.requests if not url.startswith((fake.url, "data:"))] == []
        refused = [line for line in opened.complaints if "the server responded with a status of" not in line]
        assert refused == []


def pick(page: Page, *names: str) -> None:
    for name in names:
        page.evaluate(f"[...document.querySelectorAll('.choice')].find((n) => n.innerText.includes('{name}'))"
                      ".querySelector('input').click()")  # fmt: skip


def send(page: Page, text: str) -> None:
    draft = "document.querySelector('#draft')"
    page.wait(f"({draft}.focus(), document.activeElement === {draft})")  # not so while a dialog is open
    page.type(text)
    page.wait(f"{draft}.value !== ''")
    page.press("Enter")
    page.wait(f"{draft}.value === ''")


def answered(page: Page) -> None:
    page.wait("!document.querySelector('.running, [aria-busy=true]') && !document.querySelector('#send').hidden")
