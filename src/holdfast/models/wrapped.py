"""A model under attack: any callable from pixels to vectors, counted, checked, and told apart from its mistakes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook

from holdfast.core.batching import WIDTH, checked, fixed_batch
from holdfast.core.fused import PRECISIONS, FusedNetwork, autocast, frozen
from holdfast.core.pgd import Embed
from holdfast.util.errors import HoldfastError, brief, foreign, lacks_memory
from holdfast.util.text import counted

TOLERANCE = 1e-4
"""How far the numbers of two unit-length embeddings of one image, or the length of one, may be apart."""
AGAIN = 4
"""How often images are embedded again to see whether random numbers are drawn: two draws may be alike."""
SLACK = 0.1
"""How far two gradients at one image may be apart, in units of the largest number: rounding in half precision."""
RANDOM = (
    "the model draws random numbers: for robust R@1 gradients are averaged over draws, and a query is broken if it "
    "fails in most of many fresh ones; every other score is of a single draw"
)
CONVERT = "give it images of the size, channels and device that it takes, or wrap it in a function that converts them"


class WrappedModel:
    """``embed``, a callable from images (n, C, H, W) in [0, 1] to vectors (n, D), as attacks and metrics use it.

    precision: ``float32``, or ``bfloat16`` for networks run under autocast. Vectors are float32 or wider either way.
    width: images that the model is given at once; see :func:`.fixed_batch`. Fewer than by default suit who passes few.

    ``forward`` and ``backward`` count the images passed through it so far, those that fill up a block included;
    ``asked`` counts without these. Attributes of ``embed`` may say that it takes images of ``eight_bits``, and that
    embeddings of one image are not the same to the last digit in every batch (``exact``).
    :meth:`examine` decides ``normalises`` (true until then), and writes ``remarks``, what the user should know,
    ``faults``, why the results of this model cannot be trusted, ``visible``, whether its first layer was seen, and
    ``random``, whether it draws random numbers.
    """

    def __init__(self, embed: Embed, precision: str = "float32", width: int = WIDTH) -> None:
        self.embed = self.network = embed
        self.width = width
        self.precision = PRECISIONS[precision]
        self.normalises = True
        self.forward = self.backward = self.asked = 0
        self.eight_bits: bool = getattr(embed, "eight_bits", False)
        self.exact: bool = getattr(embed, "exact", True)
        self.visible = False
        self.remarks: list[str] = []
        self.faults: list[str] = []
        self.obstacle = ""
        self.random = False
        self.dim: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """(n, C, H, W) in [0, 1] -> (n, D) of unit length, on the device of the images.

        float32, or float64 where the model gives that.

        The model is always given ``width`` images at once, so that a result does not depend on n. They are a copy,
        which it may write into; its outputs are copied, so that it may use their memory again. A zero vector stays
        zero. Raises HoldfastError where the model fails, or returns anything but floating-point vectors (n, D).
        """
        z = self._raw(images)
        return F.normalize(z, dim=1) if self.normalises else z

    def _raw(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        return fixed_batch(self._block, images, width=self.width)

    def _block(self, images: Tensor) -> Tensor:
        self.forward += len(images)
        advice = "it took such images before" if self.dim else CONVERT
        with foreign(f"the model fails on {images.dtype} images of shape {tuple(images.shape)}", advice), _same_dtype():
            z = self.network(images.clone())
        if not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim != 2 or len(z) != len(images):
            found = f"{z.dtype} of shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise HoldfastError(
                f"a model returns floating-point vectors (n, D), here ({len(images)}, D) for as many images, but this "
                f"one returned {found}; wrap it in a function that returns the embeddings alone"
            )
        if self.dim not in (None, z.shape[1]):
            raise HoldfastError(
                f"the model returned vectors of {counted(self.dim, 'dimension')} and then of "
                f"{z.shape[1]}; all need the same"
            )
        self.dim = z.shape[1]
        if z.requires_grad:
            z.register_hook(self._count)  # type: ignore[no-untyped-call]
        return z.to(images.device, torch.promote_types(z.dtype, torch.float32), copy=True)

    def _count(self, gradient: Tensor) -> None:
        self.backward += len(gradient)

    @contextmanager
    def frozen(self) -> Iterator["WrappedModel"]:
        """In evaluation mode and without parameter gradients inside, where ``embed`` is a module; see :func:`.frozen`.

        A function that calls a module is left as it is.
        """
        module = self.embed if isinstance(self.embed, nn.Module) else None
        if module is not None and module.training:
            self._remark("the model was left in training mode; it is evaluated in evaluation mode")
        with nullcontext() if module is None else frozen(module):
            yield self

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Where the model draws random numbers, those that torch gives it follow from a seed inside."""
        if not self.random:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield

    def require_repeatable(self) -> None:
        """Raise HoldfastError where :meth:`examine` saw other embeddings of the same images at the second time."""
        if self.random:
            raise HoldfastError(
                "the same images have other embeddings when embedded again, as if dropout were active: call .eval() on "
                "the model, and draw no random numbers in it; only robust R@1 can be measured of a model that does"
            )

    @property
    def differentiable(self) -> bool:
        """Whether :meth:`examine` found that gradients reach the pixels; true before it."""
        return not self.obstacle

    def require_gradients(self) -> None:
        """Raise HoldfastError where gradients do not reach the pixels."""
        if self.obstacle:
            raise HoldfastError(
                f"the gradient of the embeddings does not reach the pixels: {self.obstacle}; compute them by torch "
                "operations alone, without torch.no_grad(), .detach() or numpy, or use a black-box attack, gradient "
                "'square'"
            )

    def examine(self, images: Tensor) -> None:
        """Look for mistakes with a small sample of at least 2 images (n, C, H, W), before the model is evaluated.

        Raises HoldfastError where the pixels are not floating point in [0, 1]; where the model fails on them or
        returns no finite vectors; and where an embedding changes with the other images of its batch, as BatchNorm in
        training mode makes it. Of a model that draws random numbers the last is not found out.
        """
        _check_pixels(images)
        images = images.detach()[:WIDTH]
        with self.frozen():
            with torch.no_grad():
                first = self.tried(images)
                self.random = any(not _apart(first, self._raw(images)) <= TOLERANCE for _ in range(AGAIN))
                if not self.random:
                    self._check_independent(images, first)
                scale = self._scale(images)
            unit = _of_unit_length(first)
            self.normalises = not unit or self.precision is not None
            if isinstance(self.embed, nn.Module):
                self.network = FusedNetwork(self.embed, images, self.precision)
            elif self.precision is not None:
                self.network = partial(_under, self.precision, self.embed)
            self.obstacle = self._obstacle(images)
        self._remark(
            "outputs are of unit length already"
            if unit
            else "outputs were not of unit length: holdfast normalised them"
        )
        self.faults, self.visible = _faults(*scale) if scale else [], scale is not None
        if self.random:
            self._remark(RANDOM)

    def tried(self, images: Tensor) -> Tensor:
        """The outputs (n, D) for images (n, C, H, W), not normalised; the first ones that are asked of the model.

        Raises HoldfastError where it fails on them, returns no finite vectors, or has layers in training mode.
        """
        with _watch():
            return checked(self._raw(images))

    def _check_independent(self, images: Tensor, first: Tensor) -> None:
        alone = self._raw(images[:1].expand(self.width, *images.shape[1:]))
        if not (apart := _apart(first[:1], alone[:1])) <= TOLERANCE:
            raise HoldfastError(
                f"the embedding of an image depends on the other images of its batch (by up to {apart:.2g}), as if "
                "BatchNorm were in training mode: call .eval() on the model, and use no statistics of the batch"
            )

    def _obstacle(self, images: Tensor) -> str:
        """Why the gradient does not reach the pixels; empty where it does, also if it is zero."""
        pixels = images.clone().requires_grad_()
        gradients = []
        try:
            for between in (images[:0], 1 - images):
                with torch.enable_grad():
                    z = self(pixels)
                    total = z.sum()
                if not z.requires_grad:
                    return "the output of the model carries no gradient"
                if len(between):
                    with torch.no_grad():
                        self(between)
                (gradient,) = torch.autograd.grad(total, pixels, allow_unused=True)
                if gradient is None:
                    return "the output carries a gradient, but not of the pixels"
                gradients.append(gradient.nan_to_num().clone())
        except (Exception, SystemExit) as error:
            if lacks_memory(error):
                raise
            return f"with pixels that require a gradient the model fails ({brief(error.__cause__ or error)})"
        alone, after_others = gradients
        if not self.random and not (alone - after_others).abs().max() <= SLACK * alone.abs().max():
            return "it is another one once the model has embedded other images, as with captured CUDA graphs"
        return ""

    def _scale(self, images: Tensor) -> tuple[float, float, float] | None:
        """How the first layer sees pixels: the least and greatest value, and the slope; None where that is not known.

        All-black, grey and all-white images show it, for all channels and positions at once, as long as what comes
        before that layer is affine.
        """
        seen = []
        for shade in (0.0, 0.5, 1.0):
            with suppress(Exception), _watch() as first:
                self._raw(torch.full_like(images[:1], shade))
                seen += first
        if len(seen) < 3 or len({values.shape for values in seen}) > 1:
            return None
        black, grey, white = seen
        slope = (white - black).abs().max().item()
        bent = ((black + white) / 2 - grey).abs().max().item()
        if not (slope > 0 and bent <= 0.02 * slope):
            return None
        return torch.minimum(black, white).min().item(), torch.maximum(black, white).max().item(), slope

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)


