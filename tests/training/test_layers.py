"""The order of layers is that of the images' way through them, whatever the order of their names."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.models.backbones import find_backbone
from holdfast.runs.config import resolve_config
from holdfast.training.build import embedder_of, optimizer_of
from holdfast.training.layers import freeze_others, layers_of
from holdfast.util.errors import HoldfastError

IMAGES = torch.zeros(2, 3, 8, 8)


class Tower(nn.Module):
    """As open_clip's image towers: the projection is named first, and used last; a text tower is not used at all."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.visual = nn.Module()
        self.visual.proj = nn.Parameter(torch.eye(width))
        self.visual.place = nn.Parameter(torch.zeros(width))
        self.visual.conv1 = nn.Conv2d(3, width, 4, stride=4)
        self.visual.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in "ab")
        self.visual.ln_post = nn.LayerNorm(width)
        self.transformer = nn.Linear(width, width)

    def forward(self, pixels: Tensor) -> Tensor:
        part: Any = self.visual
        z = part.conv1(pixels).flatten(2).transpose(1, 2) + part.place
        for block in part.blocks:
            z = z + block(z)
        pooled: Tensor = part.ln_post(z.mean(1)) @ part.proj
        return pooled


def layers(network: nn.Module) -> list[str]:
    """The first part of each layer's first parameter's name that is its own."""
    return [names[0].removeprefix("visual.") for names in layers_of(network, IMAGES)]


def test_layers_follow_on_each_other_as_images_pass() -> None:
    found = layers(Tower())
    assert found == ["conv1.weight", "place", "blocks.0.0.weight", "blocks.1.0.weight", "ln_post.weight", "proj"]


def test_the_parts_that_learn_count_and_the_network_stays_as_it_is() -> None:
    network = Tower().train()
    network.visual.blocks[0].eval().requires_grad_(False)  # type: ignore[index, operator, union-attr]
    assert layers(network) == ["conv1.weight", "place", "blocks.1.0.weight", "ln_post.weight", "proj"]
    assert network.training
    assert not network.visual.blocks[0].training  # type: ignore[index, union-attr]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_resnet_is_passed_from_its_stem_to_its_head() -> None:
    network = find_backbone("resnet18").network(4, 3, 32)
    found = [names[0].rsplit(".", 1)[0] for names in layers_of(network, torch.zeros(2, 3, 32, 32))]
    blocks = [f"layer{i}.{j}.conv1" for i in range(1, 5) for j in range(2)]
    assert found == ["conv1", "bn1", *blocks, "fc"]


def test_rates_fall_from_the_projection_and_what_is_not_passed_keeps_its_own() -> None:
    config = resolve_config(
        {"data.name": "folder", "data.size": 8, "data.resize": None, "optim.lr": 1.0, "optim.layer_decay": 0.5}
    )
    network = Tower()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = optimizer_of(config, network).param_groups
    rates = {names[id(one)]: group["lr"] for group in groups for one in group["params"]}
    assert (rates["visual.proj"], rates["visual.ln_post.weight"], rates["visual.conv1.bias"]) == (1, 0.5, 0.5**5)
    assert rates["scale"] == rates["transformer.weight"] == 1
    assert rates.keys() == set(names.values())


def test_the_head_is_the_last_layer_whatever_its_name() -> None:
    network = Tower()
    freeze_others(network, ["head"], IMAGES)
    assert [name for name, one in network.named_parameters() if one.requires_grad] == ["visual.proj"]
    network = Tower()
    network.visual.head = nn.Linear(4, 4)
    network.head = nn.Linear(4, 4)
    freeze_others(network, ["head", "visual.conv1.bias"], IMAGES)
    learning = [name for name, one in network.named_parameters() if one.requires_grad]
    assert learning == ["visual.conv1.bias", "head.weight", "head.bias"]


def test_a_head_alone_learns_by_its_word() -> None:
    config = resolve_config({"data.name": "digits", "model.dim": 8, "model.trainable": "head"})
    embedder, _ = embedder_of(config)
    learning = [name for name, one in embedder.named_parameters() if one.requires_grad]
    assert learning == ["backbone.fc2.weight", "backbone.fc2.bias"]


def test_a_network_in_which_nothing_learns_is_refused() -> None:
    config = resolve_config({"data.name": "digits", "model.dim": 8})
    embedder, _ = embedder_of(config)
    with pytest.raises(HoldfastError, match="no parameter of c2f2 learns"):
        optimizer_of(config, embedder.requires_grad_(False))
