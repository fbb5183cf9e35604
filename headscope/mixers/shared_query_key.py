"""One vector of each token that serves as its query and its key."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, State


class SharedQueryKey(Mixer):
    """A mixer whose queries are its keys: ``x = (q + k) / sqrt 2``.

    That is one projection, ``(W_Q + W_K) / sqrt 2``, for both. A row is a function of its own x and of those that it
    sees. Decoding keeps x of every head, and values.
    """

    @abstractmethod
    def mix_shared(self, given: MixerInput) -> Mix:
        """M, where query and key already are x, for any number of last rows."""

    def mix(self, given: MixerInput) -> Mix:
        """Share, then mix."""
        return self.mix_shared(_shared(given))

    def start(self, token: MixerInput) -> State:
        """No tokens."""
        return {"key": token.key[:, :, :0], "value": token.value[:, :, :0]}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Append the token and mix its row."""
        token = _shared(token)
        state = {
            "key": torch.cat([state["key"], token.key], 2),
            "value": torch.cat([state["value"], token.value], 2),
        }
        return self.mix_shared(replace(token, key=state["key"], value=state["value"])).z, state

    def state_size(self, length: int) -> int:
        """x of every token and head, and a value of every token and value head."""
        shape = self.shape
        return length * (shape.n_heads * shape.d_key + (shape.value_heads or shape.n_heads) * shape.d_head)

    def kept_tokens(self, length: int) -> KeptTokens:
        """The values; x is not a key."""
        return replace(self.shape.kept(length), keys=0)


def _shared(given: MixerInput) -> MixerInput:
    both: Tensor = (given.query + given.key) * 2**-0.5
    return replace(given, query=both, key=both)
