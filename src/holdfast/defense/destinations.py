"""The hardness an adversarial triplet is raised to: constant, that of another benign triplet, or gradual."""

import torch
from torch import Generator, Tensor, nn

from holdfast.core.samplers import EmbeddedBatch, Sampler
from holdfast.core.triplets import hardness
from holdfast.util.distributed import average

FIRST_LOSS = 2.0


class Destination(nn.Module):
    """``destination(batch, generator)`` gives ``H_D`` per anchor of the batch, ``(T,)``."""

    def observe(self, loss: Tensor) -> None:
        """Take note of the adversarial triplet loss of the iteration, ``()``, before other terms are added."""


class Constant(Destination):
    """The same hardness always."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, batch: EmbeddedBatch, generator: Generator | None = None) -> Tensor:
        return torch.full((len(batch.anchors),), self.value, device=batch.embeddings.device)


class Sampled(Destination):
    """The hardness of another benign triplet of the same anchor (Zhou & Patel 2022, HM[H_S, H_D])."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler

    def forward(self, batch: EmbeddedBatch, generator: Generator | None = None) -> Tensor:
        return hardness(self.sampler(batch, generator).take(batch.embeddings))


class LossLeft(nn.Module):
    """How much of the training loss is left, ``min(u, loss) / u`` in [0, 1], from the previous iteration's loss."""

    loss: Tensor

    def __init__(self, ceiling: float) -> None:
        super().__init__()
        self.ceiling = ceiling
        self.register_buffer("loss", torch.tensor(FIRST_LOSS))

    def forward(self) -> Tensor:
        return self.loss.clamp(max=self.ceiling) / self.ceiling

    def observe(self, loss: Tensor) -> None:
        mean = loss.detach().clone()
        average([mean])
        self.loss.copy_(mean)


class Gradual(Destination):
    """``-margin * left ** power``: weak adversaries early, strong ones late (Zhou & Patel 2022, section 3.2).

    power: 1 is the linear g_LGA, 2 the eager g_2, 1/2 the conservative g_1/2.
    """

    def __init__(self, margin: float, ceiling: float, power: float = 1.0) -> None:
        super().__init__()
        self.margin, self.power, self.left = margin, power, LossLeft(ceiling)

    def forward(self, batch: EmbeddedBatch, generator: Generator | None = None) -> Tensor:
        left: Tensor = self.left().to(batch.embeddings.device)
        return (-self.margin * left**self.power).expand(len(batch.anchors))

    def observe(self, loss: Tensor) -> None:
        self.left.observe(loss)


class Boosted(Destination):
    """A benign destination, raised by up to ``boost`` as the loss falls (Zhou & Patel 2022, g_B(H_D; xi))."""

    def __init__(self, benign: Destination, ceiling: float, boost: float = 0.1) -> None:
        super().__init__()
        self.benign, self.boost, self.left = benign, boost, LossLeft(ceiling)

    def forward(self, batch: EmbeddedBatch, generator: Generator | None = None) -> Tensor:
        benign: Tensor = self.benign(batch, generator)
        left: Tensor = self.left()
        return benign + self.boost * (1 - left)

    def observe(self, loss: Tensor) -> None:
        self.left.observe(loss)
