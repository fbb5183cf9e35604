"""Rules for every test (no network, a CUDA device only where there is one) and the fixture run.

The fixture run is a small run folder with every kind of content, of a model that is made up.
"""

from __future__ import annotations

import copy
import functools
import gc
import os
import shutil
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from headscope.card import CapabilityCard, CardEntry
from headscope.checks import AblationPoint, CausalCheck
from headscope.heads import HeadScores, ScoreDefinition
from headscope.runs import ModelRecord, RunWriter

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import WorkStealingScheduling

    from headscope.models.bridged import BridgedModel
    from headscope.tasks.contrast import ContrastBatch

gc.disable()  # until everything is collected: next to nothing of what imports make is garbage
os.environ["HF_HUB_OFFLINE"] = "1"  # before any test module imports the hub's client
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that wait must not spin
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers are the parallelism
    os.environ.pop("COLUMNS", None)  # the controller's; a command's output is as wide as in a pipe

N_LAYERS, N_HEADS, N_KV_HEADS, N_EXAMPLES = 3, 4, 2, 20

# probe -> its scores as (name, class or "", threshold, whether high makes the class)
PROBES: dict[str, list[tuple[str, str, float | None, bool]]] = {
    "previous_token": [
        ("previous_token", "previous-token", 0.4, True),
        ("previous_token_tl", "", None, True),
    ],
    "duplicate_token": [
        ("duplicate_token", "duplicate-token", 0.4, True),
        ("duplicate_token_tl", "", None, True),
    ],
    "induction": [("induction", "induction", 0.4, True), ("induction_tl", "", None, True)],
    "copying": [("copying", "copying", 0.8, True), ("ov_eigenvalue", "", None, True)],
    "sink": [
        ("sink", "sink", 0.3, True),
        ("sink_rate", "", None, True),
        ("first_position_mass", "", None, True),
        ("later_sinks", "", None, True),
        ("later_sink_mass", "", None, True),
        ("value_drain", "", None, True),
    ],
    "local": [
        ("mean_distance", "", None, False),
        ("window_mass", "local", 0.8, True),
        ("window_95", "", None, False),
    ],
    "entropy": [("entropy", "", None, True)],
    "retrieval": [("retrieval", "retrieval", 0.1, True), ("retrieval_activation", "", None, True)],
}
CHECKED = {"induction": "repeated-token loss", "retrieval": "needle accuracy", "sink": "text loss"}

