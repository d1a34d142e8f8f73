"""The page in headless Chromium, against a server that says what the test tells it to."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bindings.server.browser import NAMES, Browser, Page, found_browser, started_browser
from tests.bindings.server.page_fake import LABELS, MODEL, PROMPT_TOKENS, Fake, adapter, serving

BINARY = found_browser()
pytestmark = pytest.mark.skipif(BINARY is None, reason=f"no browser: none of {', '.join(NAMES)} is on the PATH")

PAIR = [adapter("tone-lora", "lora"), adapter("stop", "alora", ("yes", "no")), adapter("tone-alora", "alora")]
HOSTILE = "</div><img src=x onerror=\"window.harmed=1\"><script>window.harmed=1</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert BINARY is not None
    with started_browser(BINARY, tmp_path_factory.mktemp("profile")) as started:
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
    page.evaluate("document.querySelector('#draft').focus()")
    page.type(text)
    page.press("Enter")


def answered(page: Page) -> None:
    page.wait("!document.querySelector('.running, [aria-busy=true]') && !document.querySelector('#send').hidden")


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


def test_picked_checks_are_asked_about_the_answer(page: Page, fake: Fake) -> None:
    fake.results["stop"] = {"passed": None, "label": "no", "probabilities": {"no": 0.75, "yes": 0.25}}
    fake.results["tone-lora"] = {"passed": False}
    pick(page, "tone-alora")
    page.evaluate("(() => { const n = document.querySelector('.choice input[type=text]:not([hidden])');"
                  "n.value = 'must be polite'; n.dispatchEvent(new Event('input')); })()")  # fmt: skip
    pick(page, "tone-lora", "stop")
    assert page.evaluate("document.querySelector('#picked-count').textContent") == "3"
    send(page, "Hi")
    answered(page)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, wörld 🙂."}]
    polite = {"adapter": "tone-alora", "requirement": "must be polite"}
    # Apart, so that the time of the aLoRAs holds nothing of the LoRA's.
    assert fake.bodies("/v1/checks") == [
        {"messages": chat, "checks": [polite, {"adapter": "stop", "requirement": None}], "tokens": True},
        {"messages": chat, "checks": [{**polite, "adapter": "tone-lora"}], "tokens": True},
    ]
    assert page.texts(".card h4") == ["tone-alora", "tone-lora", "stop"]
    assert page.texts(".card .verdict") == ["✓ passes", "✗ fails", "– no verdict"]
    assert page.texts(".card .label") == ["rod", "rod", "no"]
    assert page.texts(".card .time") == ["13 ms", "400 ms", "13 ms"]
    assert page.texts(".card .reuse") == [f"{n} of {PROMPT_TOKENS} tokens reused" for n in (110, 0, 110)]
    assert page.texts(".card.lora .probabilities .name") == list(LABELS)
    assert page.texts(".card.lora .probabilities .figure") == ["90.0%", "8.0%", "2.0%"]
    assert page.text("#check-status") == "tone-alora: rod, passes. stop: no, no verdict. tone-lora: rod, fails."


def test_checks_are_asked_when_none_is_picked(page: Page, fake: Fake) -> None:
    send(page, "Hi")
    answered(page)
    page.evaluate("[...document.querySelectorAll('.tools button')].at(-1).click()")
    page.wait("document.querySelector('.checks .problem')")
    assert "No check is picked" in page.text(".checks .problem")
    pick(page, "stop")
    page.click(".checks .problem button")
    page.wait("document.querySelector('.card')")
    assert len(fake.bodies("/v1/checks")) == 1
    assert page.count(".problem") == 0


def test_bars_are_to_scale(page: Page) -> None:
    pick(page, "tone-alora", "tone-lora")
    send(page, "Hi")
    answered(page)
    assert "12 times fewer tokens" in page.text(".comparison") and "32 times less time" in page.text(".comparison")
    widths = page.evaluate("[...document.querySelectorAll('.comparison .bar')].map((n) => n.getBoundingClientRect().width)")
    alora_tokens, alora_time, lora_tokens, lora_time = widths
    assert alora_tokens / lora_tokens == pytest.approx(10 / 120, rel=0.02)
    assert alora_time / lora_time == pytest.approx(12.5 / 400, rel=0.1)
    parts = page.evaluate(
        "[...document.querySelector('.overview').children].map((n) => [n.className, n.getBoundingClientRect().width])"
    )
    assert [name for name, _ in parts] == ["reused", "base", "adapter"]
    assert parts[0][1] / sum(width for _, width in parts) == pytest.approx(110 / 120, rel=0.02)


def owners(page: Page, card: int) -> list[list[object]]:
    found: list[list[object]] = page.evaluate(
        f"[...document.querySelectorAll('.card')[{card}].querySelectorAll('.strip .token')]"
        ".map((n) => [Number(n.dataset.index), n.className.replace('token ', ''), n.textContent])"
    )
    return found


@pytest.mark.parametrize(
    ("cached", "activation"), [(110, 116), (0, 0), (118, 116), (0, None), (120, 119), (64, 64)], ids=str
)
def test_every_token_is_coloured_by_who_computed_it(
    page: Page, fake: Fake, cached: int, activation: int | None
) -> None:
    usage = {"prompt_tokens": PROMPT_TOKENS, "cached_tokens": cached, "completion_tokens": 0}
    fake.results["stop"] = {"usage": usage, "activation": activation}
    pick(page, "stop")
    send(page, "Hi")
    answered(page)
    folded = owners(page, 0)
    assert len(folded) <= PROMPT_TOKENS
    if page.count(".fold"):
        hidden = [int(n) for text in page.texts(".fold") for n in re.findall(r"(\d+) more", text)]
        assert len(folded) + sum(hidden) == PROMPT_TOKENS
        page.click(".card > button")
    expected = [
        "reused" if i < cached else "adapter" if activation is not None and i >= activation else "base"
        for i in range(PROMPT_TOKENS)
    ]
    assert owners(page, 0) == [[i, owner, f" t{i}"] for i, owner in enumerate(expected)]
    figures = [int(text.split()[1]) for text in page.texts(".legend li")]
    assert figures == [expected.count(owner) for owner in ("reused", "base", "adapter")]


def test_owners_differ_without_colour(page: Page) -> None:
    pick(page, "tone-alora")
    send(page, "Hi")
    answered(page)
    looks = page.evaluate(
        "['reused', 'base', 'adapter'].map((name) => { const s = getComputedStyle(document.querySelector("
        "`.strip .token.${name}`)); return [s.borderBottomStyle, s.backgroundImage !== 'none']; })"
    )
    assert looks == [["dotted", False], ["solid", False], ["double", True]]


def test_hover_and_arrows_show_a_token(page: Page, fake: Fake) -> None:
    fake.results["stop"] = {"tokens": [{"id": i + 5, "text": "\n" if i == 1 else f"w{i}"} for i in range(PROMPT_TOKENS)]}
    pick(page, "stop")
    send(page, "Hi")
    answered(page)
    page.hover(".strip .token[data-index='119']")
    page.wait("!document.querySelector('#tip').hidden")
    assert page.text("#tip").split("\n") == ['"w119"', "token 119 of 120, id 124", "computed by the adapter"]
    page.evaluate("document.querySelector('.strip').focus()")
    page.press("Home")
    page.press("ArrowRight")
    assert page.text("#tip").split("\n") == ['"\\n"', "token 1 of 120, id 6", "reused"]
    current = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
    assert page.evaluate(f"{current}.ariaLabel") == '"\\n", token 1, reused'
    for _ in range(19):
        page.press("ArrowRight")
    assert page.evaluate(f"{current}.className") == "fold reused"
    page.press("Enter")
    assert owners(page, 0)[20][0] == 20 and len(owners(page, 0)) == PROMPT_TOKENS
    assert page.text("#tip").split("\n")[1] == "token 20 of 120, id 25"
    page.press("Escape")
    assert page.evaluate("document.querySelector('#tip').hidden")


def test_text_of_others_is_inert(page: Page, fake: Fake) -> None:
    fake.pieces = (HOSTILE[:20], HOSTILE[20:])
    fake.adapters[1]["labels"] = [HOSTILE, "no"]
    fake.results["stop"] = {
        "name": HOSTILE, "label": HOSTILE, "answer": HOSTILE, "reason": HOSTILE, "probabilities": {HOSTILE: 1.0},
        "tokens": [{"id": i, "text": HOSTILE} for i in range(PROMPT_TOKENS)],
    }  # fmt: skip
    page.click("#reload-adapters")
    page.wait("document.querySelector('.labels') && document.body.innerText.includes('onerror')")
    pick(page, "stop")
    send(page, HOSTILE)
    answered(page)
    for selector in (".said .text", ".answer .text", ".card h4", ".card .label", ".probabilities .name", ".strip .token"):
        assert HOSTILE in page.text(selector), selector
    page.hover(".strip .token")
    fake.failures["/v1/chat/completions"] = [(400, HOSTILE, {})]
    send(page, "again")
    answered(page)
    assert HOSTILE in page.text(".problem")
    assert page.evaluate("window.harmed ?? null") is None
    assert page.count("img, main script, aside script") == 0


def test_keyboard_alone(page: Page, fake: Fake) -> None:
    def focused(name: str) -> None:
        for _ in range(30):
            if page.evaluate(f"document.activeElement.matches({name!r})"):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline == "solid", name
                return
            page.press("Tab", shift=name == "#draft")
        raise AssertionError(f"Tab never reaches {name}")

    focused("#theme")
    focused(".choice input[type=checkbox]")
    page.press(" ")
    focused(".choice input[type=text]")
    page.type("be kind")
    focused("#max-tokens")
    page.evaluate("document.activeElement.blur()")
    focused("#draft")
    page.type("line one")
    page.press("Enter", shift=True)
    page.type("line two")
    page.press("Enter")
    answered(page)
    assert fake.bodies("/v1/chat/completions")[0]["messages"][-1]["content"] == "line one\nline two"
    assert fake.bodies("/v1/checks")[0]["checks"] == [{"adapter": "tone-alora", "requirement": "be kind"}]
    assert page.evaluate("document.activeElement.id") == "draft"
    focused_strip = "[role=listbox]"
    for _ in range(30):
        if page.evaluate(f"document.activeElement.matches('{focused_strip}')"):
            break
        page.press("Tab", shift=True)
    assert page.evaluate(f"document.activeElement.matches('{focused_strip}')")


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
    assert [body["messages"] for body in fake.bodies("/v1/chat/completions")] == [[{"role": "user", "content": "Hi"}]] * 2


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


def test_a_lora_that_is_refused_leaves_the_aloras_results(page: Page, fake: Fake) -> None:
    pick(page, "tone-alora", "tone-lora")
    fake.failures["/v1/checks"] = [None, (429, "9 requests wait already", {})]
    send(page, "Hi")
    answered(page)
    assert page.texts(".card h4") == ["tone-alora"]
    assert page.text(".checks .problem p") == "9 requests wait already"


def test_a_refused_check_says_why(page: Page, fake: Fake) -> None:
    fake.failures["/v1/checks"] = [(400, "adapter 'stop' was trained with requirements; give one", {})]
    pick(page, "stop")
    send(page, "Hi")
    answered(page)
    assert page.text(".checks .problem p") == "adapter 'stop' was trained with requirements; give one"
    assert page.text(".answer .text") == "Hello, wörld 🙂."


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
        answered(page)
        assert page.text(".answer .text") == "Hello, wörld 🙂."
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


CONTRAST = """(() => {
    const parse = (c) => c.match(/[\\d.]+/g).map(Number);
    const light = (c) => { const [r, g, b] = parse(c).slice(0, 3).map((v) => { v /= 255;
        return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const behind = (n) => { for (; n; n = n.parentElement) { const c = getComputedStyle(n).backgroundColor;
        if (parse(c)[3] !== 0) return c; } return 'rgb(255, 255, 255)'; };
    return ['.said .text', '.answer .text', '.note', '.quiet', '#send', '.about', '.labels', '.kind', '.verdict', '.facts',
            '.strip .reused', '.strip .base', '.strip .adapter', '.legend li', '.fold', '.keys', '.problem p'].map((s) => {
        const n = document.querySelector(s);
        const [a, b] = [light(getComputedStyle(n).color), light(behind(n))];
        return [s, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; });
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(page: Page, fake: Fake, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    pick(page, "tone-alora")
    send(page, "Hi")
    answered(page)
    fake.failures["/v1/chat/completions"] = [(400, "no", {})]
    send(page, "Ho")
    answered(page)
    assert [pair for pair in page.evaluate(CONTRAST) if pair[1] < 4.5] == []
    luminance = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert (page.evaluate(luminance) > 128) == (scheme == "light")


def test_the_toggle_wins_over_the_system(page: Page) -> None:
    page.prefer(prefers_color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.click("#theme")
    light = page.evaluate(background)
    page.click("#theme")
    assert page.evaluate(background) == dark != light
    assert page.evaluate("document.querySelector('#theme').ariaLabel") == "Theme: dark"


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_horizontal_scroll(page: Page, fake: Fake, width: int) -> None:
    page.resize(width, 740)
    fake.pieces = ("x" * 500, " ", "https://example/" + "y" * 300)
    fake.adapters += [adapter("a-very-long-name-without-any-space-" * 3, "alora", ("z" * 90, "no"))]
    fake.results["stop"] = {"label": "l" * 120, "probabilities": {"l" * 120: 1.0}}
    page.open(fake.url)
    page.wait("document.querySelectorAll('.choice').length === 4")
    wide = "Math.max(...[...document.querySelectorAll('body, #log, #panel')].map((n) => n.scrollWidth - n.clientWidth))"
    if width < 960:
        assert not page.evaluate("document.querySelector('#panel').checkVisibility()")
        page.click("#panel-toggle")
        assert page.evaluate("document.querySelector('#panel').checkVisibility()")
        assert page.evaluate(wide) <= 0
    pick(page, "tone-alora", "tone-lora", "stop")
    if width < 960:
        page.press("Escape")
        assert page.evaluate("document.activeElement.id") == "panel-toggle"
    send(page, "w" * 400)
    answered(page)
    assert page.count(".card") == 3
    assert page.evaluate(wide) <= 0
    assert page.evaluate("document.querySelector('#send').getBoundingClientRect().right") <= width


def test_reduced_motion(page: Page, fake: Fake) -> None:
    fake.hold = True
    send(page, "Hi")
    page.wait("document.querySelector('.running')")
    cursor = "getComputedStyle(document.querySelector('.answer .text'), '::after').animationName"
    assert page.evaluate(cursor) == "blink"
    page.prefer(prefers_reduced_motion="reduce")
    assert page.evaluate(cursor) == "none"
    page.press("Escape")
    answered(page)


def test_four_thousand_tokens(page: Page, fake: Fake) -> None:
    long = 4000
    usage = {"prompt_tokens": long, "cached_tokens": long - 20, "completion_tokens": 0}
    fake.results["stop"] = {"usage": usage, "activation": long - 4}
    fake.pieces = tuple(f" word{i}" for i in range(long))
    pick(page, "stop")
    send(page, "Hi")
    answered(page)
    assert page.text(".answer .text").strip() == "".join(fake.pieces).strip()
    assert page.count(".strip .token") == 60
    page.click(".card > button")
    assert page.count(".strip .token") == long
    page.evaluate("document.querySelector('.strip').focus()")
    page.press("End")
    assert page.text("#tip").split("\n")[1] == "token 3,999 of 4,000, id 4999"
    page.open(fake.url)
    page.wait("document.querySelector('.card')")
    assert page.count(".strip .token") == 60


def test_full_storage_gives_up_old_tokens(page: Page, fake: Fake) -> None:
    big = [{"id": i, "text": "t" * 20_000} for i in range(PROMPT_TOKENS)]
    fake.results["stop"] = {"tokens": big}
    pick(page, "stop")
    for text in ("one", "two", "three"):
        send(page, text)
        answered(page)
    page.open(fake.url)
    page.wait("document.querySelectorAll('.turn').length === 3")
    assert page.count(".card") == 3
    assert "not kept" in page.text(".turn:nth-of-type(1)")
    assert page.count(".turn:last-child .strip") == 1


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
