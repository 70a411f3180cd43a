"""Adversarial images as files: lossless, and still adversarial after the rounding to 8 bits."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks.base import Attacked, RankingAttack
from holdfast.core.pgd import Embed, rounded
from holdfast.data.pixels import to_image
from holdfast.evaluation.evaluate import Data, as_pixels, prepared
from holdfast.evaluation.fingerprint import describe_data, model_fingerprint
from holdfast.evaluation.records import Records
from holdfast.evaluation.runner import Runner, Target, reading, runners_of
from holdfast.evaluation.settings import resolve_settings
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.util.atomic import append_lines, rewrite_lines, write_text
from holdfast.util.errors import HoldfastError
from holdfast.util.lock import working_in
from holdfast.util.progress import Progress
from holdfast.util.text import counted
from holdfast.util.validate import read_lines

MANIFEST, MARK = "manifest.jsonl", "identity"


def attack(
    model: str | Path | Embed | OpenedModel,
    data: Data | None,
    name: str | RankingAttack,
    folder: str | Path,
    *,
    batch: int = 128,
    device: torch.device | str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Attack images of a test set by one attack, a name or an object, and save them; see :func:`save`, and
    :func:`.evaluate`."""
    opened = open_model(model)
    pixels = load_test_set(opened) if data is None else as_pixels(data)
    resolved = resolve_settings(pixels.table.family, black_box=opened.black_box, attacks=(name,), **settings)
    resolved.require_no_index()
    if not resolved.eps:
        raise HoldfastError("eps is above 0, or the images written would be those that were read")
    with working_in(folder), prepared(opened.embed, pixels, resolved, device, quiet) as target:
        identity = resolved.hash({"model": model_fingerprint(target)}, describe_data(pixels))
        return save(runners_of(target, resolved, batch)[0], target, Path(folder), identity, quiet)


def save(runner: Runner, target: Target, folder: Path, identity: str, quiet: bool = False) -> list[dict[str, Any]]:
    """Attack images and write each as ``ID.png``, with ``ID-clean.png`` beside it; the lines of ``manifest.jsonl``.

    A killed call goes on where it was; ``identity`` stands for the settings, and a folder with other ones is refused.
    A line holds ``file``, ``clean``, ``source`` (the image it was made from), ``label``, ``chosen`` (names), and the
    readings ``before``, ``after`` and ``saved``: after rounding, which is what another program will find.
    """
    check_folder(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MARK, identity + "\n")
    records, manifest = Records(folder), folder / MANIFEST
    done, entries = len(records.of(runner.name)), read_lines(dict[str, Any], manifest)
    if len(entries) < done:
        raise HoldfastError(
            f"{manifest} has {counted(len(entries), 'line')} for {counted(done, 'image')}; remove "
            f"{folder} to start over"
        )
    rewrite_lines(manifest, entries[:done])
    with Progress("attacking", len(runner.images), done, quiet=quiet) as progress:
        for rows, attacked in runner.run(target, records, progress):
            append_lines(manifest, _save_batch(runner, target, rows, attacked, folder))
    return read_lines(dict[str, Any], manifest)


def check_folder(folder: Path, identity: str) -> None:
    """Raise HoldfastError where a folder holds images that were made with other settings."""
    mark = folder / MARK
    if mark.exists() and mark.read_text(errors="replace").strip() != identity:
        raise HoldfastError(f"{folder} holds images of another attack, model or data set; give another folder")


def _save_batch(runner: Runner, target: Target, rows: Tensor, attacked: Attacked, folder: Path) -> list[dict[str, Any]]:
    table, attack, system = target.pixels.table, runner.attack, target.system
    ids, aim = system.perturbed(attack).ids[rows], system.targets(attack)
    images = rounded(attacked.images, attacked.clean, runner.pgd.ball)
    with torch.no_grad():
        saved = attacked.outcome(target.model(images))
    entries = []
    for i, identity in enumerate(ids.tolist()):
        names = {"file": f"{identity}.png", "clean": f"{identity}-clean.png"}
        to_image(images[i]).save(folder / names["file"])
        to_image(attacked.clean[i]).save(folder / names["clean"])
        entries.append(
            {
                **names,
                "source": table.name_of(identity),
                "label": table.classes[table.labels[identity]],
                "chosen": [table.name_of(one) for one in aim.ids[attacked.chosen[i]].tolist()],
                "before": reading(attacked.before, i),
                "after": reading(attacked.after, i),
                "saved": reading(saved, i),
            }
        )
    return entries
