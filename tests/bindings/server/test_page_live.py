"""The page in headless Chromium on the real server with a tiny random model: what it shows is what the engine did."""

from collections.abc import Callable

from tests.bindings.server.browser import Browser, Page
from tests.bindings.server.page_use import answered, pick, send
from tests.bindings.server.running import Running

INVOCATION = [301, 17, 302]


def opened(page: Page, url: str) -> None:
    page.resize(1280, 900)
    page.open(url)
    page.evaluate(
        "(() => { const n = document.querySelector('#max-tokens'); n.value = '6';"
        "n.dispatchEvent(new Event('change')); })()"
    )


def test_chat_and_checks(browser: Browser, live: Callable[..., Running]) -> None:
    server = live()
    tokenizer = server.engine.tokenizer
    with browser.page() as page:
        opened(page, server.url)
        page.wait("document.querySelectorAll('.choice').length === 2")
        pick(page, "parts")
        send(page, "Technicians noticed high temperature in the second cylinder.")
        answered(page)
        assert page.texts(".problem") == []
        assert page.text("#model") == "tiny"  # its served name
        assert "6 tokens" in page.text(".note")
        reused, base, adapter = (int(text.split()[1]) for text in page.texts(".legend li"))
        assert adapter == len(INVOCATION) and reused > base
        strip = page.evaluate("[...document.querySelectorAll('.strip .token.adapter')].map((n) => n.textContent)")
        assert strip == [tokenizer.decode([token], skip_special_tokens=False) for token in INVOCATION]
        total = reused + base + adapter
        assert page.text(".card .reuse") == f"{reused} of {total} tokens reused"
        if page.count(".fold"):
            page.click(".card > button")
        assert page.count(".strip .token") == total
        shown = {text.split("%")[0] for text in page.texts(".probabilities .figure")}
        assert len(page.texts(".probabilities .name")) == 3 and 99 < sum(map(float, shown)) < 101
        verdict = "✗ fails" if page.text(".card .label") == "none" else "✓ passes"
        assert page.text(".card .verdict") == verdict


def test_the_next_turn_reuses_the_answer(browser: Browser, live: Callable[..., Running]) -> None:
    with browser.page() as page:
        opened(page, live().url)
        for text in ("The pump vibrates at 3100 RPM.", "Yes or no?"):
            send(page, text)
            answered(page)
        first, second = page.texts(".note")
        assert "0 of" in first.split("·")[-1]
        reused, prompt = (int(word) for word in second.split("·")[-1].split() if word.isdigit())
        assert reused > 10 and prompt > reused


def test_a_check_that_cannot_be_asked(browser: Browser, live: Callable[..., Running]) -> None:
    with browser.page() as page:
        opened(page, live().url)
        page.wait("document.querySelectorAll('.choice').length === 2")
        pick(page, "checker")
        send(page, "Hi")
        answered(page)
        assert "was trained with requirements" in page.text(".checks .problem")
        page.evaluate(
            "(() => { const n = document.querySelector('.choice input[type=text]:not([hidden])');"
            "n.value = 'Be polite.'; n.dispatchEvent(new Event('input')); })()"
        )
        page.click(".checks .problem button")
        page.wait("document.querySelector('.card')")
        assert page.text(".card .requirement") == "Be polite."
        assert page.text(".card .verdict") in ("✓ passes", "✗ fails")


def test_the_key_of_the_server(browser: Browser, live: Callable[..., Running]) -> None:
    server = live(api_keys=("secret",))
    with browser.page() as page:
        page.open(server.url)
        page.wait("document.querySelector('dialog').open")
        assert "API key is missing" in page.text("#key-message")
        page.type("secret")
        page.press("Enter")
        page.wait("document.querySelectorAll('.choice').length === 2")
