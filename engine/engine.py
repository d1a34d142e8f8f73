"""The engine: prompts in, answers out; base, LoRA and aLoRA requests in one batch over one KV cache."""

import logging
import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from pathlib import Path
from types import TracebackType

import torch

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.adapters import AdapterInfo
from alorakit.engine.admission import Admission, Prompt, as_prompts, per_prompt
from alorakit.engine.attention import KVCache, derive_blocks
from alorakit.engine.block_tree import BlockTree
from alorakit.engine.config import EngineConfig
from alorakit.engine.devices import pick_device, pick_dtype
from alorakit.engine.errors import ClosedError, ConfigError, RequestError
from alorakit.engine.loop import Loop
from alorakit.engine.model import Decoder
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.pretrained import resolve_model
from alorakit.engine.registry import AdapterRegistry, known_names
from alorakit.engine.request import RequestOutput, SamplingParams, ScoreResult, StreamChunk
from alorakit.engine.runner import Runner
from alorakit.engine.sampler import Sampler
from alorakit.engine.scheduler import Scheduler
from alorakit.engine.scoring import combine, plan_candidates
from alorakit.engine.stats import EngineStats
from alorakit.engine.tokenizer import Tokenizer
from alorakit.engine.weights import load_decoder
from alorakit.kernels import ops

log = logging.getLogger("alorakit")


