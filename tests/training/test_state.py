"""What a run resumes from: the averaged weights beside the naive formula, and the tensors of a state by name."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.training.state import averaged, restore, tensors


class Network(nn.Module):
    """Parameters, and buffers of both kinds."""

    scale: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.norm = nn.Linear(5, 4), nn.BatchNorm1d(4)
        self.register_buffer("scale", torch.rand(3), persistent=False)


def disturb(model: nn.Module, generator: torch.Generator) -> None:
    """Change every tensor, as a training step may."""
    for tensor in [*model.parameters(), *model.buffers()]:
        change = torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else 1
        tensor.data += change


def every(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_the_average_is_the_naive_one(decay: float) -> None:
    """``kept <- kept + (1 - decay) (new - kept)`` from the initial weights on, whole numbers as they are."""
    model, generator = Network(0), torch.Generator().manual_seed(1)
    average, naive = averaged(model, decay), every(model)
    assert every(average.module).keys() == naive.keys()
    assert all(torch.equal(value, naive[name]) for name, value in every(average.module).items())
    for _ in range(5):
        disturb(model, generator)
        average.update_parameters(model)
        for name, new in every(model).items():
            kept = naive[name]
            naive[name] = kept + (1 - decay) * (new - kept) if kept.is_floating_point() else new
    found = every(average.module)
    for name, expected in naive.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
    assert found["norm.num_batches_tracked"] == 5
    if decay:
        assert not torch.equal(found["linear.weight"], model.linear.weight)


def test_a_state_has_the_names_it_always_had(tmp_path: Path) -> None:
    model = Embedder(EmbedderConfig("c2f2", dim=4, channels=1, size=8))
    average, optimizer = averaged(model, 0.5), torch.optim.Adam(model.parameters())
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    modules = {"model": model, "average": average.module, "defense": nn.BatchNorm1d(2)}
    layers = [f"backbone.{layer}.{part}" for layer in ("conv1", "conv2", "fc1", "fc2") for part in ("weight", "bias")]
    defense = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert list(tensors(modules, optimizer)) == [
        *(f"model/{name}" for name in layers),
        *(f"average/{name}" for name in layers),
        *(f"defense/{name}" for name in defense),
        *(f"optimizer/{i}/{name}" for i in range(8) for name in ("step", "exp_avg", "exp_avg_sq")),
    ]


@pytest.mark.parametrize("wrong", ["other/linear.weight", "model/linear.weights", "optimizer/x/step"])
def test_a_state_of_other_parts_is_an_error(wrong: str) -> None:
    model = Network(0)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        restore({**tensors({"model": model}, optimizer), wrong: torch.ones(1)}, {"model": model}, optimizer)
