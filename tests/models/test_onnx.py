"""ONNX files by name: what is read from them, what is assumed, what is refused, and an audit without gradients."""

import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from holdfast.evaluation.evaluate import evaluate
from holdfast.export.source import frozen_copy
from holdfast.models.embedder import Embedder
from holdfast.models.open import lasting, open_model
from holdfast.models.preprocessing import Preprocessing
from holdfast.models.wrapped import WrappedModel
from holdfast.search.index import Index
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.onnx import needs_onnx
from tests.helpers.tiny import digits, photos, rows

DIM = 6
KINDS = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}


def weight(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(count, DIM))


def linear(
    path: Path,
    shape: tuple[Any, ...] = ("n", 1, 8, 8),
    *,
    kind: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("z",),
    facts: dict[str, str] | None = None,
) -> Path:
    """A file whose outputs are all the pixels times :func:`weight`; where the shape leaves them open, 8 by 8 grey."""
    known = [one if isinstance(one, int) else other for one, other in zip(shape[1:], (1, 8, 8), strict=False)]
    w = numpy_helper.from_array(weight(prod(known)).astype(KINDS.get(kind, np.float32)), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["flat"])]
    nodes += [helper.make_node("MatMul", ["flat", "w"], [name]) for name in outputs]
    given = helper.make_tensor_value_info("x", kind, shape)
    results = [helper.make_tensor_value_info(name, kind, (shape[0], DIM)) for name in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], results, [w]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    helper.set_model_props(model, facts or {})
    onnx.save(model, path)
    return path


def images(count: int = 7, channels: int = 1, size: int = 8) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_vectors_are_what_the_file_computes(tmp_path: Path, kind: int, batch: int | str) -> None:
    opened = open_model(f"onnx:{linear(tmp_path / 'm.onnx', (batch, 3, 4, 4), kind=kind)}")
    given = images(channels=3, size=4)
    got = opened.embed(given)
    assert torch.allclose(got.double(), given.flatten(1).double() @ torch.tensor(weight(48)), atol=0.02)
    assert got.dtype == torch.from_numpy(np.zeros(1, KINDS[kind])).dtype
    assert (opened.name, opened.black_box) == ("m", True)


@pytest.mark.parametrize(
    ("shape", "facts", "expected"),
    [
        (("n", 3, 4, 4), {}, Preprocessing(4, channels=3)),
        (("n", 1, 8, 8), {"size": "5", "channels": "3", "holdfast": "1"}, Preprocessing(8, channels=1)),
        (("n", "c", "h", "w"), {"size": "8", "channels": "1", "holdfast": "1"}, Preprocessing(8, channels=1)),
        (("n", "c", "h", "w"), {"size": "8", "channels": "1"}, None),
        (("n", "c", "h", "w"), {"size": "9" * 5000, "holdfast": "1"}, None),
        (("n", "c", "h", "w"), {}, None),
    ],
)
def test_size_and_channels(tmp_path: Path, shape: Any, facts: dict[str, str], expected: Preprocessing | None) -> None:
    assert open_model(f"onnx:{linear(tmp_path / 'm.onnx', shape, facts=facts)}").preprocessing == expected


