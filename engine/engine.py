"""The engine: prompts in, answers out; base, LoRA and aLoRA requests in one batch over one KV cache."""

from collections.abc import Generator, Mapping
from collections.abc import Sequence as Seq
from pathlib import Path
from types import TracebackType

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.adapters import AdapterInfo
from alorakit.engine.admission import Admission, Prompt
from alorakit.engine.attention import KVCache, derive_blocks
from alorakit.engine.block_tree import BlockTree
from alorakit.engine.config import EngineConfig
from alorakit.engine.counters import Counters
from alorakit.engine.errors import ClosedError, RequestError, RequestNotFoundError, shown
from alorakit.engine.intake import Intake
from alorakit.engine.loading import load_model
from alorakit.engine.loop import Loop
from alorakit.engine.mixed import Answer, MixedBatch, Request, ScoreRequest
from alorakit.engine.model import Decoder
from alorakit.engine.registry import AdapterRegistry, known_names
from alorakit.engine.request import RequestOutput, SamplingParams, ScoreResult, StreamChunk
from alorakit.engine.runner import make_runner
from alorakit.engine.sampler import Sampler
from alorakit.engine.scheduler import Scheduler
from alorakit.engine.sequence import Sequence, Status
from alorakit.engine.stats import EngineStats
from alorakit.engine.tokenizer import Tokenizer


