"""From a model's name to a model in memory."""

import logging
from pathlib import Path

import torch

from alorakit.engine.config import EngineConfig
from alorakit.engine.devices import keep_freed_memory, pick_backend, pick_device, pick_dtype
from alorakit.engine.errors import ConfigError
from alorakit.engine.model import Decoder
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.native_decoder import NativeDecoder
from alorakit.engine.pretrained import resolve_model
from alorakit.engine.tokenizer import Tokenizer
from alorakit.engine.weights import load_decoder
from alorakit.kernels import ops

log = logging.getLogger("alorakit")


def load_model(model: str | Path, config: EngineConfig) -> tuple[EngineConfig, Decoder, Tokenizer, str, Path]:
    """Find, check and load a model and its tokenizer.

    Args:
        model: Hub id or folder with ``config.json``, safetensors and tokenizer.
        config: Where to put it and how.

    Returns:
        What ``Engine`` is made of: ``config``, the decoder, the tokenizer, the model's name and its folder.

    Raises:
        AlorakitError: The model is not there, not supported or broken, or a setting does not fit it.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    if device.type == "cpu":
        keep_freed_memory()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    found = resolve_model(model, config.revision)
    if found.notes:
        log.warning(found.notes)
    shape = ModelConfig.from_folder(found.path)
    window = config.max_model_len or shape.max_position_embeddings
    if window > shape.max_position_embeddings:
        raise ConfigError(
            f"max_model_len={window} is above the model's limit of {shape.max_position_embeddings} positions"
        )
    tokenizer = Tokenizer.from_pretrained(found.path)
    decoder = load_decoder(found.path, shape, dtype, device, window)
    if config.pack_weights and ops.can_pack(device, dtype):
        decoder.pack()
        decoder.native = NativeDecoder.make(decoder)
    if config.compile and decoder.native is not None:
        log.info("compile=True does nothing where the decoder runs in C")
    elif config.compile:
        from alorakit.engine.compiled import CompiledDecoder  # registers ops, which nobody else needs

        decoder.compiled = CompiledDecoder.make(decoder)
    how = "C" if decoder.native is not None else pick_backend(device)
    log.info("%s on %s in %s, by %s", found.name, device, dtype, how)
    return config, decoder, tokenizer, found.name, found.path
