"""The networks: their sizes, parameter names and wiring, and what a missing or unknown one says."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.models.adapters.base import IMAGENET_MEAN
from holdfast.models.backbones import BACKBONES, find_backbone
from holdfast.util.errors import HoldfastError
from tests.helpers.networks import batchnorm, scattered


def build(name: str, dim: int, channels: int, size: int) -> nn.Module:
    return find_backbone(name).network(dim, channels, size)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_c2f2_has_the_papers_size() -> None:
    assert parameters(build("c2f2", dim=512, channels=1, size=28)) == 3_789_184


@pytest.mark.parametrize(("size", "features"), [(28, 64 * 7 * 7), (8, 64 * 2 * 2), (4, 64), (31, 64 * 7 * 7)])
def test_c2f2_follows_the_image_size(size: int, features: int) -> None:
    network = build("c2f2", dim=5, channels=3, size=size)
    assert network.get_parameter("fc1.weight").shape == (1024, features)
    assert network(torch.rand(2, 3, size, size)).shape == (2, 5)


def test_c2f2_pools_after_relu_as_published() -> None:
    network = build("c2f2", dim=7, channels=1, size=12)
    p = dict(network.named_parameters())
    x = torch.rand(3, 1, 12, 12)
    y = F.max_pool2d(F.relu(F.conv2d(x, p["conv1.weight"], p["conv1.bias"], padding=2)), 2)
    y = F.max_pool2d(F.relu(F.conv2d(y, p["conv2.weight"], p["conv2.bias"], padding=2)), 2)
    y = F.relu(y.flatten(1) @ p["fc1.weight"].T + p["fc1.bias"]) @ p["fc2.weight"].T + p["fc2.bias"]
    torch.testing.assert_close(network(x), y)


@pytest.mark.parametrize(
    ("name", "weights", "entries"),
    [("resnet18", 11_689_512, 122), ("resnet34", 21_797_672, 218), ("resnet50", 25_557_032, 320)],
)
def test_resnets_have_the_published_number_of_parameters(name: str, weights: int, entries: int) -> None:
    network = build(name, dim=1000, channels=3, size=224)
    assert parameters(network) == weights
    assert len(network.state_dict()) == entries


def by_names(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """A ResNet computed from nothing but the names and shapes of its tensors, in evaluation mode."""

    def conv(name: str, x: Tensor, stride: int) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        return batchnorm(state, name, x, 1e-5)

    x = F.max_pool2d(F.relu(norm("bn1", conv("conv1", x, 2))), 3, 2, 1)
    for stage in range(1, 5):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            name = f"layer{stage}.{block}"
            depth = 3 if f"{name}.conv3.weight" in state else 2
            stride = 2 if stage > 1 and block == 0 else 1
            y = x
            for index in range(1, depth + 1):
                here = stride if index == depth - 1 else 1
                y = norm(f"{name}.bn{index}", conv(f"{name}.conv{index}", y, here))
                y = F.relu(y) if index < depth else y
            if f"{name}.downsample.0.weight" in state:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride))
            x = F.relu(x + y)
            block += 1
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnets_compute_what_their_names_say(name: str) -> None:
    torch.manual_seed(0)
    network = scattered(build(name, dim=6, channels=3, size=32).double())
    x = torch.rand(2, 3, 40, 36, dtype=torch.float64)
    expected = by_names(network.state_dict(), x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_takes_one_channel(name: str) -> None:
    network = build(name, dim=3, channels=1, size=16).eval()
    assert network(torch.rand(2, 1, 16, 16)).shape == (2, 3)
    assert find_backbone(name).summary


def test_unknown_name_shows_the_nearest() -> None:
    with pytest.raises(HoldfastError, match=r"unknown backbone 'resnet_18'.*'resnet18'.*c2f2.*timm:NAME"):
        find_backbone("resnet_18")


def test_numbers_are_checked() -> None:
    with pytest.raises(HoldfastError, match="at least 4 pixels, got 3"):
        build("c2f2", 8, 1, 3)
    for arguments in [(0, 3, 32), (8, 0, 32), (8, 3, 0), (8.5, 3, 32)]:
        with pytest.raises(HoldfastError, match="positive whole number"):
            build("resnet18", *arguments)  # type: ignore[arg-type]


def test_missing_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(HoldfastError, match=r"timm is not installed.*pip install 'holdfast\[timm\]'"):
        find_backbone("timm:resnet18")


def test_broken_package_shows_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist\\nmore')")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HoldfastError, match=r"RuntimeError: operator torchvision::nms does not exist\).*\[timm\]"):
        build("timm:resnet18", 8, 3, 32)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for timm with two models; what they were created with."""
    facts = {
        "convy": SimpleNamespace(
            mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), fixed_input_size=False, input_size=(3, 224, 224)
        ),
        "vitty": SimpleNamespace(mean=(0.5,) * 3, std=(0.5,) * 3, fixed_input_size=True, input_size=(3, 224, 224)),
        "plain": None,
    }
    calls: list[dict[str, Any]] = []

    def get_pretrained_cfg(name: str) -> Any:
        if name not in facts:
            raise RuntimeError(f"Invalid pretrained tag for {name}.")
        return facts[name]

    def create_model(name: str, **options: Any) -> nn.Module:
        calls.append(options)
        if options["in_chans"] == 4:
            raise NotImplementedError("four")
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(options["num_classes"]))

    fake = SimpleNamespace(
        __version__="1.0",
        is_model=lambda name: name.partition(".")[0] in facts,
        list_models=lambda: list(facts),
        get_pretrained_cfg=get_pretrained_cfg,
        create_model=create_model,
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    return calls


def test_timm_models_bring_their_statistics(timm: list[dict[str, Any]]) -> None:
    found = find_backbone("timm:convy")
    assert (found.mean, found.std, found.fixed_size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), False)
    assert find_backbone("timm:plain").mean == IMAGENET_MEAN
    assert build("timm:convy", 4, 3, 8)(torch.rand(2, 3, 8, 8)).shape == (2, 4)
    assert timm == [{"num_classes": 4, "in_chans": 3}]


def test_timm_models_of_one_size_are_built_for_the_size(timm: list[dict[str, Any]]) -> None:
    assert find_backbone("timm:vitty").fixed_size
    build("timm:vitty", 4, 3, 224)
    build("timm:vitty", 4, 3, 96)
    assert [call.get("img_size") for call in timm] == [None, 96]


@pytest.mark.usefixtures("timm")
def test_timm_refusals_are_clear() -> None:
    with pytest.raises(HoldfastError, match=r"no model 'convi'; did you mean timm:convy\?"):
        find_backbone("timm:convi")
    with pytest.raises(HoldfastError, match="Invalid pretrained tag"):
        find_backbone("timm:convy.nope")
    with pytest.raises(HoldfastError, match="cannot build convy for dim 2, 4 channels, size 8: four"):
        build("timm:convy", 2, 4, 8)
