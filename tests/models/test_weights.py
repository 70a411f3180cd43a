"""Weights in files: what is read, what is refused, what matches, and that a write is all or nothing."""

import os
import pickle
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.models.backbones import find_backbone
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.weights import Mismatch, load_weights, read_state
from holdfast.runs.config import resolve_config
from holdfast.training.build import embedder_of
from holdfast.util.arrays import read_arrays, save_safetensors
from holdfast.util.errors import HoldfastError


def network(dim: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return find_backbone("c2f2").network(dim=dim, channels=1, size=4)


def write(path: Path, state: dict[str, Tensor], wrapper: str | None = None) -> Path:
    if path.suffix == ".safetensors":
        save_safetensors(path, state, {})
    else:
        torch.save({wrapper: state, "epoch": 3, "best": torch.tensor(1.0)} if wrapper else state, path)
    return path


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.", "module.backbone.", "_orig_mod."])
@pytest.mark.parametrize(
    ("suffix", "wrapper"),
    [(".safetensors", None), *((".pth", wrapper) for wrapper in (None, "state_dict", "model", "model_state_dict"))],
)
def test_wrappers_and_their_prefixes_are_dropped(tmp_path: Path, prefix: str, suffix: str, wrapper: str | None) -> None:
    source, target = network(seed=1), network(seed=2)
    file = write(tmp_path / f"w{suffix}", {prefix + k: v for k, v in source.state_dict().items()}, wrapper)
    assert not same(source, target)
    found = load_weights(target, file)
    assert same(source, target)
    assert found == Mismatch(tuple(source.state_dict()), (), (), ())


def test_prefix_of_the_target_may_differ(tmp_path: Path) -> None:
    source, target = network(seed=1), nn.ModuleDict({"backbone": network(seed=2)})
    found = load_weights(target, write(tmp_path / "w.pth", source.state_dict()))
    assert same(source, target["backbone"])
    assert "backbone.fc2.bias" in found.loaded
    load_weights(source, write(tmp_path / "back.pth", network(seed=5).state_dict()))
    load_weights(target, write(tmp_path / "own.pth", {f"backbone.{k}": v for k, v in source.state_dict().items()}))
    assert same(source, target["backbone"])


def test_what_does_not_match_is_listed_and_left(tmp_path: Path) -> None:
    source, target = network(dim=5, seed=1).state_dict(), network(dim=3, seed=2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    del source["conv1.bias"]
    source["head.weight"] = torch.zeros(2)
    found = load_weights(target, write(tmp_path / "w.pth", source))
    assert found.loaded == ("conv1.weight", "conv2.weight", "conv2.bias", "fc1.weight", "fc1.bias")
    assert found.missing == ("conv1.bias",)
    assert found.unexpected == ("head.weight",)
    assert found.reshaped == (("fc2.weight", (5, 1024), (3, 1024)), ("fc2.bias", (5,), (3,)))
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source[name] if name in found.loaded else before[name])
    text = found.describe()
    for part in ("loaded 5 of 8", "conv1.bias", "head.weight", "fc2.weight is (5, 1024)", "(3, 1024)"):
        assert part in text


def test_head_beside_a_prefixed_backbone_is_unexpected(tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    state = {f"backbone.{name}": tensor for name, tensor in source.state_dict().items()}
    found = load_weights(target, write(tmp_path / "w.pth", {**state, "fc2.bias": torch.full((3,), 9.0)}))
    assert same(source, target)
    assert found.unexpected == ("fc2.bias",)


def test_batch_counters_of_older_files_are_no_loss(tmp_path: Path) -> None:
    target = find_backbone("resnet18").network(4, 3, 32)
    state = {k: v for k, v in target.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert load_weights(target, write(tmp_path / "w.pth", state)).missing == ()


def test_other_precision_is_converted(tmp_path: Path) -> None:
    source, target = network(seed=1).half(), network(seed=2)
    load_weights(target, write(tmp_path / "w.pth", source.state_dict()))
    assert target.get_parameter("fc1.weight").dtype == torch.float32
    assert same(source.float(), target)


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    target = network()
    file = write(tmp_path / "w.pth", {"encoder.weight": torch.zeros(2, 7), "fc1.bias": torch.zeros(9)})
    with pytest.raises(HoldfastError, match=r"nothing in .*encoder.weight \(2, 7\).*conv1.weight \(32, 1, 5, 5\)"):
        load_weights(target, file)


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, writer: Any) -> None:
    trace, file = tmp_path / "trace", tmp_path / "w.pth"
    writer({"extra": Payload(trace), "epoch": 1}, file)
    with pytest.raises(HoldfastError, match=r"w.pth is not loaded: it names \S+mkdir, .*could run code;.*safetensors"):
        read_state(file)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 100, -7])
