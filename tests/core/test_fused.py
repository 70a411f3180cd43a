"""The copy that attacks run on: the embeddings of the module in evaluation mode, and nothing of the module changed."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from holdfast.core.fused import FusedNetwork
from holdfast.models.embedder import Embedder, EmbedderConfig


def images(count: int = 5, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def trained(backbone: str) -> Embedder:
    """An embedder whose BatchNorm has statistics and an affine part of its own."""
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig(backbone, dim=16, channels=3, size=32))
    with torch.no_grad():
        for module in embedder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        for _ in range(3):
            embedder(images(16))
    return embedder


def outcome(embed: Callable[[Tensor], Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings, and the gradient of a sum of theirs for the pixels."""
    pixels = pixels.clone().requires_grad_()
    z = embed(pixels)
    weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    return z.detach(), torch.autograd.grad((z * weights).sum(), pixels)[0]


def reference(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)


@pytest.mark.parametrize("backbone", ["c2f2", "resnet18", "resnet50"])
def test_a_replica_embeds_as_its_module_does_in_evaluation_mode(backbone: str) -> None:
    module, pixels = trained(backbone).double(), images().double()
    before = copy.deepcopy(module.state_dict())
    (z, gradient), (wanted, slope) = outcome(FusedNetwork(module, pixels), pixels), outcome(reference(module), pixels)
    torch.testing.assert_close(z, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-10 * float(slope.abs().max()))
    assert module.training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_every_batchnorm_of_the_resnets_is_folded() -> None:
    for backbone, count in {"resnet18": 20, "resnet50": 53}.items():
        fused = FusedNetwork(trained(backbone), images())
        assert len(fused.folds) == count
        assert not [m for m in fused.network.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("backbone", ["c2f2", "resnet18"])
def test_refreshed_it_follows_the_training(backbone: str, precision: torch.dtype | None) -> None:
    module = trained(backbone)
    fused = FusedNetwork(module, images(), precision)
    old = fused(images())
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module(images(8)).square().cumsum(0).sum().backward()
    optimizer.step()
    new = FusedNetwork(module, images(), precision)(images())
    assert (new - old).abs().max() > 1e-4
    waits = backbone == "resnet18" or precision is not None
    assert torch.equal(fused(images()), new) != waits, "what is folded or in another precision waits for the refresh"
    fused.refresh()
    assert torch.equal(fused(images()), new)


def test_other_weights_of_other_shapes_are_taken_over_too() -> None:
    module = trained("resnet18")
    fused = FusedNetwork(module, images())
    module.load_state_dict(trained("resnet18").state_dict())
    module.backbone.get_submodule("fc").weight = nn.Parameter(torch.randn(4, 512))  # type: ignore[union-attr]
    module.backbone.get_submodule("fc").bias = None  # type: ignore[union-attr]
    fused.refresh()
    torch.testing.assert_close(fused(images()), reference(module)(images()), rtol=0, atol=2e-5)


def test_weights_that_need_no_change_take_no_memory() -> None:
    module = trained("c2f2")
    own, theirs = dict(FusedNetwork(module, images()).network.named_parameters()), dict(module.named_parameters())
    assert all(own[name].data_ptr() == value.data_ptr() for name, value in theirs.items())


def test_in_bfloat16_the_matrices_are_held_so_and_the_embeddings_are_not() -> None:
    module = trained("resnet18")
    fused = FusedNetwork(module, images(), torch.bfloat16)
    assert {p.dtype for p in fused.network.parameters()} == {torch.bfloat16}
    z = fused(images())
    assert z.dtype == torch.float32
    assert 0 < (z - reference(module)(images())).abs().mean() < 0.01
    assert all(p.dtype == torch.float32 for p in module.parameters())


class Body(nn.Module):
    """Two convolutions with BatchNorm, which a subclass connects."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        for norm in (self.norm, self.other):
            norm.running_mean = torch.randn(3)
            norm.running_var = torch.rand(3) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        return normalize(self.connect(x).flatten(1), dim=1)

    def connect(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Tapped(Body):
    def connect(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        return y + self.norm(y) + self.other(self.second(y))


class Shared(Body):
    def connect(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)) + self.norm(self.second(x)) + self.other(self.first(x))  # type: ignore[no-any-return]


class Rectified(Body):
    def connect(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x).relu()) + self.other(self.second(x))  # type: ignore[no-any-return]


class Ordered(Body):
    """Its forward depends on the data, so that it cannot be traced; its parts can."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(self.first, self.norm, nn.ReLU(), self.second, self.other)

    def connect(self, x: Tensor) -> Tensor:
        return self.part(x) if x.sum() > 0 else x


@pytest.mark.parametrize(("kind", "folds"), [(Tapped, 1), (Shared, 0), (Rectified, 1), (Ordered, 2)])
def test_only_a_convolution_that_a_batchnorm_alone_follows_is_folded(kind: type[Body], folds: int) -> None:
    module = kind()
    fused = FusedNetwork(module, images())
    assert len(fused.folds) == folds
    torch.testing.assert_close(fused(images()), reference(module)(images()), rtol=0, atol=1e-6)


def test_a_batchnorm_without_statistics_stays() -> None:
    module = Rectified()
    module.other = nn.BatchNorm2d(3, track_running_stats=False)
    assert not FusedNetwork(module, images()).folds


def test_tracing_leaves_no_trace() -> None:
    class Counting(Body):
        calls = 0

        def connect(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.norm(self.first(x))  # type: ignore[no-any-return]

    module = Counting()
    fused = FusedNetwork(module, images())
    assert len(fused.folds) == 1
    fused(images())
    assert module.calls == 1, "once, to see whether the copy embeds alike"


def test_what_cannot_be_copied_is_used_itself_and_frozen() -> None:
    module = trained("resnet18")
    module.extra = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(TypeError):
        copy.deepcopy(module)
    fused = FusedNetwork(module, images())
    pixels = images().requires_grad_()
    with fused.frozen():
        z = fused(pixels)
        z.sum().backward()
    assert pixels.grad is not None
    assert module.training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    del module.extra
    torch.testing.assert_close(z.detach(), reference(module)(images()), rtol=0, atol=1e-6)
    fused.refresh()


class Aliased(Body):
    """A convolution and its BatchNorm under two names each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(self.first, self.norm, nn.ReLU())

    def connect(self, x: Tensor) -> Tensor:
        return self.stem(x)  # type: ignore[no-any-return]


class Tied(Body):
    def __init__(self) -> None:
        super().__init__()
        self.second.weight = self.first.weight

    def connect(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)) + self.second(x)  # type: ignore[no-any-return]


class Moody(Body):
    """What it computes in training has no place in an evaluation."""

    def connect(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        return self.norm(y) if self.training else self.norm(y) + y


class Optional(Body):
    def connect(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(self.first(x))
        return y if mask is not None else y.relu()


class Direct(Body):
    """It uses the parameters of its layers beside the layers."""

    def connect(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)) * self.norm.weight.sum() + nn.functional.conv2d(x, self.first.weight, padding=1)


class Flattening(Body):
    """It views a parameter as only one memory layout allows."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 3, 4, 8))

    def connect(self, x: Tensor) -> Tensor:
        return self.first(x) + self.place.view(1, 96).mean()  # type: ignore[no-any-return]


class Hooked(Body):
    def __init__(self) -> None:
        super().__init__()
        self.first.register_forward_hook(lambda module, given, y: 2 * y)

    def connect(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x))  # type: ignore[no-any-return]


class Spectral(Body):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.spectral_norm(self.first)

    def connect(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x))  # type: ignore[no-any-return]


