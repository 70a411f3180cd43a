"""Gradient checkpointing: the same numbers as without it, from less that is kept."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from holdfast.core.pgd import PGD
from holdfast.core.steps import LInf
from holdfast.defense.recipes import parse_recipe
from holdfast.models.backbones import find_backbone
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.runs.config import resolve_config
from holdfast.training.checkpointing import blocks_of, checkpoint_blocks
from holdfast.training.loop import train
from holdfast.util.errors import HoldfastError
from tests.conftest import Refuse
from tests.helpers import tiny
from tests.helpers.encoders import SMALL
from tests.helpers.runs import assert_same, weights

IMAGES = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4).repeat_interleave(2)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.Dropout(0.2)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> tuple[Tensor, float]:
        return x + self.drop(torch.relu(self.norm(self.conv(x)))) * scale, scale


class Net(nn.Module):
    """Blocks that take keywords and give more than a tensor, with BatchNorm and dropout."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.blocks = nn.ModuleList(Block(width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x, _ = block(x, scale=0.5)
        return x.mean((2, 3))


def pair(momentum: float | None = 0.1) -> tuple[Net, Net]:
    torch.manual_seed(0)
    plain = Net()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum  # type: ignore[assignment]
    saving = deepcopy(plain)
    checkpoint_blocks(saving, "net")
    return plain, saving


def kept(network: nn.Module, images: Tensor) -> int:
    """Numbers that the forward pass keeps for the backward pass, each storage once, weights left out."""
    weights = {one.untyped_storage().data_ptr() for one in network.parameters()}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            found[place] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        network(images)
    return sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in found.values())


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("mode", [True, False])
def test_gradients_and_statistics_are_the_same(mode: bool, momentum: float | None) -> None:
    networks = pair(momentum)
    found = []
    for network in networks:
        pixels = IMAGES.clone().requires_grad_()
        network.train(mode)
        torch.manual_seed(1)
        for _ in range(2):
            network(pixels).square().sum().backward()
        gradients = {name: one.grad for name, one in network.named_parameters()}
        found.append({**gradients, "pixels": pixels.grad, **dict(network.named_buffers())})
    plain, saving = found
    assert plain.keys() == saving.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(saving[name], expected, rtol=1e-6, atol=1e-7, msg=name)
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()


def test_less_is_kept() -> None:
    plain, saving = pair()
    with torch.no_grad():
        assert torch.equal(saving.eval()(IMAGES), plain.eval()(IMAGES))
    assert kept(saving.train(), IMAGES) < 0.5 * kept(plain.train(), IMAGES)


def test_a_copy_computes_with_its_own_weights() -> None:
    _, saving = pair()
    copy = deepcopy(saving).eval()
    before = copy(IMAGES)
    nn.init.zeros_(copy.blocks[0].conv.weight)  # type: ignore[arg-type, union-attr]
    assert not torch.equal(copy(IMAGES), before)
    assert saving.blocks[0].conv.weight.abs().max() > 0  # type: ignore[operator, union-attr]
    torch.testing.assert_close(saving.eval()(IMAGES), before)


@pytest.mark.parametrize("recipe", ["hm-s-lga-ics", "act-r", "lore"])
def test_a_step_of_hardening_is_the_same(recipe: str) -> None:
    steps = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        embedder = Embedder(EmbedderConfig("custom", dim=6, size=16), Net())
        if checkpointed:
            checkpoint_blocks(embedder.backbone, "net")
        defense = parse_recipe(recipe).build(PGD(LInf(8 / 255), 2 / 255, 2))
        defense.begin(embedder, IMAGES)
        step = defense(embedder, IMAGES, LABELS, None, torch.Generator().manual_seed(2))
        step.loss.backward()
        steps.append((step.loss.detach(), {name: one.grad for name, one in embedder.named_parameters()}))
    (loss, plain), (other, saving) = steps
    torch.testing.assert_close(other, loss)
    for name, expected in plain.items():
        torch.testing.assert_close(saving[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_an_encoder_of_transformers() -> None:
    tf: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    plain = tf.ViTModel(tf.ViTConfig(**SMALL), add_pooling_layer=False).train()
    saving = deepcopy(plain)
    checkpoint_blocks(saving, "vit")
    assert len(blocks_of(saving)) == SMALL["num_hidden_layers"]
    pixels = nn.functional.interpolate(IMAGES, 32)
    for network in (plain, saving):
        network(pixel_values=pixels).last_hidden_state.square().sum().backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-4, msg=name)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 8), ("resnet50", 16), ("efficientnet_lite0", 16)])
def test_the_blocks_of_our_networks(name: str, count: int) -> None:
    assert len(blocks_of(find_backbone(name).network(4, 3, 32))) == count


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_has_the_same_weights_and_may_change_over(precision: str, tmp_path: Path) -> None:
    root = tiny.photos(tmp_path / "photos", each=4)
    settings = {"data.name": "folder", "data.root": str(root), "recipe": "act-r", "validation.every": 0, "steps": 2}
    settings |= {"model.dim": 6, "data.size": 16, "data.resize": 16, "batch.pairs": 2, "warmup.epochs": 0}
    settings |= {"pgd.steps": 1, "model.batchnorm": "train", "precision": precision}
    saving, network = {"model.gradient_checkpointing": True}, Net()
    train(resolve_config(settings), tmp_path / "plain", backbone=network, quiet=True)
    train(resolve_config(settings, {"steps": 1}), tmp_path / "saving", backbone=network, quiet=True)
    train(resolve_config(settings, saving), tmp_path / "saving", backbone=network, resume=True, quiet=True)
    assert_same(weights(tmp_path / "plain"), weights(tmp_path / "saving"))


def test_a_network_without_blocks_is_refused(refused: Refuse, tmp_path: Path) -> None:
    message = refused(
        *("train", "--data", "digits", "--recipe", "none-r", "--set", "model.gradient_checkpointing=true"),
        *("--out", tmp_path / "run"),
    )
    assert "model.gradient_checkpointing: c2f2 has no blocks" in message
    with pytest.raises(HoldfastError, match="has no blocks"):
        checkpoint_blocks(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()), "flat")
