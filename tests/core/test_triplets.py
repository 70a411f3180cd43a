"""Taking a triplet's entries of a batch, and that its gradient does not depend on how threads take turns."""

import torch
from torch import Generator

from holdfast.core.triplets import Triplets


def test_take_orders_anchor_positive_negative() -> None:
    triplets = Triplets(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([3, 0]))
    assert triplets.take(torch.arange(4) * 10).tolist() == [[0, 10, 30], [20, 30, 0]]
    assert len(triplets) == 2


def test_the_gradient_of_recurring_images_repeats_with_two_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        generator = Generator().manual_seed(0)
        rows = [torch.randint(8, (512,), generator=generator) for _ in range(3)]
        weight, x = torch.randn(512, 3, 512, generator=generator), torch.randn(8, 512, requires_grad=True)
        gradients = [torch.autograd.grad((Triplets(*rows).take(x) * weight).sum(), x)[0] for _ in range(30)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
