"""A session over the engine: instruct, validate, repeat, with Mellea's names.

The program of the README needs nothing but this package and the engine; the real Mellea is not a dependency.
"""

from alorakit.bindings.session.adapter import CustomIntrinsicAdapter
from alorakit.bindings.session.backend import EngineBackend
from alorakit.bindings.session.blocks import CBlock, Document, Message
from alorakit.bindings.session.component import Component
from alorakit.bindings.session.context import ChatContext, Context, SimpleContext
from alorakit.bindings.session.instruction import Instruction, Query
from alorakit.bindings.session.life import get_session
from alorakit.bindings.session.options import ModelOption
from alorakit.bindings.session.requirement import (
    Requirement,
    check,
    default_output_to_bool,
    req,
    reqify,
    simple_validate,
)
from alorakit.bindings.session.results import SamplingResult
from alorakit.bindings.session.sampling import BaseSamplingStrategy, SamplingStrategy
from alorakit.bindings.session.session import MelleaSession
from alorakit.bindings.session.start import start_session
from alorakit.bindings.session.strategies import (
    MultiTurnStrategy,
    RejectionSamplingStrategy,
    RepairTemplateStrategy,
)
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.bindings.session.validation import ValidationResult

__all__ = [
    "BaseSamplingStrategy",
    "CBlock",
    "ChatContext",
    "Component",
    "Context",
    "CustomIntrinsicAdapter",
    "Document",
    "EngineBackend",
    "Instruction",
    "MelleaSession",
    "Message",
    "ModelOption",
    "ModelOutputThunk",
    "MultiTurnStrategy",
    "Query",
    "RejectionSamplingStrategy",
    "RepairTemplateStrategy",
    "Requirement",
    "SamplingResult",
    "SamplingStrategy",
    "SimpleContext",
    "ValidationResult",
    "check",
    "default_output_to_bool",
    "get_session",
    "req",
    "reqify",
    "simple_validate",
    "start_session",
]
