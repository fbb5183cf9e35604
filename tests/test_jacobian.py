"""The Jacobian that stands in for M where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headscope.mixers.jacobian import jacobian_matrix
from headscope.mixers.registry import variant
from tests.mixer_cases import make_case


@pytest.mark.parametrize("name", ["softmax", "delta", "relu"])
def test_of_a_mixer_that_is_linear_in_its_values_it_is_the_absolute_m(name: str) -> None:
    case = make_case(variant(name), length=7)
    with torch.no_grad():
        matrix = jacobian_matrix(case.mixer, case.given)
        assert torch.allclose(matrix, case.mixer.mix(case.given).matrix.abs(), atol=1e-9)
    assert not matrix.requires_grad


@pytest.mark.parametrize("name", ["lstm", "titans-mlp"])
def test_of_another_it_is_what_finite_differences_give(name: str) -> None:
    case, step = make_case(variant(name), length=5), 1e-6
    found = jacobian_matrix(case.mixer, case.given)
    with torch.no_grad():
        base, squares = case.mixer.operation(case.given), torch.zeros_like(found)
        for column in range(5):
            for channel in range(base.shape[-1]):
                value = case.given.value.clone()
                value[:, :, column, channel] += step
                moved = (case.mixer.operation(replace(case.given, value=value)) - base) / step
                squares[..., column] += moved.square().sum(-1)
    assert torch.allclose(found, (squares / base.shape[-1]).sqrt(), atol=1e-4)
    assert float(found.triu(1).max()) == 0
    assert float(found.diagonal(dim1=2, dim2=3).min()) > 0
