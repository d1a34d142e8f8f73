"""The page in headless Chromium: checks, and the tokens they reuse."""

import re

import pytest

from tests.bindings.server.browser import Page
from tests.bindings.server.page_fake import LABELS, PROMPT_TOKENS, Fake, adapter
from tests.bindings.server.page_use import answered, pick, send


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
    assert page.texts(".card .verdict") == ["✓ passes", "✗ fails", "○ no verdict"]
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


@pytest.mark.parametrize(
    ("adapters", "together"),
    [
        ([("my_adapter", "alora", "ab"), ("for_comparison", "lora", "ab")], [["my_adapter", "for_comparison"]]),
        ([("Tone-LoRA", "lora", "ab"), ("tone_alora", "alora", "cd")], [["tone_alora", "Tone-LoRA"]]),
        ([("mode", "alora", "ab"), ("two", "alora", "ab"), ("lora", "lora", "ab")], [["mode"], ["two"], ["lora"]]),
        ([("mode", "alora", ""), ("two", "lora", "")], [["mode"], ["two"]]),
        ([("mode", "lora", "ab"), ("mode-b", "lora", "ab")], [["mode"], ["mode-b"]]),
    ],
    ids=["labels", "names", "ambiguous", "no labels", "one kind"],
)
def test_adapters_for_the_same_task_are_side_by_side(
    page: Page, fake: Fake, adapters: list[tuple[str, str, str]], together: list[list[str]]
) -> None:
    fake.adapters = [adapter(name, kind, tuple(labels)) for name, kind, labels in adapters]
    page.click("#reload-adapters")
    page.wait(f"document.querySelector('#adapters').textContent.includes({adapters[0][0]!r})")
    found = page.evaluate(
        "[...document.querySelectorAll('.task')].map((t) => [...t.querySelectorAll('.name')].map((n) => n.textContent))"
    )
    assert found == together


def test_bars_are_to_scale(page: Page) -> None:
    pick(page, "tone-alora", "tone-lora")
    send(page, "Hi")
    answered(page)
    assert "12 times fewer tokens" in page.text(".comparison") and "32 times less time" in page.text(".comparison")
    widths = page.evaluate(
        "[...document.querySelectorAll('.comparison .bar')].map((n) => n.getBoundingClientRect().width)"
    )
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


def test_hover_and_arrows_show_a_token(page: Page, fake: Fake) -> None:
    fake.results["stop"] = {
        "tokens": [{"id": i + 5, "text": "\n" if i == 1 else f"w{i}"} for i in range(PROMPT_TOKENS)]
    }
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
    for text in ("mode", "two", "three"):
        send(page, text)
        answered(page)
    page.open(fake.url)
    page.wait("document.querySelectorAll('.turn').length === 3")
    assert page.count(".card") == 3
    assert "not kept" in page.text(".turn:nth-of-type(1)")
    assert page.count(".turn:last-child .strip") == 1
