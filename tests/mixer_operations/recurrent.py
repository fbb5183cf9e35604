"""Naive twins of recurrences: the state is carried from token to token, as the papers write them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, normalize, sigmoid, silu, softplus

from headscope.mixers.interface import MixerInput
from tests.mixer_operations import Operation


def empty(given: MixerInput) -> Tensor:
    batch, heads, _, width = given.key.shape
    return given.value.new_zeros(batch, heads, width, given.value.shape[-1])


def outer(key: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("bhe,bhd->bhed", key, value)


def read(query: Tensor, state: Tensor) -> Tensor:
    return torch.einsum("bhe,bhed->bhd", query, state)


def rows(decay: Tensor) -> Tensor:
    """A decay of each head, or of each channel, as a factor of the state's rows."""
    return decay[..., None, None] if decay.ndim == 2 else decay[..., None]


def delta(mixer: Any, given: MixerInput) -> Tensor:
    shape = silu if mixer.settings.activation == "silu" else (lambda x: x)
    query, key, state, found = (
        normalize(shape(given.query), dim=-1),
        normalize(shape(given.key), dim=-1),
        empty(given),
        [],
    )
    for t in range(query.shape[2]):
        q, k, v, beta = query[:, :, t], key[:, :, t], given.value[:, :, t], given.gates["beta"][:, :, t, None]
        decay = 1.0 if mixer.settings.decay == "none" else rows(given.gates["log_decay"][:, :, t].exp())
        if mixer.settings.closed_loop:
            p = sigmoid(mixer.removal)[:, None] * k
            q = q - mixer.correction[:, None] * p
            state = decay * state - outer(beta * k, read(p, state)) + outer(beta * k, v)
        else:
            eye = torch.eye(k.shape[-1], dtype=k.dtype)
            state = (eye - outer(beta * k, k)) @ (decay * state) + outer(beta * k, v)
        found.append(read(q * given.scale, state))
    return torch.stack(found, 2)


