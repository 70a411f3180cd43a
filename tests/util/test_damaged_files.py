"""Whatever bytes are in a file, its reader returns a value or raises a HoldfastError of one line.

HOLDFAST_FUZZ: damaged files tried for each reader. What is made of trees (JSON, YAML): test_readers_fuzz.py.
"""

import gzip
import io
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat

from holdfast.data import Pixels, load_dataset
from holdfast.data.readers.held_out import held_out, query_gallery
from holdfast.data.readers.listing import listed
from holdfast.evaluation.runner import Runner, Target
from holdfast.evaluation.saving import save as save_images
from holdfast.models.embedder import Embedder
from holdfast.models.weights import load_weights, read_state
from holdfast.runs.folder import Run
from holdfast.search.blocks import Blocks
from holdfast.search.index import Index
from holdfast.util.errors import HoldfastError
from tests.helpers import tiny

EXAMPLES = int(os.environ.get("HOLDFAST_FUZZ", "15"))

EMBEDDER = tiny.embedder()
LINEAR = torch.nn.Linear(2, 2)
STATE = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
PIXELS = tiny.digits(40)


def written(writer: Callable[..., Any], *content: Any, **options: Any) -> bytes:
    """What a writer puts into a file."""
    file = io.BytesIO()
    writer(*(file if part is ... else part for part in content), **options)
    return file.getvalue()