def test_mean_and_std_are_assumed_or_given(tmp_path: Path) -> None:
    word = f"onnx:{linear(tmp_path / 'm.onnx', ('n', 3, 4, 4))}"
    given, w = images(channels=3, size=4), torch.tensor(weight(48)).float()
    assert "they are given as they are, in [0, 1]" in open_model(word).remarks[0]
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.4)
    opened = open_model(word, mean=mean, std=std)
    exact = ((given - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)).flatten(1) @ w
    assert torch.allclose(opened.embed(given), exact, atol=1e-4)
    assert opened.remarks == ()
    assert (opened.about["mean"], opened.about["std"]) == (list(mean), list(std))
    alike = open_model(word, mean=(0.5,), std=(0.25,))
    assert torch.allclose(alike.embed(given), (4 * given - 2).flatten(1) @ w, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, "std is None"),
        ({"mean": (0.5, 0.5), "std": (1.0,)}, r"one or 3 each, as 0.485,0.456,0.406; mean is \(0.5, 0.5\)"),
        ({"mean": (0.5,), "std": (0.0,)}, "--std is above 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "mean is"),
        ({"weights": Path("w.pth")}, "brings its own weights"),
        ({"best": True}, "is no run folder"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        open_model(f"onnx:{linear(tmp_path / 'm.onnx', ('n', 3, 4, 4))}", **options)


@pytest.mark.parametrize("word", ["digits", "own", "callable"])
def test_mean_and_std_go_with_files_from_elsewhere_alone(tmp_path: Path, digits_run: Path, word: str) -> None:
    own = linear(tmp_path / "m.onnx", facts={"holdfast": "1"})
    model = {"digits": digits_run, "own": f"onnx:{own}", "callable": lambda x: x.flatten(1)}[word]
    with pytest.raises(HoldfastError, match="--mean and --std go with onnx:FILE that holdfast did not write"):
        open_model(model, mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": ("n", 8, 8, 1)}, r"takes x tensor\(float\) \['n', 8, 8, 1\]; holdfast gives one tensor\(float\) of"),
        ({"shape": ("n", 3, 4, 6)}, "takes images of 4x6 pixels, and holdfast gives square ones only"),
        ({"shape": ("n", 3, 4)}, "holdfast gives one"),
        ({"kind": TensorProto.UINT8}, r"onnxruntime cannot open|takes x tensor\(uint8\)"),
        ({"outputs": ("a", "b")}, "gives a, b: keep one of them, or name the one that counts 'embeddings'"),
    ],
)
def test_files_that_do_not_take_images(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        open_model(f"onnx:{linear(tmp_path / 'm.onnx', **options)}")


def test_of_several_outputs_embeddings_counts(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx", outputs=("logits", "embeddings"))
    assert open_model(f"onnx:{path}").embed(images()).shape == (7, DIM)


@pytest.mark.parametrize("damage", ["", "text", "cut", "flipped", "folder", "absent"])
def test_damaged_files_end_in_one_line(tmp_path: Path, refused: Refuse, damage: str) -> None:
    path = linear(tmp_path / "model.onnx")
    content = path.read_bytes()
    wrong = {"": b"", "text": b"hello\nworld", "cut": content[: len(content) // 2], "flipped": content[::-1]}
    if damage in wrong:
        path.write_bytes(wrong[damage])
    place = {"folder": tmp_path, "absent": tmp_path / "modle.onnx"}.get(damage, path)
    said = refused("evaluate", f"onnx:{place}", "--data", "digits")
    expected = {"folder": "there is no file", "absent": "did you mean"}.get(damage, "onnxruntime cannot open")
    assert expected in said


def test_the_word_is_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    linear(tmp_path / "m.onnx")
    assert lasting("onnx:m.onnx") == f"onnx:{tmp_path / 'm.onnx'}"


@needs_onnx
def test_an_export_is_opened_as_it_was_written(tmp_path: Path, digits_run: Path) -> None:
    from holdfast.export import export

    export(digits_run, "onnx", tmp_path / "digits.onnx")
    opened, run = open_model(f"onnx:{tmp_path / 'digits.onnx'}"), open_model(digits_run)
    assert isinstance(run.embed, Embedder)
    given = digits().read(torch.arange(20))[0]
    assert torch.allclose(opened.embed(given), frozen_copy(run.embed)(given), atol=1e-5)
    assert opened.preprocessing == Preprocessing(8, channels=1)
    assert (opened.remarks, opened.about["recipe"]) == ((), "hm-s-lga")


# --- an audit


def test_no_option_is_needed(call: Call, tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    common = ("--data", "digits", "--max-queries", "32", "--query-budget", "60", "--out", tmp_path / "out")
    status, out, _ = call("evaluate", f"onnx:{path}", *common)
    assert status == 0
    assert "strict, square" in out
    assert "the ONNX file does not say what pixels it takes" in out
    assert "verdict: upper bound" in out
    assert "what the layers of a black box are given is not visible" in out
    assert "more queries may break more" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gradient", "white-box"), "the gradient of the embeddings does not reach the pixels"),
        (("--protocol", "cvpr22"), "protocol 'cvpr22' has neither restarts nor black-box gradients"),
        (("--query-budget", "2"), "query_budget is at least 3 for gradient 'square'"),
        (("--gradient", "nes", "--query-budget", "40"), "query_budget is at least 53 for gradient 'nes'"),
        (("--query-budget", "100", "--steps", "5"), "give steps or query_budget, not both"),
    ],
)
def test_what_a_black_box_cannot_do(tmp_path: Path, refused: Refuse, options: tuple[str, ...], message: str) -> None:
    path = linear(tmp_path / "m.onnx")
    assert message in refused("evaluate", f"onnx:{path}", "--data", "digits", *options)


def test_a_query_budget_goes_with_a_black_box(refused: Refuse, digits_run: Path) -> None:
    assert "a query budget goes with a black box" in refused("evaluate", digits_run, "--query-budget", "100")


def test_without_attack_nothing_changes(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    result = evaluate(f"onnx:{path}", digits(), "benign", checks=False, quiet=True, device="cpu")
    assert result.verdict == "unchecked"
    assert result.asked is None


@pytest.mark.parametrize(("gradient", "budget"), [("square", 60), ("nes", 130)])
def test_no_attack_asks_more_than_its_budget(tmp_path: Path, gradient: str, budget: int) -> None:
    path = linear(tmp_path / "m.onnx")
    settings: dict[str, Any] = {"gradient": gradient, "query_budget": budget, "max_queries": 8}
    result = evaluate(
        f"onnx:{path}", digits(), eps=0.02, checks=False, quiet=True, device="cpu", folder=tmp_path / "out", **settings
    )
    assert result.path is not None
    costs = rows(result.path.parent / "costs.jsonl")
    assert {cost["attack"] for cost in costs} >= {"es", "ca+", "worst.square", "worst.nes"}
    assert max(cost["asked"] / cost["images"] for cost in costs) <= budget
    assert result.asked == sum(cost["asked"] for cost in costs) / 8


def test_a_white_box_lends_its_gradients(tmp_path: Path) -> None:
    """Transfer: the attack follows a network with gradients, and is read on the file."""
    path, w = linear(tmp_path / "m.onnx"), torch.tensor(weight(64)).float()
    options: dict[str, Any] = {"protocol": "worst", "eps": 0.3, "max_queries": 12, "checks": False}
    result = evaluate(
        f"onnx:{path}", digits(), surrogate=lambda x: x.flatten(1) @ w, quiet=True, device="cpu", **options
    )
    assert result.protocol == "worst, transfer"
    assert result.number("robust R@1") == 0


def test_adversarial_images_of_a_black_box(call: Call, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    path = linear(tmp_path / "m.onnx", ("n", 3, 8, 8))
    options = ("--max-queries", "4", "--query-budget", "20", "--out", tmp_path / "adv", "--eps", "0.1")
    status, out, _ = call("attack", f"onnx:{path}", "--data", "folder", "--root", root, *options)
    assert status == 0
    assert "4 images in" in out


@pytest.mark.parametrize("protocol", ["worst", "strict"])
def test_the_most_that_is_announced_holds_with_the_checks(
    protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"eps": 0.02, "max_queries": 6, "query_budget": 40, "device": "cpu"}
    models: list[WrappedModel] = []
    looked = WrappedModel.examine
    monkeypatch.setattr(WrappedModel, "examine", lambda self, images: models.append(self) or looked(self, images))
    asked, said = [], []
    for protocol_checks in (("benign", False), (protocol, False), (protocol, True)):
        settings = {} if protocol_checks[0] == "benign" else given
        evaluate(
            f"onnx:{linear(tmp_path / 'm.onnx')}", digits(60), protocol_checks[0], checks=protocol_checks[1], **settings
        )
        asked.append(models[-1].asked)
        found = re.search(r"at most ([\d,]+) model queries(?:, ([\d,]+) of them)?", capsys.readouterr().out)
        said.append([int((one or "0").replace(",", "")) for one in (found.groups() if found else "00")])
    around, without, whole = asked
    (_, (most, none), (most_with, of_checks)) = said
    assert (none, most_with - most) == (0, of_checks)
    assert 0 < without - around <= most
    assert 0.3 * of_checks < whole - without <= of_checks


def test_an_index_of_a_file_that_wants_normalised_pixels(call: Call, tmp_path: Path) -> None:
    photos(tmp_path / "photos", each=2)
    path, out = linear(tmp_path / "m.onnx", ("n", 3, 8, 8)), tmp_path / "i.npz"
    usual = ("embed", tmp_path / "photos", "--model", f"onnx:{path}", "--out")
    assert call(*usual, tmp_path / "plain.npz")[0] == 0
    assert call(*usual, out, "--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.4")[0] == 0
    plain, index = Index.load(tmp_path / "plain.npz"), Index.load(out)
    assert (index.embeddings - plain.embeddings).abs().max() > 1e-2
    query = tmp_path / "photos" / "a" / "0.png"
    for more in ((), ("--model", f"onnx:{path}")):
        status, printed, _ = call("search", "--index", out, "--query", query, "-k", "1", "--format", "lines", *more)
        assert status == 0
        assert printed.split("\t")[2] == "0.0000"
