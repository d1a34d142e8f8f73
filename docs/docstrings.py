"""The public names, and whether their docstrings say what they must."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

# What the reference shows, in this order. Of those without ``__all__``, what is defined there.
MODULES = (
    "alorakit",
    "alorakit.training",
    "alorakit.bindings.session",
    "alorakit.bindings.mellea",
    "alorakit.engine.request",
    "alorakit.engine.mixed",
    "alorakit.engine.errors",
    "alorakit.engine.tokenizer",
    "alorakit.engine.adapters",
    "alorakit.engine.manifest",
    "alorakit.engine.stats",
    "alorakit.engine.metrics",
    "alorakit.engine.pretrained",
)
# These must name every argument and every error; of the others every name must have a docstring.
STRICT = MODULES[:4]
_REFERS = re.compile(r":(?:meth|class|func|mod):`")


def public_names(module: str) -> dict[str, Any]:
    """What a module shows, by name: all of ``__all__``, or what is defined there and has no underscore."""
    found = import_module(module)
    if hasattr(found, "__all__"):
        return {name: getattr(found, name) for name in found.__all__ if name != "__version__"}
    named = {name: value for name, value in vars(found).items() if not name.startswith("_")}
    own = {name: value for name, value in named.items() if getattr(value, "__module__", None) == module}
    return {name: value for name, value in own.items() if inspect.isclass(value) or inspect.isfunction(value)}


def problems(module: str) -> Iterator[str]:
    """What is missing from the docstrings of a module's public names."""
    if not inspect.getdoc(import_module(module)):
        yield f"{module}: no docstring"
    strict = module in STRICT
    for name, value in public_names(module).items():
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        named = {name: (value, inspect.getdoc(value) or "")}
        named |= {f"{name}.{member}": what for member, what in _members(value).items()}
        for where, (what, text) in named.items():
            yield from (f"{module}.{where}: {problem}" for problem in _missing(what, text, strict))


def _members(value: Any) -> dict[str, tuple[Any, str]]:
    """Of a class: its public methods and properties that were written in this project, and their docstrings.

    A method that overrides another may leave to that one's docstring what both have in common.
    """
    found: dict[str, tuple[Any, str]] = {}
    for cls in value.__mro__ if inspect.isclass(value) else ():
        for name, member in vars(cls).items() if cls.__module__.startswith("alorakit") else ():
            plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(member, property)):
                first, text = found.get(name, (plain, ""))
                found[name] = first, f"{text}\n{inspect.getdoc(plain) or ''}".strip()
    return found


def _missing(value: Any, text: str, strict: bool) -> Iterator[str]:
    if not text:
        yield "no docstring"
        return
    if inspect.isclass(value):
        if is_dataclass(value) and not issubclass(value, Exception):
            unnamed = [f.name for f in fields(value) if not _names(text, f.name)]
            yield from (f"field {name} is not described" for name in unnamed if len(fields(value)) > 3)
        return
    if strict and inspect.isfunction(value):
        yield from _unnamed(value, text)


def _unnamed(function: Callable[..., Any], text: str) -> Iterator[str]:
    """Arguments and errors that a docstring does not name; one that refers to another may leave them to that."""
    if _REFERS.search(text):
        return
    signature = inspect.signature(function)
    for parameter in list(signature.parameters)[1:] if "." in function.__qualname__ else signature.parameters:
        if not parameter.startswith("_") and not _names(text, parameter):
            yield f"argument {parameter} is not described"
    for error in _raised(function):
        if not _names(text, error):
            yield f"{error} is not described"
    returns = signature.return_annotation
    nothing = returns in (None, "None", inspect.Signature.empty)
    if "Args:" in text and not nothing and not re.search(r"Returns:|Yields:", text):
        yield "no Returns section"


def _names(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def _raised(function: Callable[..., Any]) -> set[str]:
    """Names of the errors that a function's own statements raise."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return {call.func.id for call in raised if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