def picture(form: str) -> bytes:
    return written(Image.new("RGB", (8, 8), "red").save, ..., format=form)


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def repacked(archive: bytes, part: str, content: bytes) -> bytes:
    """An archive with another content of one part, and its checksum."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith(part) else old.read(name))
    return out.getvalue()


def part_of(archive: bytes, part: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        return next(old.read(name) for name in old.namelist() if name.endswith(part))


def weights(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        (folder / f"w{suffix}").write_bytes(content)
        assert read_state(folder / f"w{suffix}")
        assert load_weights(LINEAR, folder / f"w{suffix}").describe()

    return read


ZIPPED, OLDER = (
    written(torch.save, {"model": STATE}, ...),
    written(torch.save, {"model": STATE}, ..., _use_new_zipfile_serialization=False),
)


def a_pickle(folder: Path, content: bytes) -> None:
    weights(".pth")(folder, repacked(ZIPPED, "data.pkl", content))


def an_embedder(folder: Path, content: bytes) -> None:
    EMBEDDER.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(content)
    assert Embedder.from_pretrained(folder)(torch.rand(2, 1, 8, 8)).shape == (2, 16)


def a_state(folder: Path, content: bytes) -> None:
    (folder / "state.safetensors").write_bytes(content)
    assert repr(Run(folder).place()) == repr(Run(folder).load_state().place)


def index_of(folder: Path, content: bytes) -> None:
    (folder / "a.npz").write_bytes(content)
    index = Index.load(folder / "a.npz")
    index.search(torch.rand(1, index.embeddings.shape[1]))


INDEX = written(
    np.savez,
    ...,
    embeddings=np.eye(3, 4, dtype=np.float32),
    paths=np.array(["a.png", "b.png", "c.png"]),
    labels=np.array(["", "x", "y"]),
    references=np.eye(8, 4, dtype=np.float32),
    about=np.array(
        '{"format": "holdfast-index-1", "hash": "0", "size": 8, "resize": 8, "channels": 1, "root": null, '
        '"broken": [], "faults": []}'
    ),
)


def an_array(folder: Path, content: bytes) -> None:
    index_of(folder, repacked(INDEX, "embeddings.npy", content))


def some_paths(folder: Path, content: bytes) -> None:
    index_of(folder, repacked(INDEX, "paths.npy", content))


def a_block(folder: Path, content: bytes) -> None:
    blocks = Blocks(PIXELS, "model", folder / "part")
    (folder / "part").mkdir()
    (folder / "part" / f"{blocks.names[0]}.npz").write_bytes(content)
    found = blocks.embed(lambda rows, progress: (torch.ones(len(rows), 4), rows), quiet=True)
    assert found.z.shape[1] == 4
    assert len(found.reasons) == len(PIXELS)


BLOCK = written(np.savez, ..., z=np.ones((40, 4), np.float32), reasons=np.array([""] * 40))


def numbers_of_a_block(folder: Path, content: bytes) -> None:
    a_block(folder, repacked(BLOCK, "z.npy", content))


def identity(folder: Path, content: bytes) -> None:
    (folder / "identity").write_bytes(content)
    nobody: Any = None
    runner = Runner("es", nobody, nobody, torch.arange(0))
    system: Any = SimpleNamespace(perturbed=lambda attack: SimpleNamespace(ids=torch.arange(0)))
    save_images(runner, Target(nobody, system, PIXELS), folder, "0" * 8, quiet=True)


def ubyte(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        for part in ("train", "t10k"):
            (folder / f"{part}-images-idx3-ubyte").write_bytes(IMAGES)
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(LABELS)
        if name.endswith(".gz"):
            (folder / name.removesuffix(".gz")).unlink()
        (folder / name).write_bytes(content)
        assert len(load_dataset("mnist", folder)) == 4

    return read


IMAGES = bytes((0, 0, 8, 3, *(0, 0, 0, 2) * 3, *range(8)))
LABELS = bytes((0, 0, 8, 1, 0, 0, 0, 2, 3, 3))
CSV = b"label,path,split\na,0.png,train\nb,1.png,train\nc,2.png,test\nd,3.png,test\n"


def a_csv(folder: Path, content: bytes) -> None:
    (folder / "a.csv").write_bytes(content)
    images(folder, *(f"{i}.png" for i in range(4)))
    for read in (
        lambda: load_dataset("csv", folder),
        lambda: held_out("csv", folder),
        lambda: query_gallery(folder / "a.csv", folder / "a.csv"),
    ):
        with suppress(HoldfastError):
            read()
    assert len(listed(folder / "a.csv")[0]) > 0


def cub(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        for file, text in CUB.items():
            (folder / file).write_bytes(text)
        (folder / name).write_bytes(content)
        images(folder, *(f"images/{i}.jpg" for i in range(4)))
        assert len(load_dataset("cub", folder)) > 0

    return read


CUB = {
    "images.txt": b"1 0.jpg\n2 1.jpg\n3 2.jpg\n4 3.jpg\n",
    "image_class_labels.txt": b"1 1\n2 1\n3 2\n4 2\n",
    "classes.txt": b"1 one\n2 two\n",
}


def cars(folder: Path, content: bytes) -> None:
    (folder / "cars_annos.mat").write_bytes(content)
    images(folder, *(f"car_ims/{i}.jpg" for i in range(4)))
    assert len(load_dataset("cars", folder)) == 4


CARS = written(
    savemat,
    ...,
    {
        "annotations": np.array(
            [(f"car_ims/{i}.jpg", 1 + 100 * (i // 2)) for i in range(4)], [("relative_im_path", "O"), ("class", "O")]
        ),
        "class_names": np.array(["one", "two"], dtype=object),
    },
)


def sop(folder: Path, content: bytes) -> None:
    for name, text in {"Ebay_train.txt": content, "Ebay_test.txt": SOP.replace(b" 1 1 ", b" 2 1 ")}.items():
        (folder / name).write_bytes(text)
    images(folder, "bike_final/0.jpg", "bike_final/1.jpg")
    assert len(load_dataset("sop", folder)) > 0


SOP = b"image_id class_id super_class_id path\n1 1 1 bike_final/0.jpg\n2 1 1 bike_final/1.jpg\n"


def an_image(folder: Path, content: bytes) -> None:
    (folder / "a.png").write_bytes(content)
    found, readable = Pixels(listed(folder / "a.png")[0], 8).read(torch.arange(1))
    assert not readable.any() or bool(((found >= 0) & (found <= 1)).all())


def an_upload(folder: Path, content: bytes) -> None:
    pytest.importorskip("starlette", reason="the explorer needs the extra serve")
    from holdfast.explorer.uploads import decode

    assert decode(content)[0].mode == "RGB"


FILES: dict[str, tuple[Callable[[Path, bytes], None], bytes]] = {
    "weights as safetensors": (weights(".safetensors"), save(STATE)),
    "weights as an archive": (weights(".pth"), ZIPPED),
    "weights as a pickle in an archive": (a_pickle, part_of(ZIPPED, "data.pkl")),
    "weights as a pickle": (weights(".pth"), OLDER),
    "an embedder": (an_embedder, save({name: x.contiguous() for name, x in EMBEDDER.state_dict().items()})),
    "a state": (a_state, save({"model/w": torch.ones(1)}, {"progress": '{"epoch": 1, "step": 2}'})),
    "an index": (index_of, INDEX),
    "embeddings of an index": (an_array, part_of(INDEX, "embeddings.npy")),
    "paths of an index": (some_paths, part_of(INDEX, "paths.npy")),
    "a block of embeddings": (a_block, BLOCK),
    "the numbers of a block": (numbers_of_a_block, part_of(BLOCK, "z.npy")),
    "the identity of saved images": (identity, b"0" * 8 + b"\n"),
    "labels of MNIST": (ubyte("t10k-labels-idx1-ubyte"), LABELS),
    "images of MNIST": (ubyte("t10k-images-idx3-ubyte"), IMAGES),
    "labels of MNIST, packed": (ubyte("t10k-labels-idx1-ubyte.gz"), gzip.compress(LABELS)),
    "a CSV": (a_csv, CSV),
    **{f"CUB: {name}": (cub(name), content) for name, content in CUB.items()},
    "CARS": (cars, CARS),
    "SOP": (sop, SOP),
    **{f"an image: {form}": (an_image, picture(form)) for form in ("png", "jpeg", "jpeg2000", "webp", "bmp", "gif")},
    **{f"an image: {form}": (an_image, picture(form)) for form in ("tiff", "ppm")},
    "an upload": (an_upload, picture("png")),
}

PIECES = [
    b"",
    b"\xff" * 8,
    b"\0" * 8,
    b"\n",
    b"\x1b[2J",
    b"9" * 30,
    b'"',
    b",",
    b" ",
    b"nan",
    b"-1",
    b"\x80",
    b"(" * 99,
]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """What a file may have become: up to three places with other bytes, more of them, or none; or cut short."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        lost = draw(st.integers(0, 9) | st.just(len(content)))
        content = content[:start] + draw(st.binary(max_size=4) | st.sampled_from(PIECES)) + content[start + lost :]
    return content


def outcome(name: str, folder: Path, content: bytes) -> None:
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    refusal = ""
    try:
        FILES[name][0](folder, content)
    except HoldfastError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) <= 1


@pytest.mark.parametrize("name", FILES)
def test_good_files_are_read(name: str, tmp_path: Path) -> None:
    read, content = FILES[name]
    read(tmp_path, content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in FILES if name != "CARS"])
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path, data: st.DataObject) -> None:
    outcome(name, tmp_path, data.draw(damaged(FILES[name][1])))


@given(content=damaged(CARS))
@settings(max_examples=EXAMPLES // 5, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_damaged_matlab_files_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    """Each starts a process."""
    outcome("CARS", tmp_path, content)
