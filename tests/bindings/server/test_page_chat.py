"""The page in headless Chromium: the chat, and what can go wrong with it."""

import re

import pytest

from tests.bindings.server.browser import Browser, Page
from tests.bindings.server.page_fake import MODEL, Fake, serving
from tests.bindings.server.page_use import answered, pick, send


def test_streams_an_answer(page: Page, fake: Fake) -> None:
    send(page, "Hi there")
    answered(page)
    assert page.text(".said .text") == "Hi there"
    assert page.text(".answer .text") == "Hello, wörld 🙂."
    assert page.text("#model") == MODEL
    assert "3 tokens" in page.text(".note") and "30 of 40 prompt tokens reused" in page.text(".note")
    assert page.text("#status") == "The answer is complete. Hello, wörld 🙂."
    [body] = fake.bodies("/v1/chat/completions")
    assert body == {
        "model": MODEL, "messages": [{"role": "user", "content": "Hi there"}], "stream": True,
        "stream_options": {"include_usage": True}, "temperature": 0.7, "max_tokens": 256,
    }  # fmt: skip
    assert fake.bodies("/v1/checks") == []


def test_the_next_message_carries_the_chat(page: Page, fake: Fake) -> None:
    for text in ("one", "two"):
        send(page, text)
        answered(page)
    assert fake.bodies("/v1/chat/completions")[1]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "Hello, wörld 🙂."},
        {"role": "user", "content": "two"},
    ]


def test_settings_are_sent(page: Page, fake: Fake) -> None:
    for field, value in (("#temperature", "0"), ("#max-tokens", "")):
        page.evaluate(f"(() => {{ const n = document.querySelector('{field}'); n.value = '{value}';"
                      "n.dispatchEvent(new Event('change')); })()")  # fmt: skip
    send(page, "Hi")
    answered(page)
    [body] = fake.bodies("/v1/chat/completions")
    assert body["temperature"] == 0 and "max_tokens" not in body


def test_a_cut_answer_says_so(page: Page, fake: Fake) -> None:
    fake.finish = "length"
    send(page, "Hi")
    answered(page)
    assert "Cut at the limit" in page.text(".note")


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop(page: Page, fake: Fake, way: str) -> None:
    fake.hold = True
    pick(page, "stop")
    send(page, "Hi")
    page.wait("document.querySelector('.answer .text').textContent.includes('🙂')")
    assert not page.evaluate("document.querySelector('#stop').hidden")
    if way == "button":
        page.click("#stop")
    else:
        page.press("Escape")
    answered(page)
    assert fake.gone.wait(10)
    assert page.text(".answer .text") == "Hello, wörld 🙂."
    assert page.text(".note").startswith("Stopped.")
    assert fake.bodies("/v1/checks") == []
    page.evaluate("[...document.querySelectorAll('.tools button')].at(-1).click()")
    page.wait("document.querySelector('.card')")
    assert len(fake.bodies("/v1/checks")) == 1


def test_an_answer_that_breaks_off(page: Page, fake: Fake) -> None:
    fake.finish = None
    send(page, "Hi")
    answered(page)
    assert page.text(".answer .text") == "Hello, wörld 🙂."
    assert "ended before the answer was complete" in page.text(".problem")
    fake.finish = "stop"
    page.click(".problem button")
    answered(page)
    assert page.count(".problem") == 0 and page.text(".answer .text") == "Hello, wörld 🙂."
    assert [body["messages"] for body in fake.bodies("/v1/chat/completions")] == [
        [{"role": "user", "content": "Hi"}]
    ] * 2


def test_focus_is_never_lost(page: Page, fake: Fake) -> None:
    fake.hold = True
    page.evaluate("document.querySelector('#draft').focus()")
    page.type("Hi")
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "send"
    page.press("Enter")
    page.wait("document.querySelector('.answer .text')?.textContent.includes('🙂')")
    assert page.evaluate("document.activeElement.id") == "draft"
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "stop"
    page.press("Enter")
    answered(page)
    assert page.evaluate("document.activeElement.id") == "draft"


