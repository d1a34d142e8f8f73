"""Draws the pictures of ``kernels.md``: ``python docs/draw.py`` writes the SVG files beside it."""

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
# Colours for a light page; the second set is for a dark one.
LIGHT = {
    "ink": "#1f2328", "soft": "#59636e", "line": "#818b98", "product": "#cfe3fb", "finish": "#d3f0d9",
    "attend": "#fde2bf", "adapter": "#e4d6fa", "cache": "#eceff2",
}  # fmt: skip
DARK = {
    "ink": "#f0f6fc", "soft": "#9aa4b0", "line": "#7a8490", "product": "#1f3d63", "finish": "#1d4a2b",
    "attend": "#5c3d12", "adapter": "#46307a", "cache": "#2b3138",
}  # fmt: skip


def style() -> str:
    """Classes of the pictures, by the reader's colour scheme."""

    def rules(colours: dict[str, str]) -> str:
        fills = "".join(f".{name}{{fill:{colour};stroke:{colours['line']}}}" for name, colour in colours.items())
        texts = f"text{{fill:{colours['ink']};stroke:none}}text.soft{{fill:{colours['soft']};stroke:none}}"
        strokes = f".arrow{{fill:none;stroke:{colours['line']}}}.head{{fill:{colours['line']};stroke:none}}"
        return fills + texts + strokes

    font = "text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}.small{font-size:11.5px}"
    bold = ".bold{font-weight:600}.mid{text-anchor:middle}.arrow{stroke-width:1.6}"
    return f"<style>{font}{bold}{rules(LIGHT)}@media (prefers-color-scheme:dark){{{rules(DARK)}}}</style>"


class Picture:
    """Collects shapes; units are pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        """An empty picture."""
        self._size, self._title, self._parts = (width, height), title, [style()]

    def box(self, x: float, y: float, w: float, h: float, kind: str, lines: list[str] | None = None) -> None:
        """A box with centred lines, the first one bold."""
        self._parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5"/>')
        lines = lines or []
        first = y + h / 2 - 8.5 * (len(lines) - 1) + 4.5
        for index, line in enumerate(lines):
            self.text(x + w / 2, first + 17 * index, line, "mid bold" if index == 0 else "mid small")

    def text(self, x: float, y: float, line: str, kind: str = "") -> None:
        """One line of text."""
        self._parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(line)}</text>')

    def arrow(self, *points: tuple[float, float], head: bool = True) -> None:
        """A line through points, with a head at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(f'<polyline class="arrow" points="{path}"/>')
        if head:
            (x0, y0), (x, y) = points[-2:]
            dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
            sides = [(x, y), (x - 7 * dx - 4 * dy, y - 7 * dy - 4 * dx), (x - 7 * dx + 4 * dy, y - 7 * dy + 4 * dx)]
            self._parts.append(f'<polygon class="head" points="{" ".join(f"{a:g},{b:g}" for a, b in sides)}"/>')

    def write(self, name: str) -> None:
        """Write ``name``.svg."""
        width, height = self._size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        body = "\n".join([head, f"<title>{escape(self._title)}</title>", *self._parts, "</svg>"])
        (FOLDER / f"{name}.svg").write_text(body + "\n", encoding="utf-8")


