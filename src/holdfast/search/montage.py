"""Queries and what was found for them, as one picture."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from holdfast.data import Pixels
from holdfast.data.pixels import to_image
from holdfast.data.readers.listing import gallery_only
from holdfast.search.lookup import Answer, by_query
from holdfast.util.atomic import replacing
from holdfast.util.errors import HoldfastError, printable
from holdfast.util.lock import writing
from holdfast.util.text import counted

TILE, GAP, LINE, LINES = 128, 8, 14, 2
MOST = 1000
"""Tiles of a picture."""


def save_montage(answers: Sequence[Answer], root: str | None, out: Path) -> None:
    """One row a query: the query, then its results with their distances and labels, as a PNG.

    root: where the paths of the answers start from. An image that is no longer there is left black. Raises
    HoldfastError for more than a thousand tiles.
    """
    rows = by_query(answers)
    tiles = [
        tile
        for row in rows
        for tile in (
            (Path(row[0].query), "query", Path(row[0].query).name),
            *((Path(root or "") / one.path, f"{one.distance:.3f}", one.label or Path(one.path).name) for one in row),
        )
    ]
    if len(tiles) > MOST:
        raise HoldfastError(
            f"a picture of {counted(len(tiles), 'tile')} is too large; ask fewer queries, or for a smaller -k"
        )
    table = gallery_only("montage", [path for path, _, _ in tiles], [""] * len(tiles))
    images, _ = Pixels(table, TILE, max_broken=len(tiles)).read(torch.arange(len(tiles)))
    across, width, height = len(tiles) // len(rows), TILE + GAP, TILE + LINES * LINE + 2 * GAP
    sheet = Image.new("RGB", (across * width + GAP, len(rows) * height + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 2)
    for i, (tile, (_, *captions)) in enumerate(zip(images, tiles, strict=True)):
        left, top = GAP + i % across * width, GAP + i // across * height
        sheet.paste(to_image(tile), (left, top))
        for line, caption in enumerate(captions):
            draw.text((left, top + TILE + line * LINE), _cut(printable(caption), font), "black", font)
    with writing(out), replacing(out) as path:
        sheet.save(path, "PNG")


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of the text as fits under a tile."""
    while text and font.getlength(text) > TILE:
        text = text[:-1]
    return text
