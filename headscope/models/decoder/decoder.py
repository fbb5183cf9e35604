"""A small decoder with TransformerLens hook names, which takes any mixer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from headscope.mixers.interface import Mix
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.mixing_layer import MixingLayer
from headscope.models.decoder.norms import NoNorm, Norm
from headscope.models.decoder.positions_drawn import DrawnPositions
from headscope.models.decoder.positions_stream import learned_rows, stream_positions
from headscope.models.decoder.sharing import Earlier
from headscope.models.decoder.sphere import LearnedScale, Step, unit, unit_weights

Inputs = Int[Tensor, "B T"] | Float[Tensor, "B T d_input"]
"""Token ids, or vectors where ``d_input`` is set."""


class MLP(nn.Module):
    """``W_out gelu(W_in x)``; on the sphere what gelu reads is multiplied by ``s_u sqrt(d_model)``."""

    stream_axes: ClassVar[dict[str, int]] = {"W_in": 0, "W_out": 1}

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.randn(config.d_model, config.d_mlp) * config.d_model**-0.5)
        self.W_out = nn.Parameter(torch.randn(config.d_mlp, config.d_model) * config.d_mlp**-0.5)
        self.scale = LearnedScale(config.d_mlp, stored=1.0) if config.block == "sphere" else None
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def forward(self, stream: Tensor) -> Tensor:
        """What it writes."""
        hidden = stream @ self.W_in
        if self.scale is not None:
            hidden = hidden * self.scale() * stream.shape[-1] ** 0.5
        return self.hook_post(gelu(self.hook_pre(hidden))) @ self.W_out


class Block(nn.Module):
    """Heads and, where the config has one, an MLP, each reading a normalised stream and adding to it.

    On the sphere the stream moves towards what they write in place of adding it; `hook_attn_out` and `hook_mlp_out` are
    what they write in both.
    """

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.ln1, self.attn = build_norm(config), MixingLayer(config, layer)
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        self.ln2 = self.mlp = None
        if config.d_mlp:
            self.ln2, self.mlp = build_norm(config), MLP(config)
            self.hook_resid_mid, self.hook_mlp_out = HookPoint(), HookPoint()
        sphere = config.block == "sphere"
        self.attn_step = Step(config.d_model) if sphere else None
        self.mlp_step = Step(config.d_model) if sphere and config.d_mlp else None

    def forward(self, stream: Float[Tensor, "B T M"], earlier: Earlier) -> Float[Tensor, "B T M"]:
        """The stream after the block."""
        stream = self.hook_resid_pre(stream)
        stream = _changed(stream, self.hook_attn_out(self.attn(self.ln1(stream), earlier)), self.attn_step)
        if self.mlp is not None and self.ln2 is not None:
            stream = self.hook_resid_mid(stream)
            stream = _changed(stream, self.hook_mlp_out(self.mlp(self.ln2(stream))), self.mlp_step)
        return self.hook_resid_post(stream)


class Decoder(HookedRootModule):
    """Embedding, blocks, unembedding.

    Attributes:
        config: its settings.
        W_E: (d_vocab, d_model); (d_input, d_model) where vectors are read.
        W_pos: (n_ctx or the range of randomised positions, d_model), or None without learned positions.
        blocks: the layers.
        W_U: (d_model, d_output).
    """

    stream_axes: ClassVar[dict[str, int]] = {"W_E": 1, "W_U": 0}

    def __init__(self, config: DecoderConfig) -> None:
        """Build it with random weights from ``config.seed``; torch's own generator is left as it was."""
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would seed GPUs, too
            self._build(config)
        self.normalise_weights()
        self.setup()

    def _build(self, config: DecoderConfig) -> None:
        size = config.d_input**-0.5 if config.d_input else config.embed_std
        self.W_E = nn.Parameter(torch.randn(config.d_input or config.d_vocab, config.d_model) * size)
        rows = learned_rows(config)
        self.W_pos = None if rows is None else nn.Parameter(torch.randn(rows, config.d_model) * config.embed_std)
        drawn = config.position.randomised
        self.drawn_positions = None if drawn is None else DrawnPositions(drawn, config.seed, config.n_ctx)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.ln_final = build_norm(config)
        self.W_U = nn.Parameter(torch.randn(config.d_model, config.answers) * config.d_model**-0.5)
        sphere = config.block == "sphere"
        self.logit_scale = LearnedScale(config.answers, stored=config.d_model**-0.5) if sphere else None
        self.hook_embed = HookPoint()
        if config.position.kind in ("learned", "sinusoidal"):
            self.hook_pos_embed = HookPoint()

    def forward(self, tokens: Inputs, *, rows: Int[Tensor, " R"] | None = None) -> Float[Tensor, "B R d_output"]:
        """Logits (or the numbers that are asked) at ``rows``, at all positions by default.

        Raises:
            UnsupportedError: for a text that is longer than learned or randomised positions allow.
        """
        stream = self.stream(tokens)
        return self.unembed(stream if rows is None else stream[:, rows])

    def stream(self, tokens: Inputs) -> Float[Tensor, "B T M"]:
        """The residual stream after the last block."""
        stream, earlier = self.embedded(tokens)
        for block in self.blocks:
            stream = block(stream, earlier)
        return stream

    def embedded(self, tokens: Inputs) -> tuple[Float[Tensor, "B T M"], Earlier]:
        """The stream before the first block, and what layers hand on."""
        positions = self._positions(tokens)
        stream = self.hook_embed(tokens @ self.W_E if self.config.d_input else embedding(tokens, self.W_E))
        added = stream_positions(self.config, self.W_pos, positions, stream.dtype)
        if added is not None:
            stream = stream + self.hook_pos_embed(added.expand_as(stream))
        if self.config.block == "sphere":
            stream = unit(stream)
        return stream, Earlier(positions=positions, embedding=stream)

    def unembed(self, stream: Float[Tensor, "*rows M"]) -> Float[Tensor, "*rows d_output"]:
        """Logits of a stream after the last block."""
        logits = self.ln_final(stream) @ self.W_U
        return logits if self.logit_scale is None else logits * self.logit_scale()

    @property
    def mixing_layers(self) -> list[MixingLayer]:
        """The heads of every layer, in order."""
        return [block.attn for block in cast("Any", self.blocks)]

    @contextmanager
    def recorded_mixes(self) -> Generator[list[Mix], None, None]:
        """Record M and the values it is applied to, a `Mix` for each layer of each forward pass inside the block."""
        found = list[Mix]()
        try:
            for layer in self.mixing_layers:
                layer.on_mix = found.append
            yield found
        finally:
            for layer in self.mixing_layers:
                layer.on_mix = None

    @torch.no_grad()
    def normalise_weights(self) -> None:
        """Make weights unit vectors along the stream's width, as nGPT wants after every step; nothing otherwise."""
        if self.config.block == "sphere":
            for weights, axis in unit_weights(self):
                weights.copy_(unit(weights, axis))

    def state_size(self, length: int) -> int:
        """Numbers that all layers keep for one text of ``length`` tokens to read the next one."""
        layers: Any = self.blocks
        return sum(layer.attn.state_size(length) for layer in layers)

    def _positions(self, tokens: Inputs) -> Int[Tensor, " T"]:
        if self.drawn_positions is not None:
            return self.drawn_positions(tokens.shape[1])
        return torch.arange(tokens.shape[1], device=tokens.device)


def build_norm(config: DecoderConfig) -> Norm | NoNorm:
    """The norm before a layer or the unembedding."""
    return NoNorm() if config.block == "sphere" else Norm(config.d_model, config.norm)


def _changed(stream: Tensor, change: Tensor, step: Step | None) -> Tensor:
    return stream + change if step is None else step(stream, change)
