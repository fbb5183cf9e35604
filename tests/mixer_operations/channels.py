"""Naive twins of recurrences and convolutions by channel: every state and every filter tap one after the other."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, sigmoid

from headscope.mixers.interface import MixerInput
from tests.mixer_operations import Operation


def mamba(mixer: Any, given: MixerInput) -> Tensor:
    A, found = -mixer.log_rate.exp(), []
    h = torch.zeros(*given.value[:, :, 0].shape, given.key.shape[-1], dtype=given.value.dtype)
    for t in range(given.value.shape[2]):
        dt, x = given.gates["step"][:, :, t], given.value[:, :, t]
        so_far = given.gates["step"][:, :, : t + 1].mean((1, 2, 3))
        dt = dt * (dt.mean((1, 2)) >= mixer.settings.decimate * so_far - 1e-12)[:, None, None]
        B, C = given.key[:, :, t, None], given.query[:, :, t, None] * given.scale
        h = torch.exp(dt[..., None] * A) * h + dt[..., None] * B * x[..., None]
        y = (C * h).sum(-1)
        found.append(y if mixer.skip is None else y + mixer.skip * x)
    return torch.stack(found, 2)


def minimal_gated(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    h, found = torch.zeros_like(given.value[:, :, 0]), []
    for t in range(given.value.shape[2]):
        f = given.gates["log_decay"][:, :, t].exp()
        h = f * h + (1 - f) * given.value[:, :, t]
        found.append(h)
    return torch.stack(found, 2)


def rg_lru(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    h, found = torch.zeros_like(given.value[:, :, 0]), []
    for t in range(given.value.shape[2]):
        a = given.gates["log_decay"][:, :, t].exp()
        h = a * h + torch.sqrt(1 - a**2) * given.gates["input"][:, :, t] * given.value[:, :, t]
        found.append(h)
    return torch.stack(found, 2)


def rwkv4(mixer: Any, given: MixerInput) -> Tensor:
    """Sums of exponentials, as the paper has them, for each perspective."""
    w, u, views = mixer.log_rate.exp(), mixer.bonus, mixer.settings.perspectives
    z = torch.zeros_like(given.value)
    for p in range(views):
        key, value = given.key, given.value
        if views > 1:
            parts = [(key, sigmoid(mixer.shift[p, 0])), (value, sigmoid(mixer.shift[p, 1]))]
            before = [torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, :-1]], 2) for x, _ in parts]
            key, value = (m[:, None] * x + (1 - m[:, None]) * b for (x, m), b in zip(parts, before, strict=True))
        for i in range(key.shape[2]):
            own = torch.exp(u + key[:, :, i])
            top, total = own * value[:, :, i], own
            for j in range(i):
                weight = torch.exp(-(i - 1 - j) * w + key[:, :, j])
                top, total = top + weight * value[:, :, j], total + weight
            share = given.gates["perspective"][:, :, i, p, None] if views > 1 else 1.0
            z[:, :, i] += share * sigmoid(given.query[:, :, i]) * top / total
    return z


def diagonal(part: Any) -> tuple[Tensor, Tensor]:
    """``exp(dt A)``, and ``2 C (exp(dt A) - 1) / A``, of S4D."""
    A, dt = torch.complex(-part.log_damping.exp(), part.frequency), part.log_step.exp()[..., None]
    return torch.exp(dt * A), 2 * torch.complex(part.real, part.imaginary) * (torch.exp(dt * A) - 1) / A


def modal(pole: Tensor, weight: Tensor, inputs: Tensor) -> Tensor:
    """``x_t = pole x_{t-1} + u_t``, ``y_t = Re sum weight x_t``, u of each channel."""
    state, found = torch.zeros(1, dtype=pole.dtype), []
    for t in range(inputs.shape[2]):
        state = pole * state + inputs[:, :, t, ..., None]
        found.append((weight * state).real.sum(-1))
    return torch.stack(found, 2)


def s4d(mixer: Any, given: MixerInput) -> Tensor:
    return modal(*diagonal(mixer.diagonal), given.value) + mixer.skip[:, None] * given.value


def average(part: Any, inputs: Tensor) -> Tensor:
    """Megalodon's moving average, from its definition."""
    alpha, delta, eta = sigmoid(part.alpha), sigmoid(part.delta), torch.complex(part.real, part.imaginary)
    order = alpha.shape[-1]
    turn = torch.exp(2j * math.pi * sigmoid(part.period) * torch.arange(1, order + 1) / order)
    return modal((1 - alpha * delta) * turn, alpha * turn * eta, inputs) + part.skip[:, None] * inputs


