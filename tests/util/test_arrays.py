"""Tensors in files: awkward ones come back whole, and a write is all or nothing."""

import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from holdfast.util.arrays import save_safetensors
from holdfast.util.errors import HoldfastError


def test_awkward_tensors_are_written_in_full(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(2, 3, 4)
    tensors = {
        "base": base,
        "tied": base,
        "row": base[1],
        "transposed": base.transpose(0, 2),
        "expanded": torch.ones(1).expand(5),
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "live": nn.Parameter(torch.rand(3)),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "empty_too": torch.zeros(0),
        "half": torch.rand(3).bfloat16(),
        "flags": torch.tensor([True, False]),
    }
    file = tmp_path / "new" / "folder" / "t.safetensors"
    save_safetensors(file, tensors, {"step": "12"})
    read = load_file(file)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"step": "12"}
    assert [path.name for path in file.parent.iterdir()] == ["t.safetensors"]


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    save_safetensors(file, {"x": torch.ones(3)}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(HoldfastError, match=r"cannot write .*t\.safetensors: \S+") as caught:
            save_safetensors(file, {"x": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert torch.equal(load_file(file)["x"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [file]


def test_unusable_paths_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "t.safetensors", tmp_path / "folder"):
        with pytest.raises(HoldfastError, match=f"cannot write {path}: ") as caught:
            save_safetensors(path, {"x": torch.ones(1)}, {})
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    save_safetensors(tmp_path / "t.safetensors", {"x": torch.ones(1)}, {})
    assert (tmp_path / "t.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
