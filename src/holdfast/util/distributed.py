"""Plain torch.distributed under torchrun: what ranks share, and no-ops in a single process."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from holdfast.util.errors import HoldfastError, lacks_memory

T = TypeVar("T")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group torchrun describes in the environment, if any, and leave it at the end, all ranks together.

    Where one has ended, torchrun stops the others: they raise HoldfastError then.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=1), device_id=device if on_gpu else None)
    try:
        with _stopped_aloud():
            yield
            wait()
    finally:
        _answers.clear()
        dist.destroy_process_group()


ENDED = (
    "this group of processes was stopped, or one of them has ended: what was finished is kept, so start the group again"
)


@contextmanager
def _stopped_aloud() -> Iterator[None]:
    """SIGTERM is an error inside, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise HoldfastError(ENDED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def device(name: torch.device | str | None = None) -> torch.device:
    """The device of a name, by default this process's GPU, the CPU where there is none."""
    if name is not None and str(name) != "cuda":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise HoldfastError(f"device {str(name)!r} cannot be used: {reason}") from error
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if name is not None:
        raise HoldfastError("device 'cuda' cannot be used: torch finds no GPU")
    return torch.device("cpu")


def memory(device: torch.device) -> int:
    """Bytes of a device, or of its main memory for each process that torchrun has started on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return everything // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each floating-point tensor by its mean over the ranks, in place, in one exchange."""
    shared = [t for t in tensors if t.is_floating_point()]
    if world() == 1 or not shared:
        return
    flat = torch.cat([t.detach().flatten().float() for t in shared])
    dist.all_reduce(flat)
    flat /= world()
    for tensor, part in zip(shared, torch.split(flat, [t.numel() for t in shared]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def share(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by that of the first rank, in place."""
    if world() > 1:
        for tensor in tensors:
            first = tensor.detach().contiguous()
            dist.broadcast(first, 0)
            tensor.detach().copy_(first)


def portion(count: int, of: int | None = None) -> slice:
    """The share of ``count`` things in order that a rank has, by default this one; they differ by one at most."""
    first = rank() if of is None else of
    return slice(count * first // world(), count * (first + 1) // world())


Answer = Callable[[Tensor], Tensor]

_answers: list[Answer] = []
DTYPES = (torch.float32, torch.float64)
NOTHING = -1
"""What a rank asks that is at rest."""


def answer_by(answer: Answer) -> int:
    """Let this rank answer the others' questions so; for :func:`ask`. All ranks call it, in the same order."""
    _answers.append(answer)
    return len(_answers) - 1


def ask(number: int, question: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """What each rank answers a question (r, c), by rank, in such shapes; meanwhile this rank answers the others.

    Ranks may ask different things, and may ask while others are at rest, having done their work in :func:`collect`.
    Raises HoldfastError where a rank is gone.
    """
    with _gone():
        return _round(number, question.contiguous(), shapes) or []


def _rest() -> None:
    """Answer until no rank asks any more."""
    with _gone():
        while _answers and _round(NOTHING, torch.empty(0, 0), ()) is not None:
            pass


def _round(number: int, question: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor] | None:
    """All ranks ask once, or are at rest, and answer all; None where all are at rest."""
    on = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    said = torch.tensor([number, *question.shape, DTYPES.index(question.dtype)], device=on)
    heard = [torch.empty_like(said) for _ in range(world())]
    dist.all_gather(heard, said)
    asking, found = torch.stack(heard).tolist(), list[Tensor]()
    for asker, (which, rows, columns, kind) in enumerate(asking):
        if which == NOTHING:
            continue
        mine = asker == rank()
        asked = question if mine else torch.empty(rows, columns, dtype=DTYPES[kind], device=on)
        dist.broadcast(asked, asker)
        answer = _answers[which](asked).contiguous()
        if mine:
            found = [
                answer if one == rank() else _received(asked.new_empty(shapes[one]), one) for one in range(world())
            ]
        elif answer.numel():
            dist.send(answer, asker)
    return None if all(which == NOTHING for which, *_ in asking) else found


def _received(empty: Tensor, sender: int) -> Tensor:
    if empty.numel():
        dist.recv(empty, sender)
    return empty


@contextmanager
def _gone() -> Iterator[None]:
    """A rank that is gone is a HoldfastError."""
    try:
        yield
    except RuntimeError as error:
        if lacks_memory(error):
            raise
        raise HoldfastError(ENDED) from error


def collect(work: Callable[[], T]) -> list[T]:
    """What ``work`` gives on each rank, by rank, on all of them.

    What it gives travels pickled: tensors lie on the CPU. Raises on every rank the HoldfastError of the first on which
    it fails, and HoldfastError where a rank is gone.
    """
    if world() == 1:
        return [work()]
    value, fault = None, None
    try:
        value = work()
    except HoldfastError as error:
        fault = str(error)
    found: list[tuple[T | None, str | None]] = [(None, None)] * world()
    _rest()
    with _gone():
        dist.all_gather_object(found, (value, fault))
    for _, one in found:
        if one is not None:
            failed = HoldfastError(one)
            failed.common = True
            raise failed
    found[rank()] = value, None
    return [cast(T, one) for one, _ in found]


def by_first(work: Callable[[], T]) -> T:
    """What ``work`` gives on the first rank, where alone it is done; on all of them."""
    return cast(T, collect(lambda: work() if rank() == 0 else None)[0])


def wait() -> None:
    """Until every rank is here."""
    if world() > 1:
        dist.barrier()
