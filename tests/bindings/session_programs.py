"""Programs that run on both session layers: with alorakit's names, and, by ``mellea_side``, with Mellea's.

A program is given the names of one of the two (``api``) and a function that makes a session which answers from a list.
It returns what can be said in JSON; the prompts that the model saw are compared besides.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

Program = Callable[[Any, Callable[..., Any]], Any]
VERBS = ("__init__", "act", "instruct", "chat", "query", "validate", "reset", "clone", "last_prompt", "cleanup")
ASYNC_VERBS = ("aact", "ainstruct", "achat", "aquery", "avalidate")
STRATEGIES = ("RejectionSamplingStrategy", "RepairTemplateStrategy", "MultiTurnStrategy")
SIGNATURES = [
    *(f"MelleaSession.{verb}" for verb in (*VERBS, *ASYNC_VERBS)),
    *(f"{name}.{method}" for name in STRATEGIES for method in ("__init__", "sample", "repair", "select_from_failure")),
    *(f"Requirement.{method}" for method in ("__init__", "validate")),
    *(f"{name}.__init__" for name in ("ValidationResult", "SamplingResult", "CBlock", "Message", "Document", "Query")),
    *(f"Instruction.{method}" for method in ("__init__", "copy_and_repair", "format_for_llm", "parts", "parse")),
    *(f"ModelOutputThunk.{m}" for m in ("__init__", "is_computed", "avalue", "astream", "cancel_generation", "aclose")),
    *(f"{name}.__init__" for name in ("ChatContext", "SimpleContext")),
    *(
        f"{context}.{method}"
        for context in ("ChatContext", "SimpleContext")
        for method in ("add", "as_list", "last_output", "last_turn", "view_for_generation", "new_instance")
    ),
    *("start_session", "get_session", "req", "check", "reqify", "simple_validate", "default_output_to_bool"),
]  # fmt: skip


def parameters(api: Any, name: str) -> list[list[str]]:
    """Name, kind and default of each parameter."""
    target = api
    for part in name.split("."):
        target = getattr(target, part)
    return [[p.name, p.kind.name, _default(p.default)] for p in inspect.signature(target).parameters.values()]


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    if hasattr(value, "loop_budget"):
        return f"{type(value).__name__}(loop_budget={value.loop_budget})"
    return value.__name__ if callable(value) else repr(value)


def options(api: Any) -> dict[str, str]:
    """The model options that have a name."""
    return {name: value for name, value in vars(api.ModelOption).items() if name.isupper()}


# --- programs ---------------------------------------------------------------------------------------------------------


def instruct_with_everything(api: Any, session: Any) -> Any:
    m = session(["done", "yes"])
    result = m.instruct(
        "Sum up {{note}}\n",
        requirements=["Be {{how}}.", api.check("hidden {{how}}", validation_fn=lambda ctx: api.ValidationResult(True))],
        icl_examples=["a -> {{how}}", "b"],
        grounding_context={"log": "{{note}}", "": "nameless"},
        user_variables={"note": "{{oil}} leak", "how": "short"},
        prefix="{{how}}:",
        return_sampling_results=True,
    )
    verdicts = {requirement.description: bool(v) for requirement, v in result.result_validations}
    return [str(result), result.success, verdicts, m.last_prompt()]


def chat_goes_on(api: Any, session: Any) -> Any:
    m = session(["hello", "bye"], {api.ModelOption.SYSTEM_PROMPT: "Be kind"})
    first = m.chat("hi {{who}}", user_variables={"who": "Ann"})
    second = m.chat("go", role="tool", documents=["one", api.Document("two", "T", "7")])
    turn = m.ctx.last_turn()
    return [[first.role, first.content], second.content, turn.output.value, len(m.ctx.as_list()), m.last_prompt()]


def simple_turns(api: Any, session: Any) -> Any:
    m = session(["one", "two", "no"], chat=False)
    m.instruct("A")
    m.instruct("B")
    [verdict] = m.validate(api.req("Be brief"))
    m.reset()
    return [bool(verdict), verdict.reason, m.ctx.as_list()]


def judged(api: Any, session: Any) -> Any:
    m = session(["an answer", "yes", "No.", "I say yes", "", "y"])
    m.chat("hi")
    reqs = [api.req(text) for text in ("Be kind", "Be rude", "Be long", "Be mute", "Be sure")]
    found = m.validate(reqs, model_options={api.ModelOption.SYSTEM_PROMPT: "Judge"})
    return [[bool(v), v.reason, v.score, str(v.thunk), v.error] for v in found]


def judged_by_an_own_rule(api: Any, session: Any) -> Any:
    m = session(["an answer", "0.7", "what"])
    m.instruct("A", strategy=None)
    above = api.Requirement("Good", output_to_bool=lambda said: float(str(said)) > 0.5)
    verdicts = [m.validate(above)[0], m.validate(above)[0]]
    return [[bool(v), v.reason, type(v.error).__name__] for v in verdicts]


def other_output_and_input(api: Any, session: Any) -> Any:
    m = session(["one", "two", "yes", "yes", "no"])
    first = m.instruct("A", strategy=None)
    m.instruct("B", strategy=None)
    asked = api.req("Be first")
    return [
        bool(m.validate(asked, output=first)[0]),
        bool(m.validate([asked], output=api.ModelOutputThunk("by hand"), input=api.CBlock("question"))[0]),
        bool(m.validate(asked, input=api.CBlock("afterthought"))[0]),
        len(m.ctx.as_list()),
    ]


def functions(api: Any, session: Any) -> Any:
    m = session(["abc"])
    m.chat("x")
    longer = api.simple_validate(lambda text: (len(text) > 5, f"{len(text)} letters"))
    lower = api.simple_validate(lambda text: text == text.lower(), reason="not lower")
    seen: list[int] = []

    def counts(ctx: Any) -> Any:
        seen.append(len(ctx.as_list()))
        return api.ValidationResult(True, reason="counted", score=0.5)

    found = m.validate([api.req("a", longer), api.req("b", lower), api.check("c", counts)])
    return [[[bool(v), v.reason, v.score] for v in found], seen]


def nothing_to_check(api: Any, session: Any) -> Any:
    found = session([]).validate(api.req("a", api.simple_validate(lambda text: True)))
    return [bool(found[0]), found[0].reason]


def tries(api: Any, session: Any, strategy: str, answers: Sequence[str], chat: bool = True) -> Any:
    m = session(list(answers), chat=chat)
    m.chat("before", model_options={})
    wanted = api.req("Say good", api.simple_validate(lambda text: (text != "bad", f"it says {text}")))
    silent = api.req("Be short", lambda ctx: api.ValidationResult(len(ctx.last_output().value) < 5))
    result = m.instruct(
        "Do it",
        requirements=[wanted, silent],
        strategy=getattr(api, strategy)(loop_budget=3),
        return_sampling_results=True,
    )
    return [
        str(result), result.success, result.result_index, [str(o) for o in result.sample_generations],
        [sorted((r.description, bool(v)) for r, v in vs) for vs in result.sample_validations],
        [len(c.as_list()) for c in result.sample_contexts], len(m.ctx.as_list()), result.result.parsed_repr,
        [type(a).__name__ for a in result.sample_actions], type(result.result_action).__name__,
    ]  # fmt: skip


def no_requirements(api: Any, session: Any) -> Any:
    m = session(["x", "y"])
    result = m.instruct("A", return_sampling_results=True)
    return [result.success, result.result_validations, str(m.act(api.CBlock("block")))]


def global_requirements(api: Any, session: Any) -> Any:
    never = api.req("never", lambda ctx: api.ValidationResult(False))
    m = session(["x", "y"])
    strategy = api.RejectionSamplingStrategy(loop_budget=2, requirements=[never])
    ignored = api.req("ignored", lambda ctx: api.ValidationResult(True))
    result = m.instruct("A", requirements=[ignored, ignored], strategy=strategy, return_sampling_results=True)
    return [result.success, [[r.description for r, _ in vs] for vs in result.sample_validations]]


def acts(api: Any, session: Any) -> Any:
    class Haiku(api.Component):  # type: ignore[misc,name-defined]
        def parts(self) -> list[Any]:
            return []

        def format_for_llm(self) -> str:
            return "Write a haiku"

        def _parse(self, computed: Any) -> Any:
            return computed.value.split("/")

    m = session(["a/b/c", "echo", "m", "end"])
    poem = m.act(Haiku(), strategy=api.RejectionSamplingStrategy())
    echo = m.act(poem)
    answer = m.act(api.Message("user", "hi"))
    last = m.act(api.Instruction("I", ["r"]))
    return [
        poem.parsed_repr,
        echo.parsed_repr.content,
        answer.parsed_repr.content,
        last.parsed_repr,
        last.is_computed(),
    ]


def queries(api: Any, session: Any) -> Any:
    class Cells(api.MObject or object):  # type: ignore[misc]
        def content_as_string(self) -> str:
            return "1,2"

    class Plain:
        def __str__(self) -> str:
            return "plain"

    m = session(["3", "4"])
    return [str(m.query(Cells(), "Sum?")), str(m.query(Plain(), "Really?")), type(m.ctx.as_list()[0]).__name__]


def windows(api: Any, session: Any) -> Any:
    m = session(["1", "2", "3", "4"])
    system = api.Message("system", "S")
    seen = []
    for ctx in (api.ChatContext(window_size=3), api.ChatContext(token_context_length_limit=8)):
        m = type(m)(m.backend, ctx)  # Mellea estimates by the prompt's text only where the session was made with it
        m.ctx = m.ctx.add(system)
        m.chat("first question")
        m.chat("second question")
        seen.append([getattr(item, "content", str(item)) for item in m.ctx.view_for_generation()])
    return seen


def clones(api: Any, session: Any) -> Any:
    m = session(["1", "2", "3"])
    m.chat("A")
    other = m.clone()
    other.chat("B")
    m.chat("C")
    return [other.last_prompt(), m.last_prompt(), other.id == m.id]


def rendered(api: Any, session: Any, case: dict[str, Any]) -> Any:
    """One of the random cases: some turns, and an instruction, perhaps a repaired one."""
    m = session(
        ["answer"], {api.ModelOption.SYSTEM_PROMPT: case["system"]} if case["system"] else {}, chat=case["chat"]
    )
    for role, text in case["turns"]:
        part = {"block": api.CBlock, "output": api.ModelOutputThunk}.get(role)
        m.ctx = m.ctx.add(part(text) if part else api.Message(role, text))
    given = {key: value for key, value in case["instruction"].items() if value is not None}
    requirements = [api.check(text) if only else text for text, only in given.pop("requirements")]
    action = api.Instruction(requirements=requirements, **given)
    return str(m.act(action.copy_and_repair(case["repair"]) if case["repair"] else action))


PROGRAMS: dict[str, Program] = {
    function.__name__: function
    for function in (
        instruct_with_everything,
        chat_goes_on,
        simple_turns,
        judged,
        judged_by_an_own_rule,
        other_output_and_input,
        functions,
        nothing_to_check,
        no_requirements,
        global_requirements,
        acts,
        queries,
        windows,
        clones,
    )
}
PROGRAMS |= {
    f"{strategy}_{'_'.join(answers)}{'' if chat else '_simple'}": (
        lambda api, session, s=strategy, a=answers, c=chat: tries(api, session, s, ["hi", *a], c)
    )
    for strategy in STRATEGIES
    for answers in (("bad", "terrible", "good"), ("bad", "bad", "bad"), ("good",))
    for chat in (True, False)
    if chat or strategy != "MultiTurnStrategy" or answers == ("good",)
}
