"""``holdfast attack --attack universal`` and ``patch``: closed forms, twins, held-out queries, resumed and refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from holdfast.attacks.shared import GREY, MeanOf, OnAll, Patch, Universal, mean_margin
from holdfast.core.objectives import AlignWith
from holdfast.core.pgd import PGD
from holdfast.core.steps import L2, LInf
from holdfast.evaluation.result import Result
from holdfast.report import find
from holdfast.threats.shared import attack_shared
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.html_page import page_of
from tests.helpers.tiny import counted, digits, embedder, lasting, pair, records, rows, snapshot
from tests.oracles import attacks as oracles
from tests.oracles.shared import patched

EMBEDDER = embedder()
QUICK: dict[str, Any] = {"made_on": 30, "max_queries": 20, "steps": 3, "quiet": True, "device": "cpu"}
unit = st.floats(0, 1, exclude_max=True)


def on_all(embed: Any, overlay: Any, images: torch.Tensor, width: int = 64, seed: int = 0) -> OnAll:
    return OnAll(embed, overlay, images, torch.Generator().manual_seed(seed), width)


# --- overlays


@settings(max_examples=20)
@given(st.lists(unit, min_size=5, max_size=5), st.sampled_from([0.02, 0.1, 0.25]), st.integers(0, 99))
def test_a_patch_lies_where_its_twin_puts_it(numbers: list[float], area: float, seed: int) -> None:
    rng, attack = np.random.default_rng(seed), Patch(area=area)
    image, canvas = rng.random((10, 10)), rng.random((attack.canvas_side(10),) * 2)
    given_ = torch.from_numpy(canvas)[None], torch.from_numpy(image)[None, None], torch.tensor([numbers])
    found = attack(given_[0], given_[1], given_[2].double())[0, 0]
    assert np.allclose(found.numpy(), patched(image, canvas, area, numbers), atol=1e-6)


def test_a_patch_in_the_middle_hides_what_is_below_and_nothing_else() -> None:
    image, canvas = torch.rand(1, 3, 8, 8), torch.rand(3, 4, 4)
    found = Patch(area=0.25)(canvas, image, torch.full((1, 5), 0.5))
    expected = image.clone()
    expected[:, :, 2:6, 2:6] = canvas
    assert torch.allclose(found, expected, atol=1e-6)


@settings(max_examples=25)
@given(st.lists(unit, min_size=5, max_size=5), st.sampled_from([0.02, 0.05, 0.1]))
def test_a_patch_is_wholly_on_the_image_and_has_its_area(numbers: list[float], area: float) -> None:
    black, attack = torch.zeros(1, 1, 60, 60), Patch(area=area)
    side = attack.canvas_side(60)
    found = attack(torch.ones(1, side, side) / 1.3, black, torch.tensor([numbers]))
    light = (0.8 + 0.4 * numbers[4]) / 1.3
    assert float(found.sum()) / light / 3600 == pytest.approx(area * (0.8 + 0.4 * numbers[2]) ** 2, rel=0.12)


def test_a_universal_perturbation_is_added() -> None:
    images, canvas = torch.rand(3, 1, 4, 4), torch.rand(1, 4, 4)
    found = Universal()(canvas, images, torch.empty(3, 0))
    assert torch.equal(found, (images + (canvas - GREY)).clamp(0, 1))


# --- the mean over images, through the one loop


def test_the_gradient_is_the_mean_of_those_of_the_images() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, images = torch.randn(9, 4, generator=draw), torch.rand(7, 1, 3, 3, generator=draw) * 0.2 + 0.4
    system = oracles.world(4, grid=False, dim=4)
    queries = system.queries.take(torch.arange(7))
    objective = mean_margin(queries, system)
    assert isinstance(objective, MeanOf)
    canvas = (GREY + 0.05 * torch.randn(1, 3, 3, generator=draw)).requires_grad_()

    def embed(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.flatten(1) @ weight)

    z = on_all(embed, Universal(), images, width=3)(canvas[None])
    value = objective(z[:, None], torch.arange(1))
    (gradient,) = torch.autograd.grad(value.sum(), canvas)
    parts, values = [], []
    for i in range(7):
        one = embed((images[i : i + 1] + (canvas - GREY)).clamp(0, 1))
        alone = mean_margin(queries.take(torch.tensor([i])), system)(one[:, None], torch.arange(1))
        parts.append(torch.autograd.grad(alone.sum(), canvas)[0])
        values.append(alone.detach())
    assert torch.allclose(value.detach(), torch.stack(values).mean(0), atol=1e-6)
    assert torch.allclose(gradient, torch.stack(parts).mean(0), atol=1e-6)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("ball", [LInf(0.1), L2(0.3)])
def test_a_linear_embedder_has_a_universal_perturbation_in_closed_form(ball: LInf | L2) -> None:
    """``mean_i ⟨W (x_i + δ), c_i⟩`` is largest at the edge of the ball in the direction ``Wᵀ mean_i c_i``."""
    draw = torch.Generator().manual_seed(0)
    weight, centres = torch.randn(5, 9, generator=draw), torch.randn(6, 5, generator=draw)
    images = torch.rand(6, 1, 3, 3, generator=draw) * 0.2 + 0.4
    embed = on_all(lambda x: x.flatten(1) @ weight.T, Universal(), images)
    start = torch.full((1, 1, 1, 3, 3), GREY)
    found = PGD(ball, ball.eps / 4, 12)(embed, start, MeanOf(AlignWith(centres), 6))
    slope = centres.mean(0) @ weight
    edge = slope.sign() if isinstance(ball, LInf) else slope / slope.norm()
    assert torch.allclose(found.flatten() - GREY, ball.eps * edge, atol=1e-5)


# --- the whole


@pytest.mark.parametrize("attack", [Universal(), Patch(area=0.1)])
def test_whoever_reads_the_files_finds_the_recall(attack: Any, tmp_path: Path) -> None:
    result = attack_shared(EMBEDDER, digits(), attack, tmp_path, **QUICK).content
    found, (images, labels) = result[attack.name], pair()
    entries = rows(tmp_path / "manifest.jsonl")
    assert (found["made_on"], found["read_on"], len(entries)) == (30, 20, 20)
    with torch.no_grad():
        clean = EMBEDDER(torch.from_numpy(images[:, None] / 255).float()).double().numpy()
    hits = []
    for entry in entries:
        i = int(Path(entry["file"]).stem)
        with Image.open(tmp_path / entry["file"]) as opened:
            pixels = np.asarray(opened)
        if attack.name == "universal":
            with Image.open(tmp_path / "universal.png") as opened:
                change = np.asarray(opened).astype(int) - 128
            assert np.abs(change).max() <= 77
            assert (pixels == (images[i].astype(int) + change).clip(0, 255)).all()
        else:
            assert 0 < (pixels != images[i]).sum() < 30
        with torch.no_grad():
            z = EMBEDDER(torch.from_numpy(pixels[None, None] / 255).float()).double().numpy()
        away = np.linalg.norm(clean - z, axis=1)
        away[i] = np.inf
        hits.append(labels[away.argmin()] == labels[i])
    recall = found["recall"]
    assert recall["attacked"]["value"] == pytest.approx(100 * np.mean(hits))
    assert recall["attacked"]["value"] < recall["clean"]["value"]


def test_a_killed_call_goes_on(tmp_path: Path) -> None:
    embed, calls = counted(EMBEDDER)
    whole = attack_shared(embed, digits(), Universal(), tmp_path / "all", batch=8, **QUICK)
    for share in (0.6, 0.97):
        place = tmp_path / f"{share}"
        embed, _ = counted(EMBEDDER, int(share * calls[0]))
        with pytest.raises(KeyboardInterrupt):
            attack_shared(embed, digits(), Universal(), place, batch=8, **QUICK)
        assert (place / "canvas.npz").exists()
        embed, again = counted(EMBEDDER)
        result: Result = attack_shared(embed, digits(), Universal(), place, batch=8, **QUICK)
        assert again[0] < calls[0]
        assert lasting(result.content) == lasting(whole.content)
        assert records(place) == records(tmp_path / "all")
        kept = ("costs.jsonl", "result.json")
        one, other = ({k: v for k, v in snapshot(at).items() if k not in kept} for at in (place, tmp_path / "all"))
        assert one == other
    with pytest.raises(HoldfastError, match="holds images of another attack"):
        attack_shared(counted(EMBEDDER)[0], digits(), Universal(), tmp_path / "all", **{**QUICK, "seed": 1})


def test_from_the_command_line_to_the_report(call: Call, digits_run: Path, tmp_path: Path) -> None:
    words = ("--attack", "patch", "--area", "0.1", "--made-on", "20", "--steps", "1", "--max-queries", "10")
    status, out, err = call("attack", digits_run, *words, "--out", tmp_path)
    assert (status, err) == (0, "")
    (result,) = find([tmp_path])
    recall = result.content["patch"]["recall"]
    for name, one in recall.items():
        assert [line.split()[1] for line in out.splitlines() if line.split()[:1] == [name]] == [f"{one['value']:.1f}"]
    with Image.open(tmp_path / "patch.png") as patch:
        assert patch.size == (Patch(area=0.1).canvas_side(8),) * 2
    page = page_of(result.path)
    assert "poisons" in page.sections
    assert f"{recall['attacked']['value']:.1f}" in page.inside("td")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("universal", "--eps", "0"), "eps is above 0"),
        (("universal", "--restarts", "2"), "takes no restarts"),
        (("universal", "--area", "0.1"), "--area goes with --attack patch, not universal"),
        (("universal", "--made-on", "0"), "made_on: it is at least 1, not 0"),
        (("patch", "--area", "0.7"), "area is above 0 and at most 0.5, a share of the image, not 0.7"),
        (("patch", "--eps", "0.1"), "a patch takes no eps"),
        (("patch", "--max-queries", "0"), "max_queries: it is at least 1"),
    ],
)
def test_bad_input_is_refused(
    words: tuple[str, ...], said: str, refused: Refuse, digits_run: Path, tmp_path: Path
) -> None:
    assert said in refused("attack", digits_run, "--attack", *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
