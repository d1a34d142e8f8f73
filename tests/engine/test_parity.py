"""The same answers as transformers and PEFT: greedy ids equal, log-probabilities within tolerance."""

import random

import pytest
import torch

from alorakit.engine.request import SamplingParams

from .conftest import ALL_SEVEN, FAMILIES, INVOCATION, QKV, reference, reference_generate

SIZES = pytest.mark.parametrize(
    "rank,targets",
    [(8, QKV), (32, QKV), (8, ALL_SEVEN), (32, ALL_SEVEN)],
    ids=["r8-qkv", "r32-qkv", "r8-all", "r32-all"],
)
GREEDY = SamplingParams(max_tokens=16, ignore_eos=True, logprobs=20)


def prompt_with(seed: int, invocations: int, length: int = 40) -> list[int]:
    """Random ids with the invocation 0, 1 or 2 times; the last one a little before the end."""
    rng = random.Random(seed)
    ids = [rng.randrange(10, 300) for _ in range(length)]
    if invocations == 2:
        ids[8:8] = INVOCATION
    if invocations >= 1:
        ids[-2:-2] = INVOCATION
    return ids


def assert_same(output, ids, logits, tolerance):
    assert output.token_ids == ids
    want = logits.log_softmax(-1)
    for row, got in enumerate(output.logprobs):
        for token, value in got.items():
            assert value == pytest.approx(want[row, token].item(), abs=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
@SIZES
def test_ids_and_logits_equal_peft(family, rank, targets, tiny_models, tiny_engine, make_adapter):
    base = tiny_models[family]
    engine = tiny_engine(family, on_missing_invocation="base")
    cases = [(None, None), ("alora", INVOCATION), ("lora", None)]
    for name, invocation in cases:
        path = None
        if name is not None:
            path = make_adapter(base, seed=3, rank=rank, targets=targets, invocation=invocation)
            info = engine.add_adapter(name, path)
            assert (info.kind, info.rank, set(info.targets)) == (name, rank, set(targets))
        peer = reference(base, path)
        for count in (0, 1, 2):
            prompt = prompt_with(count, count)
            (output,) = engine.generate([prompt], GREEDY, adapter=name)
            assert_same(output, *reference_generate(peer, prompt), 1e-3)
            expected = {None: None, "lora": 0, "alora": None if count == 0 else len(prompt) - 5}[name]
            assert output.activation == expected


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {}),
        ("llama", {"max_num_batched_tokens": 24}),
        ("llama", {"cache_blocks": 14}),
        ("llama-yarn", {"max_num_batched_tokens": 24}),
        ("qwen3-yarn", {}),
        ("mistral", {"max_num_batched_tokens": 24}),
    ],
    ids=str,
)
def test_one_batch_of_base_two_aloras_and_a_lora(family, config, tiny_models, tiny_engine, make_adapter):
    base = tiny_models[family]
    engine = tiny_engine(family, **config)
    paths = {
        None: None,
        "one": make_adapter(base, seed=1, rank=8),
        "two": make_adapter(base, seed=2, rank=32, targets=ALL_SEVEN),
        "lora": make_adapter(base, seed=4, rank=4, targets=["q_proj", "down_proj"], invocation=None),
    }
    for name, path in paths.items():
        if path is not None:
            engine.add_adapter(name, path)
    names = [None, "one", "two", "lora", "two", "one", None]
    prompts = [prompt_with(seed, 1, 33 + 7 * seed) for seed in (1, 1, 1, 1, 2, 3, 2)]
    for _ in ("cold", "warm"):
        outputs = engine.generate(prompts, GREEDY, adapter=names)
        engine.check_integrity()
        for name, prompt, output in zip(names, prompts, outputs, strict=True):
            assert_same(output, *reference_generate(reference(base, paths[name]), prompt), 1e-3)
            assert output.adapter == name
    if "cache_blocks" not in config:
        assert all(o.usage.cached_tokens == o.usage.prompt_tokens - 1 for o in outputs)


def test_patterns_rslora_and_layer_choice_equal_peft(tiny_models, tiny_engine, make_adapter):
    base = tiny_models["granite"]
    engine = tiny_engine("granite")
    variants = [
        dict(rank=4, use_rslora=True, rank_pattern={"q_proj": 12}, alpha_pattern={"layers.1.self_attn.k_proj": 9}),
        dict(rank=4, targets=r".*\.(v_proj|up_proj)"),
        dict(rank=4, targets="all-linear"),
        dict(rank=4, targets=ALL_SEVEN, layers_to_transform=[0, 2]),
        dict(rank=4, targets=ALL_SEVEN, exclude_modules=["gate_proj"]),
    ]
    prompt = prompt_with(5, 1)
    for index, variant in enumerate(variants):
        path = make_adapter(base, seed=index, **variant)
        engine.add_adapter("a", path, replace=True)
        (output,) = engine.generate(prompt, GREEDY, adapter="a")
        assert_same(output, *reference_generate(reference(base, path), prompt), 1e-3)


