"""One commit in a repository of the Hub, made whole or reported as not made."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from alorakit.engine.errors import ConfigError, HubError
from alorakit.engine.hub_errors import first_line, is_connection_error, is_offline, reason, request_path, status

_T = TypeVar("_T")
_TRIES = 3
_PAUSE_S = 1.0
_LOOKING_AFTER = "looking at the commit in"
_AGAIN = "run the same command again, what has arrived is not sent twice"


@dataclass(frozen=True)
class Committed:
    """A commit that the Hub has.

    Attributes:
        url: Its page.
        oid: Its hash.
        created: Whether the repository was made for it.
        private: Whether the repository is private.
        added: Paths that it sent.
        deleted: Paths that it removed.
    """

    url: str
    oid: str
    created: bool
    private: bool
    added: tuple[str, ...]
    deleted: tuple[str, ...]


class Repository:
    """A model repository that is written to.

    Args:
        name: ``owner/name``.
        revision: Branch to commit to; it is made if it is not there. None: the main branch.

    Raises:
        HubError: There is no access token.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        token = get_token()
        if not token:
            raise HubError(
                f"no access token for {constants.ENDPOINT}; set HF_TOKEN to one that may write (it is made at "
                f"{constants.ENDPOINT}/settings/tokens), or run: hf auth login"
            )
        self.name, self.revision, self.created, self.private = name, revision, False, False
        self._api = HfApi(token=token)

    def open(self, private: bool | None) -> None:
        """Find the repository and the branch, or make them.

        Args:
            private: Its visibility; None: private if it is made, and as it is if it is there.

        Raises:
            ConfigError: It is there, with the other visibility.
            HubError: The Hub refuses.
        """
        found = self._ask("looking for the repository", self._visibility)
        if found is None:
            self._ask("making the repository", lambda: self._create(private is not False))
            found = self._ask("looking for the repository", self._visibility)
        if found is None:
            raise HubError(
                f"{self.name} is there, but is not one that this token may see; ask its owner for access, or take "
                "another --name"
            )
        if private is not None and found is not private and not self.created:
            is_, wanted = ("private", "--public") if found else ("public", "--private")
            raise ConfigError(
                f"{self.name} is {is_}, and {wanted} does not change that; nothing was sent: leave {wanted} out, or "
                f"change it first at {constants.ENDPOINT}/{self.name}/settings"
            )
        self.private = found
        if self.revision not in (None, "main") and not str(self.revision).startswith("refs/"):
            branch = str(self.revision)
            self._ask("making the branch", lambda: self._api.create_branch(self.name, branch=branch, exist_ok=True))

    def commit(
        self,
        files: Mapping[str, bytes],
        message: str,
        stale: Sequence[str] = (),
        if_missing: Mapping[str, bytes] | None = None,
    ) -> Committed:
        """Add files in one commit, and see that they are there.

        Args:
            files: Contents by path.
            message: The commit's.
            stale: Paths to remove in the same commit, where they are there.
            if_missing: More files, each only if the repository has none of that path.

        Raises:
            HubError: The Hub refuses or cannot be reached; the message says what that leaves.
        """
        added, gone = dict[str, bytes](), list[str]()

        def attempt() -> CommitInfo:
            # Listed anew at every try: the one before may have been done, its answer lost.
            extra = dict(if_missing or {})
            there = {entry.path for entry in self._paths([*stale, *extra])}
            gone[:] = [path for path in stale if path in there]
            added.update(files)
            added.update({path: content for path, content in extra.items() if path not in there or path in added})
            operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
                *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in added.items()),
                *(CommitOperationDelete(path_in_repo=path) for path in gone),
            ]
            return self._api.create_commit(self.name, operations, commit_message=message, revision=self.revision)

        done = self._ask("uploading", attempt)
        self._verify(done.oid, added)
        return Committed(str(done.commit_url), done.oid, self.created, self.private, tuple(sorted(added)), tuple(gone))

    def _visibility(self) -> bool | None:
        try:
            return bool(self._api.model_info(self.name).private)
        except RepositoryNotFoundError:
            return None

    def _create(self, private: bool) -> None:
        try:
            self._api.create_repo(self.name, private=private)
            self.created = True
        except HfHubHTTPError as exc:
            if status(exc) != 409:  # somebody else made it just now, or a try whose answer was lost
                raise

    def _paths(self, paths: list[str], revision: str | None = None) -> list[RepoFile]:
        found = self._api.get_paths_info(self.name, paths, revision=revision or self.revision) if paths else []
        return [entry for entry in found if isinstance(entry, RepoFile)]

    def _verify(self, oid: str, files: Mapping[str, bytes]) -> None:
        """See that a commit holds what was sent: a ``.gitignore`` of the repository leaves files out silently."""
        found = self._ask(_LOOKING_AFTER, lambda: self._paths([*files], oid))
        there = {entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else None) for entry in found}
        wrong = [
            path
            for path, content in files.items()
            if there.get(path) not in ((len(content), None), (len(content), sha256(content).hexdigest()))
        ]
        if wrong:
            raise HubError(
                f"the commit {oid} in {self.name} lacks {', '.join(wrong)} as they were sent; see whether a .gitignore "
                "of the repository leaves them out"
            )

    def _ask(self, doing: str, step: Callable[[], _T]) -> _T:
        """Do a step, again where the Hub or the connection fails; its client does so for parts of an upload only."""
        for left in reversed(range(_TRIES)):
            try:
                return step()
            # The Hub's client lets its HTTP library's errors through, and which library that is depends on its version.
            except Exception as exc:
                # RuntimeError: part of an upload failed, which the client has tried six times.
                fails = ((status(exc) or 0) >= 500 or is_connection_error(exc)) and not isinstance(exc, RuntimeError)
                if not (left and fails):
                    raise HubError(self._message(doing, exc)) from exc
            time.sleep(_PAUSE_S * (_TRIES - left))
        raise AssertionError("the last try returns or raises")

    def _message(self, doing: str, exc: Exception) -> str:
        said, code = first_line(exc), status(exc)
        left = f"{self.name} was made and is empty" if self.created else "nothing was changed there"
        if "/commit/" in request_path(exc) and (code is None or code >= 500):
            left = "whether the commit was made is not known"
        elif doing == _LOOKING_AFTER:
            left = "the commit was made, and not looked at"
        settings = f"{constants.ENDPOINT}/settings/tokens"
        if is_offline(exc):
            why = "HF_HUB_OFFLINE is set; unset it to upload"
        elif code == 401:
            why = f"the Hub does not take this access token; make one at {settings}, set HF_TOKEN or run: hf auth login"
        elif code == 403:
            why = (
                f"this access token may not write to {self.name}; give it write access at {settings}, or take a --name "
                "of your own"
            )
        elif code == 404:
            why = reason(exc, self.name, self.revision)
        elif code in (409, 412):
            why = f"somebody else changed {self.name} at the same time; {_AGAIN}"
        elif code == 429:
            why = "too many requests; wait some minutes, then run the same command again"
        elif code is not None and code >= 500:
            why = f"the Hub fails; {_AGAIN}"
        elif is_connection_error(exc):
            why = f"no answer from {constants.ENDPOINT}; see to the network, then {_AGAIN}"
        else:
            why = "see what it says, and change it"
        return f"{doing} {self.name}: {said}; {left}; {why}"
