"""What a model thinks before it answers, told apart from the answer."""

_OPEN, _CLOSE = "<think>", "</think>"


def split_thinking(text: str) -> tuple[str | None, str]:
    """(thinking, answer): what stands before ``</think>``, and what after; (None, text) without that tag.

    The opening tag may be missing: some templates write it into the prompt.
    """
    before, tag, after = text.partition(_CLOSE)
    if not tag:
        return None, text
    return before.strip().removeprefix(_OPEN).strip(), after.strip()
