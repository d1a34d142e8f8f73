"""What the Hub's errors mean, in a line; whatever HTTP library its client uses."""

from collections.abc import Iterator

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_MAX_LENGTH = 300


def status(exc: BaseException) -> int | None:
    """HTTP status of the answer that an error, or what caused it, is about; None if there was no answer."""
    for error in _chain(exc):
        if isinstance(error, HfHubHTTPError):
            return int(error.response.status_code)
    return None


def is_connection_error(exc: BaseException) -> bool:
    """Whether no answer came: no connection, one that broke, a timeout."""
    kinds = [kind.__name__ for error in _chain(exc) for kind in type(error).__mro__]
    return status(exc) is None and bool({"TransportError", "ConnectionError", "TimeoutError"} & set(kinds))


def request_path(exc: BaseException) -> str:
    """Path of the request that failed; empty if there was none."""
    for error in _chain(exc):
        try:
            return str(error.request.url.path)  # type: ignore[attr-defined]
        except (AttributeError, RuntimeError):  # no HTTP library's error, or one from before there was a request
            continue
    return ""


def is_offline(exc: BaseException) -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbade the request."""
    return any(isinstance(error, OfflineModeIsEnabled) for error in _chain(exc))


def reason(exc: BaseException, repo_id: str, revision: str | None = None) -> str:
    """Why a repository cannot be had.

    Args:
        exc: What the Hub's client raised.
        repo_id: The repository.
        revision: What was asked for.
    """
    if is_offline(exc):
        return "it is not in the local cache, and HF_HUB_OFFLINE is set"
    if isinstance(exc, RevisionNotFoundError):
        return f"the repository {repo_id} has no revision {revision!r}"
    if isinstance(exc, GatedRepoError):
        return f"{repo_id} is gated: ask for access on its page, and set HF_TOKEN or run: hf auth login"
    if isinstance(exc, RepositoryNotFoundError):
        return (
            f"404, there is no repository {repo_id}, or it is private: then set HF_TOKEN to a token that may read it, "
            "or run: hf auth login"
        )
    return first_line(exc)


def first_line(exc: BaseException) -> str:
    """What an error says, on one line: the server's words before those of the client, after what it was about."""
    texts: list[str] = []
    for error in _chain(exc):
        if isinstance(error, HfHubHTTPError):
            if not texts or str(error.response.status_code) not in texts[-1]:
                texts.append(str(error.response.status_code))
            said = error.server_message or str(error).strip().splitlines()[0]
            texts += [said] if said not in " ".join(texts) else []
            break
        texts += [said] if (said := str(error) or type(error).__name__) not in texts else []
    return " ".join(" ".join(text.split()).rstrip(".:") + ":" for text in texts)[:-1][:_MAX_LENGTH]


def _chain(exc: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = exc
    while seen is not None:
        yield seen
        seen = seen.__cause__