def decode_layer() -> None:
    """The ten launches of a layer."""
    picture = Picture(1000, 470, "A decode layer: ten launches")
    w, h, gap, left = 164.0, 66.0, 34.0, 12.0
    launches = [
        ("product", "linear qkv", "reads 50.3 MB", "+ shrink: A of q, k, v", "1"),
        ("finish", "rope_kv_write", "sum, norm, rotate, store", "+ expand: B of q, k, v", "2"),
        ("attend", "attend_items", "a tile of rows x keys", "", "3"),
        ("attend", "merge_partials", "by log-sum-exp", "", "4"),
        ("product", "linear o", "reads 33.6 MB", "+ shrink: A of o", "5"),
        ("finish", "add_norm", "x + o, its norm prepared", "+ expand: B of o", "6"),
        ("product", "linear gate_up", "reads 209.7 MB", "+ shrink: A of gate, up", "7"),
        ("finish", "silu_mul", "silu(gate) * up", "+ expand: B of gate, up", "8"),
        ("product", "linear down", "reads 104.9 MB", "+ shrink: A of down", "9"),
        ("finish", "add_norm", "x + down, next norm", "+ expand: B of down", "10"),
    ]
    tops = (40, 300)
    for index, (kind, name, what, adapter, number) in enumerate(launches):
        row, column = divmod(index, 5)
        x, y = left + column * (w + gap), tops[row]
        picture.box(x, y, w, h, kind, [f"{number}  {name}", what])
        if adapter:
            picture.box(x, y + h, w, 26, "adapter")
            picture.text(x + w / 2, y + h + 17.5, adapter, "mid small")
        if column:
            picture.arrow((x - gap, y + h / 2), (x - 2, y + h / 2))
    between = ["sums, low", "q", "partials", "a"], ["h, sums", "sums, low", "h", "sums, low"]
    for row, names in enumerate(between):
        for column, name in enumerate(names):
            picture.text(left + (column + 1) * (w + gap) - gap / 2, tops[row] - 8, name, "mid small soft")
    x2, x3 = left + (w + gap) + w / 2, left + 2 * (w + gap) + w / 2
    lines = ["paged KV cache of the layer", "one for the base model and all aLoRAs"]
    picture.box(x2 - 50, 176, x3 - x2 + 100, 44, "cache", lines)
    picture.arrow((x2, tops[0] + h + 26), (x2, 174))
    picture.text(x2 + 7, 158, "k, v of the new rows", "small soft")
    picture.arrow((x3, 176), (x3, tops[0] + h + 2))
    picture.text(x3 + 7, 158, "blocks of the row's keys", "small soft")
    end = left + 4 * (w + gap)
    picture.arrow((end + w / 2, tops[0] + h + 26), (end + w / 2, 246), (left + w / 2, 246), (left + w / 2, tops[1] - 2))
    picture.text(end - 60, 240, "sums, low", "mid small soft")
    stream = tops[1] + h + 26 + 28
    picture.arrow((left + w / 2, tops[1] + h + 26), (left + w / 2, stream), (end + w / 2, stream),
                  (end + w / 2, tops[1] + h + 28))  # fmt: skip
    picture.text(left + 2 * (w + gap) + w / 2, stream + 17, "x, the residual stream", "mid small soft")
    legend = [("product", "streams weights once"), ("finish", "finishes a product"), ("attend", "attention"),
              ("adapter", "rides along, only where a row has an adapter")]  # fmt: skip
    x = left
    for kind, what in legend:
        picture.box(x, 446, 14, 14, kind)
        picture.text(x + 20, 457.5, what, "small soft")
        x += 52 + 6.3 * len(what)
    picture.write("decode-layer")


def shared_cache() -> None:
    """One prefix for the base model and two aLoRAs."""
    picture = Picture(1000, 425, "One cache for the base model and every aLoRA")
    left, block, start = 132.0, 62.0, 40.0
    names = ["base", "aLoRA A", "aLoRA B"]
    for row, name in enumerate(names):
        picture.text(12, start + 62 * row + 23, name, "bold")
        picture.text(12, start + 62 * row + 39, "goes on" if row == 0 else "checks", "small soft")
    context = ["blocks of the context", "computed once, by any of the three;", "no adapter was active here"]
    picture.box(left, start, 6 * block - 4, 2 * 62 + 40, "cache", context)
    check = [("adapter", "invocation", 1.7), ("adapter", "answer", 1.3)]
    tails = [[("finish", "answer", 3.0)], check, check]
    for row, parts in enumerate(tails):
        x = left + 6 * block + 10.0
        for kind, what, size in parts:
            picture.box(x, start + 62 * row, size * block - 4, 40, kind, [what])
            x += size * block
    edge = left + 6 * block + 3
    picture.arrow((edge, 18), (edge, start + 2 * 62 + 52), head=False)
    picture.text(edge + 8, 26, "activation point: rows from here on get s B(A x)", "small soft")
    notes = ["belongs to the base model", "belongs to A's digest", "belongs to B's digest"]
    for row, note in enumerate(notes):
        picture.text(left + 9 * block + 24, start + 62 * row + 24, note, "small soft")
    y = 268
    picture.text(12, y - 20, "what attention makes of it in one step", "bold")
    picture.box(left, y, 6 * block - 4, 40, "attend", ["item: rows of all three x the context, read once"])
    for row, name in enumerate(names):
        lines = [f"item: row of {name}", "x its own keys"]
        picture.box(left + 6 * block + 10, y + 44 * row, 3 * block - 4, 38, "attend", lines)
    right = left + 9 * block + 6.0
    for row in range(3):
        picture.arrow((right, y + 44 * row + 19), (right + 32, y + 44 * row + 19), head=False)
    picture.arrow((left + 3 * block, y + 40), (left + 3 * block, y + 142), (right + 32, y + 142), head=False)
    picture.arrow((right + 32, y + 19), (right + 32, y + 142), head=False)
    picture.arrow((right + 32, y + 63), (right + 62, y + 63))
    picture.text(left + 3 * block + 8, y + 76, "partials [row, head]: a mean", "small soft")
    picture.text(left + 3 * block + 8, y + 92, "of values and a log-sum-exp", "small soft")
    picture.box(right + 64, y + 40, 150, 46, "attend", ["merge_partials", "one result a row"])
    picture.write("shared-cache")


if __name__ == "__main__":
    decode_layer()
    shared_cache()
