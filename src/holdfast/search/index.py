"""An index: the embeddings of many images with what is known of each, in one file that numpy alone can read.

::

    embeddings   (N, D) float32 of unit length
    paths        (N,) text, relative to ``root`` where an image lies in it
    labels       (N,) text, "" where nothing is known
    references   (8, D) float32: what the model makes of fixed images; by these it is known again
    about        JSON: the model, how it is shown images, what could not be read and why, the version
"""

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Self

import numpy as np
import torch
from pydantic import StrictStr
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from holdfast import __version__
from holdfast.core.batching import WIDTH, checked
from holdfast.core.distance import pairs
from holdfast.core.pgd import Embed
from holdfast.data import Pixels
from holdfast.data.decode import no_file
from holdfast.data.resizing import Resizing
from holdfast.evaluation.fingerprint import network_fingerprint
from holdfast.models.embedding import embed_rows
from holdfast.models.preprocessing import Preprocessing
from holdfast.models.wrapped import WrappedModel
from holdfast.search.blocks import BLOCK, REFERENCES, Blocks, examined, hashed, references
from holdfast.search.nearest import Found, search_by
from holdfast.util import distributed
from holdfast.util.arrays import read_arrays, write_arrays
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.lock import writing
from holdfast.util.text import counted
from holdfast.util.validate import Count, Number, OneOf, check, fit, parse_json

FORMAT = "holdfast-index-1"
ARRAYS = ("embeddings", "paths", "labels", "references", "about")
ALIKE = 0.02
"""How far apart one model may embed an image on two machines or in two precisions; other models are farther apart."""


class About(TypedDict):
    """What is read of ``about``; there may be more."""

    format: Annotated[str, OneOf([FORMAT])]
    hash: StrictStr
    size: Count
    resize: Count
    channels: Literal[1, 3]
    root: StrictStr | None
    broken: list[tuple[StrictStr, StrictStr]]
    faults: list[StrictStr]
    left_out: NotRequired[list[StrictStr]]
    spec: NotRequired[StrictStr | None]
    weights: NotRequired[StrictStr | None]
    pooling: NotRequired[StrictStr | None]
    mean: NotRequired[list[Number] | None]
    std: NotRequired[list[Number] | None]
    remarks: NotRequired[list[StrictStr]]


