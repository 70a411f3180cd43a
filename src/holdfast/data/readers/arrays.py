"""Data sets small enough to be arrays: MNIST, Fashion-MNIST, and the digits that scikit-learn bundles."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from holdfast.data.decode import MAX_BYTES, no_file
from holdfast.data.readers.files import locate
from holdfast.data.table import Table
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

LAYOUT = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, "
    "each with or without .gz, in the folder or in its raw/"
)
DIGITS = tuple("0123456789")
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def mnist(root: Path) -> Table:
    """MNIST: 60,000 and 10,000 images of 28×28; its own split, the same ten classes in both."""
    return _ubyte("mnist", root, ("raw", "MNIST/raw"), DIGITS)


def fashion_mnist(root: Path) -> Table:
    """Fashion-MNIST: 60,000 and 10,000 images of 28×28; its own split, the same ten classes in both."""
    return _ubyte("fashion-mnist", root, ("raw", "FashionMNIST/raw"), CLOTHES)


def digits() -> Table:
    """The 1,797 digits of 8×8 pixels that scikit-learn bundles: a fixed stratified split, 1,000 train, 797 test."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (slow to import, and only needed here)

    bundled = load_digits()
    labels = np.asarray(bundled.target, dtype=np.int64)
    train = _stratified(labels, 1000)
    order = np.concatenate([np.flatnonzero(train), np.flatnonzero(~train)])
    images = np.rint(np.asarray(bundled.images) * (255 / 16)).astype(np.uint8)
    return Table.build("digits", images[order], labels[order], np.where(train[order], "train", "test"))


def _stratified(labels: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.bool_]:
    """(N,) bool with ``n`` true, every class in proportion; the same on every machine."""
    shuffled = np.random.RandomState(0).permutation(len(labels))
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = np.zeros(len(labels), np.bool_)
    chosen[np.argsort(share, kind="stable")[:n]] = True
    return chosen


def _ubyte(name: str, root: Path, inside: tuple[str, ...], classes: tuple[str, ...]) -> Table:
    first = "train-images-idx3-ubyte"
    place = locate(root, (first, f"{first}.gz"), LAYOUT, inside)
    images, labels = [], []
    for part in ("train", "t10k"):
        images.append(_idx(place, f"{part}-images-idx3-ubyte", dimensions=3))
        labels.append(_idx(place, f"{part}-labels-idx1-ubyte", dimensions=1))
        if len(images[-1]) != len(labels[-1]):
            raise HoldfastError(f"{place}: {len(images[-1])} {part} images but {len(labels[-1])} {part} labels")
    if images[0].shape[1:] != images[1].shape[1:]:
        raise HoldfastError(f"{place}: train images of {images[0].shape[1:]} but t10k of {images[1].shape[1:]}")
    every = np.ones(sum(map(len, images)), np.bool_)
    train = np.arange(len(every)) < len(images[0])
    return Table(
        name=name,
        images=np.concatenate(images),
        labels=np.concatenate(labels).astype(np.int64),
        split=np.where(train, "train", "test"),
        is_query=~train,
        is_gallery=~train,
        classes=classes,
    )


def _idx(place: Path, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """One IDX file of unsigned bytes (format: http://yann.lecun.com/exdb/mnist), gzipped or not."""
    path = next((p for p in (place / name, place / f"{name}.gz") if p.exists()), None)
    if path is None:
        raise HoldfastError(f"{place / name} is missing, and so is {name}.gz (expected {LAYOUT})")
    if reason := no_file(path):
        raise HoldfastError(f"cannot read {path}: {reason}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(file.read(4 * (1 + dimensions)), dimensions, path)
            size = math.prod(shape)
            data = file.read(size + 1)
    except EOFError:
        raise HoldfastError(f"{path} is truncated: the compressed stream ends early; fetch it again") from None
    except (OSError, zlib.error) as error:
        raise HoldfastError(f"cannot read {path}: {error}") from None
    if len(data) < size:
        raise HoldfastError(f"{path} is truncated: its header says {counted(size, 'byte')}, {len(data):,} follow it")
    if len(data) > size:
        raise HoldfastError(f"{path} is too long: its header says {counted(size, 'byte')}, more follow it")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(header: bytes, dimensions: int, path: Path) -> list[int]:
    """What the header of an IDX file says that follows it."""
    if len(header) < (size := 4 * (1 + dimensions)):
        raise HoldfastError(f"{path} is truncated: {counted(len(header), 'byte')}, the header alone has {size}")
    magic, *shape = (int(value) for value in np.frombuffer(header, ">u4"))
    if magic != 0x0800 + dimensions:
        raise HoldfastError(
            f"{path} is no {path.name.split('-')[1]} file: magic number {magic}, not {0x0800 + dimensions}"
        )
    if not 0 < math.prod(shape) <= MAX_BYTES:
        sizes = " × ".join(f"{size:,}" for size in shape)
        raise HoldfastError(f"{path}: its header says {sizes} bytes; from 1 to {MAX_BYTES:,} are read")
    return shape
