"""The embedder: unit embeddings in every precision, frozen() and BatchNorm, saving and loading."""

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.util.errors import HoldfastError

SMALL = EmbedderConfig("c2f2", dim=6, channels=1, size=8)
RESNET = EmbedderConfig("resnet18", dim=6, size=32)


def embedder(config: EmbedderConfig = SMALL, seed: int = 0, **changes: Any) -> Embedder:
    torch.manual_seed(seed)
    return Embedder(EmbedderConfig(**{**vars(config), **changes}))


def images(count: int = 4, config: EmbedderConfig = SMALL) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, config.channels, config.size, config.size, generator=generator)


@given(st.sampled_from([1, 2, 3, 4]), st.integers(4, 13), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=15)
def test_every_shape(channels: int, size: int, dim: int, batch: int) -> None:
    model = embedder(channels=channels, size=size, dim=dim)
    z = model(torch.rand(batch, channels, size, size))
    assert z.shape == (batch, dim)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(batch))


def test_mean_and_std_are_inside() -> None:
    model = embedder(RESNET).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = images(config=RESNET)
    raw = model.backbone((x - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(model(x), raw / raw.norm(dim=1, keepdim=True))
    assert set(model.state_dict()) == {f"backbone.{name}" for name in model.backbone.state_dict()}


def test_statistics_follow_config_and_channels() -> None:
    assert embedder().mean.flatten().tolist() == [0.0]
    assert embedder().std.flatten().tolist() == [1.0]
    gray = embedder(RESNET, channels=1)
    assert gray.mean.flatten().tolist() == pytest.approx([np.mean([0.485, 0.456, 0.406])])
    assert gray.std.flatten().tolist() == pytest.approx([np.mean([0.229, 0.224, 0.225])])
    own = embedder(RESNET, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    assert own.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(HoldfastError, match="mean has 2 values for images of 3 channels"):
        embedder(RESNET, mean=(0.1, 0.2))
    with pytest.raises(HoldfastError, match="std of the pixels is positive"):
        embedder(RESNET, std=(0.1, 0.0, 0.2))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8, 9), (1, 8, 8), (2, 1, 1, 8, 8), (2, 1, 28, 28)])
def test_wrong_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(HoldfastError) as caught:
        embedder()(torch.rand(shape))
    assert "c2f2 takes images of shape (batch, 1, 8, 8)" in str(caught.value)
    assert str(shape) in str(caught.value)


def test_resnets_take_any_size_but_not_any_channels() -> None:
    model = embedder(RESNET).eval()
    assert model(torch.rand(2, 3, 20, 45)).shape == (2, 6)
    with pytest.raises(HoldfastError, match=r"\(batch, 3, any, any\), got \(2, 1, 32, 32\)"):
        model(torch.rand(2, 1, 32, 32))


