"""What must not wait for ever, run on, or be mixed up when callers fail, forget, or come at once."""

import asyncio
import gc
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from mellea import MelleaSession
from mellea.backends.adapters.adapter import CustomIntrinsicAdapter
from mellea.core import CBlock
from mellea.stdlib.context import ChatContext

from alorakit.bindings.mellea import MelleaBackend
from alorakit.engine.errors import RequestError
from tests.bindings.mellea.conftest import YES_NO


def test_an_error_is_there_for_everybody_who_awaits_the_thunk(backend):
    async def main():
        thunk = await MelleaSession(backend, ctx=ChatContext()).ainstruct("word " * 3000, strategy=None)
        for _ in range(3):
            with pytest.raises(RequestError, match="context window"):
                await asyncio.wait_for(thunk.avalue(), 20)

    asyncio.run(main())


def test_folders_of_one_name_that_are_loaded_at_once_are_told_apart(new_adapter):
    folders = [new_adapter(f"of_{index}", io=YES_NO) for index in range(3)]
    wrong, interval = [], sys.getswitchinterval()

    def make(folder):
        for _ in range(60):
            adapter = CustomIntrinsicAdapter(model_id=folder, intrinsic_name="same", base_model_name="Tiny-Instruct")
            if Path(adapter.intrinsic_metadata.repo_id) != folder.resolve():
                wrong.append(adapter)

    threads = [threading.Thread(target=make, args=(folder,)) for folder in folders]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_a_backend_that_nobody_closed_is_let_go_after_its_last_answer(base):
    def begun():
        backend = MelleaBackend(str(base), dtype="float32", device="cpu", model_options={"max_tokens": 40})
        engine = weakref.ref(backend.engine)
        return backend._generate_from_context, engine

    async def main():
        ask, engine = begun()
        thunk, _ = await ask(CBlock("hi"), ChatContext())
        del ask
        gc.collect()
        assert len(await thunk.avalue()) > 0
        assert thunk.generation.finish_reasons != ["abort"]
        return engine

    engine = asyncio.run(main())
    deadline = time.monotonic() + 20
    while engine() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert engine() is None