def test_broken_files_are_named(tmp_path: Path, suffix: str, keep: int) -> None:
    file = write(tmp_path / f"w{suffix}", network().state_dict())
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(HoldfastError, match=rf"w{suffix} cannot be read as weights"):
        read_state(file)


PLACEHOLDERS = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 118\n",
    "a web page": b"\n<!DOCTYPE html><html><title>Sign in</title></html>",
    "empty": b"",
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_what_lies_in_the_place_of_a_file_is_called_by_its_name(kind: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(PLACEHOLDERS[kind])
    with pytest.raises(HoldfastError, match=f"w{suffix} .*: it is {kind}"):
        read_arrays(file, ("z",)) if suffix == ".npz" else read_state(file)


def test_what_unfolds_to_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "plain.pth")
    with ZipFile(tmp_path / "plain.pth") as plain, ZipFile(tmp_path / "w.pth", "w", ZIP_DEFLATED) as packed:
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    np.savez_compressed(tmp_path / "z.npz", z=np.zeros(100_000))
    with pytest.raises(HoldfastError, match=r"w.pth .* unfolds to more bytes than it has"):
        read_state(tmp_path / "w.pth")
    with pytest.raises(HoldfastError, match=r"z.npz .* unfolds to more bytes than it has"):
        read_arrays(tmp_path / "z.npz", ("z",))


def test_a_dictionary_that_holds_itself_comes_to_an_end(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(HoldfastError, match="holds no named tensors"):
        read_state(tmp_path / "w.pth")
    content["w"] = torch.ones(1)
    torch.save(content, tmp_path / "w.pth")
    assert list(read_state(tmp_path / "w.pth")) == ["w"]


@pytest.mark.parametrize(
    "state",
    [
        {"w": torch.eye(2).to_sparse()},
        {"w": torch.ones(2, device="meta")},
        {"w": torch.ones(2, dtype=torch.complex64)},
        {"\x1b[2Jw": torch.ones(2)},
        {"w" * 10_000: torch.ones(2)},
    ],
)
def test_tensors_that_are_no_weights_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(HoldfastError, match="no name and tensor of a network's weights") as caught:
        read_state(tmp_path / "w.pth")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_few_tensors_of_many_are_refused_unless_asked_for(tmp_path: Path) -> None:
    embedder = Embedder(EmbedderConfig("resnet18", dim=4, size=32))
    one = {"conv1.weight": torch.ones(64, 3, 7, 7), "other": torch.ones(1)}
    file = write(tmp_path / "w.pth", one)
    with pytest.raises(HoldfastError, match=r"holds only 1 of the \d+ tensors of resnet18, such as conv1.*partial"):
        embedder.load_weights(file)
    assert embedder.load_weights(file, partial=True).loaded == ("conv1.weight",)
    settings = {"data.name": "digits", "model.weights": str(write(tmp_path / "fc.pth", {"fc2.bias": torch.ones(512)}))}
    with pytest.raises(HoldfastError, match="holds only 1 of the 8 tensors of c2f2"):
        embedder_of(resolve_config(settings))
    assert "loaded 1 of 8" in embedder_of(resolve_config(settings | {"model.partial": True}))[1]


def test_unusable_contents_are_named(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="there is no such file"):
        read_state(tmp_path / "none.pth")
    with pytest.raises(HoldfastError, match="it is a folder"):
        read_state(tmp_path)
    whole = write(tmp_path / "whole.pth", {"w": torch.zeros(1000)}).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HoldfastError, match=r"half\.pth cannot be read as weights: it is damaged or cut short$"):
        read_state(tmp_path / "half.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(HoldfastError, match="holds a list"):
        read_state(tmp_path / "list.pth")
    torch.save({"student": {"w": torch.zeros(1)}, "epoch": 1}, tmp_path / "deep.pth")
    with pytest.raises(HoldfastError, match="found: student, epoch"):
        read_state(tmp_path / "deep.pth")
