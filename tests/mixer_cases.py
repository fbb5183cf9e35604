"""Random inputs for a variant's mixer, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.mixers.building import build_mixer
from headscope.mixers.interface import Mixer, MixerInput, MixerShape
from headscope.mixers.registry import Variant, variants
from headscope.models.decoder.config import DecoderConfig

HEADS, MODEL, N_CTX, LENGTH, BATCH = 2, 16, 32, 20, 2


@dataclass(frozen=True)
class Case:
    """A mixer with random parameters, and what it is called with."""

    entry: Variant
    mixer: Mixer
    given: MixerInput
    stream: Tensor

    @property
    def causal(self) -> bool:
        return self.given.causal


def built() -> list[Variant]:
    """The variants that a decoder can be built with."""
    return [entry for entry in variants().values() if entry.status == "built"]


def with_one_mixer() -> list[Variant]:
    """Those that are a mixer, or settings of one."""
    return [entry for entry in built() if isinstance(entry.config.get("mixer"), (str, dict))]


def small_config(entry: Variant, **more: object) -> DecoderConfig:
    """A variant's decoder, small."""
    sizes = {"d_vocab": 11, "d_model": MODEL, "n_heads": HEADS, "n_ctx": N_CTX, "causal": entry.causal}
    return DecoderConfig.parse(sizes | dict(entry.config) | more)


def make_case(
    entry: Variant,
    *,
    length: int = LENGTH,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    causal: bool | None = None,
    size: float = 1.0,
) -> Case:
    """The variant's mixer on random queries, keys, values and stream."""
    config = small_config(entry)
    choice, generator = config.mixer[0], torch.Generator().manual_seed(seed)
    shape = MixerShape(HEADS, config.head_width, config.key_width, MODEL, max(N_CTX, length))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed walks the whole stack, thrice
        mixer = build_mixer(choice.kind, shape, choice.settings).to(dtype).eval()
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)  # nothing stays at a special value such as 0
    query, key, value = (
        torch.randn(BATCH, HEADS, length, width, generator=generator, dtype=dtype) * size
        for width in (config.key_width, config.key_width, config.head_width)
    )
    stream = torch.randn(BATCH, length, MODEL, generator=generator, dtype=dtype) * size
    given = MixerInput(
        query,
        key,
        value,
        mixer.gates(stream),
        config.key_width**-0.5,
        causal=entry.causal if causal is None else causal,
    )
    return Case(entry, mixer, given, stream)