class Engine:
    """Serves one base model and any number of its adapters. Not thread-safe.

    Attributes:
        config: Its settings.
        model_config: The model's shape.
        tokenizer: The model's tokenizer.
        model_name: Hub id or folder it was made from.
        model_path: Folder of the model.
        intake: Makes sequences of a call's arguments.
        scheduler: Owns the queues and the blocks.
        loop: Steps. These three are for :class:`~alorakit.AsyncEngine`.
    """

    def __init__(self, config: EngineConfig, model: Decoder, tokenizer: Tokenizer, name: str, path: Path) -> None:
        """Serve a loaded model; most callers use :meth:`from_pretrained`."""
        self.config = config = config.on(model.device.type)
        self.model_config, self.tokenizer = model.config, tokenizer
        self.model_name, self.model_path = name, path
        self._max_model_len = config.max_model_len or model.config.max_position_embeddings
        blocks = config.cache_blocks or derive_blocks(config, model, self._max_model_len)
        self._tree = BlockTree(blocks, config.block_size)
        cache = KVCache(model.config, blocks, config.block_size, model.dtype, model.device, config.reserve_cache)
        self._counters = Counters(compile_seconds=0.0 if model.compiled is None else model.compiled.seconds)
        slots = AdapterSlots(model.config, model.device, model.dtype, config.max_adapters)
        self._runner = make_runner(model, cache, slots, self._max_model_len, config.cuda_graphs)
        self.scheduler = Scheduler(config, self._tree, slots, self._counters)
        eos = {*model.config.eos_token_ids, tokenizer.eos_token_id}
        eos_ids = frozenset(i for i in eos if i is not None and 0 <= i < model.config.vocab_size)
        self._sampler = Sampler(eos_ids)
        self.loop = Loop(self.scheduler, self._runner, self._sampler, self._counters, eos_ids)
        capacity = blocks * config.block_size
        admission = Admission(config, tokenizer, model.config.vocab_size, eos_ids, self._max_model_len, capacity)
        self._registry = AdapterRegistry(model, {name, *known_names(path)})
        self.intake = Intake(admission, self._registry)
        self._requests: dict[int, list[Sequence]] = {}
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
        return cls(*load_model(model, settings))

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

        Returns:
            What is known of it.

        Raises:
            AdapterError: The name is taken, or the folder cannot be loaded; nothing is registered then.
        """
        self.check_open()
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
        self.check_open()
        sequences = self.intake.requests(prompts, sampling, adapter)
        self.loop.run(sequences)
        return [sequence.to_output() for sequence in sequences]

    def add_request(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        adapter: str | None = None,
        priority: int = 0,
    ) -> int:
        """Queue a request, to be answered by later calls of :meth:`step`; for callers with a loop of their own.

        Args:
            prompt: A text or a list of token ids.
            sampling: None: greedy, 16 tokens.
            adapter: Name, or None for the base model.
            priority: Lower goes first; equal ones in the order they came. A request cannot be overtaken for ever.

        Returns:
            The request's id, which its outputs carry.

        Raises:
            RequestError: As :meth:`generate`.
        """
        self.check_open()
        sequences = self.intake.requests([prompt], sampling, adapter, priority)
        request_id = sequences[0].request_id
        self._requests[request_id] = sequences
        for sequence in sequences:
            self.scheduler.add(sequence)
        return request_id

    def step(self) -> list[RequestOutput]:
        """One forward pass over whatever is scheduled.

        Returns:
            Outputs of the requests of :meth:`add_request` that have ended since the last call: all ``n`` of a request
            together, each request once. A request that failed has ``finish_reason="error"`` and ``error``.

        Raises:
            ClosedError: The engine is closed, and all outputs have been returned.
        """
        if not self._closed:
            self.loop.advance()
        done = Status.FINISHED
        ended = [i for i, g in self._requests.items() if g[0].status is done and all(s.status is done for s in g)]
        if self._closed and not ended:
            self.check_open()
        return [sequence.to_output() for request_id in ended for sequence in self._requests.pop(request_id)]

    def abort(self, request_id: int) -> None:
        """Give up a request of :meth:`add_request`; the next step returns what it has, ``finish_reason="abort"``.

        Raises:
            RequestNotFoundError: No unfinished request has that id.
        """
        if not isinstance(request_id, int) or request_id not in self._requests:
            raise RequestNotFoundError(f"no unfinished request {shown(request_id)}; give what add_request returned")
        for sequence in self._requests[request_id]:
            self.loop.abort(sequence)

    @property
    def has_unfinished(self) -> bool:
        """Whether :meth:`step` has outputs of :meth:`add_request` still to return."""
        return bool(self._requests)

    def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, adapter: str | None = None
    ) -> Generator[StreamChunk, None, None]:
        """Answer one prompt piece by piece; leaving the loop early frees what the request holds.

        Yields:
            Chunks with the new text and token ids; the last one carries ``finish_reason`` and ``output``.

        Raises:
            RequestError: As :meth:`generate`; raised at the call, not at the first chunk.
        """
        self.check_open()
        sequence, *more = self.intake.requests([prompt], sampling, adapter)
        if more:
            raise RequestError(f"n={len(more) + 1} cannot be streamed; use n=1, or generate")
        return self._chunks(sequence)

    def _chunks(self, sequence: Sequence) -> Generator[StreamChunk, None, None]:
        self.check_open()  # it may have been closed since the call
        yield from self.loop.stream(sequence)

    def score(self, prompt: Prompt, candidates: Seq[str], adapter: str | None = None, end: bool = True) -> ScoreResult:
        """How likely each candidate is to follow the prompt: one batched pass, nothing decoded.

        Args:
            prompt: A text or a list of token ids.
            candidates: Texts, each tokenized on its own.
            adapter: Name, or None for the base model.
            end: Close each candidate by end-of-sequence, so that "air" and "air filter" compete fairly.

        Returns:
            One :class:`CandidateScore` per candidate, in order. Probabilities are normalised over them, and calibrated
            by the temperature in the adapter's ``alorakit.json``; ``logprob`` is the model's own.

        Raises:
            RequestError: No candidates, an empty one with ``end=False``, or one that is too long.
        """
        [answer] = self.batch([ScoreRequest(prompt, candidates, adapter, end)])
        assert isinstance(answer, ScoreResult)
        return answer

    def batch(self, requests: Seq[Request]) -> list[Answer]:
        """Answer requests of both kinds together: one sequence of steps, and what several share is computed once.

        Args:
            requests: :class:`GenerateRequest` (n=1) and :class:`ScoreRequest`, each with an adapter of its own.

        Returns:
            For each, in order, a :class:`RequestOutput` or a :class:`ScoreResult`.

        Raises:
            RequestError: As :meth:`generate` and :meth:`score`; then nothing is run.
        """
        self.check_open()
        batch = MixedBatch(self.intake, requests)
        self.loop.run(batch.sequences)
        return batch.answers()

    def stats(self) -> EngineStats:
        """Counters since the engine was made, and what its cache holds now."""
        return EngineStats.collect(
            self._counters, self.scheduler, self._sampler, self._registry, self.tokenizer, self._runner.graphs
        )

    def check_integrity(self) -> None:
        """Prove that every KV block and every adapter slot is accounted for (AssertionError if not)."""
        self.scheduler.check_integrity()

    def close(self) -> None:
        """End every request (``finish_reason="abort"``) and let go of model, cache and adapters; may be repeated."""
        if self._closed:
            return
        self._closed = True
        self.loop.halt()
        for sequence in [*self.scheduler.running, *self.scheduler.waiting]:
            self.scheduler.end(sequence, "abort")
        self._registry.close()
        self.scheduler.slots.clear()
        self._runner.free()

    def check_open(self) -> None:
        """ClosedError if :meth:`close` was called."""
        if self._closed:
            raise ClosedError("the engine is closed; make another with Engine.from_pretrained")
