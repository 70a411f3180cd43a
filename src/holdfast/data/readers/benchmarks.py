"""The 224-pixel benchmarks of the field, split by class: CUB-200-2011, CARS-196, Stanford Online Products."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from holdfast.data.readers.files import check_present, locate, records
from holdfast.data.readers.matlab import read_mat
from holdfast.data.table import Table
from holdfast.util.errors import HoldfastError
from holdfast.util.validate import Text, fit

CUB = "CUB_200_2011/ with images.txt, image_class_labels.txt and images/NNN.Name/*.jpg"
CARS = (
    "cars_train/ and cars_test/ (or one of them) with devkit/cars_train_annos.mat and "
    "devkit/cars_test_annos_withlabels.mat, or car_ims/ with cars_annos.mat"
)
SOP = "Stanford_Online_Products/ with Ebay_train.txt, Ebay_test.txt and <category>_final/*.JPG"
CARS_HALVES = {"cars_train": "cars_train_annos.mat", "cars_test": "cars_test_annos_withlabels.mat"}
CARS_TRAINING_CLASSES = 98
VARIABLES = ("annotations", "class_names")
_Number = Annotated[int, Field(ge=0, lt=2**63)]


def cub(root: Path) -> Table:
    """CUB-200-2011: the first half of the class numbers present trains, the rest tests (200 classes: 100 and 100)."""
    place = locate(root, ("images.txt",), CUB, inside=("CUB_200_2011",))
    images = records(place / "images.txt", ("image", "path"), CUB)
    class_of = dict(records(place / "image_class_labels.txt", ("image", "class"), CUB))
    unlabelled = [image for image, _ in images if image not in class_of]
    if unlabelled:
        raise HoldfastError(f"{place / 'image_class_labels.txt'} has no line for image {unlabelled[0]} of images.txt")
    numbers = _integers([class_of[image] for image, _ in images], place / "image_class_labels.txt")
    names: dict[int, str] = {}
    if (place / "classes.txt").exists():
        titles = records(place / "classes.txt", ("class", "name"), CUB)
        keys = _integers([number for number, _ in titles], place / "classes.txt")
        names = dict(zip(keys.tolist(), (name for _, name in titles), strict=True))
    present = np.unique(numbers)
    training = present[: len(present) // 2]
    paths = [place / "images" / path for _, path in images]
    return _zero_shot("cub", paths, numbers, np.isin(numbers, training), CUB, names=names)


def cars(root: Path) -> Table:
    """CARS-196: classes 1–98 train, 99–196 test, whichever folder an image lies in; one folder may be absent."""
    markers = ["cars_annos.mat", *(f"devkit/{file}" for file in CARS_HALVES.values()), *CARS_HALVES.values()]
    place = locate(root, markers, CARS, inside=("stanford_cars", "cars"))
    paths: list[Path] = []
    numbers: list[int] = []
    names: list[str] = []
    if (place / "car_ims").is_dir():
        content = read_mat(place / "cars_annos.mat", VARIABLES)
        paths, numbers = _annotations(content, place / "cars_annos.mat", "relative_im_path", place)
        names = _strings(content.get("class_names", ()))
    else:
        for folder, annotation in CARS_HALVES.items():
            if not (place / folder).is_dir():
                continue
            choices = (place / "devkit" / annotation, place / annotation)
            file = next((path for path in choices if path.exists()), None)
            if file is None:
                raise HoldfastError(f"{place / folder} is there but its labels {choices[0]} are not (expected {CARS})")
            more = _annotations(read_mat(file, VARIABLES), file, "fname", place / folder)
            paths, numbers = paths + more[0], numbers + more[1]
        if (place / "devkit" / "cars_meta.mat").exists():
            names = _strings(read_mat(place / "devkit" / "cars_meta.mat", VARIABLES).get("class_names", ()))
    if not paths:
        raise HoldfastError(f"neither cars_train/, cars_test/ nor car_ims/ lies in {place} (expected {CARS})")
    classes = np.asarray(numbers, np.int64)
    training = classes <= CARS_TRAINING_CLASSES
    return _zero_shot("cars", paths, classes, training, CARS, names=dict(enumerate(names, start=1)))


def sop(root: Path) -> Table:
    """Stanford Online Products: 11,318 products train, 11,316 others test, as its two lists say."""
    place = locate(root, ("Ebay_train.txt",), SOP, inside=("Stanford_Online_Products",))
    columns = ("image_id", "class_id", "super_class_id", "path")
    paths: list[Path] = []
    numbers = []
    for file in (place / "Ebay_train.txt", place / "Ebay_test.txt"):
        rows = records(file, columns, SOP, skip=1)
        paths += [place / row[3] for row in rows]
        numbers.append(_integers([row[1] for row in rows], file))
    training = np.arange(len(paths)) < len(numbers[0])
    return _zero_shot("sop", paths, np.concatenate(numbers), training, SOP)


def _zero_shot(
    name: str,
    paths: list[Path],
    numbers: npt.NDArray[np.int64],
    training: npt.NDArray[np.bool_],
    layout: str,
    *,
    names: dict[int, str] | None = None,
) -> Table:
    check_present(paths, layout)
    titles = names or {}
    split = np.where(training, "train", "test")
    table = Table.build(name, tuple(paths), numbers, split, title=lambda n: titles.get(n, f"class {n}"))
    table.check_disjoint()
    return table


def _integers(values: list[str], path: Path) -> npt.NDArray[np.int64]:
    try:
        return np.asarray([int(value) for value in values], np.int64)
    except (ValueError, OverflowError) as error:
        raise HoldfastError(f"{path}: a class number is expected: {error}") from None


def _annotations(content: dict[str, Any], file: Path, column: str, base: Path) -> tuple[list[Path], list[int]]:
    found = content.get("annotations", [])
    rows = found if isinstance(found, list) else [found]
    fields = rows[0].keys() if rows and isinstance(rows[0], dict) else ()
    if column not in fields or "class" not in fields:
        raise HoldfastError(
            f"{file} has no 'annotations' with {column!r} and 'class' "
            f"(found {', '.join(fields) or 'none'}); the file without labels will not do"
        )
    where = f"{file}, annotations"
    mappings = fit(list[dict[str, Any]], rows, where)
    paths = fit(list[Text], [row.get(column) for row in mappings], f"{where}, {column}")
    return [base / path for path in paths], fit(
        list[_Number], [row.get("class") for row in mappings], f"{where}, class"
    )


def _strings(values: Any) -> list[str]:
    return [str(value) for value in (values if isinstance(values, list) else [values])]
