"""Hardness and the losses of triplets against their naive twins, where they tie and where they coincide."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.core.triplets import hardness
from holdfast.defense.losses import intra_class_structure, triplet_loss
from tests.oracles import steps as oracles


def draw(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 10_000), st.floats(0, 2))
def test_hardness_and_losses_equal_their_twins(count: int, dim: int, seed: int, margin: float) -> None:
    z = draw(count, 3, dim, seed=seed)
    listed = z.tolist()
    assert hardness(z).tolist() == pytest.approx([oracles.hardness(*t) for t in listed], abs=1e-12)
    assert triplet_loss(z, margin).item() == pytest.approx(oracles.triplet_loss(listed, margin), abs=1e-12)
    a, s, p = (part.tolist() for part in z.unbind(1))
    expected = oracles.intra_class_structure(a, s, p)
    assert intra_class_structure(*z.unbind(1)).item() == pytest.approx(expected, abs=1e-12)


def test_losses_at_ties_and_coincidence() -> None:
    tied = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]], requires_grad=True)
    assert hardness(tied).item() == 0
    assert triplet_loss(tied, 0.2).item() == pytest.approx(0.2)
    collapsed = draw(1, 4).expand(5, 3, 4).clone().requires_grad_()
    loss = triplet_loss(collapsed, 0.2) + intra_class_structure(*collapsed.unbind(1))
    (gradient,) = torch.autograd.grad(loss, collapsed)
    assert loss.item() == pytest.approx(0.2)
    assert gradient.isfinite().all()


def test_autocast_leaves_the_loss_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert triplet_loss(draw(40, 3, 64).float(), 0.2).dtype == torch.float32


def test_gradient_of_hardness_is_that_of_the_twin() -> None:
    z = draw(4, 3, 5).requires_grad_()
    (got,) = torch.autograd.grad(hardness(z).sum(), z)
    (expected,) = torch.autograd.grad(torch.stack([oracles.hardness_of(t) for t in z]).sum(), z)
    torch.testing.assert_close(got, expected)
