"""Linear attention with gates, and slots, beside flash-linear-attention's reference functions."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad, silu

from tests.mixer_cases import Case
from tests.peers.comparison import agrees_on_z
from tests.peers.flash_linear_attention import heads_first, reference, tokens_first


@agrees_on_z("gated-linear-scalar")
def simple_gla(case: Case) -> Tensor:
    given = case.given
    peer = tokens_first(reference("simple_gla").naive_recurrent_simple_gla)
    return peer(given.query, given.key, given.value, given.gates["log_decay"])


@agrees_on_z("mamba2")
def mamba2(case: Case) -> Tensor:
    """Steps multiply keys; the skip is added after the operation."""
    given, gates = case.given, case.given.gates
    peer = tokens_first(reference("simple_gla").naive_recurrent_simple_gla)
    found = peer(given.query, given.key * gates["step"][..., None], given.value, gates["log_decay"])
    return found + case.mixer.skip[:, None, None] * given.value


@agrees_on_z("gla")
def gla(case: Case) -> Tensor:
    given = case.given
    peer = tokens_first(reference("gla").naive_recurrent_gla)
    return peer(given.query, given.key, given.value, given.gates["log_decay"])


@agrees_on_z("hgrn2")
def hgrn2(case: Case) -> Tensor:
    """Forget gates are made of keys, from their lower bound up; what they do not keep is written."""
    given, bound = case.given, case.mixer.bound.sigmoid()[:, None]
    kept = bound + (1 - bound) * given.key.sigmoid()
    return tokens_first(reference("gla").naive_recurrent_gla)(silu(given.query), 1 - kept, given.value, kept.log())


@agrees_on_z("rwkv6")
def rwkv6(case: Case) -> Tensor:
    """A row reads the state before its token: that is the row before it, asked with this row's query.

    The bonus is added after it.
    """
    given, mixer = case.given, case.mixer
    next_query = pad(given.query[:, :, 1:], (0, 0, 0, 1))
    peer = tokens_first(reference("gla").naive_recurrent_gla)
    found = pad(peer(next_query, given.key, given.value, given.gates["log_decay"])[:, :, :-1], (0, 0, 1, 0))
    return found + (given.query * given.scale * mixer.bonus[:, None] * given.key).sum(-1, keepdim=True) * given.value


@agrees_on_z("log-linear-mamba2")
def log_linear(case: Case) -> Tensor:
    given, gates = case.given, case.given.gates
    peer = tokens_first(reference("log_linear_attn").naive_log_linear_attn)
    key = given.key * gates["step"][..., None]
    return peer(given.query, key, given.value, gates["log_decay"], gates["level"], scale=given.scale)


@agrees_on_z("gsa")
def gated_slots(case: Case) -> Tensor:
    given, log_decay = case.given, case.given.gates["log_decay"]
    peer = tokens_first(reference("gsa").naive_recurrent_gsa)
    return peer(silu(given.query), silu(given.key), given.value, 1 - log_decay.exp(), log_decay)


@agrees_on_z("abc")
def bounded_memory(case: Case) -> Tensor:
    given = case.given
    peer = heads_first(reference("abc").naive_recurrent_abc)
    return peer(given.query, given.key, given.value, given.gates["slot_score"])
