"""The embedder: pixels in [0, 1] -> embeddings on the unit sphere, with mean/std and the L2 norm inside."""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NotRequired, Self

import torch
from pydantic import StrictBool, StrictStr
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import TypedDict

from holdfast.core.fused import frozen
from holdfast.models import hub
from holdfast.models.backbones import find_backbone, is_code
from holdfast.models.backbones.custom import given
from holdfast.models.weights import Mismatch, fitting, load_weights, read_state
from holdfast.runs.config import is_encoder
from holdfast.util.arrays import save_safetensors
from holdfast.util.atomic import write_json
from holdfast.util.errors import HoldfastError, within
from holdfast.util.imports import CUSTOM
from holdfast.util.text import counted
from holdfast.util.validate import Count, Number, OneOf, Text, check, fit, read_json

FORMAT = "holdfast-embedder-1"


@dataclass(frozen=True)
class EmbedderConfig:
    """What an embedder is built from.

    ``backbone`` is a name (see :func:`.find_backbone`), or ``custom`` for a module given as an object; ``dim`` is the
    length of an embedding; images are (channels, size, size); ``mean`` and ``std`` hold one value per channel in the
    units of [0, 1], ``None`` for the backbone's own; ``freeze_batchnorm`` keeps the statistics of BatchNorm as they are
    while training.
    """

    backbone: Text
    dim: Count = 512
    channels: Count = 3
    size: Count = 224
    mean: tuple[Number, ...] | None = None
    std: tuple[Number, ...] | None = None
    freeze_batchnorm: StrictBool = False


class _Format(TypedDict):
    format: Annotated[str, OneOf([FORMAT])]
    weights: NotRequired[Annotated[str, OneOf(["last", "best"])]]
    chosen_on: NotRequired[StrictStr]