def test_integer_pixels_are_refused() -> None:
    with pytest.raises(HoldfastError, match=r"got torch.uint8; use images.float\(\) / 255"):
        embedder()(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("config", [SMALL, RESNET])
def test_embeddings_are_float32_under_autocast(config: EmbedderConfig) -> None:
    model, seen = embedder(config).eval(), []
    model.backbone.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    x = images(config=config).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z = model(x)
        loss = z[:, 0].sum()
    loss.backward()
    assert seen == [torch.bfloat16]
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(z, model(x), rtol=0, atol=0.05)
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_a_backbone_of_lower_precision_gives_float32_and_one_of_higher_its_own() -> None:
    model = embedder().eval()
    twin = copy.deepcopy(model)
    twin.backbone.bfloat16()
    z = twin(images())
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(z, model(images()), rtol=0, atol=0.05)
    assert model.double()(images().double()).dtype == torch.float64


def test_zero_output_has_no_nan() -> None:
    model = embedder()
    nn.init.zeros_(model.backbone.get_parameter("fc2.weight"))
    nn.init.zeros_(model.backbone.get_parameter("fc2.bias"))
    x = images().requires_grad_()
    z = model(x)
    z.sum().backward()
    assert torch.equal(z, torch.zeros(4, 6))
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def snapshot(model: nn.Module) -> tuple[list[bool], list[bool]]:
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


@given(st.integers(0, 2**16), st.booleans())
@settings(max_examples=10)
def test_frozen_restores_a_mixed_tree(seed: int, fails: bool) -> None:
    model = embedder(RESNET)
    chance = np.random.default_rng(seed)
    for module in model.modules():
        module.training = bool(chance.integers(2))
    for parameter in model.parameters():
        parameter.requires_grad_(bool(chance.integers(2)))
    before = snapshot(model)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with model.frozen() as same:
            assert same is model
            assert not any(snapshot(model)[0] + snapshot(model)[1])
            x = images(config=RESNET).requires_grad_()
            model(x)[:, 0].sum().backward()
            assert x.grad is not None
            assert x.grad.abs().sum() > 0
            model.train().requires_grad_(True)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert snapshot(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())


def test_frozen_can_be_nested_and_left_by_train() -> None:
    model = embedder(RESNET, freeze_batchnorm=True)
    before = snapshot(model)
    with model.frozen():
        with model.frozen():
            model.train()
        assert not any(snapshot(model)[0] + snapshot(model)[1])
    assert snapshot(model) == before


@pytest.mark.parametrize("freeze", [True, False])
def test_batchnorm_statistics(freeze: bool) -> None:
    model = embedder(RESNET, freeze_batchnorm=freeze)
    x = images(config=RESNET)
    model.eval()
    expected = model(x)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    assert model.training
    z = model(x)
    z[:, 0].sum().backward()
    assert torch.allclose(z, expected, atol=1e-6) == freeze
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.backbone.named_buffers("backbone")) == freeze
    norm = model.backbone.get_submodule("layer1.0.bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.weight.grad is not None
    assert norm.weight.grad.abs().sum() > 0


def test_freshly_built_embedder_is_frozen_where_asked() -> None:
    fresh = embedder(RESNET, freeze_batchnorm=True)
    assert not any(m.training for m in fresh.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in fresh.modules() if not isinstance(m, nn.BatchNorm2d))


CONFIGS = st.builds(
    EmbedderConfig,
    st.sampled_from(["c2f2", "resnet18"]),
    dim=st.integers(1, 9),
    channels=st.integers(1, 4),
    size=st.integers(4, 12),
    freeze_batchnorm=st.booleans(),
)


@given(CONFIGS, st.sampled_from([torch.float32, torch.float64]), st.booleans(), st.integers(0, 99))
@settings(max_examples=8)
def test_what_is_saved_comes_back_bit_for_bit(config: EmbedderConfig, dtype: torch.dtype, own: bool, seed: int) -> None:
    if own:
        given = {name: tuple(0.1 * (i + 1) for i in range(config.channels)) for name in ("mean", "std")}
        config = EmbedderConfig(**{**vars(config), **given})
    model = embedder(config, seed).to(dtype)
    for buffer in model.backbone.buffers():
        buffer.add_(1)
    with TemporaryDirectory() as place:
        folder = Path(place) / "deep" / "model"
        model.save_pretrained(folder)
        back = Embedder.from_pretrained(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert back.config == model.config
    assert snapshot(back) == snapshot(model.eval())
    for mine, theirs in (
        (model.state_dict(), back.state_dict()),
        (dict(model.named_buffers()), dict(back.named_buffers())),
    ):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert theirs[name].dtype == tensor.dtype
            assert torch.equal(theirs[name], tensor)
    x = images(config=config).to(dtype)
    assert torch.equal(back.eval()(x), model.eval()(x))


@pytest.mark.parametrize("config", [SMALL, RESNET])
def test_half_precision_on_disk_is_float32_again(tmp_path: Path, config: EmbedderConfig) -> None:
    model = embedder(config)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half"))
    assert 0.4 < half / whole < 0.6
    back = Embedder.from_pretrained(tmp_path / "half")
    for name, tensor in model.state_dict().items():
        wanted = tensor.bfloat16().float() if tensor.is_floating_point() else tensor
        assert back.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(back.state_dict()[name], wanted)
    back.save_pretrained(tmp_path / "again", dtype=torch.bfloat16)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "half" / "model.safetensors"
    ).read_bytes()
    with pytest.raises(HoldfastError, match=r"floating-point dtype, not torch\.int8"):
        model.save_pretrained(tmp_path / "none", dtype=torch.int8)
    assert not (tmp_path / "none").exists()


def test_folders_that_hold_no_embedder(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match=r"holds no saved embedder: cannot read .*config.json: No such file"):
        Embedder.from_pretrained(tmp_path / "absent")
    embedder().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(text: str, match: str) -> None:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(HoldfastError, match=match):
            Embedder.from_pretrained(tmp_path)

    refused("{", "config.json is not JSON")
    refused("[]", "does not describe a holdfast embedder")
    refused(json.dumps({"architectures": ["ViT"]}), "does not describe a holdfast embedder")
    refused(json.dumps({**config, "dims": 3}), "config.json: unknown setting 'dims'.*did you mean 'dim'")
    refused(json.dumps({**config, "backbone": "resnet19"}), "unknown backbone 'resnet19'")
    refused(json.dumps({**config, "dim": "6"}), "dim takes a whole number, not '6'")
    refused(json.dumps({"format": config["format"]}), "backbone")
    refused(
        json.dumps({**config, "dim": 7}), r"fit its config.json: .*size mismatch for backbone.fc2.weight.*\[6, .*\[7, "
    )
    refused(json.dumps({**config, "backbone": "resnet18"}), "does not fit its config.json")
    (tmp_path / "model.safetensors").unlink()
    refused(json.dumps(config), "no weights at .*model.safetensors: there is no such file")


def test_noise_is_there_in_training_mode_alone() -> None:
    one, pixels = embedder(), images(64)
    seen: list[torch.Tensor] = []
    one.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    one.train()
    one.noise = 0.25
    for _ in range(2):
        one(pixels)
    one.eval()
    one(pixels)
    first, second, clean = ((z * one.std + one.mean) - pixels for z in seen)
    assert first.std().item() == pytest.approx(0.25, rel=0.05)
    assert abs(first.mean().item()) < 0.02
    assert not torch.equal(first, second)
    assert clean.abs().max() < 1e-6