@dataclass(frozen=True, eq=False)
class Index:
    """Embedded images that can be searched; the module says what each field holds."""

    embeddings: Tensor
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    references: Tensor
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def build(
        cls,
        embed: Embed,
        pixels: Pixels,
        out: str | Path | None = None,
        *,
        root: str | Path | None = None,
        about: Mapping[str, Any] | None = None,
        batch: int = WIDTH,
        device: torch.device | str | None = None,
        precision: str = "float32",
        quiet: bool = False,
    ) -> Self:
        """Embed images with any model. Those that cannot be read are left out, and listed in ``about["broken"]``.

        Args:
            embed: any callable from images (n, C, H, W) in [0, 1] to vectors (n, D).
            pixels: the images; their classes are the labels.
            out: the file to write. Until then finished blocks are kept in ``OUT.part/``, and a killed call goes on from
                there. An index of the same images by the same model that is there already is returned as it is.
            root: the folder that paths are to be relative to.
            about: what else to remember, as plain data.
            batch: images embedded at once, 1 to 512; another one changes the embeddings by rounding.
            device: by default the GPU where there is one.
            precision: ``float32``, or ``bfloat16`` for networks run under autocast.

        Raises HoldfastError, before anything is embedded, where ``out`` is anything else or cannot be written and where
        the model cannot be used; and where no image can be read.
        """
        if not 1 <= batch <= BLOCK:
            raise HoldfastError(f"batch is 1 to {BLOCK} images, not {batch}")
        file = None if out is None else Path(out)
        where = distributed.device(device)
        first = distributed.by_first
        with distributed.process_group(where), ExitStack() as held:
            first(lambda: held.enter_context(writing(file)))
            looked_at = examined(embed, pixels, where, precision=precision, width=batch)
            wrapped, seen = held.enter_context(looked_at)
            known = first(lambda: cls.load(file) if file is not None and file.exists() else None)
            model = network_fingerprint(embed, seen)
            blocks = Blocks(pixels, f"{model} {precision}", file and file.with_name(f"{file.name}.part"))
            names = (Path(pixels.table.name_of(i)) for i in range(len(pixels)))
            paths = [str(name.relative_to(root) if root and name.is_relative_to(root) else name) for name in names]
            labels = [pixels.table.classes[label] for label in pixels.table.labels]
            identity = hashed(*blocks.names, *paths, *labels)
            if known is None:
                make = partial(embed_rows, wrapped, pixels, where, batch=batch)
                found = blocks.embed(make, quiet or distributed.rank() > 0)
                facts = {
                    **{"format": FORMAT, "holdfast": __version__, "hash": identity, "model": model},
                    **{"dim": found.z.shape[1], "precision": precision, "faults": wrapped.faults},
                    **asdict(Preprocessing(pixels.size, pixels.side, pixels.channels, pixels.resizing)),
                    "root": None if root is None else str(Path(root).resolve()),
                    "broken": [[path, why] for path, why in zip(paths, found.reasons, strict=True) if why],
                }
                kept = [i for i, why in enumerate(found.reasons) if not why]
                paths, labels = ([column[i] for i in kept] for column in (paths, labels))
                known = cls(found.z, tuple(paths), tuple(labels), seen.float().cpu(), {**(about or {}), **facts})
                if file is not None:
                    first(partial(known.save, file))
            elif known.about["hash"] != identity:
                raise HoldfastError(
                    f"{file} is an index of other images, or by another model or other settings; remove it, or give "
                    "another file"
                )
            first(blocks.remove)
        return known

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The index that :meth:`save` wrote. Raises HoldfastError where the file holds none."""
        path = Path(path)
        if reason := no_file(path, sys.maxsize):
            raise HoldfastError(f"no index at {path}: {reason}")
        try:
            arrays = read_arrays(path, ARRAYS)
            about = parse_json(str(arrays.pop("about")), "about")
            check(About, about, "about")
            fit(Resizing, about.get("resizing", {}), "resizing")
            z, seen = (checked(torch.from_numpy(arrays[name])).float() for name in ("embeddings", "references"))
            paths, labels = (tuple(map(str, arrays[name].tolist())) for name in ("paths", "labels"))
        except (ValueError, TypeError) as error:
            raise HoldfastError(f"{path} is no index of 'holdfast embed', or damaged: {brief(error)}") from error
        if not len(z) == len(paths) == len(labels) or z.shape[1] != seen.shape[1]:
            raise HoldfastError(f"{path} is no index: its arrays do not fit each other")
        return cls(z, paths, labels, seen, about)

    def save(self, path: str | Path) -> None:
        """Write the file whole, or leave it as it was and raise HoldfastError; the same index gives the same bytes."""
        numbers = {"embeddings": self.embeddings.numpy(), "references": self.references.numpy()}
        texts = {"paths": self.paths, "labels": self.labels, "about": json.dumps(self.about)}
        write_arrays(Path(path), {**numbers, **{name: np.array(text, np.str_) for name, text in texts.items()}})

    @property
    def preprocessing(self) -> Preprocessing:
        """How the model was shown the images."""
        resizing = fit(Resizing, self.about.get("resizing", {}), "resizing")
        return Preprocessing(self.about["size"], self.about["resize"], self.about["channels"], resizing)

    def queries(self, embed: Embed, pixels: Pixels, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (Q, D) of images to :meth:`search` with, and their rows (Q,); the unreadable are left out.

        Raises HoldfastError where ``embed`` is not the model that made the index.
        """
        where = distributed.device(device)
        width = min(WIDTH, max(REFERENCES, len(pixels)))
        wrapped = WrappedModel(embed.to(where) if isinstance(embed, nn.Module) else embed, width=width)
        with wrapped.frozen(), torch.no_grad():
            images = references(self.about["size"], self.about["channels"]).to(where)
            seen = F.normalize(wrapped.tried(images), dim=1).cpu()
            if seen.shape != self.references.shape:
                raise HoldfastError(
                    f"the model gives {counted(seen.shape[1], 'dimension')}, the index was made by one of "
                    f"{self.references.shape[1]}"
                )
            if (far := pairs(seen, self.references).max().item()) > ALIKE:
                raise HoldfastError(
                    f"the index was made by another model: the same images are embedded up to {far:.2f} apart"
                )
            return embed_rows(wrapped, pixels, where)

    def search(self, z: Tensor, k: int = 10, backend: str = "torch") -> Found:
        """The ``k`` nearest images of each query, or all where there are fewer: distances and rows, (Q, k) each.

        z: (Q, D) embeddings by the same model. Distances are Euclidean, of unit vectors, 0 to 2; the nearest comes
        first, and of images equally far the earlier one. backend: of :data:`.search.nearest.BACKENDS`; both are exact.
        """
        search = search_by(backend, k)
        queries = F.normalize(checked(z), dim=1).float()
        if queries.shape[1] != self.embeddings.shape[1]:
            raise HoldfastError(
                f"the queries have {counted(queries.shape[1], 'dimension')}, the index {self.embeddings.shape[1]}"
            )
        return search(self.embeddings.to(queries.device), queries, min(k, len(self)))
