"""Every error alorakit raises on purpose.

One base, :class:`AlorakitError`; each subclass is also the builtin kind a caller would expect, so
``except ValueError`` keeps working. A message names the value, the limit and the remedy, on one line.
"""


def shown(value: object) -> str:
    """A value as a message shows it: on one line, and short."""
    try:
        return f"{value!r:.80}"
    except Exception:  # an integer of thousands of digits has no repr
        return f"a very long {type(value).__name__}"


class AlorakitError(Exception):
    """Base of every error alorakit raises on purpose; ``str()`` is one line fit for a terminal."""

    def __str__(self) -> str:
        return " ".join(str(arg) for arg in self.args)


class ConfigError(AlorakitError, ValueError):
    """A setting is out of its range, or two settings contradict each other."""


class RequestError(AlorakitError, ValueError):
    """A request that can never be answered: empty, too long, or with bad parameters."""


class MissingInvocationError(RequestError):
    """The prompt does not contain the aLoRA's invocation tokens."""


class ModelNotFoundError(AlorakitError, FileNotFoundError):
    """The name is neither a model folder nor a model that can be fetched."""


class UnsupportedModelError(AlorakitError, ValueError):
    """The model's architecture, or a feature of it, is not implemented."""


class WeightsError(AlorakitError, ValueError):
    """A weights file is truncated, or its tensors are missing, unexpected or of another shape."""


class TokenizerError(AlorakitError, ValueError):
    """The tokenizer files or the chat template cannot be read or rendered."""


class AdapterError(AlorakitError, ValueError):
    """An adapter folder cannot be loaded: unsupported feature, wrong shapes, broken files."""


class HubError(AlorakitError, OSError):
    """The Hub refused what it was asked, or could not be reached; nothing was changed there, or the message says so."""


class AdapterNotFoundError(AlorakitError, KeyError):
    """No adapter is registered under that name."""


class NumericsError(AlorakitError, ArithmeticError):
    """The model computed values that are not finite; nothing of that request is kept."""


class StepError(AlorakitError, RuntimeError):
    """A step of the engine failed under the request; ``__cause__`` is the exception."""


class EngineBusyError(AlorakitError, RuntimeError):
    """The queue of waiting requests is full."""


class RequestNotFoundError(AlorakitError, KeyError):
    """No unfinished request has that id."""


class ClosedError(AlorakitError, RuntimeError):
    """The engine was closed."""


class StreamError(AlorakitError, RuntimeError):
    """An output's text was asked for where there is none to come."""


class ContextTypeError(AlorakitError, TypeError):
    """A session's context would become one of another kind."""


class DataError(AlorakitError, ValueError):
    """A training row cannot be used; the message names the file and the line number."""


class TrainingError(AlorakitError, RuntimeError):
    """Training cannot start or go on (unwritable output, NaN loss)."""


class TrainingInterrupted(TrainingError):
    """Training was asked to stop, and did so between two steps; what it had reached is in a checkpoint.

    Attributes:
        exit_code: What the command line ends with.
    """

    exit_code = 130


class CheckError(AlorakitError, ValueError):
    """A requirement cannot be checked: no adapter for it, or no way to tell which labels pass."""


def as_step_error(cause: BaseException) -> AlorakitError:
    """What a request that an exception hit ends with: the exception itself if it is alorakit's own, else its cause."""
    if isinstance(cause, AlorakitError):
        return cause
    error = StepError(f"the engine's step failed ({type(cause).__name__}: {cause}); send the request again")
    error.__cause__ = cause
    return error
