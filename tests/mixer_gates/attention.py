"""Gates of softmax, sparse and linear attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.mixer_gates import Formula, Gates, by_head, log_sigmoid, number, sigmoid


def by_column(weight: Tensor, stream: Tensor) -> Tensor:
    """``w_h . x_t`` of weights (d_model, head): (batch, head, token)."""
    return torch.stack([stream @ weight[:, h] for h in range(weight.shape[1])], 1)


def forgetting(mixer: Any, stream: Tensor) -> Gates:
    """``f = sigmoid(w . x + b)`` of each head."""
    return {"log_forget": log_sigmoid(by_column(mixer.W_forget, stream) + mixer.b_forget[:, None])}


def aaren(mixer: Any, stream: Tensor) -> Gates:
    """``q . k_j / sqrt(d)`` with one q for each head, d = 8."""
    keys = by_head(mixer.W_K, stream)
    return {"token_score": (keys * mixer.query[:, None]).sum(-1) / math.sqrt(8)}


def second_keys_and_values(mixer: Any, stream: Tensor) -> Gates:
    return {"second_key": by_head(mixer.W_K2, stream), "second_value": by_head(mixer.W_V2, stream)}


def native_sparse(mixer: Any, stream: Tensor) -> Gates:
    """A sigmoid of each head and of each of the three attentions."""
    heads = range(mixer.gate.shape[1])
    return {"branch_gate": torch.stack([sigmoid(stream @ mixer.gate[:, h] + mixer.gate_bias[h]) for h in heads], 1)}


def indexer(mixer: Any, stream: Tensor) -> Gates:
    """Queries and weights of each index head, and one key for all."""
    return {
        "index_query": by_head(mixer.W_query.transpose(0, 1), stream),
        "index_key": (stream @ mixer.W_key)[:, None],
        "index_weight": by_column(mixer.W_weight, stream),
    }


def key_gate(mixer: Any, stream: Tensor) -> Gates:
    """Gates of keys before their sigmoid; queries have none, which is written 0."""
    key = by_column(mixer.W_key, stream) + mixer.b_key[:, None]
    return {"key_gate": key, "query_gate": 0 * key}


def both_gates(mixer: Any, stream: Tensor) -> Gates:
    query = by_column(mixer.W_query, stream) + mixer.b_query[:, None]
    return key_gate(mixer, stream) | {"query_gate": query}


def random_feature_gate(mixer: Any, stream: Tensor) -> Gates:
    """``g = sigmoid(w . x + b)`` of each head: the share of the state that stays."""
    return {"forget": sigmoid(number(mixer.forget, stream))}


def global_context(mixer: Any, stream: Tensor) -> Gates:
    """``tanh((p_h . c) (w_h . x))``, c shared by all heads."""
    heads = range(len(mixer.left))
    pairs = [(mixer.left[h] * mixer.context).sum() * (stream * mixer.right[h]).sum(-1) for h in heads]
    return {"importance": torch.tanh(torch.stack(pairs, 1))}


def prefix(mixer: Any, stream: Tensor) -> Gates:
    """Keys and values of the prefix."""
    return {"prefix_key": by_head(mixer.second_key, stream), "prefix_value": by_head(mixer.second_value, stream)}


def boundary(mixer: Any, stream: Tensor) -> Gates:
    """``w . x + b``, whose sigmoid is the chance of a segment's end: one for all heads."""
    return {"boundary": ((stream * mixer.weight).sum(-1) + mixer.bias)[:, None]}


FORMULAS: dict[str, Formula] = {
    "fox": forgetting,
    "fox-pro": forgetting,
    "aaren": aaren,
    "tensor": second_keys_and_values,
    "two-simplicial": second_keys_and_values,
    "nsa": native_sparse,
    "dsa": indexer,
    "query-key-drop": both_gates,
    "attention-gate": key_gate,
    "colt5": both_gates,
    "rfa-gate": random_feature_gate,
    "lama": global_context,
    "jrt-rnn": prefix,
    "dynamic-token-pooling": boundary,
}
