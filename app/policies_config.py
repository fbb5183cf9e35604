"""The settings of a policies run, without torch: a command and a form can be made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from circuits.policies.arms import plan_arms
from circuits.policies.catalog import POLICIES, policy_kind
from circuits.policies.results import Arm
from headscope.errors import ConfigError
from probes.settings import ProbeConfig

Share = Annotated[float, Field(gt=0, le=1)]
Rule = Literal["duo-gate", "razor", "retrieval", "induction"]
TaskName = Literal["needle", "multi-needle", "variable-tracking", "repeated", "text", "code", "opinions"]
DEFAULT_POLICIES = ("streaming", "duo", "razor", "snapkv", "h2o")


class PoliciesConfig(ProbeConfig):
    """Everything that decides the numbers of a policies run.

    Attributes:
        model: catalogue name, Hugging Face id or folder.
        policies: policies to run beside the full cache.
        tasks: what is answered under each: needle, multi-needle, variable-tracking, repeated (random tokens), or the
            loss on text, code and opinions.
        lengths: prompt lengths in tokens; by default 512, or the longest that fits.
        examples: prompts per task and length.
        budgets: shares of the text that each head may keep or look at.
        shares: shares of key/value heads that keep everything, for policies that treat heads apart.
        rules: how those heads are chosen: by DuoAttention's gates, by RazorAttention's echo and induction scores, by
            the retrieval or the induction score.
        random_draws: random assignments of as many heads.
        window: share of the text that the other heads keep.
        gate_steps: training steps of DuoAttention's gates (2,000 in the paper).
        gate_length: tokens of the texts that gates are trained on, with as many of the paper's ten passkeys of 32 words
            as fit; by default the longest prompt.
        options: settings of policies, by policy.
        forward_tokens: most tokens in a forward pass; 32,768 suit a large GPU.
        texts: sha256 of the haystack and needle files, filled in when the run starts.
        device: auto, cpu, cuda ...
        dtype: float32, bfloat16 or float16.
    """

    model: str
    policies: tuple[str, ...] = Field(default=DEFAULT_POLICIES, min_length=1)
    tasks: tuple[TaskName, ...] = Field(default=("needle", "text"), min_length=1)
    examples: int = Field(default=8, ge=2, le=10_000)
    budgets: tuple[Share, ...] = Field(default=(0.125, 0.25, 0.5), min_length=1)
    shares: tuple[Share, ...] = Field(default=(0.1, 0.25, 0.5), min_length=1)
    rules: tuple[Rule, ...] = Field(default=("duo-gate", "retrieval"), min_length=1)
    random_draws: int = Field(default=3, ge=0, le=1_000)
    window: Share = 0.125
    gate_steps: int = Field(default=100, ge=1, le=1_000_000)
    gate_length: Annotated[int, Field(ge=64)] | None = None
    options: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    forward_tokens: int = Field(default=4096, ge=1, le=10_000_000)
    texts: dict[str, str] = Field(default_factory=dict[str, str])
    device: str = "auto"
    dtype: str = "float32"

    @field_validator("policies")
    @classmethod
    def _known_policies(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        if policies == ("full",):
            raise ValueError("the full cache is what policies are compared with, and always runs: name another one too")
        return _each_once(tuple(policy_kind(name).name for name in policies))

    @field_validator("tasks", "budgets", "shares", "rules")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return _each_once(values)

    @model_validator(mode="after")
    def _options_fit(self) -> PoliciesConfig:
        for name, given in self.options.items():
            if name not in self.policies:
                raise ConfigError(f"there are options for {name!r}, which is not among the policies of this run.")
            try:
                POLICIES[name].settings.parse(given)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
        return self

    @property
    def arms(self) -> list[Arm]:
        """Every policy and setting of the run, the full cache first."""
        return plan_arms(
            self.policies,
            budgets=self.budgets,
            shares=self.shares,
            rules=self.rules,
            draws=self.random_draws,
            window=self.window,
            options=self.options,
        )

    @property
    def needed_rules(self) -> tuple[Rule, ...]:
        """The rules that some policy of the run chooses heads by."""
        return self.rules if any(POLICIES[name].needs_split for name in self.policies) else ()


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("give each once")
    return values
