"""Programs of torch.export: ours and others, differentiable; and files that hold pickles, code or something else."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.export.program import write
from holdfast.export.source import open_run
from holdfast.models.open import open_model
from holdfast.models.preprocessing import Preprocessing
from holdfast.models.wrapped import WrappedModel
from holdfast.util.errors import HoldfastError
from holdfast.util.extras import quiet
from tests.helpers.encoders import slope_error

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8)
pytestmark = pytest.mark.skipif(OLD, reason="torch before 2.8 writes programs in another form")

Parts = dict[str, bytes]
AUTO, DYNAMIC = torch.export.Dim.AUTO, torch.export.Dim.DYNAMIC


class Net(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 4, 3, stride=2), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.fc(self.conv(x).relu().mean((2, 3)))
        return z


def exported(file: Path, module: nn.Module, images: Tensor, free: dict[int, Any] | None = None) -> Path:
    with quiet():
        program = torch.export.export(module.eval(), (images,), dynamic_shapes=None if free is None else (free,))
        torch.export.save(program, file)
    return file


def net(file: Path, size: int = 12, channels: int = 3, batch: int = 2, **options: Any) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    module = Net(channels)
    return exported(file, module, torch.rand(batch, channels, size, size), **options), module


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("free", "batch"), [({0: AUTO}, 2), (None, 5), (None, 1)])
def test_a_program_embeds_as_its_module(tmp_path: Path, channels: int, free: dict[int, Any] | None, batch: int) -> None:
    file, module = net(tmp_path / "net.pt2", 12, channels, batch, free=free)
    opened = open_model(f"program:{file}")
    assert opened.preprocessing == Preprocessing(12, None, channels)
    assert opened.about["library"] == f"torch {torch.__version__}"
    assert any("mean and std are taken to be inside" in one for one in opened.remarks)
    images = torch.rand(7, channels, 12, 12)
    torch.testing.assert_close(opened.embed(images), module(images))
    wrapped = WrappedModel(opened.embed)
    wrapped.examine(images)
    assert (wrapped.faults, wrapped.differentiable) == ([], True)


def test_gradients_from_the_pixels_are_those_of_finite_differences(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = exported(tmp_path / "net.pt2", Net().double(), torch.rand(2, 3, 12, 12, dtype=torch.float64))
    assert slope_error(open_model(f"program:{file}").embed, torch.rand(2, 3, 12, 12)) < 1e-4


def test_a_free_size_is_asked_for(tmp_path: Path) -> None:
    file, module = net(tmp_path / "net.pt2", free={0: AUTO, 2: AUTO, 3: AUTO})
    assert open_model(f"program:{file}").preprocessing is None
    opened, images = open_model(f"program:{file}", size=16), torch.rand(3, 3, 16, 16)
    assert opened.preprocessing == Preprocessing(16)
    torch.testing.assert_close(opened.embed(images), module(images))


def test_what_holdfast_exports_opens_again(tmp_path: Path, digits_run: Path) -> None:
    source = open_run(digits_run)
    write(source, tmp_path / "model.pt2")
    opened = open_model(f"program:{tmp_path / 'model.pt2'}")
    assert opened.preprocessing == Preprocessing(8, None, 1)
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(opened.embed(images), source.embedder(images))


# --- what cannot be opened


class Runs:
    """What creates a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def rewritten(file: Path, change: Callable[[Parts], None]) -> None:
    """The archive with other parts, by their names without its root folder."""
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].partition("/")[0]
        parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(f"{root}/{name}", content)


def payload(parts: Parts, kind: str, **change: Any) -> None:
    name = f"data/{kind}/model_{kind}_config.json"
    content = json.loads(parts[name])
    entry = next(iter(content["config"].values()), {"is_param": False, "tensor_meta": None})
    content["config"][next(iter(content["config"]), "c")] = entry | change
    parts[name] = json.dumps(content).encode()


def within(part: Any) -> list[Any]:
    """What lies in a part of JSON."""
    return [*part.values()] if isinstance(part, dict) else part if isinstance(part, list) else []


