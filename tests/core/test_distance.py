"""Distances against their per-sample twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.core.distance import exact_matrix, matrix, pairs
from tests.oracles import steps as oracles


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


sizes = st.integers(1, 9)
seeds = st.integers(0, 10_000)
quick = settings(max_examples=40)


@quick
@given(sizes, sizes, st.integers(1, 7), seeds)
def test_distances_equal_the_twin(rows: int, columns: int, dim: int, seed: int) -> None:
    a, b = draw(rows, dim, seed=seed), draw(columns, dim, seed=seed + 1)
    expected = torch.tensor([[oracles.distance(x, y) for y in b.tolist()] for x in a.tolist()], dtype=torch.float64)
    torch.testing.assert_close(matrix(a, b), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(pairs(a[:, None], b[None]), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(exact_matrix(a, b), expected, rtol=0, atol=1e-12)


def test_differences_put_equal_vectors_at_distance_zero_and_at_equal_distances() -> None:
    a, b = draw(40, 64, dtype=torch.float32), draw(30, 64, seed=1, dtype=torch.float32)
    items = torch.cat([a, b, a, b[:7], a])
    distances = exact_matrix(torch.cat([a, b]), items)
    assert torch.equal(distances[:40, :40].diagonal(), torch.zeros(40))
    for copy in (distances[:, 70:110], distances[:, -40:]):
        assert torch.equal(copy, distances[:, :40])
    assert torch.equal(exact_matrix(a[:, None], items[None].expand(40, -1, -1))[:, 0], distances[:40])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [3, 40])
def test_gradients_at_zero_distance_are_finite(rows: int, dtype: torch.dtype) -> None:
    b = draw(rows, 8, dtype=dtype)
    a = b.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pairs(a, b).sum(), a)
    assert torch.equal(gradient, torch.zeros_like(b))
    (gradient,) = torch.autograd.grad(matrix(a, b).sum(), a)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("rows", [3, 40])
def test_autocast_leaves_distances_in_float32(rows: int) -> None:
    a, b = draw(rows, 64, dtype=torch.float32), draw(rows, 64, seed=1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = pairs(a, b), matrix(a, b).diagonal()
        halves = pairs(a.bfloat16(), b.bfloat16()), matrix(a.bfloat16(), b.bfloat16())
    exact = pairs(a.double(), b.double())
    for result in results:
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), exact, rtol=0, atol=1e-5)
    assert all(half.dtype == torch.float32 for half in halves)
