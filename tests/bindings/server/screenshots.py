"""The pictures of the page in docs/, made again: a real chat and real checks, on a server that runs already.

    m alora demo --out checkpoints/demo
    m alora serve HuggingFaceTB/SmolLM2-135M-Instruct --adapter failure-alora=checkpoints/demo/my_adapter \
        --adapter failure-lora=checkpoints/demo/lora_for_comparison
    python -m tests.bindings.server.screenshots http://127.0.0.1:8000
"""

import argparse
import json
import tempfile
from pathlib import Path

from tests.bindings.server.browser import NAMES, Page, found_browser, started_browser
from tests.bindings.server.page_use import answered, send

DOCS = Path(__file__).resolve().parents[3] / "docs"
REQUIREMENT = "The failure mode must not be 'no_failure'."
FIRST = """Write a short triage summary of this technician note: Night shift stopped pump T-986 as a precaution. \
Heavy knock from the crankcase, twice per turn, worse under load. Rod cap bolts had backed off by half a turn. The \
knock goes away when that cylinder's plug is pulled, and a hairline crack runs from the oil hole of the rod toward the \
cap. Tank is full, lines are clear, oil level has not moved in a month. Half of a rod bolt was lying in the oil pan."""
SECOND = "Why is that dangerous?"
PICTURES = (("light", 1280, 900, "light"), ("dark", 1280, 900, "dark"), ("narrow", 390, 844, "light"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the server")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the pictures")
    arguments = parser.parse_args()
    binary = found_browser()
    if binary is None:
        parser.error(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    with (
        tempfile.TemporaryDirectory() as profile,
        started_browser(binary, Path(profile)) as browser,
        browser.page() as page,
    ):
        page.resize(1280, 900)
        converse(page, arguments.url)
        for name, width, height, scheme in PICTURES:
            page.resize(width, height)
            page.prefer(prefers_color_scheme=scheme)
            page.evaluate("document.querySelector('.turn:last-child').scrollIntoView({ block: 'start' })")
            (arguments.out / f"page-{name}.png").write_bytes(page.screenshot())


def converse(page: Page, url: str) -> None:
    """Two turns; the second one is checked by every adapter."""
    page.open(url)
    page.wait("document.querySelector('.choice')")
    fill(page, "#temperature", "0")
    fill(page, "#max-tokens", "48")
    send(page, FIRST)
    answered(page)
    page.evaluate("document.querySelectorAll('.choice input[type=checkbox]').forEach((box) => box.click())")
    fill(page, ".pair .choice input[type=text]", REQUIREMENT)
    send(page, SECOND)
    answered(page)


def fill(page: Page, selector: str, value: str) -> None:
    """Write into fields as a user does."""
    page.evaluate(f"""document.querySelectorAll({json.dumps(selector)}).forEach((field) => {{
        field.value = {json.dumps(value)};
        for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind));
    }})""")


if __name__ == "__main__":
    main()
