"""Adapter folders made to hang, fill or crash a server, names made to confuse it, and many clients at once."""

import asyncio
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.bindings.server import allowed
from tests.bindings.server.allowed import CONFIG, KEY, WEIGHTS, load, unharmed
from tests.bindings.server.raw import say, shared_engine, statuses
from tests.bindings.server.running import CHAT, Running, chat, error_of

engine, root, server = shared_engine, allowed.root, allowed.server


def pipe(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def device(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")


def sparse(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 30)


def huge_header(folder: Path, name: str) -> None:
    (folder / name).write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def long_header(folder: Path, name: str) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{index}": entry for index in range(50_000)}).encode()
    (folder / name).write_bytes(struct.pack("<Q", len(header)) + header)


def huge_shape(folder: Path, name: str) -> None:
    header = json.dumps({"t": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}}).encode()
    (folder / name).write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("pickle-was-run",))


def pickled(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Boom()))


def pickle_by_its_other_name(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Boom()))


def not_finite(folder: Path, name: str) -> None:
    tensors = load_file(folder / name)
    next(iter(tensors.values()))[0, 0] = torch.inf
    save_file(tensors, folder / name)


def deep(folder: Path, name: str) -> None:
    (folder / name).write_text("[" * 500_000)


def number(folder: Path, name: str) -> None:
    raw = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(raw | {"r": 0}).replace('"r": 0', '"r": ' + "9" * 5000))


def pattern(folder: Path, name: str) -> None:
    raw = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(raw | {"rank_pattern": {"(a|a|[a-z.])*x": 4}}))


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        *[(harm, name) for harm in (pipe, device) for name in (CONFIG, WEIGHTS, "alorakit.json")],
        *[(sparse, name) for name in (CONFIG, WEIGHTS, "alorakit.json")],
        *[(harm, WEIGHTS) for harm in (huge_header, long_header, huge_shape, pickled, pickle_by_its_other_name)],
        (not_finite, WEIGHTS), (deep, CONFIG), (deep, "alorakit.json"), (number, CONFIG), (pattern, CONFIG),
    ],
)  # fmt: skip
def test_folders_that_harm(
    server: Running, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    harm(root / "good", name)
    answer = load(server, "good")
    error_of(answer, 403 if harm is device else 400)
    assert str(tmp_path) not in answer.text and not (tmp_path / "pickle-was-run").exists()
    unharmed(server)


def test_names(server: Running) -> None:
    for name in ("a\nb", "a\0b", "\x1b[31m", "a\u202eb", " a", "a\u00a0", "", "x" * 201, "tiny", "\u2028"):
        assert error_of(load(server, "good", name), 400)["param"] == "name", name
    for name in ("org/name", "../../etc/passwd", "a/../b", "%2e%2e", "é🙂", "'; --", "<script>", "a b"):
        assert load(server, "good", name).status_code == 201, name
        assert httpx.post(server.url + CHAT, json=chat(model=name), timeout=60).status_code == 200
        quoted = httpx.URL(server.url).join("/v1/adapters/" + "".join(f"%{byte:02x}" for byte in name.encode()))
        raw = f"DELETE {quoted.raw_path.decode()} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        found = say(server, (raw + "authorization: Bearer secret\r\n\r\n").encode())
        assert statuses(found) == [204], (name, found)
    for path in ("", "/", "/..", "/%00", "/" + "x" * 60_000, "/%ff"):
        answer = httpx.delete(f"{server.url}/v1/adapters{path}", headers=KEY)
        assert answer.status_code in (404, 405), (path, answer.text)
    unharmed(server)


def test_twenty_clients_load_and_unload_one_adapter(server: Running) -> None:
    async def one(http: httpx.AsyncClient, turn: int) -> set[int]:
        seen = set()
        for round_ in range(6):
            wanted = {"name": "n", "path": "good", "replace": bool((turn + round_) % 2)}
            seen.add((await http.post("/v1/adapters", json=wanted, headers=KEY)).status_code)
            body = {"model": "n", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
            seen.add((await http.post(CHAT, json=body)).status_code)
            seen.add((await http.delete("/v1/adapters/n", headers=KEY)).status_code)
        return seen

    async def main() -> set[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
            return set().union(*await asyncio.gather(*(one(http, turn) for turn in range(20))))

    assert asyncio.run(main()) <= {200, 201, 204, 400, 404}
    httpx.delete(f"{server.url}/v1/adapters/n", headers=KEY)
    unharmed(server)
    server.engine.check_integrity()
