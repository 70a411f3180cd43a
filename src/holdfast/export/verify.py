"""Whether an exported model is the one that was trained: the same embeddings, and the same scores under attack."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from holdfast.attacks.base import Attacked
from holdfast.core.pgd import Embed
from holdfast.data import Pixels
from holdfast.evaluation.evaluate import examined, runners_of, target_of
from holdfast.evaluation.records import Record, Records
from holdfast.evaluation.runner import Runner, Target
from holdfast.evaluation.scores import summarise
from holdfast.evaluation.settings import resolve_settings
from holdfast.models.embedder import Embedder
from holdfast.util.progress import Progress

EMBEDDINGS = {"float32": 1e-4, "bfloat16": 1e-2}
"""How far a number of an embedding may be off, by what the weights are stored in."""

SCORE = 0.5
"""How far the ERS may be off, on its scale of 0 to 100."""

BATCHES = (1, 3, 17)
BATCH = 128


@dataclass(frozen=True)
class Compared:
    """One thing found twice: ``before``, with the embedder, and ``after``, with what was exported; None: no number."""

    what: str
    difference: float
    allowed: float
    before: float | None = None
    after: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the two are as near to each other as they have to be; never with NaN."""
        return self.difference < self.allowed


def compared(
    embedder: Embedder,
    exported: Embed,
    pixels: Pixels | None,
    *,
    precision: str = "float32",
    queries: int = 64,
    quiet: bool = False,
) -> list[Compared]:
    """Embeddings of made images, and where there is a test set, of ``queries`` of its images, and the ERS over these.

    Attacks are made once, through the embedder, whose gradients an exported file does not have; both models then say
    what becomes of the same adversarial images, each in its own ranking, with the same targets.
    """
    config, allowed = embedder.config, EMBEDDINGS[precision]
    images = made(config.channels, config.size)
    found = [Compared(f"embeddings, {len(images)} made images", apart(embedder, exported, images), allowed)]
    if pixels is None:
        return found
    rows = torch.linspace(0, len(pixels) - 1, min(queries, len(pixels))).long()
    images, readable = pixels.read(rows)
    images = images[readable]
    found += [Compared(f"embeddings, {len(images)} test images", apart(embedder, exported, images), allowed)]
    return [*found, score(embedder, exported, pixels, queries, quiet)]


def made(channels: int, size: int) -> Tensor:
    """Random images and plain ones, (n, channels, size, size): black, gray, white, a ramp, a chessboard, one dot."""
    noise = torch.rand(sum(BATCHES), channels, size, size, generator=Generator().manual_seed(0))
    plain = torch.stack([torch.full((size, size), shade) for shade in (0.0, 0.5, 1.0)])
    ramp = torch.linspace(0, 1, size).expand(size, size)
    chess = (torch.arange(size)[:, None] + torch.arange(size)) % 2
    dot = torch.zeros(size, size)
    dot[size // 2, size // 2] = 1
    drawn = torch.cat([plain, torch.stack([ramp, ramp.T, chess.float(), dot])])
    return torch.cat([noise, drawn[:, None].expand(-1, channels, -1, -1)])


def apart(embedder: Embedder, exported: Embed, images: Tensor) -> float:
    """The largest difference of a number of an embedding, over images passed one, three and seventeen at a time."""
    with torch.no_grad():
        wanted = torch.cat([embedder(part) for part in torch.split(images, BATCH)])
        found = [torch.cat([exported(part) for part in torch.split(images, count)]) for count in BATCHES]
    return max(float((one - wanted).abs().max()) for one in found)


def score(embedder: Embedder, exported: Embed, pixels: Pixels, queries: int, quiet: bool = False) -> Compared:
    """The ERS of an embedder by protocol strict, and that of an exported model under the very same images."""
    resolved, device = resolve_settings(pixels.table.family, max_queries=queries), torch.device("cpu")
    with (
        examined(embedder, pixels, device, resolved, True) as wrapped,
        examined(exported, pixels, device, resolved, False) as other,
    ):
        target, copy = (target_of(one, pixels, device, quiet)[0] for one in (wrapped, other))
        runners = runners_of(target, resolved, BATCH)
        records, copied = Records(None), dict[str, list[Record]]()
        with Progress("attacking", sum(len(one.images) for one in runners), quiet=quiet) as progress:
            for runner in runners:
                for rows, attacked in runner.run(target, records, progress):
                    seen = _seen(runner, copy, rows, attacked)
                    copied.setdefault(runner.name, []).extend(runner.records(copy, rows, seen))
    one, other = (
        summarise({name: of(name) for name in resolved.attacks}, None, resolved.seed)["ERS"]["value"]
        for of in (records.of, copied.__getitem__)
    )
    return Compared(f"ERS, {len(records.of('es'))} queries", abs(one - other), SCORE, one, other)


def _seen(runner: Runner, copy: Target, rows: Tensor, attacked: Attacked) -> Attacked:
    """A batch after an attack, as the copy sees it."""
    perturbed = copy.system.perturbed(runner.attack).take(rows)
    outcome = runner.attack.plan(perturbed, copy.system, attacked.chosen).outcome
    with torch.no_grad():
        return replace(
            attacked,
            before=outcome(perturbed.embeddings),
            after=outcome(copy.model(attacked.images)),
            outcome=outcome,
        )