@pytest.mark.parametrize(("status", "path"), [(429, "/v1/chat/completions"), (503, "/v1/checks")])
def test_busy_says_when_to_try_again(page: Page, fake: Fake, status: int, path: str) -> None:
    fake.failures[path] = [(status, "9 requests wait already, the limit is 9", {"Retry-After": "30"})]
    pick(page, "stop")
    send(page, "Hi")
    answered(page)
    assert "9 requests wait already, the limit is 9" in page.text(".problem")
    assert re.search(r"Try again in (30|29|28) s\.", page.text(".countdown"))
    page.click(".problem button")
    page.wait("document.querySelector('.card')")
    assert page.count(".problem") == 0


def test_waits_for_a_server_that_is_loading(browser: Browser, fake: Fake) -> None:
    fake.failures["/v1/adapters"] = [(503, "the model is being loaded", {"Retry-After": "1"})]
    with browser.page() as page:
        page.open(fake.url)
        page.wait("document.querySelector('#adapters')?.textContent.includes('being loaded')")
        page.wait("document.querySelectorAll('.choice').length === 3")


def test_asks_for_a_key(browser: Browser, fake: Fake) -> None:
    fake.key = "secret"
    with browser.page() as page:
        page.open(fake.url)
        page.wait("document.querySelector('dialog').open")
        assert page.evaluate("document.activeElement.id") == "key-input"
        assert page.text("#key-message") == "this server wants an API key"
        page.type("wrong")
        page.press("Enter")
        page.wait("document.querySelector('dialog').open && document.querySelector('#key-input').value === ''")
        page.type("secret")
        page.press("Enter")
        page.wait("document.querySelectorAll('.choice').length === 3")
        send(page, "Hi")
        page.wait("document.querySelector('.answer .text')?.innerText === 'Hello, wörld 🙂.'")
        answered(page)
        page.open(fake.url)
        page.wait("document.querySelectorAll('.choice').length === 3")
        assert not page.evaluate("document.querySelector('dialog').open")
        assert page.evaluate("localStorage.length") == 0 and page.evaluate("document.cookie") == ""


def test_no_key_given(browser: Browser, fake: Fake) -> None:
    fake.key = "secret"
    with browser.page() as page:
        page.open(fake.url)
        page.wait("document.querySelector('dialog').open")
        page.press("Escape")
        page.wait("document.querySelector('#adapters .problem')")
        assert page.text("#adapters .problem p") == "this server wants an API key"


def test_survives_a_reload(page: Page, fake: Fake) -> None:
    pick(page, "tone-alora", "tone-lora")
    page.click("#theme")
    send(page, "Hi")
    answered(page)
    page.type("half a thought")
    before = page.text("#log")
    page.open(fake.url)
    page.wait("document.querySelectorAll('.choice').length === 3")
    assert page.text("#log") == before
    assert page.evaluate("document.querySelector('#draft').value") == "half a thought"
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.count(".choice input:checked") == 2
    page.press("Enter")
    answered(page)
    assert page.count(".turn") == 2
    assert len(fake.bodies("/v1/chat/completions")[1]["messages"]) == 3


def test_new_chat(page: Page, fake: Fake) -> None:
    send(page, "Hi")
    answered(page)
    page.click("#new-chat")
    assert page.count(".turn") == 0
    assert page.evaluate("document.activeElement.id") == "draft"
    send(page, "Ho")
    answered(page)
    assert fake.bodies("/v1/chat/completions")[1]["messages"] == [{"role": "user", "content": "Ho"}]


def test_new_chat_ends_what_is_under_way(page: Page, fake: Fake) -> None:
    fake.hold = True
    send(page, "Hi")
    page.wait("document.querySelector('.answer .text')?.textContent.includes('🙂')")
    page.click("#new-chat")
    answered(page)
    assert fake.gone.wait(10)
    assert page.count(".turn") == 0


def test_no_adapter_is_loaded(browser: Browser, fake: Fake) -> None:
    fake.adapters = []
    with browser.page() as page:
        page.open(fake.url)
        page.wait("document.querySelector('#adapters').textContent.includes('No adapter is loaded')")


def test_a_server_that_is_gone(browser: Browser) -> None:
    with browser.page() as page:
        with serving(Fake()) as fake:
            page.open(fake.url)
            page.wait("document.querySelector('#adapters').textContent.includes('No adapter is loaded')")
        send(page, "Hi")
        answered(page)
        assert "cannot be reached" in page.text(".problem")