class Embedder(nn.Module):
    """``φ`` of the paper (arXiv 2203.01439): images (B, channels, H, W) in [0, 1] -> (B, dim) of unit length.

    backbone: a module of your own, normalised pixels (B, channels, H, W) -> (B, dim), in place of the one that the
    config names. Its attributes ``mean`` and ``std``, where it has them, are what its pixels are normalised by.
    Convolution weights are kept in the channels_last layout, which changes their speed and not their meaning.

    ``noise``: σ of the Gaussian noise that images get in training mode, in units of [0, 1]; 0 at first (Cohen et al.,
    ICML 2019).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EmbedderConfig, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config if backbone is None else replace(config, backbone=CUSTOM)
        kind = find_backbone(config.backbone) if backbone is None else given(backbone)
        self.backbone = kind.network(config.dim, config.channels, config.size)
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.fixed_size, self.noise = kind.fixed_size, 0.0
        own_mean, own_std = kind.statistics(self.backbone)
        mean = _per_channel("mean", config.mean, own_mean, config.channels)
        std = _per_channel("std", config.std, own_std, config.channels)
        if not (std > 0).all():
            raise HoldfastError(f"std of the pixels is positive, got {std.flatten().tolist()}")
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) in [0, 1] -> (B, dim) on the unit sphere.

        The embedding is float32 also under autocast and with a backbone of lower precision, float64 with a float64
        backbone. A zero output of the backbone stays zero. Raises HoldfastError for another shape or for integer
        pixels.
        """
        self._check(images)
        if self.training and self.noise:
            images = images + self.noise * torch.randn_like(images)
        pixels = (images - self.mean) / self.std
        dtype = next(self.backbone.parameters()).dtype
        z = self.backbone(pixels.to(dtype, memory_format=torch.channels_last))
        return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1)

    def _check(self, images: Tensor) -> None:
        channels, size = self.config.channels, self.config.size
        side = str(size) if self.fixed_size else "any"
        if images.ndim != 4 or images.shape[1] != channels or (self.fixed_size and images.shape[2:] != (size, size)):
            raise HoldfastError(
                f"{self.config.backbone} takes images of shape (batch, {channels}, {side}, {side}), "
                f"got {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise HoldfastError(f"images are floating point in [0, 1], got {images.dtype}; use images.float() / 255")

    def train(self, mode: bool = True) -> Self:
        """As for any module, but BatchNorm keeps its statistics with ``freeze_batchnorm``; its affine part learns."""
        super().train(mode)
        if self.config.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False
        return self

    def frozen(self) -> AbstractContextManager[nn.Module]:
        """In evaluation mode and without parameter gradients inside; see :func:`holdfast.core.fused.frozen`."""
        return frozen(self)

    def load_weights(self, path: str | Path, partial: bool = False) -> Mismatch:
        """Start the backbone from a ``.pth`` or ``.safetensors`` file; see :func:`.models.weights.load_weights`.

        Raises HoldfastError where fewer than half of its tensors are in the file, unless ``partial`` says that this is
        meant.
        """
        found = load_weights(self.backbone, path)
        if not partial and 2 * len(found.loaded) < found.wanted:
            raise HoldfastError(
                f"{path} holds only {len(found.loaded)} of the {counted(found.wanted, 'tensor')} of "
                f"{self.config.backbone}, such "
                f"as {found.loaded[0]}: give weights of this network, or ask for these few with model.partial=true"
            )
        return found

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        weights: str | None = None,
        chosen_on: str | None = None,
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``, each atomically.

        dtype: what the weights are stored in, such as ``torch.bfloat16`` for half the size; None: as they are.
        weights: ``last`` or ``best``, which of a run's these are; evaluations of the folder say it. chosen_on: the data
        set on whose test set they were chosen, which makes scores there too good.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise HoldfastError(f"weights are stored in a floating-point dtype, not {dtype}")
        folder, state = Path(folder), self.state_dict()
        if dtype is not None:
            state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        save_safetensors(folder / "model.safetensors", state, {"format": "pt"})
        known = {"weights": weights, "chosen_on": chosen_on}
        told = {key: value for key, value in known.items() if value is not None}
        write_json(folder / "config.json", {"format": FORMAT, **told, **asdict(self.config)})

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, backbone: nn.Module | None = None
    ) -> Self:
        """The embedder that :meth:`save_pretrained` wrote, on the CPU, in evaluation mode, with float32 parameters.

        source: a folder; ``zoo:NAME``; or ``owner/name`` or ``owner/name@revision`` on the Hugging Face Hub (extra
        ``hub``), where no folder is called so. revision: the same as after the @. backbone: the module, where the
        embedder was made with one of your own; it is loaded into. Parameters are float64 where they were stored so.
        Raises HoldfastError where there is no embedder, or its two files do not fit each other, and for one from
        elsewhere that names code.
        """
        folder = hub.located(source, revision)
        config = _read_config(folder / "config.json")
        if backbone is None and is_code(config.backbone) and not Path(source).is_dir():
            raise HoldfastError(
                f"{source} names code, {config.backbone}, which is not run for a model from elsewhere: build the "
                "network yourself and give it as backbone=…"
            )
        try:
            embedder, file = cls(config, backbone), folder / "model.safetensors"
        except HoldfastError as error:
            if backbone is None and is_code(config.backbone):
                raise HoldfastError(
                    f"{source} needs your own code {config.backbone}: {error}; put it here, or give the network itself "
                    "as backbone=…"
                ) from error
            raise
        state = read_state(file)
        if any(tensor.dtype == torch.float64 for tensor in state.values()):
            embedder.double()
        with fitting(f"{file} does not fit its config.json"):
            embedder.load_state_dict(state)
        return embedder.eval()

    def push_to_hub(
        self,
        repository: str,
        *,
        card: str | Path | None = None,
        dtype: torch.dtype | None = None,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to ``owner/name`` on the Hub (extra ``hub``); its address.

        card: a file that becomes the repository's README.md, as ``holdfast export RUN --format hub`` writes one.
        private, token: see :func:`.models.hub.push`.
        """
        if is_encoder(self.config.backbone):
            raise HoldfastError("a model from elsewhere goes to the Hub as it came: holdfast export --format native")
        if card is not None and not Path(card).is_file():
            raise HoldfastError(f"there is no card {card}")
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype)
            if card is not None:
                (Path(folder) / "README.md").write_bytes(Path(card).read_bytes())
            return hub.push(Path(folder), repository, private=private, token=token)


def _per_channel(what: str, given: tuple[float, ...] | None, own: Any, channels: int) -> Tensor:
    """One number for each channel, (channels, 1, 1); those of another number of channels are averaged."""
    if given is not None and len(given) != channels:
        raise HoldfastError(f"{what} has {counted(len(given), 'value')} for images of {counted(channels, 'channel')}")
    try:
        values = torch.as_tensor(own if given is None else given, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise HoldfastError(f"{what} of the pixels is a number for each channel, not {own!r}") from error
    if len(values) != channels:
        values = values.mean().expand(channels)
    return values.to(torch.get_default_dtype()).view(-1, 1, 1)


def _read_config(path: Path) -> EmbedderConfig:
    with within(f"{path.parent} holds no saved embedder"):
        content = read_json(path)
        check(_Format, content, f"{path.name} does not describe a holdfast embedder")
    return fit(EmbedderConfig, {key: content[key] for key in content if key not in _Format.__annotations__}, str(path))
