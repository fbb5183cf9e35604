"""The settings of a small decoder: a mixer and the axes that compose with it; no torch.

Any mixer goes with any setting of the other axes, as far as that means something: a bias on scores wants a mixer that
has scores, shared keys want one that reads keys. What cannot go together is refused by name.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from headscope.config import Config
from headscope.errors import UnknownNameError
from headscope.mixers.registry import mixer_places
from headscope.models.decoder.head_settings import ExpertHeadsSettings, HeadMixingSettings, MoHSettings
from headscope.models.decoder.position_settings import PositionSettings


class MixerChoice(Config):
    """Which mixer, and its settings.

    Attributes:
        kind: its name; see `headscope variants`.
        settings: its own settings, by name.
    """

    kind: str = "softmax"
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])

    @model_validator(mode="after")
    def _known(self) -> MixerChoice:
        if self.kind not in mixer_places():
            raise ValueError(str(UnknownNameError.of("mixer", self.kind, mixer_places())))
        return self


class SharingSettings(Config):
    """Which heads and layers share keys and values.

    Attributes:
        key_heads: heads that have keys of their own; all by default, 1 is multi-query attention.
        value_heads: the same for values.
        layers: so many layers in a row use the keys and values of the first of them (CLA, MLKV).
        latent: width of one latent vector for each token that all keys and values are made from (MLA), or None.
        latent_rope: so many dimensions of every key, the first ones, are read off the stream in place of the latent and
            are the same in all heads: the part that a rotation turns (MLA).
        source: what keys and values are made from: the ``stream`` of the layer, or the ``embedding`` (InAttention).
    """

    key_heads: int | None = Field(default=None, ge=1)
    value_heads: int | None = Field(default=None, ge=1)
    layers: int = Field(default=1, ge=1)
    latent: int | None = Field(default=None, ge=1)
    latent_rope: int | None = Field(default=None, ge=1)
    source: Literal["stream", "embedding"] = "stream"

    @model_validator(mode="after")
    def _one_way(self) -> SharingSettings:
        if self.latent is not None and self.source == "embedding":
            raise ValueError("latent goes with source 'stream' only")
        if self.latent_rope is not None and self.latent is None:
            raise ValueError("latent_rope goes with a latent only")
        return self


class DecoderConfig(Config):
    """A small decoder.

    Attributes:
        d_vocab: token ids it reads and predicts.
        d_input: width of the vectors that it reads in place of tokens; 0 where it reads tokens.
        d_output: numbers it answers at each position; ``d_vocab`` by default.
        n_ctx: longest text it is trained on.
        n_layers: blocks.
        n_heads: query heads in each.
        d_model: width of the stream.
        d_head: width of a head's value; ``d_model / n_heads`` by default.
        d_key: width of its query and key; ``d_head`` by default.
        d_mlp: hidden width of the MLPs; 0 leaves them out.
        mixer: one for all layers, or one for each.
        position: how tokens know where they are.
        sharing: which heads and layers share keys and values.
        heads: how heads are weighted for each token.
        conv: width of a causal depthwise convolution on queries, keys and values; 0 leaves it out.
        output_gate: z times a sigmoid of the stream: one for each head, for each channel, or none.
        output_norm: RMS normalisation of each head's z before W_O.
        qk_norm: RMS normalisation of queries and keys.
        temperature: what queries are multiplied by: nothing, a learned number for each head, or ``log(1 + n) / log(1 +
            n_ctx)`` where the row sees n tokens.
        value_residual: values are mixed with those of the first layer (``learned``), replaced by them (``first``).
        block: ``pre_norm``, or ``sphere``: nGPT's unit vectors; see `headscope.models.decoder.sphere`.
        norm: of the stream.
        embed_std: spread of the random embeddings and learned positions. Small ones let what heads write count early:
            with 1 softmax did not learn recall (64 tokens, 8 pairs) in 1,500 steps that it learned in 600 with 0.2.
        causal: rows see only what comes before them.
        seed: of the random weights.
    """

    d_vocab: int = Field(default=64, ge=2)
    d_input: int = Field(default=0, ge=0)
    d_output: int | None = Field(default=None, ge=1)
    n_ctx: int = Field(default=64, ge=1)
    n_layers: int = Field(default=2, ge=1)
    n_heads: int = Field(default=2, ge=1)
    d_model: int = Field(default=64, ge=1)
    d_head: int | None = Field(default=None, ge=1)
    d_key: int | None = Field(default=None, ge=1)
    d_mlp: int = Field(default=0, ge=0)
    mixer: tuple[MixerChoice, ...] = (MixerChoice(),)
    position: PositionSettings = PositionSettings()
    sharing: SharingSettings = SharingSettings()
    heads: HeadMixingSettings = HeadMixingSettings()
    conv: int = Field(default=0, ge=0)
    output_gate: Literal["none", "head", "channel"] = "none"
    output_norm: bool = False
    qk_norm: bool = False
    temperature: Literal["none", "learned", "log_length"] = "none"
    value_residual: Literal["none", "learned", "first"] = "none"
    block: Literal["pre_norm", "sphere"] = "pre_norm"
    norm: Literal["rms", "layer"] = "rms"
    embed_std: float = Field(default=0.2, gt=0)
    causal: bool = True
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """``mixer="softmax"``, ``position="rope"``, ``heads="moh"`` and one mixer for all layers."""
        if not isinstance(data, dict):
            return data
        given = dict[str, Any](data)
        for name in ("position", "heads"):
            if isinstance(given.get(name), str):
                given[name] = {"kind": given[name]}
        mixer = given.get("mixer")
        if mixer is not None:
            several = mixer if isinstance(mixer, (list, tuple)) else (mixer,)
            given["mixer"] = tuple({"kind": one} if isinstance(one, str) else one for one in several)
        return given

    @model_validator(mode="after")
    def _fits(self) -> DecoderConfig:
        if len(self.mixer) not in (1, self.n_layers):
            raise ValueError(
                f"mixer names {len(self.mixer)} mixers for {self.n_layers} layers: name one, or one for each"
            )
        if self.d_head is None and self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is no multiple of n_heads {self.n_heads}: set d_head")
        self._check_sharing()
        self._check_heads()
        drawn = self.position.randomised
        if drawn is not None and drawn.largest < self.n_ctx:
            raise ValueError(f"position.randomised.largest {drawn.largest} is below n_ctx {self.n_ctx}")
        if self.position.kind in ("cope", "xpos") and not self.causal:
            raise ValueError(f"position {self.position.kind!r} is for tokens before a row: it reads left to right only")
        if self.conv and not self.causal:
            raise ValueError("conv reads left to right only: leave it out where causal is false")
        if self.block == "sphere" and self.qk_norm:
            raise ValueError("block 'sphere' makes queries and keys unit vectors itself: leave qk_norm out")
        return self

    def _check_sharing(self) -> None:
        sharing = self.sharing
        for name in ("key_heads", "value_heads"):
            shared = getattr(sharing, name)
            if shared is not None and self.n_heads % shared:
                raise ValueError(f"sharing.{name} {shared} does not divide n_heads {self.n_heads}")
        if sharing.latent_rope is not None and sharing.latent_rope >= self.key_width:
            raise ValueError(f"sharing.latent_rope {sharing.latent_rope} leaves nothing of d_key {self.key_width}")
        own = self.heads.kind == "switch"
        if own and (sharing.value_heads is not None or sharing.latent is not None or sharing.source == "embedding"):
            raise ValueError("heads 'switch' make values of their own: leave value_heads, latent and source out")
        if own and self.value_residual == "first":
            raise ValueError("heads 'switch' make values of their own: value_residual cannot be 'first'")

    def _check_heads(self) -> None:
        settings = self.heads.parsed()
        if isinstance(settings, MoHSettings):
            shared = self.n_heads // 4 if settings.shared is None else settings.shared
            top_k = settings.top_k or 1
            if shared + top_k > self.n_heads:
                raise ValueError(f"heads shared {shared} and top_k {top_k} are more than n_heads {self.n_heads}")
        if isinstance(settings, ExpertHeadsSettings):
            if self.n_heads % settings.heads_each:
                raise ValueError(f"heads_each {settings.heads_each} does not divide n_heads {self.n_heads}")
            experts = self.n_heads // settings.heads_each
            if (settings.top_k or 1) > experts:
                raise ValueError(f"top_k {settings.top_k} is above the {experts} experts of {self.n_heads} heads")

    @property
    def answers(self) -> int:
        """Numbers at each position of the output."""
        return self.d_output or self.d_vocab

    @property
    def head_width(self) -> int:
        """Width of a head's value."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def key_width(self) -> int:
        """Width of a head's query and key."""
        return self.d_key or self.head_width

    def mixer_of(self, layer: int) -> MixerChoice:
        """The mixer of a layer."""
        return self.mixer[layer if len(self.mixer) > 1 else 0]
