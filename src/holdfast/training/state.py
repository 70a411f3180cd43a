"""What a run resumes from: where it stands, and the tensors of its parts by name."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model that moves by ``1 - decay`` of the way to it at each ``update_parameters(model)``.

    Buffers too, but for those of whole numbers, which are taken over as they are.
    """

    def blend(kept: Tensor, new: Tensor, _: Tensor | int) -> Tensor:
        return kept.lerp(new, 1 - decay) if kept.is_floating_point() else new

    average = AveragedModel(model, avg_fn=blend, use_buffers=True)
    average.update_parameters(model)  # the first update copies: the average begins with the initial weights
    return average


def tensors(modules: Mapping[str, nn.Module], optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of modules and optimiser, as ``part/name``."""
    parts = {part: module.state_dict() for part, module in modules.items()}
    parts["optimizer"] = {
        f"{i}/{name}": value
        for i, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
        if value is not None
    }
    return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}


def restore(state: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
    """Take over what :func:`tensors` gave. Raises KeyError, ValueError or RuntimeError where it is of other parts."""
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in (*modules, "optimizer")}
    for key, tensor in state.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    for part, module in modules.items():
        module.load_state_dict(parts[part])
    memory: dict[int, dict[str, Tensor]] = {}
    for key, tensor in parts["optimizer"].items():
        index, _, name = key.partition("/")
        memory.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": memory})
