"""What /v1/checks and /v1/score take and give."""

from typing import Annotated, Literal

from pydantic import Field

from alorakit.bindings.server.schemas import Body
from alorakit.bindings.server.schemas_chat import ChatMessage
from alorakit.bindings.server.schemas_completions import Ids

MAX_MESSAGES = 4096
MAX_CHECKS = 64
MAX_CANDIDATES = 256
MAX_TEXT_CHARS = 1 << 16
MAX_NAME_CHARS = 200
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]


class Check(Body):
    """One check of the chat.

    Attributes:
        adapter: Which adapter is asked; null: the one that the requirement or its capability points to.
        requirement: What must hold, in words; null: nobody asks for a verdict, only for the answer.
        name: Comes back with the answer.
    """

    adapter: str | None = Field(None, max_length=MAX_NAME_CHARS)
    requirement: Text | None = None
    name: str | None = Field(None, max_length=MAX_NAME_CHARS)


class ChecksRequest(Body):
    """A chat, and what to check of it.

    Attributes:
        messages: The chat so far.
        checks: All are asked in one batch.
        tokens: Whether each answer comes with the tokens of its prompt.
    """

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    checks: list[Check] = Field(min_length=1, max_length=MAX_CHECKS)
    tokens: bool = False


class ScoreRequest(Body):
    """Candidates for what comes next.

    Attributes:
        model: The base model's name, or an adapter's.
        prompt: A text or token ids; or else
        messages: a chat, which the model's turn follows.
        candidates: Texts.
        end: Whether each is closed by end-of-sequence, so that a text and a longer one that begins with it compete
            fairly.
    """

    model: str = Field(min_length=1)
    prompt: str | Ids | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    candidates: list[Text] = Field(min_length=1, max_length=MAX_CANDIDATES)
    end: bool = True


class CheckUsage(Body):
    """Token counts; cached ones were not computed for this request."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class TimingMs(Body):
    """Milliseconds: waiting for a place, until the answer's first token, until its end."""

    queue_ms: float
    first_ms: float
    total_ms: float


class TotalMs(Body):
    """Milliseconds of the whole request."""

    total_ms: float


class Token(Body):
    """A token of a prompt."""

    id: int
    text: str


class CheckAnswer(Body):
    """What a check came to.

    Token ``i`` of its prompt was reused if ``i < usage.cached_tokens``; else computed by the adapter if ``activation``
    is not null and ``i >= activation``; else by the base model.

    Attributes:
        name: As asked; else the adapter's.
        adapter: Which adapter answered.
        kind: ``"alora"`` or ``"lora"``.
        label: Its most probable label; of an adapter that answers with a text what the text says, or null.
        answer: That label, or the text.
        passed: The verdict; null where nothing decides.
        score: Summed probability of the labels that pass; null where nothing decides, or of a text.
        probabilities: Of each label; empty for a text.
        reason: The answer in words.
        usage: Token counts.
        activation: Index of the first adapted token.
        timing: Milliseconds.
        tokens: The prompt, if asked for.
    """

    name: str
    adapter: str
    kind: Literal["alora", "lora"]
    label: str | None
    answer: str
    passed: bool | None
    score: float | None
    probabilities: dict[str, float]
    reason: str
    usage: CheckUsage
    activation: int | None
    timing: TimingMs
    tokens: list[Token] | None = None


class ChecksResponse(Body):
    """The answers, in the order of the checks."""

    object: Literal["checks"] = "checks"
    base: str
    created: int
    checks: list[CheckAnswer]
    usage: CheckUsage
    timing: TotalMs


class CandidateAnswer(Body):
    """How likely a candidate is: the sum of its tokens' log-probabilities, and its share of all candidates."""

    text: str
    logprob: float
    probability: float
    token_ids: list[int]


class ScoreResponse(Body):
    """The candidates' scores, in their order."""

    object: Literal["score"] = "score"
    model: str
    scores: list[CandidateAnswer]
    best: str
    usage: CheckUsage
    activation: int | None
    timing: TimingMs
