"""Draws the picture of ``architecture.md``: ``python -m docs.draw_architecture`` writes it here."""

from docs.draw import Picture

# What imports what between the folders of a layer; a test compares this with the code.
IMPORTS = {
    "cli": ("session", "checks", "server", "training"),
    "server": ("checks",),
    "session": ("checks",),
    "mellea": ("session", "checks"),
}
STAGES = [
    ("attend", ["Scheduler", "schedule"]),
    ("attend", ["Runner", "build"]),
    ("product", ["Runner", "run"]),
    ("attend", ["Sampler", "sample"]),
    ("attend", ["Scheduler", "finish"]),
]


def band(
    picture: Picture, y: float, height: float, name: str, x: float = 6.0, width: float = 988.0, label: float = 10.0
) -> None:
    """A layer's background and its name, ``label`` from the left."""
    picture.box(x, y, width, height, "cache")
    picture.text(x + label, y + 20, name, "bold")


def doors(picture: Picture) -> None:
    """The bindings and the trainer, and which of them imports which."""
    band(picture, 16, 184, "bindings/", width=690.0)
    band(picture, 16, 184, "training/", x=706.0, width=288.0, label=215.0)
    w, h, top = 170.0, 48.0, 52.0
    picture.box(20, top, w, h, "product", ["cli/", "m alora …"])
    picture.box(266, top, w, h, "product", ["session/", "MelleaSession"])
    picture.box(512, top, w, h, "product", ["mellea/", "MelleaBackend"])
    picture.box(266, 140, w, h, "product", ["checks/", "question, verdict"])
    picture.arrow((20 + w, top + 16), (264, top + 16))
    picture.arrow((512, top + 16), (268 + w, top + 16))
    picture.arrow((351, top + h), (351, 138))
    picture.box(20, 140, w, h, "product", ["server/", "OpenAI's interface, a page"])
    picture.arrow((105, top + h), (105, 138))
    picture.arrow((20 + w, 170), (264, 170))
    picture.arrow((20 + w, top + 36), (228, top + 36), (228, 152), (264, 152))
    picture.arrow((640, top + h), (640, 164), (268 + w, 164))
    picture.box(722, top, 124, h, "product", ["train", "Run"])
    picture.box(722, 140, 124, h, "product", ["data", "load_examples"])
    picture.box(858, 140, 124, h, "product", ["PrefixCache", "kept prefixes"])
    picture.box(858, top, 124, h, "product", ["SuffixModel", "loss, LoraWeights"])
    picture.arrow((846, top + 24), (856, top + 24))
    picture.arrow((784, top + h), (784, 138))
    picture.arrow((920, top + h), (920, 138))
    picture.arrow((105, top), (105, 34), (784, 34), (784, top - 2))


def engine(picture: Picture) -> None:
    """What a request goes through, and who owns what."""
    top = 236.0
    band(picture, top, 268, "engine/")
    picture.box(20, top + 36, 150, 48, "finish", ["Engine", "generate, score, step"])
    picture.box(20, top + 106, 150, 62, "finish", ["AsyncEngine", "Stepper:", "the one thread"])
    picture.arrow((95, top + 106), (95, top + 86))
    picture.box(206, top + 36, 160, 48, "finish", ["Intake, Admission", "a call to sequences"])
    picture.arrow((170, top + 60), (204, top + 60))
    picture.box(206, top + 106, 160, 62, "finish", ["AdapterRegistry", "adapters by name,", "in host memory"])
    picture.arrow((286, top + 84), (286, top + 104))
    picture.box(400, top + 36, 582, 100, "attend")
    picture.text(410, top + 54, "Loop", "bold")
    picture.text(452, top + 54, "a step: five calls, in this order", "small soft")
    x, w = 410.0, 102.0
    for index, (kind, lines) in enumerate(STAGES):
        picture.box(x, top + 66, w, 56, kind, lines)
        if index:
            picture.arrow((x - 12, top + 94), (x - 1, top + 94))
        x += w + 13
    picture.arrow((366, top + 60), (398, top + 60))
    owners = [
        (400.0, ["BlockTree", "KV blocks by value"]),
        (550.0, ["AdapterSlots", "weights on the device"]),
        (700.0, ["KVCache", "and Decoder: memory"]),
        (850.0, ["Tokenizer", "text and ids"]),
    ]
    picture.text(20, top + 218, "owners of state", "bold")
    picture.text(20, top + 236, "one for each piece; a Sequence holds what is one request's own", "small soft")
    for x, lines in owners:
        picture.box(x, top + 196, 132, 50, "adapter", lines)
    picture.arrow((455, top + 136), (455, top + 194))
    picture.arrow((600, top + 136), (600, top + 194))
    picture.arrow((766, top + 136), (766, top + 194))
    picture.arrow((916, top + 136), (916, top + 194))


def kernels(picture: Picture) -> None:
    """The one door and what lies behind it."""
    top = 540.0
    band(picture, top, 84, "kernels/")
    picture.box(206, top + 18, 160, 48, "finish", ["ops", "the one door"])
    for x, lines in (
        (400.0, ["torch", "torch_*.py, lora*.py"]),
        (600.0, ["Triton", "triton_*.py"]),
        (800.0, ["reference", "the specification"]),
    ):
        picture.box(x, top + 18, 182, 48, "product", lines)
    picture.arrow((366, top + 42), (398, top + 42))


def architecture() -> None:
    """Layers from top to bottom; an arrow goes from who calls or imports to what is called."""
    picture = Picture(1000, 634, "The layers of alorakit and what they hold")
    doors(picture)
    engine(picture)
    kernels(picture)
    picture.arrow((351, 200), (351, 234))
    picture.arrow((850, 200), (850, 234))
    picture.arrow((286, 504), (286, 538))
    picture.text(362, 222, "bindings and training import the engine", "small soft")
    picture.text(297, 526, "only kernels.ops is imported from kernels (training imports it too)", "small soft")
    picture.write("architecture")


if __name__ == "__main__":
    architecture()
