"""Models by name: modules, files and folders of the user's own, their weights, and what is said of what is absent."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.open import lasting, open_model
from holdfast.models.preprocessing import Preprocessing
from holdfast.models.wrapped import WrappedModel
from holdfast.util.errors import HoldfastError

SOURCE = """
from functools import partial
from torch import nn

class Net(nn.Module):
    def __init__(self, dim=3):
        super().__init__()
        self.fc = nn.Linear(12, dim)
    def forward(self, x):
        return self.fc(x.flatten(1))

class Wide(Net):
    def __init__(self, dim):
        super().__init__(dim)

class Doubler:
    def __call__(self, x):
        return 2 * x.flatten(1)

net = Net(4)
pair = partial(Net, 2)
number = 3

def build(dim=5):
    return Net(dim)

def embed(x, scale=1):
    return scale * x.flatten(1)

def give_number():
    return number

def fail():
    raise KeyError("weights\\nand more")

def leave():
    raise SystemExit(2)
"""

IMAGES = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a package ``nets`` and files, and a search path that is as before afterwards."""
    (tmp_path / "nets").mkdir()
    for name in ("nets/__init__.py", "nets/sub.py", "lone.py", "files/mine.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SOURCE)
    (tmp_path / "files" / "random.py").write_text("from sibling import VALUE\nembed = lambda x: x * VALUE\n")
    (tmp_path / "files" / "sibling.py").write_text("VALUE = 7\n")
    (tmp_path / "nets" / "broken.py").write_text("import torch.no_such_part\n")
    (tmp_path / "nets" / "unfinished.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in [name for name in sys.modules if name.partition(".")[0] in ("nets", "lone", "sibling")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.mark.parametrize("where", ["nets", "nets.sub", "lone", "lone.py", "files/mine.py"])
@pytest.mark.parametrize(
    ("name", "dim"), [("net", 4), ("Net", 3), ("build", 5), ("pair", 2), ("embed", 12), ("Doubler", 12)]
)
def test_what_an_attribute_becomes(where: str, name: str, dim: int) -> None:
    assert open_model(f"{where}:{name}").embed(IMAGES).shape == (6, dim)


def test_an_absolute_path_and_its_siblings(project: Path) -> None:
    assert torch.equal(open_model(f"{project / 'files' / 'random.py'}:embed").embed(IMAGES), IMAGES * 7)
    import random

    assert hasattr(random, "shuffle")


def test_an_instance_is_itself_and_keeps_its_mode() -> None:
    model = open_model("nets:net").embed
    assert model is sys.modules["nets"].net
    assert isinstance(model, nn.Module)
    assert model.training


def test_a_file_is_read_anew(project: Path) -> None:
    open_model("lone.py:net")
    (project / "lone.py").write_text("embed = lambda x: x + 1  # changed\n")
    assert torch.equal(open_model("lone.py:embed").embed(IMAGES), IMAGES + 1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nets", "nets holds no saved embedder"),
        ("loan", "names no model, and no folder has this name; allowed: a run folder, .*package.module:attribute"),
        ("lone.py", "names no model, and it is a file, not a folder"),
        ("files/mine:net", "names no model"),
        (":net", "names no model"),
        ("files", "files holds no saved embedder: cannot read"),
        ("", "names no model"),
        ("ftp://example.org/net", "names no model"),
        ("nets.subb:net", r"no module 'nets.subb'.*did you mean nets/sub.py\?"),
        ("netso.sub:net", r"no module 'netso.sub'.*did you mean nets\?"),
        ("loan:net", r"no module 'loan'.*did you mean lone.py\?"),
        ("clip:ViT-B-32", r"names no model, and no folder has this name; did you mean open_clip:ViT-B-32\?; allowed: "),
        ("open-clip:ViT-B-32:x", r"did you mean open_clip:ViT-B-32:x\?"),
        ("tim:resnet18", r"did you mean timm:resnet18\?"),
        ("programme:x.pt2", r"did you mean program:x.pt2\?"),
        ("hf:typo", "'typo' names no model: there is no such folder; on the Hub a model is called OWNER/NAME"),
        ("hf:nest", r"there is no such folder; did you mean nets\?"),
        ("hf:lone.py", "it is a file, not a folder"),
        ("hf:", "names no model"),
        ("quite_another:net", "no module 'quite_another' here or installed; allowed: package.module"),
        ("files/mien.py:net", r"no file files/mien.py; did you mean files/mine.py\?"),
        ("flies/mine.py:net", r"no file flies/mine.py; did you mean files\?"),
        ("nets.broken:net", "nets.broken cannot be imported: it raises ModuleNotFoundError: .*no_such_part"),
        ("nets/broken.py:net", "nets/broken.py cannot be imported: it raises ModuleNotFoundError: .*no_such_part"),
        ("nets.unfinished:net", "nets.unfinished cannot be imported: it raises SyntaxError"),
        ("nets:biuld", r"unknown attribute of nets 'biuld'; did you mean 'build'\? \(allowed: .*Net"),
        ("nets:number", "gives a int, not a callable"),
        ("nets:give_number", "gives a int, not a callable"),
        ("nets:Wide", "needs dim: name a function"),
        ("nets:fail", r"nets:fail\(\) raises KeyError: .*weights"),
        ("nets:leave", r"nets:leave\(\) raises SystemExit: 2"),
    ],
)
def test_what_is_not_a_model(spec: str, message: str) -> None:
    with pytest.raises(HoldfastError, match=message) as caught:
        open_model(spec)
    assert "\n" not in str(caught.value)


# --- weights


def write(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": state}, path)
    return path


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"fc.weight": (3, 12), "fc.bias": (3,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_weights_are_loaded(tmp_path: Path) -> None:
    model = open_model("nets:Net", weights=write(tmp_path / "w.pth", state())).embed
    torch.testing.assert_close(model(IMAGES), IMAGES.flatten(1) @ state()["fc.weight"].T + state()["fc.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"fc.weight": s["fc.weight"]}, r"1 missing \(fc.bias\); give"),
        (lambda s: s | {f"head.{i}": s["fc.bias"] for i in range(6)}, r"6 unexpected \(head.0.*head.3, ...\); give"),
        (lambda s: s | {"fc.bias": torch.zeros(9)}, r"1 of another shape \(fc.bias\)"),
        (lambda s: {"fc.bias": s["fc.bias"], "fcc.weight": s["fc.weight"]}, r"1 missing.*; 1 unexpected"),
        (lambda s: {"other": s["fc.bias"]}, "nothing in .* fits the network"),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(HoldfastError, match=message):
        open_model("nets:Net", weights=write(tmp_path / "w.pth", change(state())))


def test_weights_without_a_module_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="nets:embed is a function, not a torch module"):
        open_model("nets:embed", weights=write(tmp_path / "w.pth", state()))
    with pytest.raises(HoldfastError, match=r"no weights at absent\.pth"):
        open_model("nets:Net", weights=Path("absent.pth"))


# --- folders and timm


def test_a_folder_that_holdfast_wrote(tmp_path: Path) -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("c2f2", dim=4, channels=1, size=8))
    embedder.save_pretrained(tmp_path / "run")
    opened = open_model(tmp_path / "run")
    model = opened.embed
    assert opened.preprocessing == Preprocessing(8, None, 1)
    assert opened.folder is None
    assert open_model(tmp_path / "run", resize=10).preprocessing == Preprocessing(8, 10, 1)
    assert open_model(opened) is opened
    pixels = torch.rand(3, 1, 8, 8)
    assert torch.equal(model(pixels), embedder.eval()(pixels))
    assert WrappedModel(model).remarks == []
    with pytest.raises(HoldfastError, match=r"brings its own weights; leave out w.pth"):
        open_model(str(tmp_path / "run"), weights=Path("w.pth"))


def test_timm_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(HoldfastError, match=r"pip install 'holdfast\[timm\]'"):
        open_model("timm:resnet18")


# --- how a model is shown images


def test_a_model_says_how_it_is_shown_images(tmp_path: Path) -> None:
    def embed(images: Tensor) -> Tensor:
        return images.flatten(1)

    opened = open_model(embed)
    assert (opened.embed, opened.name, opened.preprocessing) == (embed, "model", None)
    assert open_model(embed, size=32, channels=1).preprocessing == Preprocessing(32, None, 1)
    embed.size, embed.channels = 12, 1  # type: ignore[attr-defined]
    assert open_model(embed).preprocessing == Preprocessing(12, None, 1)
    assert open_model(embed, resize=16).preprocessing == Preprocessing(12, 16, 1)
    (tmp_path / "sized.py").write_text("def embed(x):\n    return x.flatten(1)\n\n\nembed.size = 24\n")
    assert open_model("sized.py:embed").preprocessing == Preprocessing(24, None, 3)


def test_a_model_says_what_its_pixels_are_normalised_by(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text(f"{SOURCE}\nnet.mean, net.std = [0.1, 0.2, 0.3], (0.5, 1, 2)\n")
    opened = open_model("said.py:net")
    (remark,) = opened.remarks
    assert remark == "pixels are normalised by the model's mean [0.1, 0.2, 0.3] and std (0.5, 1, 2)"
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in ([0.1, 0.2, 0.3], [0.5, 1.0, 2.0]))
    inner = opened.embed.network  # type: ignore[attr-defined]
    torch.testing.assert_close(opened.embed(IMAGES), inner((IMAGES - mean) / std))
    assert open_model(inner).embed is not inner  # an object is treated as what a word names


@pytest.mark.parametrize("held", ["a tensor", "a buffer"])
def test_tensors_are_a_module_s_own(held: str) -> None:
    module = nn.Linear(4, 2)
    for name in ("mean", "std"):
        value = torch.ones(3)
        setattr(module, name, value) if held == "a tensor" else module.register_buffer(name, value)
    opened = open_model(module)
    assert opened.embed is module
    assert opened.remarks == ()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mean": [0.5] * 3}, "a torch module has both, or none"),
        ({"std": [0.5] * 3}, "a torch module has both, or none"),
        ({"mean": [0.5] * 3, "std": [0.5]}, "a number for each of its 3 channels"),
        ({"mean": [0.5] * 3, "std": ["wide"] * 3}, "a number for each of its 3 channels"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3, "channels": 1}, "a number for each of its 1 channels"),
        ({"mean": [0.5] * 3, "std": [0.5, 0.0, 0.5]}, "std is above 0"),
        ({"mean": [0.5, float("nan"), 0.5], "std": [0.5] * 3}, "they are finite"),
    ],
)
def test_a_mean_and_std_that_cannot_be(said: dict[str, object], message: str) -> None:
    module = nn.Linear(4, 2)
    for name, value in said.items():
        setattr(module, name, value)
    with pytest.raises(HoldfastError, match=message):
        open_model(module)


