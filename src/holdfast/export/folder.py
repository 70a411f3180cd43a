"""An embedder as a folder for the Hugging Face Hub, which is also one that ``holdfast evaluate`` takes.

::

    config.json, model.safetensors   the embedder, for ``Embedder.from_pretrained``
    config.yaml                      the settings of training, without places of one machine
    cost.json                        what training took, as far as that is known
    README.md                        the model card
    evaluations/*/result.json        what the card is made from
    .eval_results/holdfast.yaml      scores for a leaderboard of the Hub, where one is named
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from holdfast.core.fused import PRECISIONS
from holdfast.core.pgd import Embed
from holdfast.evaluation.result import NAME
from holdfast.export.benchmark import PLACE as PLACE_OF_SCORES
from holdfast.export.benchmark import eval_results
from holdfast.export.card import card
from holdfast.export.source import Source
from holdfast.models.embedder import Embedder
from holdfast.runs.config import Config
from holdfast.util.atomic import temporary_for, write_json, write_text
from holdfast.util.errors import HoldfastError

PLACE = re.compile(r"((?:^|=)(?:(?:hf|st|onnx|program|model|open_clip:[\w.-]+):)?)/(?:.*/)?")
"""What comes before the name of a file in an absolute path, alone or after ``--option=``, and in a model's word."""


def write(source: Source, folder: Path, precision: str = "float32", benchmark: str | None = None) -> None:
    """The files of the folder; precision: ``float32``, or ``bfloat16`` for half the size, which rounds the weights.

    benchmark: the data set of the Hub that lists the scores, ``OWNER/NAME``.
    """
    chosen_on = source.config.chosen_on if source.weights == "best" else None
    source.embedder.save_pretrained(folder, dtype=PRECISIONS[precision], weights=source.weights, chosen_on=chosen_on)
    (folder / "config.yaml").write_text(portable(source.config).to_yaml())
    write_json(folder / "cost.json", source.cost)
    (folder / "README.md").write_text(card(source, precision), encoding="utf-8")
    if benchmark is not None:
        write_text(folder / PLACE_OF_SCORES, eval_results(source.results, benchmark))
    for result in source.results:
        assert result.path is not None
        place = folder / "evaluations" / result.path.parent.name / NAME
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(_placeless(result.content), indent=2) + "\n")


def load(folder: Path, backbone: nn.Module | None = None) -> Embed:
    """The embedder in the folder, as a function from images to embeddings; backbone: one built by the user's code."""
    return Embedder.from_pretrained(folder, backbone=deepcopy(backbone)).requires_grad_(False)


def portable(config: Config) -> Config:
    """Settings that do not tell where the first weights lay, nor the data, but for a path below the working folder."""
    weights, root = config.model.weights and Path(config.model.weights).name, config.data.root
    if root is not None and (Path(root).is_absolute() or ".." in Path(root).parts):
        root = None
    return replace(config, data=replace(config.data, root=root), model=replace(config.model, weights=weights))


def _placeless(content: Any) -> Any:
    """A result with the names of files in place of absolute paths."""
    if isinstance(content, dict):
        return {key: _placeless(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_placeless(value) for value in content]
    return PLACE.sub(r"\1", content) if isinstance(content, str) else content


@contextmanager
def merging(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files take their places in ``folder`` when the block ends well; other files stay there.

    A new or empty folder appears as a whole. After an error inside ``folder`` is as it was; the card comes last.
    Errors of the file system become HoldfastError.
    """
    folder = folder.resolve()
    temporary = temporary_for(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if not folder.is_dir() or not any(folder.iterdir()):
            temporary.replace(folder)
            return
        files = (path for path in temporary.rglob("*") if path.is_file())
        for file in sorted(files, key=lambda path: (path.name == "README.md", path)):
            place = folder / file.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    except OSError as error:
        raise HoldfastError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
