"""The CUDA operators against their naive twins; skipped without a GPU."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from headscope import kernels
from headscope.models.bridged import BridgedModel
from headscope.readings import Reading, read

pytestmark = pytest.mark.gpu


def _inputs(dtype: torch.dtype, size: int, groups: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    query = torch.randn(2, 6, size, 64, generator=generator)
    key, value = (torch.randn(2, groups, size, 64, generator=generator) for _ in range(2))
    return query.to("cuda", dtype), key.to("cuda", dtype), value.to("cuda", dtype)


@pytest.mark.parametrize("size", [1, 63, 257, 1024], ids=lambda t: f"T{t}")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)], ids=["float32", "bfloat16"]
)
def test_cuda_attention_equals_its_naive_twin(size: int, dtype: torch.dtype, tolerance: float) -> None:
    query, key, value = _inputs(dtype, size)
    out, lse = kernels.flash_attention(query, key, value, 0.125)
    naive, normaliser = kernels.chunked_attention(query, key, value, 0.125)
    assert (out.float() - naive.float()).abs().max() < tolerance
    assert (lse - normaliser).abs().max() < tolerance


@pytest.mark.parametrize("size", [1, 63, 257, 1024], ids=lambda t: f"T{t}")
def test_cuda_column_sums_equal_their_naive_twin(size: int) -> None:
    query, key, _ = _inputs(torch.float32, size)
    weights = torch.rand(2, 6, size, 64, device="cuda")
    fast = kernels.flash_column_sums(query, key, 0.125, weights)
    slow = kernels.chunked_column_sums(query, key, 0.125, weights)
    assert ((fast - slow).abs() / slow.abs().clamp_min(1)).max() < 2e-5


def test_a_model_reads_the_same_on_cuda_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=300,
    )
    tokens = torch.randint(0, 300, (2, 65))
    answers: dict[str, list[torch.Tensor]] = {"cpu": [], "cuda": []}
    plain = LlamaForCausalLM(config)
    for device, kept in answers.items():
        model = BridgedModel(plain.to(device), None, name="tiny")
        rows = torch.arange(1, 65, device=device)

        def take(_: int, reading: Reading, kept: list[torch.Tensor] = kept, rows: torch.Tensor = rows) -> None:
            ones = torch.ones(65, 1, device=rows.device)
            kept += [
                reading.cell_mass(rows, rows - 1).cpu(),
                reading.row_entropy().cpu(),
                reading.column_mass(ones).cpu(),
                reading.attended_mean(ones.cumsum(0) / 65).cpu(),
                reading.offset_mass().cpu(),
            ]

        read(model, tokens, take)
    for on_cpu, on_cuda in zip(answers["cpu"], answers["cuda"], strict=True):
        assert (on_cpu - on_cuda).abs().max() < 1e-4
