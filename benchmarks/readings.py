"""What reading costs: time and peak memory of one forward pass, bare and read by flash, against context length.

Run from the repository root: ``python benchmarks/readings.py [--device cuda] [--lengths 2048,8192]``. The model has
SmolLM2-135M's shape with random weights: cost does not depend on them. "read" answers, for all 270 heads, what the
induction, previous-token, sink, local-distance and entropy scores need. Each line is the median of three passes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from headscope.models.bridged import BridgedModel
from headscope.readings import Reading, read

_CONFIG = LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    max_position_embeddings=65536,
    tie_word_embeddings=True,
)


def answers(length: int, device: torch.device) -> Callable[[int, Reading], None]:
    """A callback that asks each layer what five probes need, and keeps nothing."""
    rows = torch.arange(length // 2, length, device=device)
    weights = torch.ones(length, 1, device=device)
    positions = torch.arange(length, device=device, dtype=torch.float32)[:, None] / length

    def take(_: int, reading: Reading) -> None:
        reading.cell_mass(rows, rows - length // 2 + 1)
        reading.cell_mass(rows, rows - 1)
        reading.column_mass(weights)
        reading.attended_mean(positions)
        reading.row_entropy()

    return take


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Median seconds of three passes, and the peak memory in GiB they added (CUDA) or the process had (CPU)."""
    seconds: list[float] = []
    if device.type == "cuda":
        run()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(3):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    if device.type == "cuda":
        peak = (torch.cuda.max_memory_allocated(device) - before) / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return statistics.median(seconds), peak


def main() -> None:
    """Print one line per length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--lengths", default="512,1024,2048")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.manual_seed(0)
    model = BridgedModel(LlamaForCausalLM(_CONFIG).to(device, dtype), None, name="random-135m")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, {options.dtype}: 30 layers x 9 heads (3 kv heads), batch 1")
    print(
        f"{'tokens':>7} {'bare s':>9} {'read s':>9} {'ratio':>6} {'bare GiB':>9} {'read GiB':>9} {'T x T maps GiB':>15}"
    )
    for length in (int(part) for part in options.lengths.split(",")):
        tokens = torch.randint(0, 49152, (1, length), device=device)

        def bare(tokens: torch.Tensor = tokens) -> None:
            with torch.no_grad():
                model.plain.base_model(input_ids=tokens, use_cache=False)

        first, first_peak = timed(bare, device)
        second, second_peak = timed(lambda t=tokens, n=length: read(model, t, answers(n, device)), device)
        maps = 270 * length**2 * 4 / 2**30
        print(
            f"{length:>7} {first:>9.3f} {second:>9.3f} {second / first:>6.2f} {first_peak:>9.2f} {second_peak:>9.2f} "
            f"{maps:>15.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
