"""Builds the documentation as a site: the Markdown pages and, from the docstrings, the API reference.

``make docs`` runs it. It fails, and names what is wrong, on a link that leads nowhere, a public name without an entry,
or a docstring that does not say what it must.
"""

import importlib
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pdoc.doc
import pdoc.render
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from docs import docstrings, pages

OUT = pages.ROOT / "build" / "docs"
TEMPLATES = Path(__file__).parent / "templates"
# Pages that are not below docs/, and where they go; the map of the documentation is the site's first page.
PLACES = {
    "docs/README.md": "index.html",
    "README.md": "readme.html",
    "CONTRIBUTING.md": "contributing.html",
    "CHANGELOG.md": "changelog.html",
    "benchmarks/results/README.md": "results.html",
}
MENU = (
    ("README", "readme.html"),
    ("Concepts", "concepts.html"),
    ("How-tos", "howto/index.html"),
    ("Command line", "cli.html"),
    ("Server", "server.html"),
    ("Mellea", "mellea.html"),
    ("Training", "training.html"),
    ("Architecture", "architecture.html"),
    ("Kernels", "kernels.html"),
    ("Benchmarks", "benchmarks.html"),
    ("API reference", "api/index.html"),
)
CODE = HtmlFormatter(cssclass="pdoc-code codehilite")
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")


def place(source: Path) -> str:
    """Where a page of the repository lies on the site."""
    name = source.relative_to(pages.ROOT).as_posix()
    below = name.removeprefix("docs/").removesuffix(".md") + ".html"
    return PLACES.get(name) or below.replace("README.html", "index.html")


def sources() -> list[Path]:
    """Every page that the site shows."""
    return sorted({*pages.all_pages(), *(pages.ROOT / name for name in PLACES)})


def code_block(_renderer: object, tokens: Sequence[Token], index: int, _options: object, _env: object) -> str:
    """A fenced block as HTML: how ``MarkdownIt`` wants a rule."""
    language = tokens[index].info or "text"
    lexer = get_lexer_by_name({"sh": "bash", "console": "bash"}.get(language, language))
    return str(highlight(tokens[index].content, lexer, CODE))


def relinked(target: str, source: Path) -> str:
    """A link of a page as the site needs it: to another page's place, or to a copy of the file."""
    if target.startswith(("http:", "https:", "#")):
        return target
    name, _, anchor = target.partition("#")
    file = (source.parent / name).resolve()
    up = "../" * place(source).count("/")
    if file.suffix == ".md":
        return up + place(file) + ("#" + anchor if anchor else "")
    if not file.is_file():
        return target
    copied = "files/" + file.relative_to(pages.ROOT).as_posix()
    (OUT / copied).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, OUT / copied)
    return up + copied


def write_page(source: Path, there: set[str]) -> None:
    """Render a Markdown page of the repository; ``there``: the pages that the site has."""
    tokens = MARKDOWN.parse(source.read_text(encoding="utf-8"))
    seen: list[str] = []
    headings: list[tuple[str, str]] = []
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            text = "".join(child.content for child in tokens[index + 1].children or ())
            anchor = pages.slug(text)
            token.attrSet("id", anchor if anchor not in seen else f"{anchor}-{seen.count(anchor)}")
            seen.append(anchor)
            if token.tag == "h2":
                headings.append((text, str(token.attrGet("id"))))
        for child in token.children or ():
            relink(child, source)
    write(place(source), tokens, headings, there)


def write(here: str, tokens: Sequence[Token], headings: Sequence[tuple[str, str]], there: set[str]) -> None:
    """Write a page of the site: its body, and the menu of the pages that are there."""
    title = next(token.content for token in tokens if token.type == "inline")
    body = MARKDOWN.renderer.render(tokens, MARKDOWN.options, {})
    template, menu = pdoc.render.env.get_template("page.html.jinja2"), [entry for entry in MENU if entry[1] in there]
    up = "../" * here.count("/")
    target = OUT / here
    target.parent.mkdir(parents=True, exist_ok=True)
    text = template.render(title=title, body=body, headings=headings, menu=menu, here=here, up=up)
    target.write_text(text, encoding="utf-8")


def relink(token: Token, source: Path) -> None:
    """Change a link's or a picture's target in place."""
    for name in ("href", "src"):
        if target := token.attrGet(name):
            token.attrSet(name, relinked(str(target), source))


