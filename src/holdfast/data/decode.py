"""The one reader of image files: which are read, and what becomes of transparency, orientation and depth."""

import os
import re
import stat
import warnings
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from holdfast.util.errors import HoldfastError, brief

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""As Pillow names them; none of these starts another program. AVIF only where Pillow has it."""

SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c", ".avif"),
    )
)
"""Of the files in a folder that are images; the same whatever Pillow can read, so that no split depends on it."""

_SCALED = ("PPM", "JPEG2000")
"""Where Pillow brings what has more than 8 bits to 16."""

MAX_PIXELS, MAX_BYTES = 178_956_970, 2**30
"""Of an image: what Pillow takes for an attack above, and the size of its file."""

for _category in (UserWarning, Image.DecompressionBombWarning):  # a file that is refused is told of in one line
    warnings.filterwarnings("ignore", category=_category, module=r"PIL\.")


def decode(source: Path | bytes, most: int = MAX_PIXELS) -> tuple[Image.Image, list[str]]:
    """An upright image of mode L or RGB, 8 bits a channel, from a file or its bytes; and remarks on what was lost.

    Transparent parts are laid on white. Of 16 bits a channel the upper 8 are kept, of an animation the first frame.
    Colour profiles are not applied. Raises HoldfastError, which says why but not for which file, for what is no image
    of :data:`FORMATS`, is damaged, or has more than ``most`` pixels.
    """
    if isinstance(source, Path) and (reason := no_file(source)):
        raise HoldfastError(reason)
    if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
        raise HoldfastError("the file is empty")
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as opened:
            if opened.width * opened.height > most:
                size = f"{opened.width} × {opened.height}"
                raise HoldfastError(f"the image has {size} pixels, more than the {most:,} that are taken")
            return _flat(opened)
    except HoldfastError:
        raise
    except UnidentifiedImageError:
        raise HoldfastError(f"the file is no image of the kinds {', '.join(_formats())}") from None
    except Image.DecompressionBombError:
        raise HoldfastError(f"the image has more than the {most:,} pixels that are taken") from None
    except Exception as error:  # a damaged file makes PIL raise nearly anything
        raise HoldfastError(f"the image is damaged or cut short ({brief(error)})") from None


def no_file(path: Path, most: int = MAX_BYTES) -> str | None:
    """Why there is no file of at most so many bytes to be read at a path; None where there is one.

    Opens nothing: a pipe would wait for ever.
    """
    try:
        found = path.stat()
    except ValueError:  # a name with a null character
        return "there is no such file"
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114 (raises nothing, unlike Path.is_symlink)
            return f"it is a link that leads nowhere ({path.readlink()})"
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return "there is no such file" if missing else f"it cannot be read ({error.strerror})"
    if stat.S_ISDIR(found.st_mode):
        return "it is a folder, not a file"
    if not stat.S_ISREG(found.st_mode):
        return "it is a pipe, socket or device, not a file"
    return f"it has more than the {most // 2**20:,} MB that are read" if found.st_size > most else None


def is_image(path: Path) -> bool:
    """Whether a file begins as an image of :data:`FORMATS` does, whatever its name."""
    if no_file(path):
        return False
    try:
        with Image.open(path, formats=_formats()):
            return True
    except Exception:  # a damaged file makes PIL raise nearly anything
        return False


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _flat(opened: Image.Image) -> tuple[Image.Image, list[str]]:
    moving = opened.format != "MPO" and getattr(opened, "is_animated", False)  # MPO: a photo with its preview
    remarks = ["of the animation the first frame is taken"] if moving else []
    opened.seek(0)
    deep = any(re.search(r";16[BLNR]?'", str(tile)) for tile in getattr(opened, "tile", ()))
    deep |= opened.format in _SCALED and opened.mode[0] == "I"
    if opened.mode[0] in "IF" and not deep:
        raise HoldfastError(f"pixels of mode {opened.mode!r}; convert the image to 8 bits per channel")
    image = ImageOps.exif_transpose(opened)
    if deep:
        remarks.append("of 16 bits a channel the upper 8 are kept")
        image = _shallow(image)
    if image.has_transparency_data:
        remarks.append("what is transparent has become white")
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layered)
    return image if image.mode == "L" else image.convert("RGB"), remarks


def _shallow(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits. Of colours Pillow has them already, but not of what marks transparency."""
    key = image.info.get("transparency")
    if image.mode[0] == "I":
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if isinstance(key, int | tuple):
        image.info["transparency"] = key >> 8 if isinstance(key, int) else tuple(part >> 8 for part in key)
    return image
