"""Weights in files: read without running code, matched by name, written atomically."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast.data.decode import no_file
from holdfast.util.arrays import check_whole
from holdfast.util.errors import HoldfastError, printable, shown
from holdfast.util.text import counted

WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIX = re.compile(r"(?:(?:module|backbone|model|_orig_mod)\.)*")
"""What wrappers leave before a name."""
MAX_NAME = 500
"""Letters of a tensor's name."""


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a ``.safetensors`` file or of a file written by ``torch.save``, on the CPU.

    A dictionary under ``state_dict``, ``model_state_dict`` or ``model`` is unwrapped. Nothing that could run code
    is unpickled. Raises HoldfastError where the file is absent or broken, or holds code or no tensors.
    """
    path = Path(path)
    if reason := no_file(path, sys.maxsize):
        raise HoldfastError(f"no weights at {path}: {reason}")
    content = _read(path)
    for _ in WRAPPERS:
        if wrapped := [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]:
            content = content[wrapped[0]]
    state = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    for name, tensor in state.items():
        if not (name.isprintable() and len(name) <= MAX_NAME and _plain(tensor)):
            raise HoldfastError(f"{path}: {shown(name)} is no name and tensor of a network's weights ({tensor.dtype})")
    if not state:
        keys = (key if isinstance(key, str) else type(key).__name__ for key in list(content)[:6])
        found = printable(", ".join(key[:MAX_NAME] for key in keys)) or "nothing"
        raise HoldfastError(f"{path} holds no named tensors, also not under {', '.join(WRAPPERS)}; found: {found}")
    return state


def _read(path: Path) -> Mapping[str, Any]:
    try:
        check_whole(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except HoldfastError as error:
        raise HoldfastError(f"{path} cannot be read as weights: {error}") from None
    except Exception as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise HoldfastError(
                f"{path} is not loaded: it names {printable(refused[1])}, and anything but tensors and plain data "
                "could run code; if you trust the file, load it with torch yourself and save its state_dict as "
                ".safetensors"
            ) from error
        if "PytorchStreamReader" in str(error):
            raise HoldfastError(f"{path} cannot be read as weights: it is damaged or cut short") from error
        reason = printable(str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0])
        raise HoldfastError(f"{path} cannot be read as weights ({type(error).__name__}: {reason})") from error
    if not isinstance(content, Mapping):
        raise HoldfastError(f"{path} holds a {type(content).__name__}, not a dictionary of named tensors")
    return content


def _plain(tensor: Tensor) -> bool:
    dense = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized or tensor.is_complex())
    return dense and tensor.device.type == "cpu"


@dataclass(frozen=True)
class Mismatch:
    """What loading weights did, by the names of the module (``unexpected``: of the file).

    ``reshaped`` holds (name, shape in the file, shape in the module) of tensors left as they were.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def wanted(self) -> int:
        """How many tensors the module has."""
        return len(self.loaded) + len(self.missing) + len(self.reshaped)

    def describe(self) -> str:
        """One line for what was loaded, and one for each kind of tensor that was not."""
        lines = [f"loaded {len(self.loaded)} of {counted(self.wanted, 'tensor')}"]
        if self.missing:
            lines.append(f"not in the file: {', '.join(self.missing)}")
        if self.unexpected:
            lines.append(f"not in the network: {', '.join(self.unexpected)}")
        lines += [f"{name} is {there} in the file and {here} in the network" for name, there, here in self.reshaped]
        return "\n".join(lines)


def load_weights(module: nn.Module, path: str | Path) -> Mismatch:
    """Copy into ``module`` the tensors of a file that match one of its own by name and shape; list the others.

    Prefixes that wrappers leave (``module.``, ``backbone.``, ``model.``, ``_orig_mod.``) are dropped where that
    finds more names. BatchNorm's batch counters, which older files lack, are not counted as missing. Raises
    HoldfastError where nothing matches.
    """
    state, own = read_state(path), module.state_dict()
    ours = _strip(own, [prefix for prefix in _prefixes(own) if all(name.startswith(prefix) for name in own)][-1])
    theirs = _strip(state, max(_prefixes(state), key=lambda prefix: len(_strip(state, prefix).keys() & ours.keys())))
    common = [name for name in ours if name in theirs]
    loaded = [name for name in common if own[ours[name]].shape == state[theirs[name]].shape]
    if not loaded:
        raise HoldfastError(
            f"nothing in {path} fits the network: it holds {_some(state)}; the network wants {_some(own)}"
        )
    with torch.no_grad():
        for name in loaded:
            own[ours[name]].copy_(state[theirs[name]])
    used = {theirs[name] for name in common}
    reshaped = [(ours[n], tuple(state[theirs[n]].shape), tuple(own[ours[n]].shape)) for n in common if n not in loaded]
    return Mismatch(
        tuple(ours[name] for name in loaded),
        tuple(n for name, n in ours.items() if name not in theirs and not n.endswith("num_batches_tracked")),
        tuple(name for name in state if name not in used),
        tuple(reshaped),
    )


def _prefixes(names: Mapping[str, Tensor]) -> list[str]:
    """The wrapper prefixes of names, shortest first: of module.model.fc '', 'module.', 'module.model.'."""
    wholes = {found[0] for name in names if (found := PREFIX.match(name))}
    return sorted({"", *(whole[: dot.end()] for whole in wholes for dot in re.finditer(r"\.", whole))}, key=len)


def _strip(names: Mapping[str, Tensor], prefix: str) -> dict[str, str]:
    """The names that begin with ``prefix``, by what follows it."""
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


@contextmanager
def fitting(fault: str) -> Iterator[None]:
    """Raise HoldfastError, ``fault`` and the reason, where what is loaded inside has other names or shapes."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise HoldfastError(f"{fault}: {' '.join(str(error).split())[:300]}") from error


def _some(state: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in list(state.items())[:4])


def load_exactly(module: nn.Module, path: Path, heads: tuple[str, ...] = ()) -> None:
    """Every tensor of the file into the module's of that name and shape; ``heads``, which it lacks, may be left over.

    Prefixes that wrappers leave are dropped, as :func:`.load_weights` does.
    """
    found = load_weights(module, path)
    head = re.compile(rf"{PREFIX.pattern}(?:{'|'.join(map(re.escape, heads)) or '(?!)'})\.")
    differing = {
        "missing": found.missing,
        "unexpected": [name for name in found.unexpected if not head.match(name)],
        "of another shape": [name for name, _, _ in found.reshaped],
    }
    listed = [
        f"{len(names)} {kind} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for kind, names in differing.items()
        if names
    ]
    if listed:
        raise HoldfastError(f"{path} does not fit the model: {'; '.join(listed)}; give weights of this very network")
