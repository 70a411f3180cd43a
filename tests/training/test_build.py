"""What learns, and how fast: parts of the network, learning rates by layer, and the rate's rise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.runs.config import Config, resolve_config
from holdfast.runs.folder import Run
from holdfast.training.build import embedder_of, optimizer_of
from holdfast.training.layers import freeze_others
from holdfast.training.loop import train
from holdfast.util.errors import HoldfastError

SMALL = {"data.name": "digits", "model.dim": 8, "batch.pairs": 8, "recipe": "none-r", "validation.every": 0}


def settings(**changes: Any) -> Config:
    return resolve_config(SMALL, {key.replace("__", "."): value for key, value in changes.items()})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


class Blocks(nn.Module):
    """Named as transformers name theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Linear(4, 4)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Block() for _ in range(11))
        self.head = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        z: Tensor = self.embeddings(images.flatten(1)[:, :4])
        for block in self.encoder.layer:  # type: ignore[union-attr]
            z = z + block.linear(z)
        z = self.head(z)
        return z


def rates(config: Config, network: nn.Module) -> dict[str, float]:
    """The rate of every parameter that the optimiser has, by name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = optimizer_of(config, network).param_groups
    assert all(group["lr"] == group["initial_lr"] for group in groups)
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def test_by_default_all_learn_alike() -> None:
    embedder, _ = embedder_of(settings())
    assert len(optimizer_of(settings(), embedder).param_groups) == 1
    assert rates(settings(optim__lr=0.1), embedder) == dict.fromkeys(dict(embedder.named_parameters()), 0.1)


def test_the_rate_decays_layer_by_layer_from_the_head() -> None:
    found = rates(settings(optim__lr=1.0, optim__layer_decay=0.5), Blocks())
    expected = {"head": 1.0, "embeddings": 0.5**12, **{f"encoder.layer.{i}.linear": 0.5 ** (11 - i) for i in range(11)}}
    assert found == {f"{layer}.{part}": rate for layer, rate in expected.items() for part in ("weight", "bias")}


def test_the_head_has_a_rate_of_its_own() -> None:
    embedder, _ = embedder_of(settings())
    found = rates(settings(optim__lr=0.1, optim__head_lr=0.7), embedder)
    assert {name for name, rate in found.items() if rate == 0.7} == {"backbone.fc2.weight", "backbone.fc2.bias"}
    assert {rate for name, rate in found.items() if "fc2" not in name} == {0.1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("fc2", {"fc2.weight", "fc2.bias"}),
        (["conv2.bias", "fc1"], {"conv2.bias", "fc1.weight", "fc1.bias"}),
    ],
)
def test_only_the_parts_named_train(given: Any, expected: set[str], tmp_path: Path) -> None:
    Embedder(EmbedderConfig("c2f2", 8, 1, 8)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    config = settings(model__trainable=given, model__weights=str(file), steps=2)
    before, after = Embedder.from_pretrained(tmp_path), train(config, tmp_path / "run", quiet=True)
    moved = {
        name.removeprefix("backbone.")
        for name, tensor in before.state_dict().items()
        if not torch.equal(tensor, after.state_dict()[name])
    }
    assert moved == expected
    assert Run(tmp_path / "run").config() == config


@pytest.mark.parametrize(
    ("part", "near"), [("fc3", "'fc1'|'fc2'"), ("conv", "'conv1'|'conv2'"), ("fc2.wait", "'fc2.weight'")]
)
def test_a_part_that_is_not_there_is_refused(part: str, near: str) -> None:
    with pytest.raises(
        HoldfastError, match=rf"no part '{part}'; did you mean ({near})\? \(its parts: conv1, conv2, fc1, fc2\)"
    ):
        embedder_of(settings(model__trainable=[part]))


def test_a_part_is_named_whole() -> None:
    """``layer.1`` is not the begin of ``layer.10``."""
    network = Blocks()
    freeze_others(network, ["encoder.layer.1"], torch.zeros(2, 1, 8, 8))
    learning = {name for name, one in network.named_parameters() if one.requires_grad}
    assert learning == {f"encoder.layer.1.linear.{part}" for part in ("weight", "bias")}


def test_the_rate_rises_and_then_falls(tmp_path: Path) -> None:
    changes = {"steps": 10, "optim__lr": 1.0, "optim__warmup_ratio": 0.4, "optim__layer_decay": 0.5}
    train(settings(**changes, optim__schedule="linear"), tmp_path, quiet=True)
    assert [line["lr"] for line in Run(tmp_path).steps()] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )
