"""What was done to a model in the Prompt lab, in words: ablated, calibrated, or run under a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.live.policy_choice import is_sized, keeps_heads
from app.live.requests import LabRequest
from app.live.results import LabResult, PolicyCost
from circuits.policies.catalog import policy_kind
from circuits.policies.settings import ActSettings

_ACT = ActSettings()
ABLATIONS: Mapping[str, tuple[str, str]] = {
    "zero": ("Zero: the head writes nothing", "its output z is set to 0"),
    "mean": ("Mean: its average output", "its output z is replaced by its mean over passages of prose"),
    "resample": ("Resample: output on another text", "its output z is replaced by its own on another passage of prose"),
    "uniform": ("Uniform: attends alike to all", "it attends equally to every position it can see"),
    "to_bos": ("To first: attends to position 0", "all its attention goes to position 0"),
    "act": (
        "ACT: weaken its sinks",
        f"its attention to sinks is multiplied by {_ACT.beta:g}, its other tokens share what that frees; a sink "
        f"receives on average more than {_ACT.alpha:g} / T, and the first sink is left as it is",
    ),
}
"""What each kind of ablation is called in a list, and what it does to a head."""

CHANGED: Mapping[str, str] = {
    "": "ablated",
    "ablation": "ablated",
    "calibration": "calibrated",
    "policy": "under the policy",
}
"""What the second run is called, by `LabRequest.change`."""

CHANGES: Mapping[str, str] = {
    "": "ablation",
    "ablation": "ablation",
    "calibration": "calibration",
    "policy": "policy",
}
"""What was done, by `LabRequest.change`."""

_SHOWN_HEADS = 12


def refusal(result: LabResult, part: str) -> str:
    """Why the model cannot do a part; empty if it can."""
    return next((refused.reason for refused in result.refusals if refused.part == part), "")


def refusal_of_change(request: LabRequest, result: LabResult) -> str:
    """Why the model cannot be changed as asked; empty if it can, or nothing was asked."""
    return refusal(result, request.change) if request.change else ""


def refusal_of_captures(result: LabResult, *, changed: bool) -> str:
    """Why there is no attention of the clean or of the changed run."""
    whole = refusal(result, "captures")
    if whole or not changed:
        return whole
    return next((one.reason for one in result.refusals if one.part.startswith("captures of ")), "")


def what_was_done(request: LabRequest, result: LabResult) -> str:
    """What the second run does to the model, and what it took."""
    change = request.change
    if not change:
        return "No head is ablated: this is the untouched model."
    reason = refusal_of_change(request, result)
    if reason:
        return f"Nothing was {'changed' if change == 'policy' else CHANGED[change]}: {reason}"
    if change == "policy":
        return _under_policy(request, result.cost)
    kind, verb = request.ablation, "Calibrated" if change == "calibration" else "Ablated"
    name = "ACT" if change == "calibration" else kind
    return f"{verb} at every position ({name}: {ABLATIONS[kind][1]}): {listed(request.heads)}."


def _under_policy(request: LabRequest, cost: PolicyCost | None) -> str:
    kind = policy_kind(request.policy)
    said = [f"Under {kind.title}{_from(cost)}: {kind.summary}{_settings(request)}."]
    if keeps_heads(request.policy):
        said.append(_kept_whole(cost))
    elif request.heads:
        said.append(f"Ablated besides ({request.ablation}: {ABLATIONS[request.ablation][1]}): {listed(request.heads)}.")
    if cost is not None:
        said.append(
            f"The cache keeps {cost.share_kept:.1%} of the full one ({_size(cost.kv_bytes)} of "
            f"{_size(cost.full_kv_bytes)}), and rows attend to {cost.share_attended:.1%} of the keys."
        )
    return " ".join(said)


def _settings(request: LabRequest) -> str:
    """The settings that have a value."""
    chosen = policy_kind(request.policy).settings()
    chosen = chosen.sized(request.kept) if is_sized(request.policy) else chosen
    shown = [f"{name.replace('_', ' ')} {value}" for name, value in chosen.model_dump().items() if value is not None]
    return f" ({', '.join(shown)})" if shown else ""


def _from(cost: PolicyCost | None) -> str:
    if cost is None or cost.from_row == 0:
        return " from the first token on"
    return f" from position {cost.from_row} on, the text before it read in full"


def _kept_whole(cost: PolicyCost | None) -> str:
    if cost is None or not cost.whole:
        return "No head is ticked, so all are cut."
    return f"Heads that keep everything, with all that share their keys: {listed(cost.whole)}."


def listed(heads: Sequence[str]) -> str:
    """Labels, the first twelve by name."""
    more = f" and {len(heads) - _SHOWN_HEADS} more" if len(heads) > _SHOWN_HEADS else ""
    return ", ".join(heads[:_SHOWN_HEADS]) + more


def _size(size: float) -> str:
    return f"{size / 1024:.1f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"


def random_words(request: LabRequest) -> str:
    """What a random set is."""
    if keeps_heads(request.policy):
        return (
            "as many other key/value heads of the same layers keep everything instead; where the ticked ones are those "
            "that need it, random sets change more"
        )
    done = CHANGED["calibration" if request.ablation == "act" else "ablation"]
    return f"as many heads of the same layers, {done} the same way{', under the same policy' if request.policy else ''}"