class Engine:
    """Serves one base model and any number of its adapters. Not thread-safe.

    Attributes:
        config: Its settings.
        model_config: The model's shape.
        tokenizer: The model's tokenizer.
        model_name: Hub id or folder it was made from.
        model_path: Folder of the model.
    """

    def __init__(self, model: Decoder, tokenizer: Tokenizer, config: EngineConfig, name: str, path: Path) -> None:
        """Serve a loaded model; most callers use :meth:`from_pretrained`."""
        self.config, self.model_config, self.tokenizer = config, model.config, tokenizer
        self.model_name, self.model_path = name, path
        self._max_model_len = config.max_model_len or model.config.max_position_embeddings
        blocks = config.cache_blocks or derive_blocks(config, model, self._max_model_len)
        self._tree = BlockTree(blocks, config.block_size)
        cache = KVCache(model.config, blocks, config.block_size, model.dtype, model.device)
        self._runner = Runner(model, cache)
        slots = AdapterSlots(model.config, model.device, model.dtype, config.max_adapters)
        self._scheduler = Scheduler(config, self._tree, slots)
        eos = {*model.config.eos_token_ids, tokenizer.eos_token_id}
        eos_ids = frozenset(i for i in eos if i is not None and 0 <= i < model.config.vocab_size)
        self._loop = Loop(self._scheduler, self._runner, Sampler(eos_ids), eos_ids)
        capacity = blocks * config.block_size
        self._admission = Admission(config, tokenizer, model.config.vocab_size, self._max_model_len, capacity)
        self._registry = AdapterRegistry(model, {name, *known_names(path)})
        self._closed = False

    @classmethod
    def from_pretrained(cls, model: str | Path, **config: object) -> "Engine":
        """Load a model and make an engine of it.

        Args:
            model: Hub id or folder with ``config.json``, safetensors and tokenizer.
            **config: Fields of :class:`EngineConfig`.

        Raises:
            TypeError: A keyword is no field of EngineConfig.
            AlorakitError: The model is not there, not supported or broken, or a setting is out of range.
        """
        settings = EngineConfig(**config)  # type: ignore[arg-type]
        device = pick_device(settings.device)
        dtype = pick_dtype(settings.dtype, device)
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)
        found = resolve_model(model, settings.revision)
        if found.notes:
            log.warning(found.notes)
        shape = ModelConfig.from_folder(found.path)
        window = settings.max_model_len or shape.max_position_embeddings
        if window > shape.max_position_embeddings:
            raise ConfigError(
                f"max_model_len={window} is above the model's limit of {shape.max_position_embeddings} positions"
            )
        tokenizer = Tokenizer.from_pretrained(found.path)
        decoder = load_decoder(found.path, shape, dtype, device, window)
        if settings.pack_weights and ops.can_pack(device, dtype):
            decoder.pack()
        log.info("%s on %s in %s, torch kernels", found.name, device, dtype)
        return cls(decoder, tokenizer, settings, found.name, found.path)

    def __enter__(self) -> "Engine":
        """Use as a context manager; :meth:`close` is called at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()

    # --- adapters -----------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """Registered adapters by name: a read-only snapshot."""
        return self._registry.infos

    def add_adapter(self, name: str, path: str | Path, replace: bool = False, layout: str | None = None) -> AdapterInfo:
        """Register an adapter folder under a name.

        Args:
            name: What requests call it.
            path: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
            replace: Take the place of an adapter of that name; running requests keep the weights they began with.
            layout: Check layout (``"chat"`` or ``"mellea"``) for a folder without ``alorakit.json``.

        Raises:
            AdapterError: The name is taken, or the folder cannot be loaded; nothing is registered then.
        """
        self._check_open()
        return self._registry.add(name, path, replace, layout)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter; requests already admitted keep their weights and activation.

        Raises:
            AdapterNotFoundError: No adapter of that name.
        """
        self._registry.remove(name)

    # --- requests -----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Seq[Prompt],
        sampling: SamplingParams | Seq[SamplingParams] | None = None,
        adapter: str | Seq[str | None] | None = None,
    ) -> list[RequestOutput]:
        """Answer prompts, all in one batch.

        Args:
            prompts: A text, a list of token ids, or a list of either.
            sampling: One for all, or one per prompt; None: greedy, 16 tokens.
            adapter: One for all, or one per prompt; None is the base model.

        Returns:
            The outputs in the prompts' order, ``n`` consecutive ones for each.

        Raises:
            RequestError: A prompt, parameter or adapter is not usable; then no prompt of the call is run.
            NumericsError: The model or an adapter computed values that are not finite.
        """
        self._check_open()
        items = as_prompts(prompts)
        given = sampling if sampling is not None else SamplingParams()
        params = per_prompt("sampling", given, len(items), SamplingParams)
        names = per_prompt("adapter", adapter, len(items), str | None)
        sequences = [
            self._admission.sequence(item, param, self._registry.get(name), None, index, sample)
            for index, (item, param, name) in enumerate(zip(items, params, names, strict=True))
            for sample in range(param.n)
        ]
        self._loop.run(sequences)
        return [sequence.to_output() for sequence in sequences]

    def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, adapter: str | None = None
    ) -> Iterator[StreamChunk]:
        """Answer one prompt piece by piece; leaving the loop early frees what the request holds.

        Yields:
            Chunks with the new text and token ids; the last one carries ``finish_reason`` and ``output``.

        Raises:
            RequestError: As :meth:`generate`; raised at the call, not at the first chunk.
        """
        self._check_open()
        [params] = per_prompt("sampling", sampling if sampling is not None else SamplingParams(), 1, SamplingParams)
        if params.n != 1:
            raise RequestError(f"n={params.n} cannot be streamed; use n=1, or generate")
        sequence = self._admission.sequence(prompt, params, self._registry.get(adapter))
        return self._loop.stream(sequence)

    def score(self, prompt: Prompt, candidates: Seq[str], adapter: str | None = None, end: bool = True) -> ScoreResult:
        """How likely each candidate is to follow the prompt: one batched pass, nothing decoded.

        Args:
            prompt: A text or a list of token ids.
            candidates: Texts, each tokenized on its own.
            adapter: Name, or None for the base model.
            end: Close each candidate by end-of-sequence, so that "air" and "air filter" compete fairly.

        Returns:
            One :class:`CandidateScore` per candidate, in order; probabilities are normalised over them.

        Raises:
            RequestError: No candidates, an empty one with ``end=False``, or one that is too long.
        """
        self._check_open()
        started = time.perf_counter()
        tokens, weights = self._admission.tokenize(prompt), self._registry.get(adapter)
        groups = plan_candidates(self._admission, candidates, end, self._admission.branch_budget(tokens, weights))
        sequences = [self._admission.sequence(tokens, SamplingParams(), weights, g.branches) for g in groups]
        # One after the other: the second group finds the first one's prefix in the cache.
        for sequence in sequences:
            self._loop.run([sequence])
        return combine(groups, sequences, started)

    def stats(self) -> EngineStats:
        """Counters since the engine was made, and what its cache holds now."""
        return EngineStats(
            tokens_computed=self._runner.tokens_computed,
            tokens_cached=self._loop.tokens_cached,
            requests=self._loop.num_requests,
            preemptions=self._scheduler.num_preemptions,
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            blocks_total=self._tree.pool.num_blocks,
            blocks_free=self._tree.pool.num_free,
            blocks_cached=self._tree.num_cached,
            adapters=len(self._registry.infos),
            splice_fallbacks=self.tokenizer.splice_fallbacks,
        )

    def check_integrity(self) -> None:
        """Prove that every KV block and every adapter slot is accounted for (AssertionError if not)."""
        self._scheduler.check_integrity()

    def close(self) -> None:
        """End every request (``finish_reason="abort"``) and let go of model, cache and adapters; may be repeated."""
        if self._closed:
            return
        self._closed = True
        for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
            self._scheduler.end(sequence, "abort")
        self._registry.close()
        self._scheduler.slots.clear()
        self._runner.free()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the engine is closed; make another with Engine.from_pretrained")

    def step(self) -> None:
        """One forward pass over whatever is scheduled; the calls above do this themselves."""
        self._loop.step()
