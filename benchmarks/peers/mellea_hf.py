"""Mellea's own Hugging Face backend, as its users run it."""

import warnings
from pathlib import Path
from typing import Any

import torch
from mellea.backends import ModelOption
from mellea.backends.adapters import Adapter, AdapterType, Identity, LocalFileBinding
from mellea.backends.huggingface import LocalHFBackend
from transformers import AutoModelForCausalLM, AutoTokenizer

from alorakit.bindings.mellea.io_contract import AnyJson


def load(folder: Path, dtype: torch.dtype, max_new_tokens: int) -> LocalHFBackend:
    """The backend over a model folder, on the CPU."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    config = (AutoTokenizer.from_pretrained(folder), model, torch.device("cpu"))
    options = {ModelOption.MAX_NEW_TOKENS: max_new_tokens, "do_sample": False}
    return LocalHFBackend(str(folder), custom_config=config, model_options=options)


def adapter(name: str, folder: Path, kind: AdapterType) -> Any:
    """An adapter folder as Mellea's composed adapter; the folder is found by alorakit's door for local folders."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        identity = Identity(name, kind.value, name)
    binding = LocalFileBinding(name=name, adapter_type=kind, repo_id=str(folder), revision="main")
    return Adapter(identity, AnyJson(), binding)
