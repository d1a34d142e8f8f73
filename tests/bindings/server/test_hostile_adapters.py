"""Paths and links that lead out of the allowed folder; what is opened is watched by Python and by the kernel."""

import ctypes
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from alorakit import Engine
from alorakit.bindings.server import folders
from tests.bindings.server import allowed
from tests.bindings.server.allowed import CONFIG, WEIGHTS, load, unharmed
from tests.bindings.server.raw import shared_engine
from tests.bindings.server.running import Running, error_of

engine, root, server = shared_engine, allowed.root, allowed.server
IN_ACCESS_OPEN = 0x1 | 0x20
_watchers: list[list[str]] = []
_hooked = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes | os.PathLike):
        for seen in _watchers:
            seen.append(os.fsdecode(arguments[0]))


@contextmanager
def opened() -> Iterator[list[str]]:
    """Every path that this process opens or lists within the block."""
    global _hooked
    if not _hooked:  # a hook stays for good
        sys.addaudithook(_hook)
        _hooked = True
    seen: list[str] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)


@contextmanager
def watched(*places: Path) -> Iterator[Callable[[], bool]]:
    """Whether the kernel saw somebody open or read what lies in ``places``."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    try:
        for place in places:
            assert libc.inotify_add_watch(handle, os.fsencode(place), IN_ACCESS_OPEN) >= 0

        def touched() -> bool:
            try:
                return bool(os.read(handle, 4096))
            except BlockingIOError:
                return False

        yield touched
    finally:
        os.close(handle)


def lead(root: Path) -> list[str]:
    """Links and paths of every kind that lead outside."""
    outside = root.parent / "outside" / "secret"
    (root / "link").symlink_to(outside)
    (root / "up").symlink_to("../outside")
    (root / "chain").symlink_to("link")
    (root / "loop").symlink_to("loop")
    (root / "proc").symlink_to("/proc/self/cwd")
    for name in (CONFIG, WEIGHTS, "alorakit.json"):
        folder = shutil.copytree(root / "good", root / f"leads-{name}")
        (folder / name).unlink()
        (folder / name).symlink_to(outside / name)
    return [
        "../outside/secret", "good/../../outside/secret", str(outside), f"{root}/../outside/secret", "link", "chain",
        "up/secret", "loop", "proc", f"leads-{CONFIG}", f"leads-{WEIGHTS}", "leads-alorakit.json",
        "%2e%2e/outside/secret", "..%2foutside", "....//outside", "..\\outside\\secret", f"file://{outside}", "~root",
        f"{root}/good/../../outside/secret", f"//{outside}", f"/proc/self/root{outside}", f"{root}/", "/", "/dev/stdin",
        "/dev/zero", "/proc/self/environ", "good\0/../../outside", "good/adapter_config.json", "\u2025/outside",
    ]  # fmt: skip


def test_nothing_outside_is_opened(server: Running, root: Path) -> None:
    paths = lead(root)
    secret = root.parent / "outside" / "secret"
    with watched(secret, *secret.iterdir()) as touched, opened() as seen:
        for path in paths:
            answer = load(server, path)
            error = error_of(answer, answer.status_code)
            assert answer.status_code in (400, 403) and error["param"] == "path", path
            assert str(root.parent) not in error["message"].replace(repr(path), ""), path
        assert not touched()
        assert load(server, "good").status_code == 201
        below = [path for path in seen if path.startswith(str(root.parent))]
        assert str(root) in below
        assert [path for path in below if not (Path(path) == root or Path(path).is_relative_to(root))] == []
        assert [path for path in seen if path.startswith(("/dev/zero", "/dev/stdin", "/proc/self/environ"))] == []
        (secret / CONFIG).read_bytes()
        assert touched()  # the watch does see


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "alorakit.json", ""])
def test_a_link_put_in_after_the_check(
    server: Running, root: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whoever may write into an allowed folder swaps the folder, or a file of it, when all was checked."""
    secret, good = root.parent / "outside" / "secret", root / "good"
    other = {key: tensor + 1 for key, tensor in load_file(secret / WEIGHTS).items()}
    save_file(other, secret / WEIGHTS)
    really = engine.add_adapter

    def swap_first(*arguments: Any, **more: Any) -> Any:
        if name:
            (good / name).unlink()
            (good / name).symlink_to(secret / name)
        else:
            good.rename(root / "moved")
            good.symlink_to(secret)
        return really(*arguments, **more)

    monkeypatch.setattr(engine, "add_adapter", swap_first)
    with watched(secret, *secret.iterdir()) as touched:
        answer = load(server, "good")
        assert not touched()
    assert answer.status_code == 201
    assert answer.json()["digest"] == engine.adapters["parts"].digest  # of the file that was checked


def test_a_link_put_in_while_it_is_checked(server: Running, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, good = root.parent / "outside" / "secret", root / "good"
    really = folders._open_below

    def swap_first(*arguments: Any) -> int | None:
        if not good.is_symlink():
            good.rename(root / "moved")
            good.symlink_to(secret)
        return really(*arguments)

    monkeypatch.setattr(folders, "_open_below", swap_first)
    with watched(secret, *secret.iterdir()) as touched:
        error_of(load(server, "good"), 403)
        assert not touched()
    unharmed(server)


def test_links_swapped_all_the_time(server: Running, root: Path) -> None:
    secret = root.parent / "outside" / "secret"
    save_file({key: tensor + 1 for key, tensor in load_file(secret / WEIGHTS).items()}, secret / WEIGHTS)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for target in ("good", secret):
                (root / "new").symlink_to(target)
                (root / "new").replace(root / "flips")

    (root / "flips").symlink_to("good")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        digests = set()
        for _ in range(40):
            answer = load(server, "flips", replace=True)
            assert answer.status_code in (201, 400, 403), answer.text
            if answer.status_code == 201:
                digests.add(answer.json()["digest"])
    finally:
        stop.set()
        thread.join()
    assert digests <= {server.engine.adapters["parts"].digest}
