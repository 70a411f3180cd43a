"""Models that do what they should not: measured as if they did not, or refused in one line, and nothing is lost."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.evaluation.evaluate import evaluate
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import QUICK, counted, digits, embedder, interrupt, lasting, records

EMBEDDER = embedder()
SOME: dict[str, Any] = {**QUICK, "attacks": ("ltm",), "batch": 6}


def plain(images: Tensor) -> Tensor:
    z: Tensor = EMBEDDER(images)
    return z


class OwnBuffer(nn.Module):
    """Writes all its outputs into the same memory."""

    out: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = embedder()
        self.register_buffer("out", torch.zeros(64, 16), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        z = self.network(images)
        return self.out.detach()[: len(z)].copy_(z)


def writes_into_its_input(images: Tensor) -> Tensor:
    return plain(images.mul_(0.5).mul_(2))


def sets_the_default_dtype(images: Tensor) -> Tensor:
    torch.set_default_dtype(torch.float64)
    return plain(images)


def returns_what_inference_mode_makes(images: Tensor) -> Tensor:
    with torch.inference_mode():
        return plain(images)


@pytest.fixture(scope="module")
def usual() -> tuple[dict[str, Any], int]:
    """What an evaluation finds, and the calls of the model it takes."""
    model, calls = counted(plain)
    return evaluate(model, digits(), **SOME).content, calls[0]


@pytest.mark.parametrize("model", [OwnBuffer(), writes_into_its_input, sets_the_default_dtype])
def test_what_a_model_does_with_tensors_that_are_not_its_own_changes_no_number(
    model: Callable[[Tensor], Tensor], usual: tuple[dict[str, Any], int]
) -> None:
    found = evaluate(model, digits(), **SOME).content
    assert torch.get_default_dtype() == torch.float32
    assert found["columns"] == usual[0]["columns"]
    assert found["benign"] == usual[0]["benign"]


def test_outputs_of_inference_mode_serve_attacks_without_gradients() -> None:
    options = {**SOME, "gradient": "square"}
    assert (
        evaluate(returns_what_inference_mode_makes, digits(), **options).content["columns"]
        == evaluate(plain, digits(), **options).content["columns"]
    )


class Captured(torch.autograd.Function):
    """A network whose intermediate results have one place in memory, as CUDA graphs have it."""

    images: Tensor

    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        Captured.images = images.detach().clone()
        return plain(images)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        with torch.enable_grad():
            pixels = Captured.images.requires_grad_()
            return torch.autograd.grad(plain(pixels), pixels, *gradients)[0]


def test_gradients_that_other_images_change_are_not_used() -> None:
    with pytest.raises(HoldfastError, match="another one once the model has embedded other images, as with captured"):
        evaluate(Captured.apply, digits(), **SOME)


def stops() -> None:
    raise StopIteration


def runs_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


ENDS: dict[str, tuple[Callable[[], Any], type[BaseException], str]] = {
    "an exit": (lambda: sys.exit(0), HoldfastError, r"the model fails on .*\(SystemExit: 0\)"),
    "StopIteration": (stops, HoldfastError, r"the model fails on .*\(StopIteration\)"),
    "an error": (lambda: 1 // 0, HoldfastError, r"the model fails on .*\(ZeroDivisionError: "),
    "an error of many lines": (lambda: int("a\n\x1b[2Jb"), HoldfastError, r"the model fails on .*\(ValueError: "),
    "no memory": (runs_out, torch.OutOfMemoryError, "out of memory"),
    "an interrupt": (interrupt, KeyboardInterrupt, "^$"),
}


@pytest.mark.parametrize("end", ENDS)
def test_whatever_a_model_raises_in_an_attack_what_was_computed_is_kept(
    end: str, usual: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    raising, kind, message = ENDS[end]
    whole, calls = usual
    broken, _ = counted(plain, fatal=calls - 1, end=raising)
    with pytest.raises(kind, match=message) as caught:
        evaluate(broken, digits(), folder=tmp_path, **SOME)
    assert len(str(caught.value).splitlines()) <= 1
    assert str(caught.value).isprintable() or not str(caught.value)
    kept = records(tmp_path)
    assert sum(content.count(b"\n") for content in kept.values()) == 6
    model, again = counted(plain)
    assert lasting(evaluate(model, digits(), folder=tmp_path, **SOME).content) == lasting(whole)
    assert again[0] < calls
    assert all(content.startswith(kept[name]) for name, content in records(tmp_path).items())


def test_an_error_of_the_backward_pass_is_one_line() -> None:
    passes = [0]

    def fail(gradient: Tensor) -> None:
        passes[0] += 1
        if passes[0] > 4:
            raise RuntimeError("boom\nand more")

    def model(images: Tensor) -> Tensor:
        z = plain(images)
        if z.requires_grad:
            z.register_hook(fail)
        return z

    with pytest.raises(HoldfastError, match=r"^attack 'ltm' fails on .* \(RuntimeError: boom\); .*kept"):
        evaluate(model, digits(), **SOME)
