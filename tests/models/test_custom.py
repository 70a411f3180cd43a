"""Networks of the user's own: given as modules, and built by a function that is named by its module or file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.models.backbones import find_backbone, is_code
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.open import open_model
from holdfast.util.errors import HoldfastError

CODE = """
import torch
from torch import nn

seen = []

def build(dim, channels, size):
    seen.append((dim, channels, size))
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, dim))

def normalised(dim, channels, size):
    network = build(dim, channels, size)
    network.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
    network.std = (0.4, 0.5, 0.6)
    return network

class Network(nn.Module):
    def __init__(self, dim, channels, size):
        super().__init__()
        self.layer = nn.Linear(channels, dim)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))

def failing(dim, channels, size):
    raise KeyError(f"no {dim}")

def leaving(dim, channels, size):
    raise SystemExit(3)

def without(dim):
    return Network(dim, 3, 8)

def nothing(dim, channels, size):
    return None

def another(dim, channels, size):
    return build(dim + 1, channels, size)

def pair(dim, channels, size):
    network = Network(dim, channels, size)
    network.layer.register_forward_hook(lambda module, given, found: (found, found))
    return network

constant = 5
"""
CONFIG = EmbedderConfig("own.py:build", dim=4, size=8)


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "networks_of_a_test.py").write_text(CODE)
    return tmp_path / "own.py"


class Plain(nn.Module):
    """A convolution with BatchNorm and dropout, of whatever pixels."""

    def __init__(self, dim: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(channels, dim, 3), nn.BatchNorm2d(dim), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.drop(self.norm(self.conv(x))).mean((2, 3))
        return z


@pytest.mark.parametrize("spec", ["own.py:build", "package.networks_of_a_test:build", "own.py:Network", "ABSOLUTE"])
def test_a_function_by_its_name_builds_the_network(spec: str, code: Path) -> None:
    spec = f"{code}:build" if spec == "ABSOLUTE" else spec
    embedder = Embedder(EmbedderConfig(spec, dim=4, channels=2, size=8)).eval()
    images = torch.rand(5, 2, 8, 8)
    z = embedder(images)
    torch.testing.assert_close(z, nn.functional.normalize(embedder.backbone(images), dim=1))
    assert (embedder.mean.unique().tolist(), embedder.std.unique().tolist()) == ([0.0], [1.0])
    assert embedder.config.backbone == spec
    assert is_code(spec)


def test_it_is_asked_for_dim_channels_and_size() -> None:
    from holdfast.util.imports import load_attribute

    find_backbone("package.networks_of_a_test:build").network(4, 1, 9)
    assert load_attribute("package.networks_of_a_test:seen")[-1] == (4, 1, 9)


def test_a_network_s_own_mean_and_std_come_first() -> None:
    embedder = Embedder(EmbedderConfig("own.py:normalised", dim=4, size=8))
    assert embedder.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert embedder.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    given = Embedder(EmbedderConfig("own.py:normalised", dim=4, size=8, mean=(0.7, 0.8, 0.9)))
    assert given.mean.flatten().tolist() == pytest.approx([0.7, 0.8, 0.9])


@pytest.mark.parametrize("value", [0.25, (0.25,), [0.25] * 3, (0.0, 0.25, 0.5), torch.full((3, 1, 1), 0.25)], ids=str)
def test_they_are_numbers_of_any_form(value: Any) -> None:
    network = Plain(channels=1)
    network.std = value  # type: ignore[assignment]
    embedder = Embedder(EmbedderConfig("custom", dim=4, channels=1, size=8), network)
    assert embedder.std.flatten().tolist() == [0.25]
    images = torch.rand(2, 1, 8, 8)
    expected = nn.functional.normalize(network.eval()(images / 0.25), dim=1)
    torch.testing.assert_close(embedder.eval()(images), expected)


@pytest.mark.parametrize("value", ["grey", print, None, (0.5, "x")], ids=str)
def test_what_is_no_number_is_refused(value: Any) -> None:
    network = Plain()
    network.mean = value  # type: ignore[assignment]
    with pytest.raises(HoldfastError, match="mean of the pixels is a number for each channel, not ") as caught:
        Embedder(CONFIG, network)
    assert "\n" not in str(caught.value)


def test_a_module_is_looked_at_and_left_as_it_was() -> None:
    network = Plain()
    network.conv.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("resnet18", dim=4, size=8), network)
    drawn = torch.rand(1)
    assert embedder.backbone is network
    assert embedder.config == EmbedderConfig("custom", dim=4, size=8)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()] == [False, True, True, True]
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))


def test_a_module_of_another_precision_is_taken() -> None:
    embedder = Embedder(CONFIG, Plain().double()).eval()
    assert embedder(torch.rand(2, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own.py:failing", r"own.py:failing\(dim=4, channels=3, size=8\) raises KeyError: 'no 4'"),
        ("own.py:leaving", "raises SystemExit: 3"),
        ("own.py:without", "raises TypeError: .*takes 1 positional argument"),
        ("own.py:constant", "raises TypeError: 'int' object is not callable"),
        ("own.py:nothing", "own.py:nothing is a NoneType, not a torch module"),
        ("own.py:another", r"turns pixels \(2, 3, 8, 8\) into \(2, 5\), not into \(2, dim=4\)"),
        ("own.py:pair", r"own.py:pair turns pixels \(2, 3, 8, 8\) into a tuple, not"),
        ("own.py", r"unknown backbone 'own.py' \(allowed: c2f2, .*timm:NAME, package.module:attribute, path/to/file"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(HoldfastError, match=message) as caught:
        Embedder(EmbedderConfig(name, dim=4, size=8))
    assert "\n" not in str(caught.value)


# --- saved and loaded


def test_an_embedder_in_a_folder_runs_the_code_it_names(tmp_path: Path) -> None:
    saved = Embedder(CONFIG).eval()
    saved.save_pretrained(tmp_path / "saved")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(Embedder.from_pretrained(tmp_path / "saved")(images), saved(images))
    assert torch.equal(Embedder.from_pretrained("saved")(images), saved(images))


def test_an_embedder_from_elsewhere_runs_no_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved = Embedder(CONFIG).eval()
    saved.save_pretrained(tmp_path / "saved")
    monkeypatch.setattr("holdfast.models.hub.fetch", lambda repository, revision: tmp_path / "saved")
    with pytest.raises(HoldfastError, match=r"^someone/model names code, own.py:build, which is not run") as caught:
        Embedder.from_pretrained("someone/model")
    assert "\n" not in str(caught.value)
    with pytest.raises(HoldfastError, match=r"^someone/model names code, own.py:build, which is not run"):
        open_model("someone/model")
    network, images = find_backbone("own.py:build").network(4, 3, 8), torch.rand(2, 3, 8, 8)
    loaded = Embedder.from_pretrained("someone/model", backbone=network)
    assert torch.equal(loaded(images), saved(images))
    assert loaded.config.backbone == "custom"


def test_another_network_does_not_fit_the_weights(tmp_path: Path) -> None:
    Embedder(CONFIG, Plain()).save_pretrained(tmp_path / "saved")
    with pytest.raises(HoldfastError, match=r"model.safetensors does not fit its config.json"):
        Embedder.from_pretrained(tmp_path / "saved", backbone=find_backbone("own.py:build").network(4, 3, 8))