def test_on_missing_invocation(tiny_models, tiny_engine, make_adapter):
    from alorakit.engine.errors import MissingInvocationError

    path = make_adapter(tiny_models["llama"], seed=1)
    prompt = prompt_with(0, 0)
    engine = tiny_engine("llama")
    engine.add_adapter("a", path)
    with pytest.raises(MissingInvocationError, match="on_missing_invocation"):
        engine.generate(prompt, adapter="a")
    appending = tiny_engine("llama", on_missing_invocation="append")
    appending.add_adapter("a", path)
    (output,) = appending.generate(prompt, GREEDY, adapter="a")
    want = reference_generate(reference(tiny_models["llama"], path), prompt + INVOCATION)
    assert_same(output, *want, 1e-3)
    assert output.usage.prompt_tokens == len(prompt) + len(INVOCATION)


@pytest.mark.smollm
@SIZES
def test_smollm_equals_peft(rank, targets, smollm_path, make_adapter):
    from alorakit import Engine

    settings = dict(dtype="float32", device="cpu", cache_blocks=64, on_missing_invocation="base")
    with Engine.from_pretrained(smollm_path, **settings) as engine:
        text = engine.tokenizer.encode("A technician wrote: the coupling is loose and it hums at 900 RPM. ")
        question = engine.tokenizer.encode(" Verdict")
        prompts = [text + question, text + INVOCATION + question, INVOCATION + text + INVOCATION + question]
        for kind, invocation in (("base", None), ("alora", INVOCATION), ("lora", None)):
            path = None
            if kind != "base":
                # Weights of the size that training reaches: larger ones make any two float32 orders differ.
                path = make_adapter(smollm_path, 7, rank, targets, invocation, std=0.05)
                engine.add_adapter(kind, path)
            peer = reference(smollm_path, path)
            outputs = engine.generate(prompts, GREEDY, adapter=None if path is None else kind)
            for prompt, output in zip(prompts, outputs, strict=True):
                assert_same(output, *reference_generate(peer, prompt), 5e-3)


@pytest.mark.parametrize("family", ["qwen2-window", "qwen3-yarn", "mistral"])
def test_score_equals_full_passes(family, tiny_models, tiny_engine, make_adapter):
    base = tiny_models[family]
    engine = tiny_engine(family, block_size=8)
    path = make_adapter(base, seed=2)
    engine.add_adapter("a", path)
    peer = reference(base, path)
    prompt = prompt_with(3, 1)
    candidates = ["yes", "no, it does not", "yes and no", "y"]
    scores = engine.score(prompt, candidates, adapter="a")
    for candidate, score in zip(candidates, scores, strict=True):
        ids = [*engine.tokenizer.encode(candidate, add_special_tokens=False), engine.tokenizer.eos_token_id]
        assert score.token_ids == ids
        logprobs = peer(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        want = sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(ids))
        assert score.logprob == pytest.approx(want, abs=1e-3)
    assert sum(s.probability for s in scores) == pytest.approx(1.0)
    assert engine.score(prompt, candidates, adapter="a").usage.cached_tokens == len(prompt) - 1


@pytest.mark.parametrize("config", [{}, {"max_num_batched_tokens": 16}], ids=str)
def test_prompt_logprobs_equal_a_full_pass(config, tiny_models, tiny_engine, make_adapter):
    base = tiny_models["llama"]
    engine = tiny_engine("llama", **config)
    path = make_adapter(base, seed=2)
    engine.add_adapter("a", path)
    prompt = prompt_with(3, 1)
    params = SamplingParams(max_tokens=4, prompt_logprobs=2, ignore_eos=True)
    logprobs = reference(base, path)(torch.tensor([prompt])).logits[0].log_softmax(-1)
    for _ in ("cold", "warm"):
        outputs = engine.generate([prompt, prompt[:9]], [params, GREEDY], adapter=["a", None])
        got = outputs[0].prompt_logprobs
        assert len(got) == len(prompt) and got[0] is None and outputs[1].prompt_logprobs is None
        for index in range(1, len(prompt)):
            want = logprobs[index - 1]
            assert set(got[index]) == {prompt[index], *want.topk(2).indices.tolist()}
            assert got[index][prompt[index]] == pytest.approx(want[prompt[index]].item(), abs=1e-3)
