"""All probes on one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headscope.errors import UnknownNameError, UnsupportedError
from headscope.heads import HeadScores
from headscope.models.protocol import HookedModel
from probes import copying, duplicate_token, entropy, induction, local, previous_token, retrieval, sink
from probes.probe import Bench, OnStep, Probe, ProbeConfig, Samples, no_progress, summarise

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        previous_token.PROBE,
        duplicate_token.PROBE,
        induction.PROBE,
        copying.PROBE,
        sink.PROBE,
        local.PROBE,
        entropy.PROBE,
        retrieval.PROBE,
    )
}


def find_probe(name: str) -> Probe:
    """The probe of that name, or the probe that gives the score of that name.

    Raises:
        UnknownNameError: if there is neither; suggests the nearest name.
    """
    if name in PROBES:
        return PROBES[name]
    for probe in PROBES.values():
        if any(definition.name == name for definition in probe.definitions):
            return probe
    scores = [definition.name for probe in PROBES.values() for definition in probe.definitions]
    raise UnknownNameError.of("probe", name, {*PROBES, *scores})


def choose_probes(names: Sequence[str]) -> tuple[Probe, ...]:
    """Probes by name, in the census order; all of them if no name is given."""
    wanted = {find_probe(name).name for name in names} or set(PROBES)
    return tuple(probe for name, probe in PROBES.items() if name in wanted)


def measure(bench: Bench, probe: Probe, *, on_step: OnStep = no_progress) -> tuple[list[HeadScores], Samples]:
    """Run one probe: its scores, and the value of every example behind them.

    Raises:
        UnsupportedError: if the model cannot be read that way; says why.
    """
    if probe.needs == "bridge" and not bench.model.card.supports("bridge"):
        raise UnsupportedError(
            f"the probe {probe.name!r} needs the TransformerLens twin of {bench.model.name!r}: "
            f"{bench.model.card['bridge'].value}"
        )
    samples = probe.measure(bench, on_step)
    scores = [
        summarise(definition, samples[definition.name], bench.model, seed=bench.config.seed)
        for definition in probe.definitions
    ]
    return scores, samples


def score_all(
    model: HookedModel, probe: str, config: ProbeConfig | None = None, *, on_step: OnStep = no_progress
) -> dict[str, HeadScores]:
    """Every score of one probe, by name."""
    scores, _ = measure(Bench(model, config or ProbeConfig()), find_probe(probe), on_step=on_step)
    return {score.name: score for score in scores}


def score(
    model: HookedModel, name: str, config: ProbeConfig | None = None, *, on_step: OnStep = no_progress
) -> HeadScores:
    """One score for every head: by score name, or by probe name for the score it is named for.

    Args:
        model: from ``headscope.load``.
        name: ``induction``, ``retrieval``, ``sink`` ...; see ``PROBES``.
        config: how to measure; defaults suit a laptop.
        on_step: called with (done, total) examples.
    """
    probe = find_probe(name)
    scores = score_all(model, probe.name, config, on_step=on_step)
    return scores.get(name) or scores[probe.definitions[0].name]


def census(
    model: HookedModel, config: ProbeConfig | None = None, *, probes: Sequence[str] = ()
) -> Iterator[HeadScores]:
    """All scores of all (or the named) probes, one after the other."""
    bench = Bench(model, config or ProbeConfig())
    for probe in choose_probes(probes):
        yield from measure(bench, probe)[0]