def gated_linear(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    state, found = empty(given), []
    for t in range(given.query.shape[2]):
        decay = rows(given.gates["log_decay"][:, :, t].exp())
        state = decay * state + outer(given.key[:, :, t], given.value[:, :, t])
        found.append(read(given.query[:, :, t] * given.scale, state))
    return torch.stack(found, 2)


def mamba2(mixer: Any, given: MixerInput) -> Tensor:
    state, found = empty(given), []
    for t in range(given.query.shape[2]):
        step, v = given.gates["step"][:, :, t, None], given.value[:, :, t]
        decay = (-mixer.log_rate.exp()[:, None] * step).exp()
        state = decay[..., None] * state + outer(given.key[:, :, t], step * v)
        z = read(given.query[:, :, t] * given.scale, state)
        found.append(z if mixer.skip is None else z + mixer.skip[:, None] * v)
    return torch.stack(found, 2)


def rwkv6(mixer: Any, given: MixerInput) -> Tensor:
    state, found = empty(given), []
    for t in range(given.query.shape[2]):
        new = outer(given.key[:, :, t], given.value[:, :, t])
        found.append(read(given.query[:, :, t] * given.scale, state + mixer.bonus[..., None] * new))
        state = given.gates["log_decay"][:, :, t].exp()[..., None] * state + new
    return torch.stack(found, 2)


def hgrn2(mixer: Any, given: MixerInput) -> Tensor:
    state, found, low = empty(given), [], sigmoid(mixer.bound)
    for t in range(given.query.shape[2]):
        forget = low + (1 - low) * sigmoid(given.key[:, :, t])
        state = forget[..., None] * state + outer(1 - forget, given.value[:, :, t])
        found.append(read(silu(given.query[:, :, t]) * given.scale, state))
    return torch.stack(found, 2)


def longhorn(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    state, found = empty(given), []
    for t in range(given.query.shape[2]):
        k, beta = given.key[:, :, t, :, None], given.gates["beta"][:, :, t]
        beta = beta[..., None, None] if beta.ndim == 2 else beta[:, :, None]
        step = beta / (1 + beta * (k * k).sum(2, keepdim=True))
        state = (1 - step * k * k) * state + step * k * given.value[:, :, t, None]
        found.append(read(given.query[:, :, t] * given.scale, state))
    return torch.stack(found, 2)


def rwkv7(mixer: Any, given: MixerInput) -> Tensor:
    state, found = empty(given), []
    for t in range(given.query.shape[2]):
        r, k, v = given.query[:, :, t] * given.scale, given.key[:, :, t], given.value[:, :, t]
        decay, rate = given.gates["log_decay"][:, :, t].exp(), given.gates["rate"][:, :, t]
        g = normalize(k * mixer.removal, dim=-1)
        k = k + k * (rate - 1) * mixer.replacement
        state = (torch.diag_embed(decay) - outer(g * rate, g)) @ state + outer(k, v)
        z = read(r, state)
        found.append(z if mixer.bonus is None else z + (r * mixer.bonus * k).sum(-1, keepdim=True) * v)
    return torch.stack(found, 2)


def mlstm(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    state, total, found = empty(given), torch.zeros_like(given.key[:, :, 0]), []
    for t in range(given.query.shape[2]):
        k, v, q = given.key[:, :, t], given.value[:, :, t], given.query[:, :, t] * given.scale
        forget, write = given.gates["log_decay"][:, :, t].exp(), given.gates["log_input"][:, :, t].exp()
        state = forget[..., None, None] * state + write[..., None, None] * outer(k, v)
        total = forget[..., None] * total + write[..., None] * k
        found.append(read(q, state) / (total * q).sum(-1, keepdim=True).abs().clamp(min=1))
    return torch.stack(found, 2)


def mesa(mixer: Any, given: MixerInput) -> Tensor:
    query, key = normalize(silu(given.query), dim=-1), normalize(silu(given.key), dim=-1)
    ridge, found = torch.diag_embed(softplus(mixer.ridge) + mixer.settings.least), []
    squares, state = torch.zeros_like(key[:, :, 0, :, None] * key[:, :, 0, None]), empty(given)
    for t in range(query.shape[2]):
        kept, write = rows(given.gates["log_decay"][:, :, t].exp()), given.gates["beta"][:, :, t, None] * key[:, :, t]
        squares = kept * squares + outer(write, key[:, :, t])
        state = kept * state + outer(write, given.value[:, :, t])
        found.append(read(torch.einsum("bhef,bhf->bhe", torch.linalg.inv(squares + ridge), query[:, :, t]), state))
    return torch.stack(found, 2)


def log_linear(mixer: Any, given: MixerInput) -> Tensor:
    """Buckets from the youngest to the oldest token, by the lowest set bits of the position."""
    product = OPERATIONS["mamba2" if mixer.settings.rule == "mamba2" else "delta"]
    z = torch.zeros_like(given.value)
    for row in range(given.key.shape[2]):
        end, level = row, 0
        stretches = [(row, row + 1, 0)]
        while end:
            low = end & -end
            level = low.bit_length()
            stretches.append((end - low, end, level))
            end -= low
        for first, last, level in stretches:
            value = torch.zeros_like(given.value)
            value[:, :, first:last] = given.value[:, :, first:last]
            part = product(mixer.rule, replace(given, value=value))[:, :, row]
            z[:, :, row] += given.gates["level"][:, :, row, level, None] * part
    return z


def path(mixer: Any, given: MixerInput) -> Tensor:
    z, eye = torch.zeros_like(given.value), torch.eye(given.key.shape[-1], dtype=given.key.dtype)
    for row in range(given.key.shape[2]):
        scores: list[Tensor] = []
        carried, lost = given.query[:, :, row], 0.0
        for column in range(row, -1, -1):
            scores.insert(0, (carried * given.key[:, :, column]).sum(-1) * given.scale + lost)
            w, beta = given.gates["direction"][:, :, column], given.gates["beta"][:, :, column, None]
            carried = torch.einsum("bhe,bhef->bhf", carried, eye - outer(beta * w, w))
            lost = lost + (given.gates["log_decay"][:, :, column] if mixer.settings.forget else 0.0)
        weights = torch.stack(scores, -1).softmax(-1)
        z[:, :, row] = torch.einsum("bhj,bhjd->bhd", weights, given.value[:, :, : row + 1])
    return z


def delta_former(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    written, found = torch.zeros_like(given.value[:, :, :0]), []
    for t in range(given.key.shape[2]):
        scores = torch.einsum("bhe,bhje->bhj", given.query[:, :, t], given.key[:, :, : t + 1]) * given.scale
        held = torch.einsum("bhj,bhjd->bhd", scores[..., :t].softmax(-1), written)
        new = given.value[:, :, t] - given.gates["beta"][:, :, t, None] * held
        written = torch.cat([written, new[:, :, None]], 2)
        found.append(torch.einsum("bhj,bhjd->bhd", scores.softmax(-1), written))
    return torch.stack(found, 2)


def slots(mixer: Any, given: MixerInput) -> Tensor:
    """Slots' keys and values: decayed sums (GSA), or weighted means of all tokens so far (ABC)."""
    found, forgets = [], mixer.settings.gate == "forget"
    query, key = (silu(given.query), silu(given.key)) if forgets else (given.query, given.key)
    keys, values = 0.0, 0.0
    for t in range(given.key.shape[2]):
        if forgets:
            kept = given.gates["log_decay"][:, :, t].exp()
            keys = kept[..., None] * keys + outer(1 - kept, key[:, :, t])
            values = kept[..., None] * values + outer(1 - kept, given.value[:, :, t])
        else:
            weights = given.gates["slot_score"][:, :, : t + 1].exp()
            weights = weights / weights.sum(2, keepdim=True)
            keys = weights.mT @ key[:, :, : t + 1]
            values = weights.mT @ given.value[:, :, : t + 1]
        chosen = torch.einsum("bhe,bhme->bhm", query[:, :, t] * given.scale, keys).softmax(-1)
        found.append(read(chosen, values))
    return torch.stack(found, 2)


def delta_product(mixer: Any, given: MixerInput) -> Tensor:
    query, state, found = normalize(silu(given.query), dim=-1) * given.scale, empty(given), []
    keys = normalize(silu(torch.cat([given.key[:, :, :, None], given.gates["step_key"]], 3)), dim=-1)
    values = torch.cat([given.value[:, :, :, None], given.gates["step_value"]], 3)
    for t in range(query.shape[2]):
        if mixer.settings.decay == "head":
            state = rows(given.gates["log_decay"][:, :, t].exp()) * state
        for step in range(mixer.settings.steps):
            k, beta = keys[:, :, t, step], given.gates["beta"][:, :, t, step, None]
            state = state + outer(beta * k, values[:, :, t, step] - read(k, state))
        found.append(read(query[:, :, t], state))
    return torch.stack(found, 2)


def titans(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    query, key = normalize(silu(given.query), dim=-1), normalize(silu(given.key), dim=-1)
    memory, moving, found = empty(given), empty(given), []
    for t in range(key.shape[2]):
        k, gate = key[:, :, t], {name: rows(gate[:, :, t]) for name, gate in given.gates.items()}
        slope = outer(k, read(k, memory) - given.value[:, :, t])  # of |M^T k - v|^2 / 2
        moving = gate["log_momentum"].exp() * moving - gate["rate"] * slope
        memory = gate["log_decay"].exp() * memory + moving
        found.append(read(query[:, :, t] * given.scale, memory))
    return torch.stack(found, 2)


def titans_gate(mixer: Any, given: MixerInput) -> Tensor:
    remembered, local = titans(mixer.memory, given), torch.zeros_like(given.value)
    for row in range(given.key.shape[2]):
        seen = slice(max(0, row + 1 - mixer.settings.window), row + 1)
        scores = torch.einsum("bhe,bhje->bhj", given.query[:, :, row], given.key[:, :, seen]) * given.scale
        local[:, :, row] = torch.einsum("bhj,bhjd->bhd", scores.softmax(-1), given.value[:, :, seen])
    share = given.gates["window"][..., None]
    return share * local + (1 - share) * remembered


def titans_context(mixer: Any, given: MixerInput) -> Tensor:
    unit = {name: normalize(silu(getattr(given, name)), dim=-1) for name in ("query", "key")}
    memory, moving, before, found = empty(given), empty(given), empty(given), []
    keys, values = list[Tensor](), list[Tensor]()
    for t in range(given.key.shape[2]):
        if t % mixer.settings.segment == 0:
            before, keys, values = memory, [], []
        k, gate = unit["key"][:, :, t], {name: rows(given.gates[name][:, :, t]) for name in mixer.memory.gate_names}
        keys += [given.key[:, :, t], given.gates["context_key"][:, :, t]]
        values += [given.value[:, :, t], read(unit["query"][:, :, t] * given.scale, before)]
        scores = [(given.query[:, :, t] * key).sum(-1) * given.scale for key in keys]
        found.append(torch.einsum("jbh,jbhd->bhd", torch.stack(scores).softmax(0), torch.stack(values)))
        slope = outer(k, read(k, memory) - given.value[:, :, t])
        moving = gate["log_momentum"].exp() * moving - gate["rate"] * slope
        memory = gate["log_decay"].exp() * memory + moving
    return torch.stack(found, 2)


def ttt(mixer: Any, given: MixerInput) -> Tensor:
    query, key = normalize(given.query, dim=-1), normalize(given.key, dim=-1)
    memory, point, found = empty(given), empty(given), []
    for t in range(key.shape[2]):
        point = memory if t % mixer.settings.mini_batch == 0 else point
        slope = outer(key[:, :, t], read(key[:, :, t], point) - given.value[:, :, t])
        memory = memory - rows(given.gates["rate"][:, :, t]) * slope
        found.append(read(query[:, :, t] * given.scale, memory))
    return torch.stack(found, 2)


def fast_weights(mixer: Any, given: MixerInput) -> Tensor:
    examples, heads = range(given.key.shape[0]), range(given.key.shape[1])
    return torch.stack([torch.stack([_one_memory(mixer, given, b, h) for h in heads]) for b in examples])


def _one_memory(mixer: Any, given: MixerInput, b: int, h: int) -> Tensor:
    settings, gates = mixer.settings, {name: gate[b, h] for name, gate in given.gates.items()}
    query, key, value = normalize(given.query[b, h], dim=-1), normalize(given.key[b, h], dim=-1), given.value[b, h]
    kept = [weight[h].detach() for weight in mixer.weights]
    kept = [weight.softmax(0) for weight in kept] if settings.retention == "kl" else kept
    moving, found = list[Any]((0.0, 0.0)), []
    for t in range(key.shape[0]):
        gate = {name: one[t] for name, one in gates.items()}
        with torch.enable_grad():
            weights = [one.detach().requires_grad_() for one in _divided(settings, kept)]
            error = _network(mixer, h, key[t], weights) - value[t]
            slopes = torch.autograd.grad(_loss(settings, error, gate), weights)
        for at, slope in enumerate(slopes):
            moving[at] = (gate["momentum"] * moving[at] if settings.momentum else 0.0) - gate["rate"] * slope
            decay = 1.0 if settings.retention == "none" else gate["log_decay"].exp()
            if settings.retention == "kl":
                kept[at] = (decay * kept[at].log() + moving[at]).softmax(0)
            else:
                kept[at] = decay * kept[at] + moving[at]
        found.append(_network(mixer, h, query[t], _divided(settings, kept)))
    return torch.stack(found)


def _network(mixer: Any, h: int, x: Tensor, weights: list[Tensor]) -> Tensor:
    out = gelu(x @ weights[0]) @ weights[1] if mixer.settings.hidden else x @ weights[0] + weights[1][0]
    return x + layer_norm(out, out.shape, mixer.gain[h, 0], mixer.shift[h, 0], eps=1e-6)


def _loss(settings: Any, error: Tensor, gate: dict[str, Tensor]) -> Tensor:
    if settings.loss == "lp":
        return (error.abs() ** settings.power).sum()
    if settings.loss == "huber" and error.norm() > gate["threshold"]:
        return gate["threshold"] * error.abs().sum()
    return (error**2).sum() / 2


def _divided(settings: Any, kept: list[Tensor]) -> list[Tensor]:
    q = settings.norm
    sizes = [max(1.0, float((one.abs() ** q).sum() ** (1 / q))) for one in kept]
    return (
        [one / size ** (q - 2) for one, size in zip(kept, sizes, strict=True)] if settings.retention == "lq" else kept
    )


def lstm(mixer: Any, given: MixerInput) -> Tensor:
    h = c = torch.zeros_like(given.value[:, :, 0])
    found = []
    for t in range(given.value.shape[2]):
        back = torch.einsum("bhd,hdge->gbhe", h, mixer.back.unflatten(-1, (4, -1)))
        i, f, o = (
            sigmoid(given.gates[name][:, :, t] + back[g]) for g, name in enumerate(("input", "forget", "output"))
        )
        c = f * c + i * torch.tanh(given.value[:, :, t] + back[3])
        h = o * torch.tanh(c)
        found.append(h)
    return torch.stack(found, 2)


def slstm(mixer: Any, given: MixerInput) -> Tensor:
    h = c = n = torch.zeros_like(given.value[:, :, 0])
    found = []
    for t in range(given.value.shape[2]):
        back = torch.einsum("bhd,hdge->gbhe", h, mixer.back.unflatten(-1, (4, -1)))
        i, f, o = (given.gates[name][:, :, t] + back[g] for g, name in enumerate(("input", "forget", "output")))
        c = sigmoid(f) * c + i.exp() * torch.tanh(given.value[:, :, t] + back[3])
        n = sigmoid(f) * n + i.exp()
        h = sigmoid(o) * c / n
        found.append(h)
    return torch.stack(found, 2)


def bidirectional_lstm(mixer: Any, given: MixerInput) -> Tensor:
    back = {name: given.gates[f"back_{name}"].flip(2) for name in ("input", "forget", "output")}
    turned = lstm(mixer.backward_cell, replace(given, value=given.value.flip(2), gates=back))
    return lstm(mixer.onward, given) + turned.flip(2)


OPERATIONS: dict[str, Operation] = {
    "delta": delta,
    "gated-linear": gated_linear,
    "mamba2": mamba2,
    "rwkv6": rwkv6,
    "hgrn2": hgrn2,
    "longhorn": longhorn,
    "rwkv7": rwkv7,
    "mlstm": mlstm,
    "mesa": mesa,
    "log-linear": log_linear,
    "path": path,
    "delta-former": delta_former,
    "slots": slots,
    "delta-product": delta_product,
    "titans": titans,
    "titans-gate": titans_gate,
    "titans-context": titans_context,
    "ttt": ttt,
    "fast-weights": fast_weights,
    "lstm": lstm,
    "slstm": slstm,
    "bidirectional-lstm": bidirectional_lstm,
}
