"""A lab answer as a run: written from what is in memory, and read again without a model. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from app.live.plain_data import named_arrays, pack, unpack
from app.live.policy_choice import chosen_policy
from app.live.requests import (
    MOST_CHARACTERS,
    MOST_HEADS,
    MOST_TOKENS,
    AblationKind,
    LabRequest,
    ModelChoice,
    request_from_data,
    request_to_data,
)
from app.live.results import LabResult
from headscope.config import Config, canonical_json
from headscope.errors import ConfigError, UnknownNameError
from headscope.heads import Head
from headscope.runs import ModelRecord, RunWriter
from headscope.runs.manifest import corrupt
from headscope.runs.reading import Run

KIND = STAGE = "lab"

_MEANINGS = {
    "logits": "logits of the next token at the position looked at",
    "loss": "cross-entropy of each next token, nats; entry i is of token i + 1",
    "logit_diff": "logit of A minus logit of B at the position",
    "kl": "KL(clean || ablated) at the position, nats",
    "lens": "final norm and unembedding of the stream before each block and after the last, at the position; clean",
    "attribution": "logit of A minus logit of B by what was written directly; clean run, final norm's scale frozen",
    "random_sets": "as many other random heads of the same layers, changed the same way, or kept whole in their place",
    "captured": "post-rotary queries and keys, or whole patterns of a calibrated run and of one under a policy",
    "cost": "bytes of keys and values after the last token; keys attended over those of full attention",
}


@dataclass(frozen=True)
class PinnedLab:
    """A lab answer that was kept.

    Attributes:
        run: its run.
        request: what was asked.
        result: the answer.
    """

    run: Run
    request: LabRequest
    result: LabResult


def save_lab(
    request: LabRequest,
    result: LabResult,
    *,
    root: Path,
    command: str = "",
    opened: Callable[[Path], None] | None = None,
) -> Path:
    """Write an answer as a run of the kind "lab"; gives its folder.

    Args:
        request: what was asked.
        result: the answer.
        root: folder of the runs.
        command: command line that made it; by default the one that would make it again.
        opened: told the folder as soon as it is there.

    Raises:
        RunError: if ``root`` cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    data = pack(result, arrays)
    record = {"kind": KIND, "request": request_to_data(request), "result": data, "definitions": _MEANINGS}
    with RunWriter.create(
        root,
        kind=KIND,
        model=ModelRecord(name=result.model, **asdict(result.facts)),
        config=request.model_dump(mode="json"),
        command=command or lab_command(request),
        seed=request.seed,
        planned=(STAGE,),
        card=None,
    ) as writer:
        if opened is not None:
            opened(writer.path)
        writer.save_record(STAGE, record, tensors=arrays, seconds=result.seconds)
        return writer.finish(peak_memory_bytes=None)


def load_lab(run: Run) -> PinnedLab:
    """The answer that a run keeps.

    Raises:
        UnknownNameError: if the run is of another kind.
        RunError: if it is damaged.
    """
    if run.manifest.kind != KIND:
        raise UnknownNameError(
            f"the run {run.manifest.id} is of the kind {run.manifest.kind!r} and keeps no lab answer. "
            "Choose one of the kind 'lab', or pin one."
        )
    record = run.record(STAGE)
    try:
        request = request_from_data(record.get("request"))
        data: Any = record["result"]
        arrays = {name: run.tensor(STAGE, name) for name in set(named_arrays(data))}
        for array in arrays.values():
            array.setflags(write=False)
        result = unpack(LabResult, data, arrays)
        if not isinstance(request, LabRequest):
            raise ConfigError("it holds another request")
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError, UnknownNameError) as error:
        raise corrupt(run.path, f"its answer does not parse ({type(error).__name__}: {error})") from None
    return PinnedLab(run, request, result)


def same_question(one: LabRequest, other: LabRequest, *, n_tokens: int) -> bool:
    """Whether two requests about a text of ``n_tokens`` have the same answer: -1 and the last position are one row."""
    keys = [
        canonical_json({**asked.model_dump(mode="json"), "position": _row(asked, n_tokens)}) for asked in (one, other)
    ]
    return keys[0] == keys[1]


def _row(asked: LabRequest, n_tokens: int) -> int:
    return asked.position + n_tokens if -n_tokens <= asked.position < 0 else asked.position


def lab_command(request: LabRequest) -> str:
    """The command line that asks the same."""
    return shlex.join(["headscope", *lab_words(request)])


def lab_words(request: LabRequest) -> list[str]:
    """Its words, as after ``headscope`` in a shell; a model that looks like an option comes last, after ``--``."""
    default = LabRequest(choice=request.choice, text=request.text)
    subject, text = request.choice.model, request.text
    words = ["lab", *([] if subject.startswith("-") else [subject])]
    words += [f"--text={text}"] if text.startswith("-") else ["--text", text]
    options: list[tuple[str, Any, Any]] = [
        ("--heads", ",".join(request.heads), ""),
        ("--ablation", request.ablation, default.ablation),
        ("--policy", request.policy, default.policy),
        ("--kept", request.kept, default.kept),
        ("--position", request.position, default.position),
        ("--a", request.token_a, None),
        ("--b", request.token_b, None),
        ("--random", request.random_sets, default.random_sets),
        ("--seed", request.seed, default.seed),
        ("--device", request.choice.device, "auto"),
        ("--dtype", request.choice.dtype, "float32"),
    ]
    for option, value, usual in options:
        if value != usual:
            words += [f"{option}={value}"]
    words += ["--captures"] * request.captures + ["--no-bos"] * (not request.bos)
    return [*words, "--", subject] if subject.startswith("-") else words


class LabSettings(Config):
    """A question to a model, as a form asks for it.

    Attributes:
        model: catalogue name, Hugging Face id or folder.
        text: what the model reads.
        heads: heads to ablate, such as L3H11; none if empty.
        ablation: what takes the place of the heads' output; act calibrates them instead.
        policy: cache policy or sparse attention that the text is read under; full is none.
        kept: tokens that every head may keep or look at under it.
        random: sets of as many random heads, for comparison.
        a: token A of the logit difference; the likeliest if empty.
        b: token B; the likeliest other if empty.
        position: whose next token is predicted, the start token counted; negative from the end.
        seed: of every random draw.
    """

    model: str = Field(min_length=1, max_length=1_000)
    text: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    heads: tuple[str, ...] = Field(default=(), max_length=MOST_HEADS)
    ablation: AblationKind = "zero"
    policy: str = Field(default="full", max_length=40)
    kept: int = Field(default=64, ge=1, le=MOST_TOKENS)
    random: int = Field(default=0, ge=0, le=20)
    a: str | None = Field(default=None, min_length=1, max_length=200)
    b: str | None = Field(default=None, min_length=1, max_length=200)
    position: int = Field(default=-1, ge=-MOST_TOKENS, lt=MOST_TOKENS)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("heads")
    @classmethod
    def _in_order(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(head) for head in sorted({Head.parse(label) for label in heads}))

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        chosen_policy(policy)
        return policy

    @property
    def request(self) -> LabRequest:
        """The question."""
        return LabRequest(
            choice=ModelChoice(model=self.model), text=self.text, heads=self.heads, ablation=self.ablation,
            policy=self.policy, kept=self.kept,
            random_sets=self.random, token_a=self.a, token_b=self.b, position=self.position, seed=self.seed,
        )  # fmt: skip
