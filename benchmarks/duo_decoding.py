"""Decoding with a cache that really drops tokens, against the full cache: time, peak memory, bytes of keys and values.

    python -m benchmarks.duo_decoding --out duo.json                       # Llama-3-8B's shape, 32,768 tokens, CUDA
    python -m benchmarks.duo_decoding --batch 8 --graph --out duo.json     # more caches to read; without launch times
    python -m benchmarks.duo_decoding --tiny --out duo.json                # the same on a CPU, in seconds

Run from the repository root; it needs torch, transformers, jaxtyping and numpy only. Weights and tokens are random:
they change neither times nor bytes. `library` is transformers' own DynamicCache and sdpa, fed with the same chunks;
`full` is the code of the other arms with every head full.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import Cache, DynamicCache, LlamaConfig, LlamaForCausalLM

from circuits.policies.decoding import read_prompt
from circuits.policies.drop_plan import DropPlan
from circuits.policies.dropping import dropping
from circuits.policies.dropping_cache import DroppingCache
from circuits.policies.head_split import random_split
from headscope.card import CapabilityCard, CardEntry
from headscope.models.protocol import ModelShape

LLAMA_3_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
    "max_position_embeddings": 1 << 20,
}
TINY: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4}


@dataclass(frozen=True)
class Bare:
    """A transformers model with as much of a `HookedModel` as a cache that drops tokens asks for."""

    plain: Any
    shape: ModelShape
    name: str = "random weights"

    @property
    def seam(self) -> CapabilityCard:
        """Llama's attention goes through the seam."""
        return CapabilityCard(self.name, (CardEntry("edit", "z can be replaced", "yes", ok=True),))


