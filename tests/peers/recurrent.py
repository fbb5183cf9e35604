"""The delta rule and its relatives beside flash-linear-attention's reference functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, silu, softplus

from headscope.mixers.registry import Variant
from tests.mixer_cases import Case, make_case
from tests.peers.comparison import Answers, agrees, agrees_on_z
from tests.peers.flash_linear_attention import heads_first, reference, tokens_first


def units(case: Case) -> tuple[Tensor, Tensor]:
    """Unit queries and keys, as the layers make them: outside of the operations."""
    return normalize(silu(case.given.query), dim=-1), normalize(silu(case.given.key), dim=-1)


@agrees_on_z("delta", "delta-negative")
def delta_rule(case: Case) -> Tensor:
    peer = heads_first(reference("delta_rule").delta_rule_recurrence)
    return peer(*units(case), case.given.value, case.given.gates["beta"])


@agrees_on_z("gated-delta")
def gated_delta_rule(case: Case) -> Tensor:
    peer, gates = tokens_first(reference("gated_delta_rule").naive_recurrent_gated_delta_rule), case.given.gates
    return peer(*units(case), case.given.value, gates["beta"], gates["log_decay"])


@agrees_on_z("kda")
def kimi_delta_attention(case: Case) -> Tensor:
    peer, gates = tokens_first(reference("kda").naive_recurrent_kda), case.given.gates
    return peer(*units(case), case.given.value, gates["log_decay"], gates["beta"])


@agrees_on_z("comba")
def comba(case: Case) -> Tensor:
    """The peer's chunks, which take out of the state before its decay, as the paper does; its loop decays first."""
    (query, key), gates = units(case), case.given.gates
    removed = key * case.mixer.removal.sigmoid()[:, None, None]
    query = query - case.mixer.correction[:, None, None] * removed
    peer = tokens_first(reference("comba").naive_chunk_comba)
    return peer(query, key, case.given.value, removed, gates["log_decay"], gates["beta"], chunk_size=8)


@agrees_on_z("delta-product", "gated-delta-product")
def gated_delta_product(case: Case) -> Tensor:
    """Steps of a token lie one after the other."""
    given, steps = case.given, case.mixer.steps
    keys = torch.cat([given.key[:, :, :, None], given.gates["step_key"]], 3).flatten(2, 3)
    values = torch.cat([given.value[:, :, :, None], given.gates["step_value"]], 3).flatten(2, 3)
    query, key = (normalize(silu(x), dim=-1) for x in (given.query, keys))
    options = {"scale": given.scale, "num_householder": steps, "g": given.gates.get("log_decay")}
    peer = tokens_first(reference("gated_delta_product").naive_recurrent_gated_delta_product)
    return peer(query, key, values, beta=given.gates["beta"].flatten(2, 3), **options)


@agrees_on_z("rwkv7")
def diagonal_plus_low_rank(case: Case) -> Tensor:
    """The recurrence; the bonus is added after it."""
    given, mixer, rate = case.given, case.mixer, case.given.gates["rate"]
    removed = normalize(given.key * mixer.removal[:, None], dim=-1)
    key = given.key * (1 + mixer.replacement[:, None] * (rate - 1))
    peer = heads_first(reference("generalized_delta_rule/dplr").dplr_recurrence)
    found = peer(given.query, key, given.value, -removed, removed * rate, given.gates["log_decay"])
    return found + (given.query * given.scale * mixer.bonus[:, None] * key).sum(-1, keepdim=True) * given.value


@agrees_on_z("mesa")
def mesa(case: Case) -> Tensor:
    """The exact solution; ridges have no tokens."""
    given, gates = case.given, case.given.gates
    ridge = softplus(case.mixer.ridge) + case.mixer.least
    peer = tokens_first(reference("mesa_net").naive_mesa_net_exact)
    return peer(*units(case), given.value, gates["log_decay"], lamb=ridge, beta=gates["beta"])


@agrees_on_z("path", "path-fox")
def path(case: Case) -> Tensor:
    """The peer also multiplies the sums of forget gates by the scale of scores, so it is given them without."""
    given, gates = case.given, case.given.gates
    forget = gates.get("log_decay", torch.zeros_like(gates["beta"])) / given.scale
    peer = tokens_first(reference("path_attn").naive_path_attn)
    parts = (given.query, given.key, given.value, gates["direction"], gates["beta"], forget)
    return peer(*parts, scale=given.scale, chunk_size=8)


@agrees_on_z("delta-former")
def delta_former(case: Case) -> Tensor:
    given = case.given
    peer = tokens_first(reference("deltaformer").naive_deltaformer_attn)
    return peer(given.query, given.key, given.value, given.gates["beta"])


@agrees_on_z("titans-linear")
def momentum_delta_rule(case: Case) -> Tensor:
    (query, key), gates = units(case), case.given.gates
    peer = tokens_first(reference("momentum_delta_rule").recurrent_momentum_delta_rule_ref)
    parts = (query, key, case.given.value, gates["log_decay"], gates["log_momentum"], key)
    return peer(*parts, beta=torch.ones_like(gates["rate"]), eta=gates["rate"])


@agrees("ttt-linear")
def ttt(entry: Variant, seed: int) -> Answers:
    """The weights after every token, in mini-batches of one; the peer reads them through another norm."""
    case = make_case(entry, seed=seed, length=10)
    mixer, given = case.mixer, case.given
    query, key = (normalize(x, dim=-1) for x in (given.query, given.key))
    state = mixer.start(given.token(0))
    first = [state[name].clone() for name in ("weight0", "weight1")]
    ours, theirs = list[Tensor](), list[Tensor]()
    for at in range(given.query.shape[2]):
        state = mixer.step(state, given.token(at))[1]
        ours.append(torch.cat([state["weight0"], state["weight1"]], 2))
        parts = [x[:, :, : at + 1].transpose(1, 2).clone() for x in (query, key, given.value)]
        _, *weights = reference("ttt").chunk_ttt_linear_ref(
            *parts,
            mixer.gain[:, 0],
            mixer.shift[:, 0],
            given.gates["rate"][:, :, : at + 1, None].transpose(1, 2),
            mini_batch_size=1,
            initial_state=first[0].clone(),
            initial_state_bias=first[1].clone(),
            output_final_state=True,
        )
        theirs.append(torch.cat(weights, 2))
    return Answers(torch.stack(ours), torch.stack(theirs))
