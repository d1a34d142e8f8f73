"""A session over the engine: instruct, validate, repeat, with Mellea's names.

The program of the README needs nothing but this package and the engine; the real Mellea is not a dependency.
"""

from alorakit.bindings.session.adapter import CustomIntrinsicAdapter
from alorakit.bindings.session.backend import EngineBackend
from alorakit.bindings.session.blocks import CBlock, Message, ModelOutputThunk
from alorakit.bindings.session.context import ChatContext, Context, SimpleContext
from alorakit.bindings.session.options import ModelOption
from alorakit.bindings.session.requirement import Requirement, ValidationResult, check, req, simple_validate
from alorakit.bindings.session.sampling import RejectionSamplingStrategy, SamplingResult
from alorakit.bindings.session.session import MelleaSession

__all__ = [
    "CBlock",
    "ChatContext",
    "Context",
    "CustomIntrinsicAdapter",
    "EngineBackend",
    "MelleaSession",
    "Message",
    "ModelOption",
    "ModelOutputThunk",
    "RejectionSamplingStrategy",
    "Requirement",
    "SamplingResult",
    "SimpleContext",
    "ValidationResult",
    "check",
    "req",
    "simple_validate",
]