def cema(mixer: Any, given: MixerInput) -> Tensor:
    return average(mixer, given.value)


def hippo_matrices(n: int, *, legs: bool) -> tuple[Tensor, Tensor]:
    """A and B in continuous time, entry by entry."""
    a, b = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64)
    for i in range(n):
        b[i] = math.sqrt(2 * i + 1) if legs else (2 * i + 1) * (-1) ** i
        for k in range(n):
            if legs:
                a[i, k] = -math.sqrt((2 * i + 1) * (2 * k + 1)) if i > k else -(i + 1.0) * (i == k)
            else:
                a[i, k] = (2 * i + 1) * (-1 if i < k else (-1) ** (i - k + 1))
    return a, b


def hippo(mixer: Any, given: MixerInput) -> Tensor:
    """One inverse or exponential for each channel, and a state."""
    n, legs = mixer.settings.order, mixer.settings.measure == "legs"
    (a, b), eye = hippo_matrices(n, legs=legs), torch.eye(n, dtype=torch.float64)
    if legs:
        dt = mixer.log_step.exp()[..., None, None]
        left = torch.linalg.inv(eye - dt / 2 * a)
        keep, write = left @ (eye + dt / 2 * a), left @ (dt * b)
    else:
        keep = torch.linalg.matrix_exp(a / mixer.settings.window)
        write = torch.linalg.solve(a, (keep - eye) @ b)
    state, found = torch.zeros(*given.value[:, :, 0].shape, n, 1, dtype=torch.float64), []
    for t in range(given.value.shape[2]):
        state = keep @ state + write * given.value[:, :, t, :, None, None]
        found.append((mixer.W_C * state[..., 0]).sum(-1) + mixer.skip * given.value[:, :, t])
    return torch.stack(found, 2)


def convolved(kernel: Tensor, inputs: Tensor) -> Tensor:
    """``y_i = sum_j kernel_{i-j} u_j`` of each channel, term by term."""
    found = torch.zeros_like(inputs)
    for i in range(inputs.shape[2]):
        for j in range(max(0, i - kernel.shape[-1] + 1), i + 1):
            found[:, :, i] += kernel[..., i - j] * inputs[:, :, j]
    return found


def implicit(part: Any, size: int) -> Tensor:
    """A Hyena filter, lag by lag."""
    found = []
    for lag in range(size):
        t = lag / part.n_ctx
        turns = [2 * math.pi * (band + 1) * t for band in range(part.bands)]
        features = torch.tensor([t, *map(math.cos, turns), *map(math.sin, turns)], dtype=part.W_in.dtype)
        found.append(part.W_out @ torch.sin(features @ part.W_in + part.bias) * torch.exp(-part.decay * t))
    return torch.stack(found, -1)


def hyena(mixer: Any, given: MixerInput) -> Tensor:
    size = given.key.shape[2]
    inputs = given.value if mixer.first is None else convolved(implicit(mixer.first, size), given.value)
    return given.query * convolved(implicit(mixer.filter, size), given.key * inputs)


def outer_products(given: MixerInput, run: Any) -> Tensor:
    """A filter over ``k_t v_t^T`` of each head, read by the queries."""
    written = torch.einsum("bhte,bhtd->bhted", given.key, given.value)
    memory = run(written.flatten(-2)).reshape(written.shape)
    return torch.einsum("bhte,bhted->bhtd", given.query * given.scale, memory)


def multi_hyena(mixer: Any, given: MixerInput) -> Tensor:
    kernel = implicit(mixer.filter, given.key.shape[2])
    return outer_products(given, lambda written: convolved(kernel, written))


def laughing_hyena(mixer: Any, given: MixerInput) -> Tensor:
    pole = torch.exp(torch.complex(-mixer.log_rate.exp(), mixer.angle))
    weight = torch.complex(mixer.real, mixer.imaginary)
    return outer_products(given, lambda written: modal(pole, weight, written))


