"""Draws the pictures of ``concepts.md``: ``python -m docs.draw_concepts`` writes them here."""

from docs.draw import Picture

ROW = 40.0


def row(picture: Picture, x: float, y: float, parts: list[tuple[str, float, str]], height: float = ROW) -> float:
    """Boxes side by side, each (kind, width, text); returns where the next one would begin."""
    for kind, width, what in parts:
        picture.box(x, y, width - 4, height, kind, [what] if what else None)
        x += width
    return x


def legend(picture: Picture, x: float, y: float, entries: list[tuple[str, str]]) -> None:
    """What the colours mean, in one line."""
    for kind, what in entries:
        picture.box(x, y, 14, 14, kind)
        picture.text(x + 20, y + 11.5, what, "small soft")
        x += 46 + 6.3 * len(what)


def activation_point() -> None:
    """Which tokens an adapter changes: none, all, or those from the invocation on."""
    picture = Picture(1000, 300, "The activation point of the base model, a LoRA and an aLoRA")
    left, context, question, invocation, answer = 150.0, 400.0, 150.0, 110.0, 120.0
    names = [("base model", "activation: never"), ("LoRA", "activation: 0"), ("aLoRA", "activation: 550")]
    for index, (name, what) in enumerate(names):
        y = 46 + 58 * index
        picture.text(12, y + 18, name, "bold")
        picture.text(12, y + 34, what, "small soft")
        own = "adapter"
        before = own if name == "LoRA" else "cache"
        after = "cache" if name == "base model" else own
        parts = [(before, context, "context"), (before, question, "requirement")]
        row(picture, left, y, [*parts, (after, invocation, "invocation"), (after, answer, "answer")])
    edge = left + context + question - 2
    picture.arrow((edge, 20), (edge, 216), head=False)
    picture.text(edge + 8, 30, "first token of the invocation", "small soft")
    end = left + context + question + invocation
    picture.arrow((left, 236), (edge - 4, 236))
    shared = "base weights: KV shared by all but the LoRA; in training computed once, no gradients"
    picture.text(left, 254, shared, "small soft")
    picture.arrow((end + answer - 4, 236), (edge + 4, 236))
    picture.text(edge + 4, 254, "base + s B(A x): KV is the adapter's", "small soft")
    legend(picture, left, 274, [("cache", "computed with the base weights"), ("adapter", "computed with the adapter")])
    picture.write("activation-point")


def cache_key() -> None:
    """Blocks of four tokens in a tree, and what a third request takes from it."""
    picture = Picture(1000, 372, "What a request finds in the tree of blocks")
    left, cell, top = 190.0, 42.0, 40.0

    def block(x: float, y: float, tokens: str, kinds: str) -> None:
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
            name = {"b": "cache", "x": "adapter", "y": "attend", ".": "finish"}[kind]
            picture.box(x + cell * index, y, cell - 2, 34, name, [token])

    second, third = left + 4 * cell + 30, left + 8 * cell + 60
    picture.text(12, top + 14, "in the tree", "bold")
    picture.text(12, top + 30, "blocks of 4 tokens", "small soft")
    block(left, top, "abcd", "bbbb")
    block(second, top, "efgh", "bbbb")
    block(third, top, "ij", "bb")
    picture.text(third + 2 * cell + 10, top + 14, "a tail: fewer tokens than a block", "small soft")
    picture.text(third + 2 * cell + 10, top + 30, "no tag: the base model's", "small soft")
    block(second, top + 62, "efgX", "bbbx")
    picture.text(second + 4 * cell + 12, top + 76, "tag: (digest of X, activation 7)", "small soft")
    picture.text(second + 4 * cell + 12, top + 92, "rows 4, 5 and 6 are the base model's", "small soft")
    picture.arrow((left + 4 * cell, top + 17), (second - 4, top + 17))
    picture.arrow((second + 4 * cell, top + 17), (third - 4, top + 17))
    picture.arrow((left + 4 * cell + 12, top + 17), (left + 4 * cell + 12, top + 79), (second - 4, top + 79))
    y = top + 150
    picture.text(12, y + 14, "a request of aLoRA Y", "bold")
    picture.text(12, y + 30, "a b c d e f g Y, activation 7", "small soft")
    block(left, y, "abcd", "bbbb")
    block(second, y, "efgY", "bbby")
    picture.text(left, y + 52, "shared: the same block", "small soft")
    picture.text(second, y + 52, "private: 3 rows copied, Y computed", "small soft")
    picture.text(third + 40, y + 14, "cached_tokens = 7 of 8", "bold")
    picture.text(third + 40, y + 30, "reuse ends at the token, not at the block", "small soft")
    y += 82
    picture.text(12, y + 14, "the same as a LoRA", "bold")
    picture.text(12, y + 30, "activation 0", "small soft")
    block(left, y, "abcd", "....")
    block(second, y, "efgY", "....")
    picture.text(third + 40, y + 14, "cached_tokens = 0", "bold")
    picture.text(third + 40, y + 30, "every block has the tag (digest, 0)", "small soft")
    entries = [("cache", "base model's KV"), ("adapter", "X's KV"), ("attend", "Y's KV"), ("finish", "the LoRA's KV")]
    legend(picture, left, 344, entries)
    picture.write("cache-key")


def check_layout() -> None:
    """The parts of a check, and what each of them costs."""
    picture = Picture(1000, 236, "The parts of a check")
    left, top = 20.0, 44.0
    asked = [("attend", 190.0, "user: Requirement: …"), ("adapter", 130.0, "invocation")]
    x = row(picture, left, top, [("cache", 380.0, "chat so far"), *asked])
    for index, label in enumerate(("yes", "no")):
        y = top - 24 + 48 * index
        row(picture, x + 30, y, [("finish", 100.0, label), ("finish", 90.0, "EOS")])
        picture.arrow((x - 4, top + 20), (x + 14, top + 20), (x + 14, y + 20), (x + 28, y + 20))
    picture.text(left, top + 62, "rendered by the chat template, no generation prompt;", "small soft")
    picture.text(left, top + 78, "generated messages by their own ids", "small soft")
    picture.text(left + 380, top + 62, "only if the rows of", "small soft")
    picture.text(left + 380, top + 78, "training had one", "small soft")
    picture.text(left + 570, top + 62, "its own ids,", "small soft")
    picture.text(left + 570, top + 78, "joined as ids", "small soft")
    picture.text(x + 30, top + 78, "each label tokenized on its own", "small soft")
    y = top + 112
    for start, end, what in (
        (left, left + 376, "a check: found in the cache"),
        (left + 380, left + 696, "computed, one pass"),
        (x + 30, x + 216, "scored in that pass"),
    ):
        picture.arrow((end, y), (start, y), head=False)
        picture.text((start + end) / 2, y + 18, what, "mid small")
    y += 44
    spans = (
        (left, left + 566, "training: computed once, kept over all epochs"),
        (left + 570, x + 216, "every epoch: forward and backward"),
    )
    for start, end, what in spans:
        picture.arrow((end, y), (start, y), head=False)
        picture.text((start + end) / 2, y + 18, what, "mid small")
    picture.write("check-layout")


if __name__ == "__main__":
    activation_point()
    cache_key()
    check_layout()
