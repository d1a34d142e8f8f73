"""The state of a hub for tests, in memory, and what the requests of the Hub's client do to it."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import yaml

TOKENS = {"hf_write": ("me", "write"), "hf_read": ("me", "read"), "hf_other": ("other", "write")}
MEMBERS = {"org": {"me"}, "me": {"me"}, "other": {"other"}}
LARGE = (".safetensors", ".png", ".bin")


@dataclass
class Fault:
    """Requests that go wrong.

    ``kind``: a status; ``"cut"``, the connection breaks in the middle of the request; ``"lost"``, what it asks is done,
    and then the connection breaks; ``"half"``, it breaks in the middle of the answer.
    """

    pattern: str
    kind: int | str
    times: int = 1
    error: str = "a fault of the test"

    def hits(self, request: str) -> bool:
        if self.times < 1 or not re.search(self.pattern, request):
            return False
        self.times -= 1
        return True


@dataclass
class Commit:
    oid: str
    summary: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A repository; the first commit is the Hub's own."""

    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    ignored: str = ""

    def __post_init__(self) -> None:
        self.branches["main"] = [Commit("0" * 40, "initial commit", {".gitattributes": b"*.safetensors lfs\n"})]

    def find(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = [commit for branch in self.branches.values() for commit in branch]
        return next((commit for commit in commits if commit.oid == revision), None)

    @property
    def files(self) -> dict[str, bytes]:
        return self.branches["main"][-1].files

    def commits(self, branch: str = "main") -> list[Commit]:
        """Without the Hub's own."""
        return self.branches[branch][1:]


class Refused(Exception):
    def __init__(self, status: int, error: str, code: str = "", **body: Any) -> None:
        self.status, self.error, self.code, self.body = status, error, code, {"error": error, **body}


@dataclass
class Hub:
    """The state; ``requests`` are methods and paths, in order."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def add(self, repo_id: str, files: dict[str, bytes], private: bool = False, branch: str = "main") -> Commit:
        """A commit made elsewhere."""
        repo = self.repos.setdefault(repo_id, Repo(private))
        return self._commit(repo, branch, "elsewhere", dict(files))

    def _commit(self, repo: Repo, branch: str, summary: str, files: dict[str, bytes]) -> Commit:
        history = repo.branches.setdefault(branch, list(repo.branches["main"][:1]))
        count = sum(map(len, repo.branches.values()))
        merged = {path: data for path, data in {**history[-1].files, **files}.items() if data is not None}
        history.append(Commit(hashlib.sha1(f"{count} {summary}".encode()).hexdigest(), summary, merged))
        return history[-1]

    # -- what the requests do; `who` is (user, role) or None

    def whoami(self, who: Any, body: Any) -> Any:
        return {"name": self._user(who), "type": "user"}

    def create(self, who: Any, body: Any) -> Any:
        user, asked = self._user(who), json.loads(body)
        owner = asked.get("organization") or user
        repo_id = f"{owner}/{asked['name']}"
        if repo_id in self.repos:
            raise Refused(409, "You already created this model repo", url=f"{self.url}/{repo_id}")
        if user not in MEMBERS.get(owner, ()) or who[1] != "write":
            raise Refused(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        self.repos[repo_id] = Repo(asked.get("visibility") == "private" or asked.get("private") is True)
        return {"url": f"{self.url}/{repo_id}", "name": repo_id}

    def validate(self, who: Any, body: Any) -> Any:
        head = re.match(r"---\n(.*?)\n---", json.loads(body)["content"], re.DOTALL)
        about = yaml.safe_load(head[1]) if head else {}
        base = about.get("base_model", "a/b")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            raise Refused(400, "bad metadata", errors=[{"message": f'"base_model" with value "{base}" is not valid.'}])
        return {"errors": [], "warnings": []}

    def info(self, who: Any, body: Any, repo_id: str, revision: str = "main") -> Any:
        repo, commit = self._at(who, repo_id, revision)
        siblings = [{"rfilename": path} for path in commit.files]
        return {"id": repo_id, "modelId": repo_id, "sha": commit.oid, "private": repo.private, "siblings": siblings}

    def branch(self, who: Any, body: Any, repo_id: str, branch: str) -> Any:
        repo, _ = self._at(who, repo_id, "main", write=True)
        if branch in repo.branches:
            raise Refused(409, "Reference already exists")
        repo.branches[branch] = list(repo.branches["main"])
        return {}

    def preupload(self, who: Any, body: Any, repo_id: str, revision: str) -> Any:
        repo, commit = self._at(who, repo_id, revision, write=True)
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": bool(repo.ignored) and file["path"].endswith(repo.ignored),
                    "oid": _oid(file["path"], commit.files[file["path"]]) if file["path"] in commit.files else None,
                }
                for file in json.loads(body)["files"]
            ]
        }

    def batch(self, who: Any, body: Any, repo_id: str) -> Any:
        self._at(who, repo_id, "main", write=True)
        objects = [dict(item) for item in json.loads(body)["objects"]]
        for item in objects:
            if item["oid"] not in self.verified:
                upload = {"href": f"{self.url}/lfs/{item['oid']}"}
                item["actions"] = {"upload": upload, "verify": {"href": f"{self.url}/verify"}}
        return {"transfer": "basic", "objects": objects}

    def put(self, who: Any, body: bytes, oid: str) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "the content is not that of the digest")
        self.large[oid] = body
        return {}

    def verify(self, who: Any, body: Any) -> Any:
        asked = json.loads(body)
        if len(self.large.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such object")
        self.verified.add(asked["oid"])
        return {}

    def commit(self, who: Any, body: bytes, repo_id: str, revision: str) -> Any:
        repo, _ = self._at(who, repo_id, revision, write=True)
        if revision not in repo.branches:
            raise Refused(400, "not a branch")
        header, *operations = [json.loads(line) for line in body.splitlines()]
        files: dict[str, Any] = {}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.verified:
                    raise Refused(400, f"{value['path']} was not uploaded")
                files[value["path"]] = self.large[value["oid"]]
            elif value["path"] in repo.branches[revision][-1].files:
                files[value["path"]] = None
            else:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        done = self._commit(repo, revision, header["value"]["summary"], files)
        return {"commitUrl": f"{self.url}/{repo_id}/commit/{done.oid}", "commitOid": done.oid, "success": True}

    def paths(self, who: Any, body: bytes, repo_id: str, revision: str) -> Any:
        _, commit = self._at(who, repo_id, revision)
        asked = parse_qs(body.decode()).get("paths", [])
        return [_entry(path, commit.files[path]) for path in asked if path in commit.files]

    def tree(self, who: Any, body: Any, repo_id: str, revision: str) -> Any:
        _, commit = self._at(who, repo_id, revision)
        return [_entry(path, data) for path, data in commit.files.items()]

    def resolve(self, who: Any, body: Any, repo_id: str, revision: str, path: str) -> Any:
        _, commit = self._at(who, repo_id, revision)
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        return commit.files[path], {"X-Repo-Commit": commit.oid, "ETag": f'"{_oid(path, commit.files[path])}"'}

    def _user(self, who: Any) -> str:
        if who is None:
            raise Refused(401, "Invalid username or password.")
        return str(who[0])

    def _at(self, who: Any, repo_id: str, revision: str, write: bool = False) -> tuple[Repo, Commit]:
        repo, member = self.repos.get(repo_id), who is not None and who[0] in MEMBERS.get(repo_id.split("/")[0], ())
        if repo is None or (repo.private and not member):
            raise Refused(401 if who is None else 404, "Repository not found", "RepoNotFound")
        if write and not (member and who[1] == "write"):
            raise Refused(403, "You don't have write access to this repository")
        commit = repo.find(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo, commit


def _oid(path: str, data: bytes) -> str:
    """A file's digest as the Hub has it."""
    if path.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _oid(path, data)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": entry["oid"], "size": len(data), "pointerSize": 134}
    return entry