def _under(precision: torch.dtype, embed: Embed, images: Tensor) -> Tensor:
    with autocast(precision, images.device):
        return embed(images)


@contextmanager
def _same_dtype() -> Iterator[None]:
    """torch's default dtype is afterwards what it was, whatever a model makes of it."""
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _check_pixels(images: Tensor) -> None:
    if images.ndim != 4 or len(images) < 2 or not images.numel():
        raise HoldfastError(f"a model is examined with at least 2 images (n, C, H, W), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise HoldfastError(f"images are floating point in [0, 1], got {images.dtype}; use images.float() / 255")
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        advice = "divide them by 255" if high > 1 else "remove the NaN"
        if low < 0:
            advice = "inputs look normalised already: pass pixels in [0, 1] and put the mean/std inside the model"
        raise HoldfastError(f"pixels lie in [{low:.3g}, {high:.3g}], not in [0, 1]: {advice}")


@contextmanager
def _watch() -> Iterator[list[Tensor]]:
    """Collect the input of the first layer with weights, in whatever module; refuse layers in training mode."""
    first: list[Tensor] = []

    def look(module: nn.Module, given: tuple[object, ...]) -> None:
        random = isinstance(module, _DropoutNd) and module.p > 0
        if module.training and (random or isinstance(module, _BatchNorm)):
            kind = type(module).__name__
            raise HoldfastError(f"the model has a {kind} layer in training mode: call .eval() on it before evaluating")
        weight = getattr(module, "weight", None)
        value = given[0] if isinstance(weight, Tensor) and weight.ndim > 1 and given else None
        if not first and isinstance(value, Tensor) and value.is_floating_point():
            first.append(value.detach().float().clone())

    handle = register_module_forward_pre_hook(look)
    try:
        yield first
    finally:
        handle.remove()


def _faults(low: float, high: float, slope: float) -> list[str]:
    """What is wrong with a first layer that sees [0, 1] as [low, high]; one (x - mean) / std has slope 1 to 5."""
    seen = f"the first layer sees pixels of [0, 1] as [{low:.3g}, {high:.3g}]"
    if slope < 0.05:
        return [f"{seen}: divided by 255 inside although it is given pixels in [0, 1]; remove the division"]
    if slope < 100 and (low < -2.7 or high > 4.5 or slope > 8):
        return [f"{seen}: they look normalised twice; subtract the mean and divide by the std once"]
    return []


def _of_unit_length(z: Tensor) -> bool:
    lengths = z.norm(dim=1)
    lengths = lengths[lengths > 0]
    return len(lengths) > 0 and bool(((lengths - 1).abs() <= TOLERANCE).all())


def _apart(one: Tensor, other: Tensor) -> float:
    return (F.normalize(one, dim=1) - F.normalize(other, dim=1)).abs().max().item()