@dataclass(frozen=True)
class Measured:
    """One arm.

    Attributes:
        arm: its name.
        full_share: share of key/value heads with a full cache.
        prefill_s: seconds to read the prompt in chunks.
        decode_ms: median milliseconds per decoded token of the whole batch, Python and launches included.
        decode_ms_low: 10th percentile.
        decode_ms_high: 90th percentile.
        graph_ms: median milliseconds of one step at the last length replayed as a CUDA graph, or None.
        peak_bytes: most memory allocated while reading and decoding; None on a CPU.
        peak_decode_bytes: likewise while decoding.
        weight_bytes: memory allocated before the cache.
        kv_counted: bytes of keys and values that the plan keeps.
        kv_storage: bytes of the cache's tensors.
        kv_measured: memory in use after decoding, less that before the cache; None on a CPU.
        failed: what went wrong, or nothing.
    """

    arm: str
    full_share: float
    prefill_s: float = float("nan")
    decode_ms: float = float("nan")
    decode_ms_low: float = float("nan")
    decode_ms_high: float = float("nan")
    graph_ms: float | None = None
    peak_bytes: int | None = None
    peak_decode_bytes: int | None = None
    weight_bytes: int | None = None
    kv_counted: int = 0
    kv_storage: int = 0
    kv_measured: int | None = None
    failed: str = ""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=32768, help="tokens of the prompt")
    parser.add_argument("--steps", type=int, default=50, help="decoded tokens that are timed")
    parser.add_argument("--warm-up", type=int, default=5, help="decoded tokens before those")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=4096, help="tokens of the prompt per call")
    parser.add_argument("--share", type=float, nargs="+", default=[0.5, 0.25], help="of full key/value heads, per arm")
    parser.add_argument("--sink", type=int, default=64)
    parser.add_argument("--recent", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--graph", action="store_true", help="also replay a step as a CUDA graph")
    parser.add_argument("--no-library", action="store_true", help="leave out transformers' own cache and attention")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and a short prompt")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    if given.steps < 2:
        parser.error("--steps: at least 2 tokens are decoded, for a median and its spread.")
    if given.tiny:
        given.layers, given.vocabulary = 3, 128
        given.length, given.chunk, given.sink, given.recent = min(given.length, 700), min(given.chunk, 256), 8, 32
        given.steps, given.warm_up = min(given.steps, 5), 1
    return given


def build(given: argparse.Namespace) -> Bare:
    """Random weights of Llama-3-8B's shape, made on the device; bfloat16 on CUDA."""
    sizes: dict[str, Any] = LLAMA_3_8B | (TINY if given.tiny else {})
    sizes |= {"num_hidden_layers": given.layers, "vocab_size": given.vocabulary}
    dtype = torch.bfloat16 if given.device.startswith("cuda") else torch.float32
    config = LlamaConfig(**sizes)
    torch.manual_seed(given.seed)
    with torch.device(given.device):
        torch.set_default_dtype(dtype)
        try:
            model = LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)
    model.set_attn_implementation("sdpa")
    heads, groups, width = sizes["num_attention_heads"], sizes["num_key_value_heads"], sizes["hidden_size"]
    shape = ModelShape(given.layers, heads, groups, width // heads, width, given.vocabulary, 1 << 20)
    return Bare(model, shape)


def plans(model: Bare, given: argparse.Namespace) -> Iterator[tuple[str, DropPlan]]:
    """Every head full, shares of them drawn at random, none."""
    shape, draw = model.shape, np.random.default_rng(given.seed)
    for share in (1.0, *given.share, 0.0):
        name = {1.0: "full", 0.0: "streaming"}.get(share, f"duo {share:.0%}")
        split = random_split(shape.n_layers, shape.n_kv_heads, share, draw)
        yield name, DropPlan(full=split.full, sink=given.sink, recent=given.recent)


@contextmanager
def library(_: Bare) -> Generator[DynamicCache, None, None]:
    """Transformers' own cache and attention."""
    yield DynamicCache()


class Clock:
    """Time and memory of a device."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")

    def now(self) -> float:
        """Seconds, once the device is done."""
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def allocated(self) -> int | None:
        """Bytes in use."""
        gc.collect()
        return torch.cuda.memory_allocated() if self._cuda else None

    def peak(self) -> int | None:
        """Most bytes since the last call."""
        if not self._cuda:
            return None
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most


@torch.no_grad()
def step(model: Bare, cache: Cache, token: Tensor) -> Tensor:
    """One decoded token, which stays on the device."""
    out = model.plain(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1].argmax(-1, keepdim=True)


def replayed(model: Bare, cache: Cache, token: Tensor, steps: int) -> float:
    """Milliseconds of one step at the cache's length, as a CUDA graph: no Python, no launches."""
    graph, clock = torch.cuda.CUDAGraph(), Clock("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(model, cache, token)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        step(model, cache, token)
    times = list[float]()
    for _ in range(steps):
        begin = clock.now()
        graph.replay()
        times.append((clock.now() - begin) * 1e3)
    return statistics.median(times)


def measure(
    model: Bare, tokens: Tensor, given: argparse.Namespace, blank: Measured, opened: Callable[[], Any]
) -> Measured:
    """Read the prompt and decode in one arm."""
    clock = Clock(given.device)
    weights = clock.allocated()
    clock.peak()
    with opened() as cache:
        begin = clock.now()
        token = read_prompt(model.plain, cache, tokens, chunk=given.chunk).argmax(-1, keepdim=True)
        prefill, peak = clock.now() - begin, clock.peak()
        times = list[float]()
        for _ in range(given.warm_up + given.steps):
            begin = clock.now()
            token = step(model, cache, token)
            times.append((clock.now() - begin) * 1e3)
        decoding, held = clock.peak(), clock.allocated()
        low, *_, high = statistics.quantiles(times[given.warm_up :], n=10)
        counted, storage = key_value_bytes(cache)
        found = replace(
            blank,
            prefill_s=prefill,
            decode_ms=statistics.median(times[given.warm_up :]),
            decode_ms_low=low,
            decode_ms_high=high,
            peak_bytes=None if peak is None or decoding is None else max(peak, decoding),
            peak_decode_bytes=decoding,
            weight_bytes=weights,
            kv_counted=counted,
            kv_storage=storage,
        )
        if given.graph and given.device.startswith("cuda"):
            found = replace(found, graph_ms=replayed(model, cache, token, given.steps))
    return found if held is None else replace(found, kv_measured=held - (weights or 0))


def key_value_bytes(cache: Cache) -> tuple[int, int]:
    """Bytes that the plan keeps, and those of the cache's tensors."""
    if isinstance(cache, DroppingCache):
        return cache.counted, cache.bytes
    layers: list[Any] = list(cache.layers)
    parts: list[Tensor] = [part for layer in layers for part in (layer.keys, layer.values) if part is not None]
    return sum(part.nbytes for part in parts), sum(part.untyped_storage().nbytes() for part in parts)


def table(rows: list[Measured]) -> str:
    """The rows as text, with ratios to the full cache; gigabytes are 10^9 bytes."""
    full = next((row for row in rows if row.arm == "full"), rows[0])
    names = (
        "arm",
        "prefill s",
        "ms/token",
        "graph ms",
        "peak GB",
        "KV counted",
        "KV stored",
        "KV in use",
        "decode peak",
    )
    more = ("time", "graph time", "decode peak", "KV")
    lines = ["".join(f"{name:>12}" for name in names) + "  | full over this:" + "".join(f"{name:>12}" for name in more)]
    for row in rows:
        numbers = [
            f"{row.prefill_s:.3f}",
            f"{row.decode_ms:.2f}",
            _number(row.graph_ms, 1),
            *(_number(value, 1e9) for value in (row.peak_bytes, row.kv_counted, row.kv_storage, row.kv_measured)),
            _number(_above_weights(row), 1e9),
        ]
        ratios = [
            _ratio(full.decode_ms, row.decode_ms),
            _ratio(full.graph_ms, row.graph_ms),
            _ratio(_above_weights(full), _above_weights(row)),
            _ratio(full.kv_counted, row.kv_counted),
        ]
        cells = "".join(f"{cell:>12}" for cell in (row.arm, *numbers))
        lines.append(f"{cells}  |{'':16}{''.join(f'{cell:>12}' for cell in ratios)}  {row.failed}")
    return "\n".join(lines)


def _above_weights(row: Measured) -> int | None:
    """Peak while decoding, less what was in use before: the keys and values, and what a step works with."""
    return None if row.peak_decode_bytes is None else row.peak_decode_bytes - (row.weight_bytes or 0)


def _ratio(full: float | None, this: float | None) -> str:
    return f"{full / this:.2f}" if full and this else "-"


def _number(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.3f}"


def main() -> None:
    """Measure every arm and report; a failing arm is reported and the next one runs."""
    given = parse()
    model = build(given)
    generator = torch.Generator().manual_seed(given.seed)
    tokens = torch.randint(0, given.vocabulary, (given.batch, given.length), generator=generator).to(given.device)
    room = given.length + given.warm_up + given.steps + 2
    arms: list[tuple[Measured, Callable[[], Any]]] = []
    for name, plan in plans(model, given):
        blank = Measured(name, float(plan.full.mean()))
        arms.append((blank, lambda plan=plan: dropping(model, plan, capacity=room)))  # pyright: ignore[reportArgumentType]
    if not given.no_library:
        arms.append((Measured("library", 1.0), lambda: library(model)))
    rows = list[Measured]()
    read_prompt(model.plain, DynamicCache(), tokens[:, :64])  # the workspaces of the library's products
    for blank, opened in arms:
        try:
            rows.append(measure(model, tokens, given, blank, opened))
        except (RuntimeError, torch.OutOfMemoryError) as error:
            rows.append(replace(blank, failed=str(error).splitlines()[0][:200]))
        report(rows, given)
    print(table(rows))


def report(rows: list[Measured], given: argparse.Namespace) -> None:
    """Write what there is so far."""
    if given.out is None:
        return
    machine = torch.cuda.get_device_name() if given.device.startswith("cuda") else "CPU"
    about = {key: value for key, value in vars(given).items() if key != "out"}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    content = {"machine": machine, "versions": versions, "settings": about, "arms": [asdict(row) for row in rows]}
    given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