def h3(mixer: Any, given: MixerInput) -> Tensor:
    gated = convolved(mixer.taps, given.key) * given.value
    return given.query * (modal(*diagonal(mixer.diagonal), gated) + mixer.skip[:, None] * gated)


def gated_convolution(mixer: Any, given: MixerInput) -> Tensor:
    z = convolved(mixer.taps, given.value)
    z = z if mixer.settings.gate == "none" else z * given.gates["row_gate"]
    if mixer.settings.length_scale:
        z = torch.stack([row / math.sqrt(i + 1) for i, row in enumerate(z.unbind(2))], 2)
    return z


def orchid(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    size, z = given.key.shape[2], torch.zeros_like(given.value)
    for lag in range(size):
        weight = sum(given.query[:, :, t] * given.key[:, :, (t + lag) % size] for t in range(size)) / size
        for i in range(size):
            z[:, :, i] += weight * given.value[:, :, (i - lag) % size]
    return z


def quasiseparable(mixer: Any, given: MixerInput) -> Tensor:
    """A state in each direction, read before the row's own token is written."""
    size, half = given.key.shape[2], given.key.shape[-1] // 2
    z = given.gates["own"][..., None] * given.value
    for way, order in enumerate((list(range(size)), list(reversed(range(size))))):
        part, rate = slice(way * half, (way + 1) * half), mixer.log_rate[:, way].exp()
        state = torch.zeros(*given.key.shape[:2], half, given.value.shape[-1], dtype=given.value.dtype)
        for t in order:
            dt = given.gates["step"][:, :, t, way]
            state = torch.exp(-rate * dt)[..., None, None] * state
            z[:, :, t] += torch.einsum("bhe,bhed->bhd", given.query[:, :, t, part] * given.scale, state)
            state = state + torch.einsum("bh,bhe,bhd->bhed", dt, given.key[:, :, t, part], given.value[:, :, t])
    return z


def attamba(mixer: Any, given: MixerInput) -> Tensor:
    chunk, keys, values, found = mixer.settings.chunk, [], [], []
    for t in range(given.key.shape[2]):
        a = given.gates["log_decay"][:, :, t, None].exp()
        if t % chunk == 0:
            keys.append(torch.zeros_like(given.key[:, :, t]))
            values.append(torch.zeros_like(given.value[:, :, t]))
        keys[-1] = a * keys[-1] + (1 - a) * given.key[:, :, t]
        values[-1] = a * values[-1] + (1 - a) * given.value[:, :, t]
        scores = torch.stack([(given.query[:, :, t] * key).sum(-1) * given.scale for key in keys], -1)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        found.append(sum(weights[..., c, None] * value for c, value in enumerate(values)))
    return torch.stack(found, 2)


def megalodon(mixer: Any, given: MixerInput) -> Tensor:
    unit, found = normalize(average(mixer.average, given.gates["shared"]), dim=-1), []
    query, key = (unit * mixer.gain[way][:, None] + mixer.offset[way][:, None] for way in (0, 1))
    for i in range(unit.shape[2]):
        seen = range(i - i % mixer.settings.chunk, i + 1)
        weights = torch.stack([(query[:, :, i] * key[:, :, j]).sum(-1) for j in seen], -1).softmax(-1)
        found.append(sum(weights[..., c, None] * given.value[:, :, j] for c, j in enumerate(seen)))
    return torch.stack(found, 2)


def swish_recurrence(mixer: Any, given: MixerInput) -> Tensor:
    held, found = torch.zeros_like(given.value[:, :, 0]), []
    for v in given.value.unbind(2):
        gap = held - v
        held = gap / (1 + torch.exp(-(mixer.slope * gap + mixer.bias))) + v
        found.append(held + mixer.offset)
    return torch.stack(found, 2)


OPERATIONS: dict[str, Operation] = {
    "mamba": mamba,
    "minimal-gated": minimal_gated,
    "rg-lru": rg_lru,
    "rwkv4": rwkv4,
    "s4d": s4d,
    "cema": cema,
    "hippo": hippo,
    "hyena": hyena,
    "multi-hyena": multi_hyena,
    "laughing-hyena": laughing_hyena,
    "h3": h3,
    "gated-convolution": gated_convolution,
    "orchid": orchid,
    "quasiseparable": quasiseparable,
    "attamba": attamba,
    "megalodon": megalodon,
    "swish-recurrence": swish_recurrence,
}
