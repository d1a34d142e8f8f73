"""A program may end while the engine works for it."""

import subprocess
import sys

PROGRAM = """
import asyncio, atexit, threading

def report():  # registered first, so called last
    print("stepping" if any(t.name == "alorakit-step" for t in threading.enumerate()) else "stopped")

atexit.register(report)
from alorakit import AsyncEngine, SamplingParams

served = AsyncEngine.from_pretrained({model!r}, dtype="float32", device="cpu")
begun = threading.Event()

async def main():
    async for _ in served.stream([5, 6, 7], SamplingParams(max_tokens=400, ignore_eos=True)):
        begun.set()

threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
begun.wait()
print("ends")
"""


def test_the_thread_that_steps_stops_before_the_interpreter_goes(tiny_models):
    """The event loop is a daemon's, as Mellea's is, so nothing else closes the engine."""
    script = PROGRAM.format(model=str(tiny_models["llama"]))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["ends", "stopped"]), done.stderr
