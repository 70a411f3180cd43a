"""Questions to a search: each asked once, kept on disk as it is answered, and no more than a budget allows.

::

    searches-HASH.jsonl    one line per answer: {"image": SHA-256 of its shape and pixels, "ids": [...]}

A search is asked again only where a request failed, or was under way when the process was killed.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, StrictStr
from torch import Tensor
from typing_extensions import TypedDict

from holdfast.search.oracles.base import SearchOracle
from holdfast.util.atomic import rewrite_lines
from holdfast.util.errors import HoldfastError, foreign, shown
from holdfast.util.progress import Progress
from holdfast.util.text import counted
from holdfast.util.validate import read_lines


class SearchLine(TypedDict):
    """A line of the file."""

    image: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]
    ids: list[StrictStr]


class Asking:
    """Images (n, C, H, W) in [0, 1] to the answers of a search, (n, k) float64: codes of items, −1 where it ends.

    known: the codes of items by their ids; where there are any, another id is an error. free: the first code of what is
    not known. most: different images that may be asked about in all. file: where answers are kept, None: nowhere.
    """

    eight_bits = True
    exact = True

    def __init__(
        self,
        search: SearchOracle,
        k: int,
        most: int,
        progress: Progress,
        *,
        known: Mapping[str, int],
        free: int,
        file: Path | None = None,
    ) -> None:
        self.search, self.k, self.most, self.progress, self.file = search, k, most, progress, file
        self.strict, self.codes, self.free = bool(known), dict(known), free
        self.answers: dict[str, list[int]] = {}
        if file is not None:
            kept = read_lines(SearchLine, file)
            rewrite_lines(file, kept)
            for line in kept:
                self.answers[line["image"]] = self._coded(line["ids"])
            progress.advance(by=len(kept))

    def __call__(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, k). Raises HoldfastError where the budget does not allow it, and where the search fails;
        what was answered until then is kept."""
        levels = (images.detach().cpu() * 255).round().to(torch.uint8)
        names = [_name(image) for image in levels]
        places = {name: i for i, name in enumerate(names) if name not in self.answers}
        if len(self.answers) + len(places) > self.most:
            raise HoldfastError(f"more than the {counted(self.most, 'search')} of the budget would be made")
        if places:
            self._ask(list(places), levels[list(places.values())].float() / 255)
        rows = [self.answers[name] for name in names]
        padded = [row + [-1] * (self.k - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.float64, device=images.device)

    def _ask(self, names: list[str], images: Tensor) -> None:
        stream, done = None if self.file is None else self.file.open("a"), 0
        try:
            for name, answer in zip(names, self._searched(images), strict=False):
                ids, done = list(dict.fromkeys(map(str, answer)))[: self.k], done + 1
                self.answers[name] = self._coded(ids)
                if stream is not None:
                    stream.write(json.dumps({"image": name, "ids": ids}) + "\n")
                    stream.flush()
                self.progress.advance()
        finally:
            if stream is not None:
                os.fsync(stream.fileno())
                stream.close()
        if done < len(names):
            raise HoldfastError(f"the search answers {done} of {counted(len(names), 'image')}")

    def _searched(self, images: Tensor) -> Iterator[Sequence[str]]:
        with foreign("the search fails", "it is given images and k, and answers with the ids for each"):
            yield from self.search(images, self.k)

    def _coded(self, ids: Sequence[str]) -> list[int]:
        for one in ids:
            if one not in self.codes:
                if self.strict:
                    raise HoldfastError(
                        f"the search answers with id {shown(one)}, and the gallery has no such item: say with --ids "
                        "what its items are called, one a line, or leave the gallery out"
                    )
                self.codes[one] = self.free
                self.free += 1
        return [self.codes[one] for one in ids]


def _name(levels: Tensor) -> str:
    """What an image (C, H, W) uint8 is known by."""
    return hashlib.sha256(f"{tuple(levels.shape)}".encode() + levels.contiguous().numpy().tobytes()).hexdigest()
