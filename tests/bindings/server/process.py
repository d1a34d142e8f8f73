"""A server in a process of its own, as ``m alora serve`` starts it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND = "from alorakit.bindings.cli.main import m; m()"
LIMIT_S = 60  # far beyond what a start or an end takes on a busy machine


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def command(model: Path | str, *options: str, program: str = COMMAND) -> list[str]:
    return [sys.executable, "-c", program, "alora", "serve", str(model), *options]


def failed(model: Path | str, *options: str, **environment: str) -> str:
    """Run a server that cannot start: it must end with exit code 2 and one line, which this returns."""
    environ = {**os.environ, **environment}
    done = subprocess.run(
        command(model, *options), capture_output=True, text=True, timeout=LIMIT_S, env=environ, check=False
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    [line] = [text for text in done.stderr.splitlines() if not text.startswith('{"time"')]
    return line


class Process:
    """A server that answers."""

    def __init__(self, model: Path, *options: str, program: str = COMMAND) -> None:
        self.child = subprocess.Popen(
            command(model, "--device", "cpu", "--dtype", "float32", "--json", *options, program=program),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.child.stdout is not None
        line = self.child.stdout.readline()  # ends with the process, at the latest
        assert line, f"ended with {self.child.wait(LIMIT_S)} before it was ready"
        self.ready: dict[str, Any] = json.loads(line)
        self.url: str = self.ready["url"]

    def end(self, signal: int) -> int:
        """Send a signal; the exit code."""
        self.child.send_signal(signal)
        return self.child.wait(LIMIT_S)


@contextmanager
def process(model: Path, *options: str, program: str = COMMAND) -> Iterator[Process]:
    """A server on loopback, gone at the end whatever happens."""
    started = Process(model, *options, program=program)
    try:
        yield started
    finally:
        started.child.kill()
        started.child.wait(LIMIT_S)
        assert started.child.stdout is not None
        started.child.stdout.close()