def expression(part: Any, text: str) -> None:
    if isinstance(part, dict) and "expr_str" in part:
        part["expr_str"] = text
    for inner in within(part):
        expression(inner, text)


def saved(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def as_weight(parts: Parts, trap: Runs) -> None:
    parts["data/weights/weight_0"] = saved(trap)
    payload(parts, "weights", use_pickle=True, path_name="weight_0")


def as_object(parts: Parts, trap: Runs) -> None:
    parts["data/constants/opaque_obj_0"] = pickle.dumps(trap)
    payload(parts, "constants", use_pickle=False, path_name="opaque_obj_0")


def as_old_weights(parts: Parts, trap: Runs) -> None:
    parts["data/weights/model.pt"] = saved(trap)


def as_old_constants(parts: Parts, trap: Runs) -> None:
    parts["data/constants/model.pt"] = saved(trap)


def as_sample(parts: Parts, trap: Runs) -> None:
    parts["data/sample_inputs/model.pt"] = saved(trap)


def as_expression(parts: Parts, trap: Runs) -> None:
    content = json.loads(parts["models/model.json"])
    expression(content, f"__import__('pathlib').Path('{trap.proof}').touch() or s0")
    parts["models/model.json"] = json.dumps(content).encode()


def as_code(parts: Parts, trap: Runs) -> None:
    parts["data/aotinductor/model/x.so"] = b"\x7fELF"


TRAPS = (as_weight, as_object, as_old_weights, as_old_constants, as_sample, as_expression, as_code)


@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_is_unpickled_or_run(trap: Callable[[Parts, Runs], None], tmp_path: Path) -> None:
    file, _ = net(tmp_path / "net.pt2", free={0: DYNAMIC})
    proof = tmp_path / "proof"
    rewritten(file, lambda parts: trap(parts, Runs(proof)))
    with pytest.raises(HoldfastError, match=r"not loaded|not run|damaged") as caught:
        open_model(f"program:{file}")
    assert not proof.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("trap", [as_weight, as_sample, as_expression])
def test_the_traps_work_where_nothing_is_checked(trap: Callable[[Parts, Runs], None], tmp_path: Path) -> None:
    file, _ = net(tmp_path / "net.pt2", free={0: DYNAMIC})
    proof = tmp_path / "proof"
    rewritten(file, lambda parts: trap(parts, Runs(proof)))
    with quiet(), pytest.raises(Exception, match=r".*"):
        torch.export.load(file)
    assert proof.exists()


def test_a_rewritten_archive_opens(tmp_path: Path) -> None:
    file, module = net(tmp_path / "net.pt2")
    rewritten(file, lambda parts: None)
    images = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(open_model(f"program:{file}").embed(images), module(images))


@pytest.mark.parametrize("cut", [0, 1, 100, 1000, 3000])
def test_a_file_cut_short(cut: int, tmp_path: Path) -> None:
    file, _ = net(tmp_path / "net.pt2")
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(HoldfastError, match=r"net\.pt2: ") as caught:
        open_model(f"program:{file}")
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(2)}, tmp_path / "weights.pt2")
    with pytest.raises(HoldfastError, match=r"weights\.pt2: it is no program of torch\.export"):
        open_model(f"program:{tmp_path / 'weights.pt2'}")
    with pytest.raises(HoldfastError, match=r"no program at .*wieghts\.pt2; did you mean .*weights\.pt2\?"):
        open_model(f"program:{tmp_path / 'wieghts.pt2'}")
    with pytest.raises(HoldfastError, match=r"brings its own weights; leave out w\.safetensors"):
        open_model(f"program:{tmp_path / 'weights.pt2'}", weights="w.safetensors")


def test_a_program_that_takes_no_images(tmp_path: Path) -> None:
    file = exported(tmp_path / "fc.pt2", nn.Linear(3, 2), torch.rand(4, 3))
    with pytest.raises(HoldfastError, match=r"takes 1 input .*, not one \(n, C, H, W\)"):
        open_model(f"program:{file}")
