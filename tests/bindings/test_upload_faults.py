"""``m alora upload`` where the Hub refuses or fails: what is said, and that nothing half-done is reported as done."""

import json
from pathlib import Path

import pytest

from tests.bindings.hub_fixtures import folder as folder
from tests.bindings.hub_fixtures import hub as hub
from tests.bindings.hub_fixtures import sent, upload
from tests.bindings.hub_folders import FILES
from tests.hub_state import Fault, Hub, Repo


def test_no_token(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    line = upload(folder, code=2)
    assert "set HF_TOKEN" in line and "hf auth login" in line and hub.requests == []


@pytest.mark.parametrize(
    ("token", "name", "words"),
    [
        ("hf_nonsense", "org/my_adapter", ("401", "hf auth login", "/settings/tokens")),
        ("hf_read", "org/my_adapter", ("403", "may not write", "/settings/tokens")),
        ("hf_other", "org/my_adapter", ("403", "--name of your own")),
        ("hf_write", "org/hidden", ("not one that this token may see",)),
    ],
)
def test_a_token_that_may_not(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str, name: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    if name == "org/hidden":
        monkeypatch.setitem(hub.repos, name, Repo(private=True))
        monkeypatch.setattr("tests.hub_state.MEMBERS", {"org": {"boss"}})
    line = upload(folder, code=2, name=name)
    assert all(word in line for word in words), line
    assert not any(repo.commits() for repo in hub.repos.values())


def test_a_repository_that_is_there(hub: Hub, folder: Path) -> None:
    hub.add("org/my_adapter", {"README.md": b"old", "other.txt": b"kept"})
    line = upload(folder, "--private", code=2)
    assert "is public, and --private does not change that" in line and len(hub.repos["org/my_adapter"].commits()) == 1
    report = json.loads(upload(folder, "--json").stdout)
    assert (report["created"], report["private"]) == (False, False)
    assert sent(hub)["other.txt"] == b"kept" and set(sent(hub)) == FILES | {"other.txt"}


def test_a_repository_made_by_somebody_else_meanwhile(hub: Hub, folder: Path) -> None:
    hub.faults.append(Fault("POST /api/repos/create", "lost"))  # made, and the answer lost: the next try gets 409
    upload(folder)
    assert set(sent(hub)) == FILES
    assert hub.requests.count("POST /api/repos/create") == 2


STEPS = {
    "looking": "GET /api/models/org/my_adapter$",
    "creating": "POST /api/repos/create",
    "card": "POST /api/validate-yaml",
    "preupload": "/preupload/",
    "batch": "objects/batch",
    "weights": "PUT /lfs/",
    "verify": "POST /verify",
    "commit": "/commit/main",
    "looking after": "/paths-info/[0-9a-f]{40}",
}


@pytest.mark.parametrize("kind", [500, 503, "cut", "lost"])
@pytest.mark.parametrize("step", STEPS)
def test_a_fault_that_passes(hub: Hub, folder: Path, step: str, kind: int | str) -> None:
    hub.faults.append(Fault(STEPS[step], kind))
    report = json.loads(upload(folder, "--json").stdout)
    assert hub.faults[0].times == 0
    assert set(sent(hub)) == FILES
    [commit] = hub.repos["org/my_adapter"].commits()  # one, also where the answer to it was lost
    assert report["oid"] == commit.oid


@pytest.mark.parametrize("kind", [500, "cut"])
@pytest.mark.parametrize("step", STEPS)
def test_a_fault_that_stays(hub: Hub, folder: Path, step: str, kind: int | str) -> None:
    hub.faults.append(Fault(STEPS[step], kind, times=1000))
    line = upload(folder, code=2)
    assert "run the same command again" in line
    assert ("500" in line) == (kind == 500)
    done = [commit for repo in hub.repos.values() for commit in repo.commits()]
    assert bool(done) == (step == "looking after")
    hub.faults.clear()
    upload(folder)  # and that is all it takes
    assert set(sent(hub)) == FILES and len(hub.repos["org/my_adapter"].commits()) == 1


def test_a_card_that_the_hub_refuses(hub: Hub, folder: Path) -> None:
    (folder / "README.md").write_text("---\nbase_model: not an id\n---\n# Card\n")
    line = upload(folder, code=2)
    assert "not valid" in line and not hub.repos["org/my_adapter"].commits()


def test_a_gitignore_of_the_repository(hub: Hub, folder: Path) -> None:
    hub.add("org/my_adapter", {"README.md": b"old"})
    hub.repos["org/my_adapter"].ignored = ".safetensors"
    line = upload(folder, code=2)
    assert "lacks adapter_model.safetensors" in line and ".gitignore" in line


def test_what_is_left_is_said(hub: Hub, folder: Path) -> None:
    """Of a commit whose answer was lost nobody knows; of anything before it, that nothing was committed."""
    for step, words in (
        ("weights", "was made and is empty"),
        ("commit", "whether the commit was made is not known"),
        ("looking after", "the commit was made, and not looked at"),
    ):
        hub.repos.clear()
        hub.faults[:] = [Fault(STEPS[step], 500, times=1000)]
        assert words in upload(folder, code=2)
        hub.faults[:] = [Fault(STEPS[step], "cut", times=1000)]
        hub.repos.clear()
        assert words in upload(folder, code=2)