def reference() -> dict[str, pdoc.doc.Module]:
    """The modules of the reference, by name: the public ones, and those that public classes inherit from."""
    names = dict.fromkeys(docstrings.MODULES)
    for module in docstrings.MODULES:
        found = importlib.import_module(module)
        for name in getattr(found, "__all__", ()):
            setattr(found, name, getattr(found, name))  # some are made on first use, and pdoc looks at what is there
        for value in docstrings.public_names(module).values():
            bases = value.__mro__[1:] if isinstance(value, type) else ()
            names |= dict.fromkeys(base.__module__ for base in bases if base.__module__.startswith("alorakit."))
    return {name: pdoc.doc.Module(importlib.import_module(name)) for name in names}


def overview(modules: Mapping[str, pdoc.doc.Module]) -> str:
    """The reference's first page, as Markdown: the modules, and the first line of each one's docstring."""
    lines = ["# API reference", "", "| module | what it holds |", "|---|---|"]
    for name, module in modules.items():
        summary = module.docstring.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        lines.append(f"| [{name}]({name.replace('.', '/')}.html) | {summary} |")
    return "\n".join(lines)


def write_reference(modules: Mapping[str, pdoc.doc.Module]) -> Iterator[str]:
    """Render the reference; yields the public names that have no entry."""
    for name, module in modules.items():
        target = OUT / "api" / (name.replace(".", "/") + ".html")
        target.parent.mkdir(parents=True, exist_ok=True)
        html = mended(pdoc.render.html_module(module, modules))
        target.write_text(html, encoding="utf-8")
        public = docstrings.public_names(name) if name in docstrings.MODULES else {}
        yield from (f"api: {name}.{entry} has no entry" for entry in public if f'<section id="{entry}">' not in html)
    (OUT / "api" / "search.js").write_text(pdoc.render.search_index(modules), encoding="utf-8")


def mended(html: str) -> str:
    """A page of pdoc's: without links to names that it does not show, and with ``~`` as Sphinx understands it."""
    ids = Anchors(html).ids
    html = re.sub(r'<a href="#([^"]+)">(.*?)</a>', lambda link: link[0] if link[1] in ids else link[2], html)
    return re.sub(r"<code>~(<a [^>]*>)?[\w.]*?(\w+)(</a>)?</code>", r"<code>\1\2\3</code>", html)


class Anchors(HTMLParser):
    """What a page of the site links to, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        """Read a page."""
        super().__init__()
        self.ids, self.targets = set[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids and targets."""
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value and not value.startswith(("http:", "https:", "data:")):
                self.targets.append(value)


def broken_links() -> Iterator[str]:
    """Links between pages of the site that lead nowhere."""
    read = {path: Anchors(path.read_text(encoding="utf-8")) for path in sorted(OUT.rglob("*.html"))}
    for path, page in read.items():
        for target in page.targets:
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.is_file() or (anchor and file in read and anchor not in read[file].ids):
                yield f"{path.relative_to(OUT)}: {target} leads nowhere"


def build() -> list[str]:
    """Write the site into build/docs.

    Returns:
        What is wrong with it, a line each.
    """
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    pdoc.render.env.globals["dark_code"] = HtmlFormatter(style="github-dark").get_style_defs(".pdoc-code")
    pdoc.render.configure(docformat="google", show_source=False, template_directory=TEMPLATES)
    MARKDOWN.add_render_rule("fence", code_block)
    there = {"api/index.html", *map(place, sources())}
    for source in sources():
        write_page(source, there)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        modules = reference()
        found = list(write_reference(modules))
    write("api/index.html", MARKDOWN.parse(overview(modules)), [], there)
    found += [f"api: {w.message}" for w in caught if "pdoc" in w.filename]
    for module in docstrings.MODULES:
        found += docstrings.problems(module)
    return [*found, *broken_links()]


def add_mellea() -> None:
    """Make importable what ``make`` has put beside the environment."""
    folder = Path(sys.prefix) / "mellea"
    if folder.is_dir():
        sys.path.append(str(folder))


def main() -> None:
    """Build the site; exit with 1 if anything is wrong with it."""
    add_mellea()
    for problem in (found := build()):
        sys.stderr.write(problem + "\n")
    sys.stdout.write(f"{OUT / 'index.html'}\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
