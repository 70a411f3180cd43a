"""The one contract every data set meets: images, labels, a split, and who is query and who is gallery."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.util.errors import HoldfastError, shown, unknown
from holdfast.util.text import counted

Images = npt.NDArray[np.uint8] | tuple[Path, ...]
SPLITS = ("train", "validation", "test")

REMEDY = "give it one, or leave the image out"
NO_LABEL = ("", "nan", "nat", "<na>")
"""Texts, in small letters, that pandas and others write where a label is missing."""


def missing_labels(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The rows of labels (N,) that name no class: NaN, None, their texts and empty ones."""
    if labels.dtype.kind == "f":
        return np.flatnonzero(np.isnan(labels).reshape(len(labels), -1).any(1))
    if labels.dtype.kind not in "OU":
        return np.zeros(0, np.int64)
    texts = [str(label).strip() for label in labels.tolist()]
    return np.flatnonzero([text.lower() in NO_LABEL or text == "None" for text in texts])


@dataclass(frozen=True, eq=False)
class Table:
    """N images with what is known of them; checked when it is made, a :class:`HoldfastError` says what is wrong.

    name: of the data set, for messages.
    images: (N, H, W) or (N, H, W, 3) uint8, or N paths.
    labels: (N,) int64; image i is of class ``classes[labels[i]]``.
    split: (N,) of ``"train"``, ``"validation"`` (weights are chosen on it) or ``"test"``.
    is_query, is_gallery: (N,) bool, false in the training split; an image may be both, or neither.
    numbers: (N,) int64, the place of each image within its split; counted here where it is not given, and kept by
        :meth:`select`, so that a message names the image the user knows.
    family: ``"28"`` or ``"224"``, whose settings of the paper apply, the radius of attacks among them; None where
        nothing says which.
    left_out: what lies with the images and is not read, a line for each reason with its count.
    """

    name: str
    images: Images
    labels: npt.NDArray[np.int64]
    split: npt.NDArray[np.str_]
    is_query: npt.NDArray[np.bool_]
    is_gallery: npt.NDArray[np.bool_]
    classes: tuple[str, ...]
    numbers: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    family: str | None = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_images()
        for column, kinds in {"labels": "i", "split": "U", "is_query": "b", "is_gallery": "b"}.items():
            self._check_column(column, kinds)
        if self.labels.dtype != np.int64:
            raise self._error(f"labels must be int64, not {self.labels.dtype}")
        if len(set(self.classes)) != len(self.classes):
            raise self._error("two classes have the same name")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise self._error(
                f"labels run from {self.labels.min()} to {self.labels.max()}, "
                f"but {counted(len(self.classes), 'class')} allow 0 to {len(self.classes) - 1}"
            )
        for name in np.unique(self.split):
            if name not in SPLITS:
                raise unknown(f"split in {self.name}:", str(name), SPLITS)
        for column, flags in {"is_query": self.is_query, "is_gallery": self.is_gallery}.items():
            wrong = np.flatnonzero(flags & (self.split == "train"))
            if len(wrong):
                raise self._error(
                    f"{counted(len(wrong), 'training image has', 'training images have')} {column} set, the first is "
                    f"{self.name_of(wrong[0])}; queries and gallery must be in the test or the validation split"
                )
        if not len(self.numbers):
            number = np.zeros(len(self), np.int64)
            for name in SPLITS:
                number[self.split == name] = np.arange(np.count_nonzero(self.split == name))
            object.__setattr__(self, "numbers", number)
        self._check_column("numbers", "i")
        if self.is_query.any() and not self.matched_queries().any():
            raise self._error(
                f"none of the {counted(self.is_query.sum(), 'query')} has another gallery image of its class, "
                "so nothing can be retrieved"
            )

    def _error(self, what: str) -> HoldfastError:
        return HoldfastError(f"{self.name}: {what}")

    def _check_images(self) -> None:
        if isinstance(self.images, np.ndarray):
            grey, colour = self.images.ndim == 3, self.images.ndim == 4 and self.images.shape[-1] == 3
            if self.images.dtype != np.uint8 or not (grey or colour):
                raise self._error(
                    "images must be uint8 of shape (N, H, W) or (N, H, W, 3), "
                    f"not {self.images.dtype} of shape {self.images.shape}{_advice(self.images)}"
                )
        elif not isinstance(self.images, tuple) or not all(isinstance(path, Path) for path in self.images):
            raise self._error(f"images must be a uint8 array or a tuple of paths, not {type(self.images)}")
        if not len(self.images):
            raise self._error("there are no images")

    def _check_column(self, column: str, kind: str) -> None:
        value = getattr(self, column)
        if not isinstance(value, np.ndarray) or value.dtype.kind != kind:
            found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            wanted = {"i": "integers", "U": "strings", "b": "booleans"}[kind]
            raise self._error(f"{column} must be an array of {wanted}, not {found}")
        if value.shape != (len(self.images),):
            raise self._error(f"{column} has shape {value.shape}, for {counted(len(self.images), 'image')}")

    @classmethod
    def build(
        cls,
        name: str,
        images: Images,
        keys: Sequence[Any] | npt.NDArray[Any],
        split: Sequence[str] | npt.NDArray[np.str_],
        *,
        is_query: npt.NDArray[np.bool_] | None = None,
        is_gallery: npt.NDArray[np.bool_] | None = None,
        title: Callable[[Any], str] = str,
        left_out: Sequence[str] = (),
    ) -> "Table":
        """A table from one sortable class key per image; ``title(key)`` names the class.

        Without ``is_query`` (or ``is_gallery``) every image that does not train is a query (in the gallery).
        Where there are queries or training images, a key that names no class is refused: None, NaN, "nan", empty.
        """
        splits = np.asarray(split, dtype=np.str_)
        asked = splits != "train"
        asks = asked if is_query is None else is_query
        try:
            column = np.asarray(keys)
            if (asks | ~asked).any() and len(wrong := missing_labels(column)):
                first = f"the first at row {wrong[0]}, counted from 0: {shown(column.tolist()[wrong[0]])}"
                raise HoldfastError(
                    f"{len(wrong):,} of {counted(len(column), 'label')} name no class, {first}; {REMEDY}"
                )
            present, labels = np.unique(column, return_inverse=True)
        except (TypeError, ValueError) as error:  # TypeError: they have no order; ValueError: their lengths differ
            raise HoldfastError(f"{name}: {error}") from None
        return cls(
            name=name,
            images=images,
            labels=labels.astype(np.int64),
            split=splits,
            is_query=asks,
            is_gallery=asked if is_gallery is None else is_gallery,
            classes=tuple(title(key) for key in present.tolist()),
            left_out=tuple(left_out),
        )

    def __len__(self) -> int:
        return len(self.images)

    def matched_queries(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: the queries with at least one *other* gallery image of their class in their split."""
        place = self.labels + len(self.classes) * (self.split == "validation")
        gallery = np.bincount(place[self.is_gallery], minlength=2 * len(self.classes))
        return np.asarray(self.is_query & (gallery[place] - self.is_gallery > 0))

    @property
    def unmatched_queries(self) -> int:
        """How many queries no gallery image can answer; the metrics leave them out."""
        return int(self.is_query.sum() - self.matched_queries().sum())

    def check_disjoint(self) -> None:
        """Refuse a class that is both in the training and in the test split: a zero-shot set has none."""
        train, test = (set(self.labels[self.split == name].tolist()) for name in ("train", "test"))
        both = sorted(train & test)
        if both:
            named = ", ".join(repr(self.classes[label]) for label in both[:3])
            raise self._error(
                f"{counted(len(both), 'class is', 'classes are')} in the training and in the test split ({named}"
                f"{', …' if len(both) > 3 else ''}); a zero-shot set needs disjoint classes"
            )

    def select(self, mask: npt.NDArray[np.bool_]) -> "Table":
        """The images where ``mask`` ((N,) bool) is true, in order; classes and numbers are kept."""
        if mask.dtype != np.bool_ or mask.shape != (len(self),):
            raise self._error(f"a mask must be ({len(self)},) bool, not {mask.shape} {mask.dtype}")
        images: Images
        if isinstance(self.images, np.ndarray):
            images = self.images[mask]
        else:
            images = tuple(self.images[i] for i in np.flatnonzero(mask))
        columns = {name: getattr(self, name)[mask] for name in ("labels", "split", "is_query", "is_gallery", "numbers")}
        facts = {name: getattr(self, name) for name in ("name", "classes", "family", "left_out")}
        return Table(images=images, **facts, **columns)

    def train(self) -> "Table":
        """The training images."""
        mask = self.split == "train"
        if not mask.any():
            raise self._error("there are no training images (split 'train')")
        return self.select(mask)

    def validation(self) -> "Table | None":
        """The validation images that are query or gallery; None where there are none."""
        return self._asked("validation")

    def test(self) -> "Table":
        """The test images that are query or gallery."""
        if (found := self._asked("test")) is None:
            raise self._error("nothing to evaluate: the test split has no queries or no gallery")
        return found

    def _asked(self, split: str) -> "Table | None":
        inside = self.split == split
        if not (self.is_query & inside).any() or not (self.is_gallery & inside).any():
            return None
        if len(present := np.unique(self.labels[inside & self.is_gallery])) < 2:
            one = repr(self.classes[present[0]])
            raise self._error(f"the {split} gallery is of one class, {one}: no answer is wrong")
        return self.select(inside & (self.is_query | self.is_gallery))

    def name_of(self, i: int) -> str:
        """The path of image ``i``, or the like of ``"fashion-mnist train[123]"`` for an array."""
        if isinstance(self.images, np.ndarray):
            number = self.numbers[i] if len(self.numbers) else i
            return f"{self.name} {self.split[i]}[{number}]"
        return str(self.images[i])

    def short_name_of(self, i: int) -> str:
        """As :meth:`name_of`, of a path its last two parts."""
        return self.name_of(i) if isinstance(self.images, np.ndarray) else "/".join(self.images[i].parts[-2:])

    def describe(self) -> str:
        """One line: how many images and classes train and test, and the queries that have no answer."""

        def part(mask: npt.NDArray[np.bool_]) -> str:
            return f"{counted(mask.sum(), 'image')} of {counted(len(np.unique(self.labels[mask])), 'class')}"

        test = self.split == "test"
        parts = {name: self.split == name for name in SPLITS}
        shown = (f"{name} {part(mask)}" for name, mask in parts.items() if name != "validation" or mask.any())
        text = f"{self.name}: {', '.join(shown)}"
        if (self.is_query != self.is_gallery)[test].any():
            text += f" ({counted(self.is_query[test].sum(), 'query')}, {self.is_gallery[test].sum():,} gallery)"
        if self.unmatched_queries:
            without = counted(self.unmatched_queries, "query has", "queries have")
            text += f"; {without} no other gallery image of the same class"
        return "; left out: ".join([text, *self.left_out])


def _advice(images: npt.NDArray[Any]) -> str:
    """What makes images of other numbers, or of another order of axes, fit; nothing where that cannot be told."""
    code, (low, high) = "np.asarray(images)", (images.min(), images.max()) if images.size else (0, 0)
    if images.dtype != np.uint8:
        if images.dtype.kind not in "biuf" or not 0 <= low <= high <= 255:
            return ""
        if images.dtype.kind in "bf":
            code = f"(255 * {code}).round()" if high <= 1 else f"{code}.round()"
        code += ".astype('uint8')"
    match images.shape:
        case (_, 3, _, width) if width != 3:
            code += ".transpose(0, 2, 3, 1)"
        case (_, 1, _, width) if width != 3:
            code += "[:, 0]"
        case (_, _, _, 1):
            code += "[..., 0]"
        case (_, _, _) | (_, _, _, 3):
            pass
        case _:
            return ""
    return f"; {code} makes them so"
