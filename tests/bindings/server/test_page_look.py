"""The page in headless Chromium: for every eye, screen and keyboard, and whatever others write."""

import pytest

from tests.bindings.server.browser import Page
from tests.bindings.server.page_fake import PROMPT_TOKENS, Fake, adapter
from tests.bindings.server.page_use import answered, pick, send

HOSTILE = '</div><img src=x onerror="window.harmed=1"><script>window.harmed=1</script>'


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


TEXTS = (
    ".said .text", ".answer .text", ".note", ".quiet", "#send", ".about", ".labels", ".kind", ".verdict", ".facts",
    ".strip .reused", ".strip .base", ".strip .adapter", ".legend li", ".fold", ".keys", ".problem p",
)  # fmt: skip
# Contrast of an element's text as WCAG defines it.
CONTRAST = """((selector) => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const luminance = (colour) => {
        const [r, g, b] = parse(colour).slice(0, 3).map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        const colour = getComputedStyle(node).backgroundColor;
        return parse(colour)[3] === 0 ? behind(node.parentElement) : colour;
    };
    const node = document.querySelector(selector);
    const [a, b] = [luminance(getComputedStyle(node).color), luminance(behind(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(page: Page, fake: Fake, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    pick(page, "tone-alora")
    send(page, "Hi")
    answered(page)
    fake.failures["/v1/chat/completions"] = [(400, "no", {})]
    send(page, "Ho")
    answered(page)
    contrasts = {selector: page.evaluate(f"{CONTRAST}({selector!r})") for selector in TEXTS}
    assert {selector: contrast for selector, contrast in contrasts.items() if contrast < 4.5} == {}
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
    # The log scrolls, the page never: its head and the field to write in stay where they are.
    send(page, "and another turn")
    answered(page)
    page.evaluate("document.querySelector('#log').scrollTo(0, 0)")
    assert page.evaluate("document.documentElement.scrollHeight - innerHeight") <= 0


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


def test_owners_differ_without_colour(page: Page) -> None:
    pick(page, "tone-alora")
    send(page, "Hi")
    answered(page)
    looks = page.evaluate(
        "['reused', 'base', 'adapter'].map((name) => { const s = getComputedStyle(document.querySelector("
        "`.strip .token.${name}`)); return [s.borderBottomStyle, s.backgroundImage !== 'none']; })"
    )
    assert looks == [["dotted", False], ["solid", False], ["double", True]]


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
    for selector in (
        ".said .text",
        ".answer .text",
        ".card h4",
        ".card .label",
        ".probabilities .name",
        ".strip .token",
    ):
        assert HOSTILE in page.text(selector), selector
    page.hover(".strip .token")
    fake.failures["/v1/chat/completions"] = [(400, HOSTILE, {})]
    send(page, "again")
    answered(page)
    assert HOSTILE in page.text(".problem")
    assert page.evaluate("window.harmed ?? null") is None
    assert page.count("img, main script, aside script") == 0
