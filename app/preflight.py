"""What can be seen to be wrong with a score run before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuits.interventions import Ablation
from circuits.validation import EXPERIMENTS
from headscope.errors import ConfigError, UnknownNameError
from headscope.tasks import build_needles, build_prose, build_repeated, load_haystack
from headscope.tasks.needle import choose_needles, load_needles
from probes import sink
from probes.census import choose_probes
from probes.probe import Bench

if TYPE_CHECKING:
    from app.scoring import Plan, ScoreConfig


def check_request(config: ScoreConfig) -> None:
    """Refuse what needs no model to be seen: names, texts, needles, the ablation.

    Raises:
        HeadscopeError: UnknownNameError, TaskError or ConfigError.
    """
    choose_probes(config.probes)
    for name in config.checks or ():
        if name not in EXPERIMENTS:
            raise UnknownNameError.of("head class with a causal check", name, EXPERIMENTS)
    if config.ablation in (Ablation.MEAN, Ablation.RESAMPLE):
        raise ConfigError(
            f"{config.ablation.value!r} ablation needs a reference batch, which causal checks do not have. "
            "Use zero, uniform or to_bos."
        )
    choose_needles(config.needles)
    if config.needle_file is not None:
        load_needles(config.needle_file)
    if config.haystack is not None:
        load_haystack(config.haystack)


def check_data(bench: Bench, plan: Plan) -> None:
    """Build the data of every stage once: a length or text that does not suit the model fails here.

    Raises:
        TaskError: saying what does not fit.
    """
    config, model, names = bench.config, bench.model, {probe.name for probe in plan.probes}
    generator = bench.generator("preflight")
    if names & {"previous_token", "duplicate_token", "induction"}:
        build_repeated(model, n=1, period=config.period, copies=config.copies, generator=generator)
    for length in bench.lengths if "retrieval" in names else ():
        build_needles(
            model,
            bench.haystack,
            length=length,
            n=len(bench.needles),
            generator=generator,
            needles=bench.needles,
            depths=config.depths,
        )
    if "sink" in names:
        build_prose(model, bench.haystack, n=config.sink_examples, length=sink.LENGTH, generator=generator)
    if names & {"local", "entropy"}:
        build_prose(model, bench.haystack, n=config.prose_examples, length=bench.prose_length, generator=generator)
    for check in plan.checks:
        EXPERIMENTS[check](bench)
