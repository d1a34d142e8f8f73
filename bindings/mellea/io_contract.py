"""``io.yaml``: how Mellea's rewriter asks an adapter function, and how its result processor reads the answer."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mellea.backends.adapters import IOContract
from mellea.formatters.granite import IntrinsicsResultProcessor, IntrinsicsRewriter

from alorakit.bindings.yaml_errors import NOT_YAML
from alorakit.engine.errors import AdapterError

IO_YAML = "io.yaml"


class AnyJson(IOContract):  # type: ignore[misc]
    """The contract of an adapter function that Mellea does not know: its answer is some JSON object."""

    def build_prompt(self, **kwargs: object) -> Any:
        """Not used: ``io.yaml`` says how to ask."""
        raise NotImplementedError("the adapter's io.yaml says how it is asked")

    def parse(self, raw: str) -> dict[str, object]:
        """The object that ``raw`` is.

        Raises:
            ValueError: It is no JSON object.
        """
        value = json.loads(raw)
        if not isinstance(value, dict):
            raise ValueError(f"the adapter's answer must be a JSON object, found {raw!r:.80}")
        return value


@dataclass(frozen=True)
class IoYaml:
    """A checked ``io.yaml``.

    Attributes:
        config: Its content.
        where: The file, for messages.
    """

    config: dict[str, Any]
    where: str

    @classmethod
    def of(cls, config: Any, where: str) -> "IoYaml":
        """Check a configuration with Mellea's own parser.

        Raises:
            AdapterError: A key is missing or unknown, the schema is no JSON, or a transformation is none of Mellea's.
        """
        if not isinstance(config, dict):
            raise AdapterError(f"{where} must be a mapping, found {type(config).__name__}")
        made = cls(copy.deepcopy(config), where)
        schema = made.rewriter("check").config["response_format"]
        if schema is not None and not isinstance(schema, dict):
            raise AdapterError(f"{where}: response_format must be a JSON schema (an object), found {schema!r:.80}")
        made.processor()
        return made

    @classmethod
    def of_folder(cls, folder: Path) -> "IoYaml | None":
        """Read an adapter folder's ``io.yaml``; None if it has none.

        Raises:
            AdapterError: See :meth:`of`; or the file is no YAML.
        """
        path = folder / IO_YAML
        if not path.is_file():
            return None
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (*NOT_YAML, OSError) as exc:
            raise AdapterError(
                f"{path} cannot be read as YAML: {' '.join(str(exc).split())}; correct it, or train the adapter again"
            ) from exc
        return cls.of(config, str(path))

    def rewriter(self, model_name: str) -> Any:
        """What makes a request of a chat; ``model_name`` is what the request says."""
        return self._made(IntrinsicsRewriter, model_name=model_name)

    def processor(self) -> Any:
        """What makes a result of an answer."""
        return self._made(IntrinsicsResultProcessor)

    def _made(self, kind: Any, **options: Any) -> Any:
        try:  # Mellea takes extra_body out of the mapping it is given
            return kind(config_dict=copy.deepcopy(self.config), **options)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            missing = f"a transformation lacks {exc}" if isinstance(exc, KeyError) else str(exc)
            raise AdapterError(
                f"{self.where}: {' '.join(missing.split())}; correct the file (io.yaml, as Mellea reads it)"
            ) from exc
