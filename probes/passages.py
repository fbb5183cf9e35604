"""The measurement behind the probes on real text: reduce each layer's reading to a number per head and passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxtyping import Float, Int
from torch import Tensor

from headscope.readings import Reading, read
from probes.probe import Bench, OnStep, Samples, batches

Reduce = Callable[[Reading], Mapping[str, Float[Tensor, "batch head"]]]


def measure_passages(
    bench: Bench, text: Int[Tensor, "batch pos"], names: tuple[str, ...], reduce: Reduce, on_step: OnStep
) -> Samples:
    """Read every layer on every passage; ``reduce`` gives the named scores of one layer."""
    samples = {name: bench.zeros(len(text)) for name in names}
    for where, tokens in batches(text):

        def take(layer: int, reading: Reading, where: slice = where) -> None:
            for name, values in reduce(reading).items():
                samples[name][where, layer] = values.cpu().numpy()

        read(bench.model, tokens, take, method=bench.config.method)
        on_step(min(where.stop, len(text)), len(text))
    return samples
