"""What the model process can be asked: frozen settings, checked before they are sent. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from app.live.policy_choice import chosen_policy, is_sized, keeps_heads
from headscope.config import Config, canonical_json
from headscope.errors import ConfigError
from headscope.heads import Head

MOST_CHARACTERS, MOST_HEADS, MOST_TOKENS = 20_000, 2_000, 4_096
ALL_HEADS_UP_TO, NAMED_HEADS = 512, 16

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
AblationKind = Literal["zero", "mean", "resample", "uniform", "to_bos", "act"]
Change = Literal["", "ablation", "calibration", "policy"]


class ModelChoice(Config):
    """Which model, where and in which number format: the arguments of `headscope.models.load`."""

    model: str = Field(min_length=1, max_length=1_000)
    device: str = Field(default="auto", max_length=40)
    dtype: str = Field(default="float32", max_length=40)


class HeadsRequest(Config):
    """What every request has: a model and some of its heads.

    Attributes:
        choice: the model.
        heads: labels such as L5H1, at most 2,000; kept in order, each once.
    """

    choice: ModelChoice
    heads: tuple[str, ...] = Field(default=(), max_length=MOST_HEADS)

    @field_validator("heads")
    @classmethod
    def _in_order(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(head) for head in sorted({Head.parse(label) for label in heads}))

    @property
    def parsed_heads(self) -> list[Head]:
        """The heads, in order."""
        return [Head.parse(label) for label in self.heads]

    @property
    def key(self) -> str:
        """Equal for equal requests."""
        return canonical_json({"type": type(self).__name__, **self.model_dump(mode="json")})


class TextRequest(HeadsRequest):
    """What every request about one text has.

    Attributes:
        text: what it reads, 1 to 20,000 characters.
        bos: put the start token first, if the tokenizer names one.
    """

    text: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    bos: bool = True


class LabRequest(TextRequest):
    """One text, some heads ablated or a policy put on, one prediction looked at.

    Attributes:
        ablation: what takes the place of the heads' output; mean and resample take it from passages of prose, and
            ``act`` calibrates the heads: they attend less to their sinks.
        policy: a policy of the catalogue that the second run is under; empty or ``full``: none. Under one that keeps
            some heads whole, the heads named are those, and none is ablated.
        kept: tokens that every head may keep or look at, for policies that have such a budget.
        rows: rows that are ablated.
        position: row whose prediction of the next token is looked at, the start token counted; -1 is the last.
        token_a: token A of the logit difference; exactly one token. None: the clean run's first choice.
        token_b: token B; None: the clean run's first choice other than A.
        random_sets: sets of as many random heads of the same layers, for comparison.
        seed: of the random sets and of the reference passages.
        captures: also keep queries and keys of all heads (up to 512 tokens).
    """

    ablation: AblationKind = "zero"
    policy: str = Field(default="", max_length=40)
    kept: int = Field(default=64, ge=1, le=MOST_TOKENS)
    rows: Literal["all"] = "all"
    position: int = Field(default=-1, ge=-MOST_TOKENS, lt=MOST_TOKENS)
    token_a: str | None = Field(default=None, min_length=1, max_length=200)
    token_b: str | None = Field(default=None, min_length=1, max_length=200)
    random_sets: int = Field(default=0, ge=0, le=20)
    seed: int = Field(default=0, ge=0, lt=2**32)
    captures: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_idle_fields(cls, data: Any) -> Any:
        """Fields that change nothing are at their default: what is answered alike is asked alike."""
        if not isinstance(data, dict):
            return data
        given = cast("dict[str, Any]", data)
        policy = str(given.get("policy", ""))
        idle = {
            name for name, counts in (("kept", is_sized(policy)), ("ablation", not keeps_heads(policy))) if not counts
        }
        return {name: value for name, value in given.items() if name not in idle}

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        return chosen_policy(policy)

    @model_validator(mode="after")
    def _one_pattern(self) -> LabRequest:
        if self.policy and self.ablation == "act" and self.heads:
            raise ConfigError(
                f"calibration and the policy {self.policy!r} both change where heads look: choose another ablation "
                "for the heads, or no policy."
            )
        return self

    @property
    def change(self) -> Change:
        """What the second run does to the model; empty if there is none."""
        if self.policy:
            return "policy"
        if not self.heads:
            return ""
        return "calibration" if self.ablation == "act" else "ablation"

    @property
    def changed_run(self) -> str:
        """What the second run is called."""
        return {"calibration": "calibrated run", "policy": "run under the policy"}.get(self.change, "ablated run")


class CaptureRequest(TextRequest):
    """Queries and keys of one text: of the heads named (beyond 512 tokens at most 16), else of all (up to 512)."""


class PairRequest(HeadsRequest):
    """One pair of prompts of a task; the heads get what they wrote in the corrupted twin (resample ablation).

    Attributes:
        clean: token ids of the clean prompt; the prediction after the last one is looked at.
        corrupted: token ids of the twin, as many.
        right: right answers, each the text of exactly one token.
        wrong: wrong ones.
    """

    clean: tuple[TokenId, ...] = Field(min_length=1, max_length=MOST_TOKENS)
    corrupted: tuple[TokenId, ...] = Field(min_length=1, max_length=MOST_TOKENS)
    right: tuple[str, ...] = Field(min_length=1, max_length=1_000)
    wrong: tuple[str, ...] = Field(min_length=1, max_length=1_000)

    @model_validator(mode="after")
    def _aligned(self) -> PairRequest:
        if len(self.clean) != len(self.corrupted):
            raise ValueError(f"a pair is of one length, not {len(self.clean)} and {len(self.corrupted)} tokens")
        return self


Request = LabRequest | CaptureRequest | PairRequest
_KNOWN: tuple[type[Request], ...] = (LabRequest, CaptureRequest, PairRequest)
_TYPES: dict[str, type[Request]] = dict(zip(("lab", "capture", "pair"), _KNOWN, strict=True))


def request_to_data(request: Request) -> dict[str, Any]:
    """Plain JSON data."""
    name = next(name for name, kind in _TYPES.items() if type(request) is kind)
    return {"type": name, "settings": request.model_dump(mode="json")}


def request_from_data(data: Any) -> Request:
    """The request again.

    Raises:
        ConfigError: if it is none.
    """
    kind = _TYPES.get(str(data.get("type"))) if isinstance(data, dict) else None
    if kind is None:
        raise ConfigError(f"there is no such request; known: {', '.join(_TYPES)}.")
    return kind.parse(data.get("settings"))