class Exact(Body):
    """Its head keeps out of autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def connect(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x)).mean((2, 3))
        with torch.autocast("cpu", enabled=False):
            return self.head(y.float())  # type: ignore[no-any-return]


class Itself(Body):
    def connect(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x))  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: object) -> "Itself":
        return self


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize(
    "kind", [Aliased, Tied, Moody, Optional, Direct, Flattening, Hooked, Spectral, Exact, Itself, Tapped, Ordered]
)
def test_strange_modules_are_embedded_as_they_embed_themselves(kind: type[Body], precision: torch.dtype | None) -> None:
    """Copied where that is safe, and themselves where it is not; before and after they have learnt something."""
    module = kind()
    fused = FusedNetwork(module, images(), precision)
    with torch.no_grad():
        for _ in range(2):
            wanted = reference(module) if kind is not Itself else module.eval()
            with fused.frozen():
                apart = (fused(images()) - wanted(images())).abs().max()
            assert apart < (1e-5 if precision is None else 0.02)
            for parameter in module.parameters():
                parameter.mul_(1.5).add_(0.1)
            fused.refresh()
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in (module.norm, module.other))


def test_a_recomputation_in_the_backward_pass_finds_the_network_as_the_forward_pass_did() -> None:
    class Saving(Body):
        def connect(self, x: Tensor) -> Tensor:
            return checkpoint(lambda y: self.norm(self.first(y)), x, use_reentrant=False)  # type: ignore[no-any-return]

    module = Saving()
    before = copy.deepcopy(module.state_dict())
    _, gradient = outcome(FusedNetwork(module, images()), images())
    _, slope = outcome(reference(module), images())
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
