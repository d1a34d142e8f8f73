"""A sandbox for chat templates with a limit on time and memory: they are programs that come with a model's folder.

Loops and macros look at the clock every few turns. What makes a long value of short ones is refused before it is made.
Time is the thread's own CPU time, so that a busy machine renders what an idle one does.
"""

import functools
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_CPU_S = 5.0
MAX_CHARS = 8_000_000
_TURNS = 32
_MAX_BITS = 1 << 16
# Methods and filters whose result may be as long as the product of what they are given.
_GROWING_METHODS = frozenset(["center", "expandtabs", "join", "ljust", "replace", "rjust", "zfill"])
_GROWING_FILTERS = ("batch", "center", "format", "indent", "join", "replace", "slice", "wordwrap")
_WIDTH = re.compile(r"\d{7}")  # of a field in a format string


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, with limits."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        """As jinja2's."""
        super().__init__(**options)
        self._local = threading.local()
        for name in _GROWING_FILTERS:
            self.filters[name] = _limited(self.filters[name])

    def start(self) -> None:
        """Begin a rendering in this thread: its time runs from now."""
        self._local.turns = 0
        self._local.until = time.thread_time() + MAX_CPU_S

    def tick(self) -> bool:
        """True; a loop or a macro makes a turn.

        Raises:
            TemplateError: The rendering has taken too long.
        """
        self._local.turns += 1  # asking for the time takes longer than most turns
        if self._local.turns % _TURNS == 0 and time.thread_time() > self._local.until:
            raise TemplateError(f"it took more than {MAX_CPU_S:g} seconds")
        return True

    def concat_all(self, *values: object) -> str:
        """What ``~`` makes of its operands."""
        texts = [str(value) for value in values]
        _check(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """See jinja2's."""
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check(len(left) + len(right))
        elif operator == "*" and not (isinstance(left, float) or isinstance(right, float)):
            _check_product(left, right, limit=MAX_CHARS)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check(left.bit_length() * abs(right), _MAX_BITS)
        elif operator == "%" and isinstance(left, str):
            _check_widths(left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """See jinja2's."""
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and __obj.__name__ in _GROWING_METHODS:
            _check_product(owner, *args, *kwargs.values())
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """See jinja2's: what stands for ``str.format``."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_widths(value.__self__)
        return wrapped

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        _Ticking(self).visit(source)
        return super()._generate(source, *args, **kwargs)


class _Ticking(NodeTransformer):
    """Puts the clock into loops and macros, and lengths into ``~``."""

    def __init__(self, environment: LimitedEnvironment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._call("tick", node), lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(self._call("tick", node), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._call("tick", node), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call("concat_all", node, node.nodes)

    def _call(self, name: str, node: nodes.Node, operands: list[nodes.Expr] | None = None) -> nodes.Call:
        function = nodes.EnvironmentAttribute(name, lineno=node.lineno)
        call = nodes.Call(function, operands or [], [], None, None, lineno=node.lineno)
        return call.set_environment(self._environment)  # type: ignore[return-value]


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is refused what it would make too long a text of."""

    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        values = [value for value in (*args, *kwargs.values()) if isinstance(value, int) or hasattr(value, "__len__")]
        _check_product(*values)
        if function.__name__ == "do_format":
            _check_widths(*values)
        return function(*args, **kwargs)

    return limited


def _check_product(*values: Any, limit: int = 32 * MAX_CHARS) -> None:
    product = 1
    for value in values:
        if isinstance(value, int):
            product *= max(1, abs(value))
        elif isinstance(value, list | tuple):
            product *= max(1, len(value), sum(len(item) for item in value if isinstance(item, str)))
        elif hasattr(value, "__len__"):
            product *= max(1, len(value))
    _check(product, limit)


def _check_widths(form: Any, *values: Any) -> None:
    if isinstance(form, str) and _WIDTH.search(form):
        raise TemplateError("a format string has a width of seven digits")
    for value in values:
        for item in value if isinstance(value, list | tuple) else [value]:
            if "*" in str(form) and isinstance(item, int):
                _check(abs(item))


def _check(size: int, limit: int = MAX_CHARS) -> None:
    if size > limit:
        raise TemplateError("it makes a value that is too large")