def test_what_does_not_go_with_a_model_is_refused() -> None:
    def embed(images: Tensor) -> Tensor:
        return images.flatten(1)

    with pytest.raises(HoldfastError, match="--resize needs --size as well"):
        open_model(embed, resize=40)
    for given in ({"weights": "w.pth"}, {"best": True}, {"pooling": "cls"}):
        with pytest.raises(HoldfastError, match="takes neither weights, best nor pooling"):
            open_model(embed, **given)  # type: ignore[arg-type]
    with pytest.raises(HoldfastError, match="a word, a path, or a callable"):
        open_model(3)  # type: ignore[arg-type]


def test_a_word_that_lasts(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert lasting("timm:resnet18") == "timm:resnet18"
    assert lasting("zoo:x") == "zoo:x"
    assert lasting("pkg.module:name") == "pkg.module:name"
    assert lasting(f"{tmp_path}/x/../net.py:net") == f"{tmp_path.resolve()}/net.py:net"
    assert lasting("run") == str(tmp_path.resolve() / "run")
    for prefix in ("hf", "st", "program", "open_clip:ViT-B-32"):
        assert lasting(f"{prefix}:run") == f"{prefix}:{tmp_path.resolve() / 'run'}"
        assert lasting(f"{prefix}:owner/absent") == f"{prefix}:owner/absent"
