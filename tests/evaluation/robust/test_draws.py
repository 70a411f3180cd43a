"""Models that draw random numbers: what averages over draws breaks nearly what the model without them leaves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.gradients import WHITE_BOX, Iterate, over_draws
from holdfast.core.pgd import PGD, Adaptive
from holdfast.core.steps import LInf
from holdfast.evaluation.checks import probe
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.protocols import CASCADE
from holdfast.evaluation.result import Result
from holdfast.evaluation.robust import cascade, draws
from holdfast.util.errors import HoldfastError
from tests.core.test_pgd import ConvNet, Total, uniform
from tests.helpers.tiny import digits, embedder, records

MODEL = embedder()
WORST: dict[str, Any] = {"protocol": "worst", "eps": 0.04, "max_queries": 16, "quiet": True, "device": "cpu"}


def noisy(images: Tensor) -> Tensor:
    return MODEL(images + 0.08 * torch.randn_like(images))


def resized(images: Tensor) -> Tensor:
    """Shrunk by a random number of pixels, at a random place."""
    side, size = int(torch.randint(6, 9, ())), images.shape[-1]
    left, top = (int(torch.randint(0, size - side + 1, ())) for _ in range(2))
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return MODEL(F.pad(small, (left, size - side - left, top, size - side - top)))


def masked(images: Tensor) -> Tensor:
    """Noise, and eight levels of grey: no gradient."""
    levels = ((images + 0.02 * torch.randn_like(images)) * 7).round() / 7
    return MODEL(levels + 0 * images)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages of few steps, and fewer draws."""
    monkeypatch.setattr(cascade, "CASCADE", tuple(replace(one, steps=30) for one in CASCADE[:2]))
    monkeypatch.setattr(draws, "AVERAGED", 8)
    monkeypatch.setattr(draws, "FRESH", 40)


def worst(model: Callable[[Tensor], Tensor], **settings: Any) -> Result:
    return evaluate(model, digits(), **{**WORST, "checks": False, **settings})


def robust(model: Callable[[Tensor], Tensor], **settings: Any) -> float:
    found = worst(model, **settings).number("robust R@1")
    assert found is not None
    return found


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("model", [noisy, resized])
def test_randomness_is_no_robustness(model: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    averaged = robust(model)
    assert averaged <= robust(MODEL) + 20  # three of 16 queries: a majority of noisy copies is smoother than the model
    monkeypatch.setattr(draws, "AVERAGED", 1)
    assert robust(model) > averaged


@pytest.mark.usefixtures("short")
def test_a_repeated_call_draws_the_same(tmp_path: Path) -> None:
    one, two = (worst(noisy, folder=tmp_path / name) for name in ("one", "two"))
    assert records(tmp_path / "one") == records(tmp_path / "two")
    assert one.content["hash"] == two.content["hash"]
    assert one.content["robust R@1"]["draws"] == {"averaged": 20, "fresh": 100}
    assert "draws" not in worst(MODEL).content["robust R@1"]


@pytest.mark.usefixtures("short")
def test_a_random_model_is_trusted_a_masked_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "AVERAGED", 2)
    monkeypatch.setattr(draws, "AVERAGED", 2)
    monkeypatch.setattr(cascade, "CASCADE", cascade.CASCADE[1:])
    found = worst(noisy, checks=True)
    assert "UNTRUSTED" not in found.verdict, [one for one in found.content["checks"] if one["passed"] is False]
    states = {one["name"]: one["passed"] for one in found.content["checks"]}
    assert states["a second run gives the same"] is None
    assert any("random numbers" in remark for remark in found.content["model"]["remarks"])
    hidden = worst(masked, checks=True)
    assert "UNTRUSTED" in hidden.verdict


@pytest.mark.parametrize("settings", [{"protocol": "cvpr22"}, {"protocol": "strict", "attacks": ("es",)}])
def test_what_takes_single_draws_alone_refuses_a_random_model(settings: dict[str, Any]) -> None:
    with pytest.raises(HoldfastError, match="only robust R@1"):
        worst(noisy, **settings)


def test_the_mean_over_draws_has_the_mean_gradient() -> None:
    """Of a value whose calls differ, and of one whose calls do not."""
    images, factors = uniform(3, 1, 1, 4, 4), iter([1.0, 2.0, 6.0] * 2)
    value = over_draws(lambda x: next(factors) * x.square().flatten(1).sum(1), 3)
    values, gradient = WHITE_BOX(Iterate(images, value, lambda x: x, -torch.inf, 0.0), None)
    torch.testing.assert_close(values, 3 * images.square().flatten(1).sum(1))
    torch.testing.assert_close(gradient, 6 * images)
    net, pixels = ConvNet().double(), uniform(4, 1, 1, 8, 8).double()
    once, thrice = (
        PGD(LInf(0.1), 0.2, 10, schedule=Adaptive(), best=True, draws=n)(net, pixels, Total()) for n in (1, 3)
    )
    torch.testing.assert_close(once, thrice)
