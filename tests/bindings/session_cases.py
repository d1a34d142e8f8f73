"""Random instructions after random turns, for the program ``rendered``."""

import random
from typing import Any

TEXTS = (
    "a",
    "Two words",
    "",
    " spaced ",
    "line\nbreak",
    "end\n",
    "{{ brace }}",
    "<b>&'\"",
    "ünï 你好",
    "- list\n* item",
)


def cases(number: int = 300) -> list[dict[str, Any]]:
    """The same random cases every time."""
    rng = random.Random(0)

    def text() -> str:
        return rng.choice(TEXTS)

    def texts() -> list[str]:
        return [text() for _ in range(rng.choice((0, 0, 1, 2, 3)))]

    def case() -> dict[str, Any]:
        variables = rng.choice((None, None, {"x": text(), "y": "why"}))
        plain = [t for t in TEXTS if "{{" not in t]

        def some() -> str:
            return text() if variables is None else rng.choice(("{{x}}", "is {{ y }}\n", *plain))

        return {
            "chat": rng.random() < 0.7,
            "system": rng.choice((None, "Be kind", "two\nlines")),
            "repair": rng.choice((None, None, "failed:\n* a")),
            "turns": [(rng.choice(("user", "assistant", "system", "block", "output")), text()) for _ in texts()],
            "instruction": {
                "description": some(),
                "requirements": [(some(), rng.random() < 0.2) for _ in texts()],
                "icl_examples": [some() for _ in texts()],
                "grounding_context": {key: some() for key in rng.sample(("doc", "", "a b"), rng.randrange(4))},
                "user_variables": variables,
                "prefix": rng.choice((None, some())),
                "output_prefix": rng.choice((None, text())) if variables is None else None,
            },
        }

    return [case() for _ in range(number)]
