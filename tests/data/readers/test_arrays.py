"""Images that come as arrays: the files of MNIST, what is wrong with them in words, and the bundled digits."""

import gzip
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from holdfast.data import load_dataset
from holdfast.util.errors import HoldfastError


def ubyte(root: Path, sizes: tuple[int, int] = (6, 4), zipped: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for part, n in zip(("train", "t10k"), sizes, strict=True):
        images = struct.pack(">4I", 2051, n, 3, 2) + bytes(range(n * 6))
        labels = struct.pack(">2I", 2049, n) + bytes(i % 2 for i in range(n))
        for name, data in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            (root / (name + ".gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return root


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", ["", "raw"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_ubyte_files_gzipped_or_not_in_the_root_or_in_raw(tmp_path: Path, zipped: bool, inside: str, name: str) -> None:
    ubyte(tmp_path / inside, zipped=zipped)
    table = load_dataset(name, tmp_path)
    assert isinstance(table.images, np.ndarray)
    assert table.images.shape == (10, 3, 2)
    assert table.images[1].tolist() == [[6, 7], [8, 9], [10, 11]]
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert table.split.tolist() == ["train"] * 6 + ["test"] * 4
    assert table.name_of(7) == f"{name} test[1]"
    assert len(table.classes) == 10


def test_damaged_ubyte_files_are_named(tmp_path: Path) -> None:
    plain, zipped = ubyte(tmp_path / "plain", zipped=False), ubyte(tmp_path / "zipped")
    images = plain / "t10k-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    with pytest.raises(
        HoldfastError, match="t10k-images-idx3-ubyte is truncated: its header says 24 bytes, 23 follow it"
    ):
        load_dataset("mnist", plain)
    images.write_bytes(whole + b"x")
    with pytest.raises(HoldfastError, match="is too long: its header says 24 bytes, more follow it"):
        load_dataset("mnist", plain)
    images.write_bytes(whole[:9])
    with pytest.raises(HoldfastError, match="the header alone has 16"):
        load_dataset("mnist", plain)
    images.write_bytes((plain / "train-labels-idx1-ubyte").read_bytes() + bytes(8))
    with pytest.raises(HoldfastError, match="is no images file: magic number 2049, not 2051"):
        load_dataset("mnist", plain)
    images.unlink()
    with pytest.raises(HoldfastError, match=r"t10k-images-idx3-ubyte is missing, and so is .*\.gz"):
        load_dataset("mnist", plain)

    labels = zipped / "train-labels-idx1-ubyte.gz"
    compressed = labels.read_bytes()
    labels.write_bytes(compressed[:-9])
    with pytest.raises(HoldfastError, match=r"train-labels-idx1-ubyte\.gz is truncated"):
        load_dataset("mnist", zipped)
    labels.write_bytes(b"not gzip at all")
    with pytest.raises(HoldfastError, match=r"cannot read .*train-labels"):
        load_dataset("mnist", zipped)
    labels.write_bytes(gzip.compress(struct.pack(">2I", 2049, 5) + bytes(5)))
    with pytest.raises(HoldfastError, match="6 train images but 5 train labels"):
        load_dataset("mnist", zipped)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_more_is_read_than_the_header_says_and_no_more_than_fits_memory(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that goes on for ever: zeros, packed a thousandfold."""
    name = "t10k-images-idx3-ubyte.gz" if zipped else "t10k-images-idx3-ubyte"
    images, taken = ubyte(tmp_path, zipped=zipped) / name, []

    class Endless(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size >= 0, "it has no end"
            taken.append(size)
            return super().read(size).ljust(size, b"\0")

    def lies(*shape: int) -> str:
        endless = Endless(struct.pack(">4I", 2051, *shape))
        whole = Path.open
        with monkeypatch.context() as patch:
            patch.setattr("gzip.open", lambda path: endless if path == images else gzip.GzipFile(path))
            patch.setattr(Path, "open", lambda path, mode: endless if path == images else whole(path, mode))
            with pytest.raises(HoldfastError) as refused:
                load_dataset("mnist", tmp_path)
        return str(refused.value)

    assert lies(4, 3, 2).endswith(f"{name} is too long: its header says 24 bytes, more follow it")
    assert sum(taken) == 16 + 24 + 1
    taken.clear()
    largest = 2**32 - 1
    for shape in ((largest, largest, largest), (1, 2**15, 2**15 + 1), (0, largest, largest), (0, 3, 2)):
        assert "bytes; from 1 to 1,073,741,824 are read" in lies(*shape)
    assert sum(taken) == 4 * 16


@pytest.mark.parametrize(("given", "lies"), [("", "a/b"), ("a/b/c", "a/b")])
def test_a_root_too_high_or_too_low_is_told_where_the_files_lie(tmp_path: Path, given: str, lies: str) -> None:
    ubyte(tmp_path / lies)
    (tmp_path / given).mkdir(exist_ok=True)
    with pytest.raises(HoldfastError, match=f"it lies in .*{lies}: give that folder instead"):
        load_dataset("mnist", tmp_path / given)


def test_digits_are_split_in_proportion_and_always_alike() -> None:
    table = load_dataset("digits")
    assert isinstance(table.images, np.ndarray)
    assert table.images.shape == (1797, 8, 8)
    assert (table.images.min(), table.images.max()) == (0, 255)
    train = table.split == "train"
    assert train.sum() == 1000
    assert (~train).sum() == 797
    share = np.bincount(table.labels[train]) / np.bincount(table.labels)
    assert np.abs(share - 1000 / 1797).max() < 0.005
    assert (table.images == load_dataset("digits").images).all()
    assert table.labels[:12].tolist() == load_dataset("digits").train().labels[:12].tolist()


def test_real_fashion_mnist(real_data: Path) -> None:
    table = load_dataset("fashion-mnist", real_data / "fashion-mnist")
    assert (len(table.train()), len(table.test())) == (60000, 10000)
    assert np.bincount(table.labels).tolist() == [7000] * 10
    assert table.classes[table.labels[0]] == "Ankle boot"
