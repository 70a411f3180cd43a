"""A model under attack: its embeddings, its counters, and every mistake that examining it finds."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import WIDTH
from holdfast.models.wrapped import WrappedModel
from holdfast.util.errors import HoldfastError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5,), (0.5,))
MNIST = ((0.1307,), (0.3081,))
CIFAR = ((0.49,), (0.2,))


def images(count: int = 8, channels: int = 3, size: int = 8) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def convolution(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), *extra, nn.ReLU(), nn.Flatten(), nn.Linear(54, 5))


def examined(embed: Callable[[Tensor], Any], pixels: Tensor | None = None) -> WrappedModel:
    wrapped = WrappedModel(embed)
    with wrapped.frozen():
        wrapped.examine(images() if pixels is None else pixels)
    return wrapped


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :5] - 0.5


CONVOLUTION = convolution().eval()


# --- embeddings


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 140])
def test_embeddings_are_the_normalised_outputs_whatever_the_batch(count: int) -> None:
    model, pixels = convolution().eval(), images(70)
    z = WrappedModel(model)(pixels[:count])
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, F.normalize(model(pixels[:count]), dim=1))
    assert torch.equal(z, WrappedModel(model)(pixels)[:count])


def test_the_model_always_sees_full_blocks() -> None:
    widths: list[int] = []

    def embed(x: Tensor) -> Tensor:
        widths.append(len(x))
        return flat(x)

    WrappedModel(embed)(images(2 * WIDTH + 1))
    assert widths == [WIDTH] * 3
    widths.clear()
    WrappedModel(embed, width=5)(images(11))
    assert widths == [5] * 3


def test_gradients_of_the_pixels_are_those_of_the_model() -> None:
    model, pixels = convolution().eval(), images(40).requires_grad_()
    weights = torch.randn(40, 5, generator=torch.Generator().manual_seed(2))
    (ours,) = torch.autograd.grad((WrappedModel(model)(pixels) * weights).sum(), pixels)
    (direct,) = torch.autograd.grad((F.normalize(model(pixels), dim=1) * weights).sum(), pixels)
    torch.testing.assert_close(ours, direct)
    assert ours.abs().max() > 0


@pytest.mark.parametrize(
    ("given", "kept"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_outputs_are_normalised_and_it_is_said(given: torch.dtype, kept: torch.dtype) -> None:
    wrapped = examined(lambda x: flat(x).to(given))
    z = wrapped(images())
    assert z.dtype == kept
    torch.testing.assert_close(z.norm(dim=1), torch.ones(8, dtype=kept))
    assert wrapped.normalises
    assert wrapped.remarks == ["outputs were not of unit length: holdfast normalised them"]


def test_a_zero_vector_stays_zero() -> None:
    wrapped = examined(lambda x: flat(x) * 0)
    assert torch.equal(wrapped(images()), torch.zeros(8, 5))


def test_bits_of_unit_outputs_are_kept() -> None:
    def embed(x: Tensor) -> Tensor:
        return F.normalize(flat(x), dim=1) * (1 - 3e-6)

    wrapped = examined(embed)
    assert not wrapped.normalises
    assert torch.equal(wrapped(images(WIDTH)), embed(images(WIDTH)))
    assert wrapped.remarks == ["outputs are of unit length already"]
    assert examined(lambda x: flat(x) / flat(x)[:1].norm()).normalises, "one unit row does not make a unit model"


# --- counters


def test_counters_count_images_with_padding() -> None:
    wrapped = WrappedModel(convolution())
    wrapped(images(WIDTH + 1))
    assert (wrapped.forward, wrapped.backward) == (2 * WIDTH, 0)
    pixels = images(5).requires_grad_()
    z = wrapped(pixels)
    assert (wrapped.forward, wrapped.backward) == (3 * WIDTH, 0)
    torch.autograd.grad(z.sum(), pixels, retain_graph=True)
    assert (wrapped.forward, wrapped.backward) == (3 * WIDTH, WIDTH)
    torch.autograd.grad(z.sum(), pixels)
    assert wrapped.backward == 2 * WIDTH


# --- frozen


def test_frozen_holds_a_module_still_and_gives_it_back() -> None:
    model = convolution(nn.BatchNorm2d(6), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrapped = WrappedModel(model)
    with wrapped.frozen():
        assert not any(part.training for part in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        wrapped.examine(images())
    assert all(part.training for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert wrapped.remarks[0] == "the model was left in training mode; it is evaluated in evaluation mode"


def test_a_model_in_evaluation_mode_is_not_remarked_on_and_nothing_is_said_twice() -> None:
    assert len(examined(convolution().eval()).remarks) == 1
    wrapped = WrappedModel(convolution().train())
    for _ in range(2):
        wrapped.examine(images())
    assert len(wrapped.remarks) == 2


def test_a_function_is_left_as_it_is() -> None:
    model = convolution().train()
    with WrappedModel(partial(model)).frozen():
        assert model.training


# --- refusals


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (images() * 2 - 1, "normalised already.*mean/std inside the model"),
        (images() * 255, "divide them by 255"),
        (images() * float("nan"), "remove the NaN"),
        ((images() * 255).to(torch.uint8), "floating point"),
        (images(1), "at least 2"),
        (images(0), "at least 2"),
        (images()[0], "at least 2"),
        (torch.rand(4, 3, 0, 0), "at least 2"),
    ],
)
def test_wrong_pixels_are_refused_before_the_model_runs(pixels: Tensor, message: str) -> None:
    wrapped = WrappedModel(flat)
    with pytest.raises(HoldfastError, match=message):
        wrapped.examine(pixels)
    assert wrapped.forward == 0


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda x: (flat(x), x), "a tuple"),
        (lambda x: flat(x).numpy(), "a ndarray"),
        (lambda x: flat(x).long(), "torch.int64"),
        (lambda x: flat(x)[:, None], r"\(64, 1, 5\)"),
        (lambda x: flat(x)[:3], r"\(3, 5\)"),
        (lambda x: flat(x).sum(1), r"\(64,\)"),
        (lambda x: flat(x) / 0 * 0, "no finite norm"),
        (lambda x: flat(x) / (x[:, :1, 0, 0] != images()[3, 0, 0, 0]), "1 of 8.*row 3"),
        (lambda x: x.reshape(7, -1), r"fails on torch.float32 images of shape \(64, 3, 8, 8\) \(RuntimeError"),
    ],
)
def test_wrong_outputs_are_refused(embed: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message) as caught:
        examined(embed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(6), nn.Dropout(0.1), nn.Dropout2d(0.1)], ids=lambda layer: type(layer).__name__
)
def test_a_layer_in_training_mode_inside_a_function_is_named(layer: nn.Module) -> None:
    model = convolution(layer).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(HoldfastError, match=rf"{type(layer).__name__} layer in training mode: call .eval\(\)"):
        examined(partial(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    examined(partial(model))
    examined(partial(convolution(nn.Dropout(0.0)).train()))


def test_random_outputs_are_told_and_follow_from_a_seed() -> None:
    wrapped = examined(lambda x: F.dropout(flat(x), 0.2))
    assert wrapped.random
    assert wrapped.differentiable
    assert any("random numbers" in remark for remark in wrapped.remarks)
    with pytest.raises(HoldfastError, match=r"dropout.*call .eval\(\)"):
        wrapped.require_repeatable()
    state, found = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        with wrapped.seeded(seed):
            found.append(wrapped(images(4)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(state, torch.get_rng_state())
    assert not examined(flat).random


@pytest.mark.parametrize("pixels", [images(2), images(WIDTH), images(80)], ids=len)
def test_dependence_on_the_batch_is_refused(pixels: Tensor) -> None:
    with pytest.raises(HoldfastError, match=r"other images of its batch.*call .eval\(\)"):
        examined(lambda x: flat(x) - flat(x).mean(dim=0), pixels)
    with pytest.raises(HoldfastError, match="other images of its batch"):
        examined(convolution(nn.BatchNorm2d(6, track_running_stats=False)), pixels)


def test_no_hook_is_left_behind() -> None:
    from torch.nn.modules.module import _global_forward_pre_hooks

    examined(convolution())
    with pytest.raises(HoldfastError):
        examined(lambda x: x)
    assert not _global_forward_pre_hooks


# --- gradients


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("no derivative")


def rounded(x: Tensor) -> Tensor:
    y: Tensor = _Rounded.apply(x)  # type: ignore[no-untyped-call]
    return y


@pytest.mark.parametrize(
    ("embed", "reason"),
    [
        (torch.no_grad()(flat), "carries no gradient"),
        (torch.inference_mode()(flat), "carries no gradient"),
        (lambda x: flat(x.detach()), "carries no gradient"),
        (lambda x: torch.from_numpy(flat(x).detach().numpy() * 2), "carries no gradient"),
        (lambda x: torch.from_numpy(flat(x).numpy() * 2), "RuntimeError: Can't call numpy"),
        (lambda x: flat(rounded(x)), "no derivative"),
        (lambda x: CONVOLUTION(x.detach()), "not of the pixels"),
    ],
)
def test_absent_gradients_are_found_and_stop_only_what_needs_them(
    embed: Callable[[Tensor], Tensor], reason: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = examined(embed)
    assert not wrapped.differentiable
    with pytest.raises(HoldfastError, match=f"does not reach the pixels.*{reason}.*black-box"):
        wrapped.require_gradients()
    with torch.no_grad():
        assert wrapped(images()).shape == (8, 5)


@pytest.mark.parametrize(
    "embed", [flat, lambda x: flat(x.round()), lambda x: flat(x) * 0], ids=["plain", "zero", "dead"]
)
def test_gradients_that_exist_are_enough(embed: Callable[[Tensor], Tensor]) -> None:
    with torch.no_grad():
        wrapped = examined(embed)
    assert wrapped.differentiable
    wrapped.require_gradients()


# --- what the first layer sees


def normalised(x: Tensor, *statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    for mean, std in statistics:
        x = (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    return x


def patches(x: Tensor) -> Tensor:
    return F.unfold(x, 4, stride=4).transpose(1, 2)


PATCHES = nn.Linear(48, 5).eval()
FIRST: dict[str, Callable[[Tensor], Tensor]] = {
    "convolution": lambda x: CONVOLUTION(F.interpolate(x, (8, 8), mode="bicubic")),
    "patches": lambda x: PATCHES(patches(x)).mean(dim=1),
    "padded": lambda x: CONVOLUTION(F.pad(x, (1, 1, 1, 1))[:, :, :8, :8]),
}
RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "imagenet": lambda x: normalised(x, IMAGENET),
    "clip": lambda x: normalised(x, CLIP),
    "half": lambda x: normalised(x, HALF),
    "mnist": lambda x: normalised(x, MNIST),
    "cifar": lambda x: normalised(x, CIFAR),
    "times 255": lambda x: x * 255,
    "caffe": lambda x: x * 255 - 117,
    "times 255 and half": lambda x: (x * 255 - 127.5) / 127.5,
    "inverted": lambda x: 1 - x,
    "rounded": lambda x: normalised((x * 255).round() / 255, IMAGENET),
    "constant": lambda x: x * 0 - 9,
    "of its own statistics": lambda x: (x - x.mean((1, 2, 3), True)) / (x.std((1, 2, 3), keepdim=True) + 1e-3),
    "curved": lambda x: normalised(x**2 * 12, HALF),
}
TWICE: dict[str, Callable[[Tensor], Tensor]] = {
    "imagenet": lambda x: normalised(x, IMAGENET, IMAGENET),
    "clip": lambda x: normalised(x, CLIP, CLIP),
    "half": lambda x: normalised(x, HALF, HALF),
    "mnist": lambda x: normalised(x, MNIST, MNIST),
    "cifar": lambda x: normalised(x, CIFAR, CIFAR),
    "half, imagenet": lambda x: normalised(x, HALF, IMAGENET),
    "imagenet, half": lambda x: normalised(x, IMAGENET, HALF),
}
DIVIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "alone": lambda x: x / 255,
    "then imagenet": lambda x: normalised(x / 255, IMAGENET),
    "then half": lambda x: normalised(x / 255, HALF),
}


FAULTS = {
    "": RIGHT,
    "normalised twice": TWICE,
    "divided by 255 inside although it is given pixels in [0, 1]": DIVIDED,
}


@pytest.mark.parametrize("layer", FIRST)
@pytest.mark.parametrize(("fault", "before"), [(fault, one) for fault, inputs in FAULTS.items() for one in inputs])
def test_inputs_normalised_or_divided_twice_are_a_fault_and_no_others(fault: str, before: str, layer: str) -> None:
    faults = examined(lambda x: FIRST[layer](FAULTS[fault][before](x))).faults
    assert len(faults) == bool(fault)
    assert all(fault in one for one in faults)


def test_a_model_without_layers_and_one_that_fails_on_plain_images_have_no_fault() -> None:
    def picky(x: Tensor) -> Tensor:
        if bool((x == x[0, 0, 0, 0]).all()):
            raise ArithmeticError("no contrast")
        output: Tensor = CONVOLUTION(normalised(x, HALF, HALF))
        return output

    assert examined(flat).faults == []
    assert examined(picky).faults == []


def test_faults_are_those_of_the_last_look() -> None:
    wrapped = WrappedModel(lambda x: CONVOLUTION(x / 255))
    for _ in range(2):
        wrapped.examine(images())
        assert len(wrapped.faults) == 1


def test_vectors_of_another_length_are_refused() -> None:
    lengths = iter([4, 4, 5])
    wrapped = WrappedModel(lambda images: torch.ones(len(images), next(lengths)))
    with pytest.raises(HoldfastError, match="vectors of 4 dimensions and then of 5"):
        wrapped(torch.rand(3 * WIDTH, 1, 2, 2))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: model.forward], ids=["module", "function"])
def test_in_bfloat16_embeddings_are_a_little_other_and_float32(wrap: Callable[[nn.Module], Any]) -> None:
    model, pixels = convolution().eval(), images(8)
    wrapped = WrappedModel(wrap(model), "bfloat16")
    wrapped.examine(pixels)
    with torch.no_grad():
        z, exact = wrapped(pixels), WrappedModel(model)(pixels)
    assert z.dtype == torch.float32
    assert 0 < (z - exact).abs().max() < 0.02
    assert next(model.parameters()).dtype == torch.float32


def test_a_copy_that_embeds_otherwise_is_not_used() -> None:
    class Unfaithful(nn.Module):
        def __init__(self, sign: float = 1.0) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.ones(len(x)), self.sign * x.flatten(1).sum(1)], dim=1)

        def __deepcopy__(self, memo: object) -> "Unfaithful":
            return Unfaithful(-self.sign)

    wrapped = WrappedModel(Unfaithful())
    wrapped.examine(images(8))
    assert (wrapped(images(8))[:, 1] > 0).all()