_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": None,
}
_MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12}
# name -> transformers' class prefix and configuration
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _SMALL),
    "qwen2": ("Qwen2", _SMALL),
    "gpt_neox": ("GPTNeoX", {key: value for key, value in _SMALL.items() if key != "num_key_value_heads"}),
    "opt": (
        "OPT",
        {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
        | {"max_position_embeddings": 2048, "pad_token_id": None},
    ),
    "gpt2": ("GPT2", {"n_positions": 2048, "n_embd": 32, "n_layer": 3, "n_head": 4}),
    "mistral, window 8": ("Mistral", {**_SMALL, "sliding_window": 8}),
    "gemma2, window 8, capped": (
        "Gemma2",
        {**_SMALL, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
    ),
    "gpt_neo, no registry": (
        "GPTNeo",
        {"max_position_embeddings": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8}
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "llama4, chunks of 8": (
        "Llama4Text",
        {**_SMALL, "head_dim": 8, "attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 48},
    ),
    "phimoe, untold window 8": ("Phimoe", {**_SMALL, "sliding_window": 8, "num_local_experts": 2}),
    "gpt_oss, learned sinks": ("GptOss", {**_SMALL, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "deepseek, wide values": (
        "DeepseekV3",
        {**_SMALL, **_MLA, "num_key_value_heads": 4, "first_k_dense_replace": 3, "n_routed_experts": 4}
        | {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
}


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Generator[None, None, None]:
    """A connection to anything but this machine fails the test that makes it."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"  # a path: a local socket
        assert host in ("localhost", "127.0.0.1", "::1"), f"a test tried to reach {host}"
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> WorkStealingScheduling | None:
    """Neighbours stay on one worker, which so builds once what they share; one that is done takes from the others."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` on a machine without a CUDA device."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


def pytest_collection_finish() -> None:
    """What is imported by now stays: walks of the garbage collector over it took a quarter of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Extensions that count what they leave behind at the end are not to find it frozen."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def smollm2() -> BridgedModel:
    """The embedded model, for reading only; loads from its cache in a second."""
    from headscope.models import load

    return load("smollm2", device="cpu")


@pytest.fixture(scope="session")
def planted() -> Callable[..., BridgedModel]:
    """A function that loads a planted model once: ``planted("all")``, ``planted("all", seed=3)``."""
    from headscope.models import load

    return functools.cache(lambda kind, seed=0: load(f"planted:{kind}", device="cpu", seed=seed))


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], BridgedModel]:
    """A function that builds a small random decoder of a `TINY` architecture once, from its configuration.

    All have a vocabulary of 96, weights so large that the heads differ, and their own default attention.
    """
    import torch
    import transformers

    from headscope.models.bridged import BridgedModel
    from headscope.models.planted.vocabulary import build_tokenizer

    @functools.cache
    def build(name: str) -> BridgedModel:
        kind, fields = TINY[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = getattr(transformers, f"{kind}Config")(vocab_size=96, bos_token_id=0, eos_token_id=None, **fields)
            heads = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind.removesuffix('Text')}ForCausalLM"
            model = getattr(transformers, heads)(made)
            for weight in model.parameters():
                weight.data.normal_(1.0 if weight.ndim == 1 else 0.0, 0.2)
        return BridgedModel(model, build_tokenizer(), name=f"tiny {name}")

    return build


@pytest.fixture(scope="session")
def without_bos() -> Callable[[BridgedModel], BridgedModel]:
    """A function that gives the same model a tokenizer without a start token."""
    from headscope.models.bridged import BridgedModel

    def strip(model: BridgedModel) -> BridgedModel:
        tokenizer = copy.deepcopy(model.tokenizer)
        tokenizer.bos_token = None
        return BridgedModel(model.plain, tokenizer, name=f"{model.name} without a start token", needles=model.needles)

    return strip


@pytest.fixture(scope="session")
def random_pairs() -> Callable[..., ContrastBatch]:
    """A function that draws pairs of random tokens, which differ at two positions: ``random_pairs(model, n=4)``."""
    import torch

    from headscope.tasks.contrast import ContrastBatch

    def draw(model: BridgedModel, n: int = 4, length: int = 9, seed: int = 0) -> ContrastBatch:
        generator = torch.Generator().manual_seed(seed)
        clean = torch.randint(0, model.shape.d_vocab, (n, length), generator=generator)
        corrupted = clean.clone()
        corrupted[:, 2] = (clean[:, 2] + 1) % model.shape.d_vocab
        corrupted[:, 5] = (clean[:, 5] + 7) % model.shape.d_vocab
        answers = torch.stack([torch.randperm(model.shape.d_vocab, generator=generator)[:2] for _ in range(n)])
        end = torch.full((n,), length - 1)
        end[0] = length - 2  # one prompt is shorter, padded on the right
        return ContrastBatch(
            "random",
            clean,
            corrupted,
            end,
            answers[:, :1],
            answers[:, 1:],
            torch.zeros(n, dtype=torch.long),
            {"end": end},
        )

    return draw


@pytest.fixture(scope="session")
def tiny_model() -> ModelRecord:
    """The record of a made-up model: 3 layers, 4 query heads, 2 key/value heads."""
    return ModelRecord(
        name="made-up",
        source="nowhere: a fixture",
        revision="0" * 40,
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        n_kv_heads=N_KV_HEADS,
        d_head=8,
        d_model=32,
        n_ctx=128,
    )


@pytest.fixture(scope="session")
def tiny_samples() -> dict[str, np.ndarray]:
    """Values per example of every score, ``[n, layer, head]``: in each score another head stands out."""
    generator = np.random.default_rng(0)
    names = [score[0] for scores in PROBES.values() for score in scores]
    samples = {}
    for index, name in enumerate(names):
        values = generator.beta(1, 12, (N_EXAMPLES, N_LAYERS, N_HEADS)).astype(np.float32)
        values[:, index % N_LAYERS, index % N_HEADS] = generator.beta(30, 2, N_EXAMPLES)
        values[:, 1, 2] += np.float32(0.3)  # a head in several classes: they overlap
        samples[name] = values
    samples["entropy"][:, 0, 3] = np.nan  # no example counts for this head
    return samples


@pytest.fixture(scope="session")
def tiny_scores(tiny_samples: dict[str, np.ndarray]) -> dict[str, list[HeadScores]]:
    """Scores by probe; interval and n are consistent with the samples, `copying` has no interval."""
    return {probe: [_score(probe, fields, tiny_samples) for fields in scores] for probe, scores in PROBES.items()}


@pytest.fixture(scope="session")
def tiny_checks() -> list[CausalCheck]:
    """Causal checks of three classes at two sizes, with 20 random draws."""
    generator = np.random.default_rng(1)
    return [_check(head_class, metric, generator) for head_class, metric in CHECKED.items()]


@pytest.fixture(scope="session")
def tiny_card() -> CapabilityCard:
    """A card with an entry of each kind: yes, no and plain fact."""
    return CapabilityCard(
        "made-up",
        (
            CardEntry("logits_match_plain", "same logits as the plain model", "largest difference 2.1e-06", True),
            CardEntry("pattern_edit_reaches_logits", "an edited pattern reaches the logits", "it does not", False),
            CardEntry("context_length", "context length", "128 tokens"),
        ),
    )


@pytest.fixture(scope="session")
def start_tiny_run(tiny_model: ModelRecord, tiny_card: CapabilityCard) -> Callable[[Path], RunWriter]:
    """A function that starts a run of the made-up model below a folder: nothing measured yet."""

    def start(root: Path) -> RunWriter:
        return RunWriter.create(
            root,
            kind="score",
            model=tiny_model,
            config={"probes": list(PROBES), "lengths": [64, 128], "examples": N_EXAMPLES, "haystack": None},
            command="headscope score made-up --seed 7",
            seed=7,
            planned=[*PROBES, *(f"check_{head_class}" for head_class in CHECKED)],
            card=tiny_card,
        )

    return start


@pytest.fixture(scope="session")
def fill_tiny_run(
    tiny_scores: dict[str, list[HeadScores]],
    tiny_samples: dict[str, np.ndarray],
    tiny_checks: list[CausalCheck],
) -> Callable[[RunWriter], None]:
    """A function that saves every planned stage that is not in."""

    def fill(writer: RunWriter) -> None:
        for stage in writer.manifest.missing_stages:
            if stage in tiny_scores:
                samples = {score.name: tiny_samples[score.name] for score in tiny_scores[stage]}
                writer.save_scores(stage, tiny_scores[stage], samples=samples, seconds=0.5)
            else:
                checks = [check for check in tiny_checks if stage == f"check_{check.head_class}"]
                writer.save_checks(stage, checks, seconds=1.5)
            writer.progress({"stage": stage, "done": 1, "total": 1})

    return fill


@pytest.fixture(scope="session")
def finished_tiny_run(
    tmp_path_factory: pytest.TempPathFactory,
    start_tiny_run: Callable[[Path], RunWriter],
    fill_tiny_run: Callable[[RunWriter], None],
) -> Path:
    """The one run folder that `tiny_run` copies: not to be changed."""
    with start_tiny_run(tmp_path_factory.mktemp("finished")) as writer:
        fill_tiny_run(writer)
        writer.log("all stages are in")
        return writer.finish(peak_memory_bytes=123_456_789)


@pytest.fixture
def tiny_run(tmp_path: Path, finished_tiny_run: Path) -> Path:
    """A finished run folder with every score of step 1, three causal checks, samples and a card."""
    return Path(shutil.copytree(finished_tiny_run, tmp_path / "runs" / finished_tiny_run.name))


@pytest.fixture(scope="session")
def assert_same_scores() -> Callable[[HeadScores, HeadScores], None]:
    """A function that compares scores in every field, NaN equal to NaN."""

    def compare(left: HeadScores, right: HeadScores) -> None:
        assert left.definition == right.definition
        assert (left.model, left.n_kv_heads) == (right.model, right.n_kv_heads)
        for name in ("values", "low", "high"):
            assert np.array_equal(getattr(left, name), getattr(right, name), equal_nan=True)
        assert np.array_equal(left.n, right.n)

    return compare


def _score(probe: str, fields: tuple[str, str, float | None, bool], samples: dict[str, np.ndarray]) -> HeadScores:
    name, head_class, threshold, higher = fields
    part = samples[name].astype(np.float64)
    count = (~np.isnan(part)).sum(0)
    mean = np.where(count > 0, np.nansum(part, 0) / np.maximum(count, 1), np.nan)
    spread = np.nanmax(np.abs(np.nan_to_num(part - mean)), axis=0) / np.sqrt(N_EXAMPLES)
    spread = np.full_like(mean, np.nan) if probe == "copying" else np.where(count > 0, spread, np.nan)
    definition = ScoreDefinition(
        name=name,
        title=name.replace("_", " "),
        unit="share of attention" if higher else "tokens",
        formula="mean of A[i, j] over the cells <i, j> & friends",
        source="arXiv:2209.11895, section 2",
        reading="0 to 1; high means that the head does it",
        probe=probe,
        threshold=threshold,
        head_class=head_class or None,
        caveats="made-up numbers",
        higher=higher,
    )
    return HeadScores(definition, "made-up", mean, mean - spread, mean + spread, count, N_KV_HEADS)


def _check(head_class: str, metric: str, generator: np.random.Generator) -> CausalCheck:
    harm = -1 if "accuracy" in metric else 1
    baseline = 0.95 if harm < 0 else 2.5
    points = []
    for k in (1, 3):
        draws = baseline + harm * 0.05 * k * generator.random(20)
        value = baseline + harm * 0.2 * k
        points.append(
            AblationPoint(
                k=k,
                heads=("L1H2", "L0H0", "L2H3")[:k],
                value=value,
                low=value - 0.04,
                high=value + 0.04,
                random_values=tuple(float(draw) for draw in draws),
                random_mean=float(draws.mean()),
                random_low=float(np.percentile(draws, 2.5)),
                random_high=float(np.percentile(draws, 97.5)),
                p_value=1 / 21,
            )
        )
    return CausalCheck(
        head_class=head_class,
        score=head_class,
        metric=metric,
        unit="share correct" if harm < 0 else "nats per token",
        harm=harm,
        ablation="zero",
        rows="all",
        baseline=baseline,
        baseline_low=baseline - 0.03,
        baseline_high=baseline + 0.03,
        n=40,
        n_draws=20,
        seed=7,
        points=tuple(points),
        note=f"{metric} with the heads' z set to zero at every row",
    )
