"""Policies that keep and look at every key, and change weights. No torch."""

from __future__ import annotations

from circuits.policies import settings, softmax_settings
from circuits.policies.kinds import PolicyKind

SOFTMAX_KINDS: tuple[PolicyKind, ...] = (
    PolicyKind(
        "temperature",
        "Temperature",
        "softmax",
        "logits of chosen heads are divided by a temperature",
        "query head",
        "control",
        softmax_settings.TemperatureSettings,
        "circuits.policies.softmaxes",
        "Temperature",
    ),
    PolicyKind(
        "length-scale",
        "Scale by length",
        "softmax",
        "beyond the trained length, logits grow with the logarithm of the row's length",
        "all heads",
        "Su 2021, kexue.fm/archives/8823; Chiang and Cholak 2022, arXiv 2202.12172",
        softmax_settings.LengthScaleSettings,
        "circuits.policies.softmaxes",
        "LengthScale",
    ),
    PolicyKind(
        "sigmoid",
        "Sigmoid attention",
        "softmax",
        "a sigmoid of each logit by itself, with a bias for the row's length",
        "all heads",
        "Ramapuram et al. 2024, arXiv 2409.04431",
        softmax_settings.SigmoidSettings,
        "circuits.policies.softmaxes",
        "Sigmoid",
        note="the paper trains with it; no setting makes it the model",
    ),
    PolicyKind(
        "off-by-one",
        "Off-by-one softmax",
        "softmax",
        "softmax with one more column, which holds nothing",
        "all heads",
        "Miller 2023, evanmiller.org/attention-is-off-by-one.html; Kaul et al. 2024, arXiv 2410.17174",
        softmax_settings.OffByOneSettings,
        "circuits.policies.softmaxes",
        "OffByOne",
        note="both train with it",
    ),
    PolicyKind(
        "sink-removal",
        "Sinks taken away",
        "softmax",
        "the mass on the first token, on later sinks or on the first token of dormant rows is removed or shared out",
        "query head",
        "Yu et al. 2024, arXiv 2406.15765, section 3; Guo et al. 2024, arXiv 2410.13835",
        softmax_settings.SinkRemovalSettings,
        "circuits.policies.sink_removal",
        "SinkRemoval",
        note="later sinks are found from the rows so far, not from the whole text",
    ),
    PolicyKind(
        "act",
        "Attention calibration (ACT)",
        "softmax",
        "weights on attention sinks shrink in chosen heads, the other tokens share what that frees",
        "query head",
        "Yu et al. 2024, arXiv 2406.15765",
        settings.ActSettings,
        "circuits.calibration.act",
        "Act",
        note="every text of a batch has sinks of its own; decoding rows are calibrated too",
    ),
)
