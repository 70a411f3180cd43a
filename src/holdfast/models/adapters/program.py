"""``program:FILE.pt2``: a program of ``torch.export``, a graph and its weights."""

import ast
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.batching import fixed_batch
from holdfast.models.adapters.base import OpenedModel, named
from holdfast.models.preprocessing import Preprocessing
from holdfast.util.arrays import check_whole
from holdfast.util.errors import HoldfastError, foreign, nearest, within
from holdfast.util.extras import quiet
from holdfast.util.text import counted

ASSUMED = "the program is given pixels in [0, 1]: mean and std are taken to be inside it"
FUNCTIONS = re.compile(r"[A-Z][A-Za-z]*|floor|ceiling")
"""What may be called where the size of a dimension is written: torch has sympy evaluate it as code."""
ARITHMETIC = (ast.Expression, ast.Name, ast.Load, ast.keyword, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)


def open_program(word: str, weights: Path | None = None, best: bool = False) -> OpenedModel:
    """Size and channels are those of the program's input, where they are fixed.

    Raises HoldfastError where there is no program, where it takes anything but images, and for one that holds pickles
    or machine code.
    """
    if weights is not None:
        raise HoldfastError(f"{word} brings its own weights; leave out {weights}")
    file = Path(word.removeprefix("program:"))
    if not file.is_file():
        raise HoldfastError(f"no program at {file}{nearest(file)}")
    with within(file):
        check_whole(file)
        content = file.read_bytes()
        with foreign("it is no program of torch.export, or damaged", "export it again"):
            _check_plain(content)
    with quiet(), foreign(f"torch {torch.__version__} cannot open {file}", "export it again with this version"):
        program = torch.export.load(io.BytesIO(content))
    batch, channels, *sides = _input(program, file)
    network = program.module()
    embed = network if batch is None else InBatches(network, batch)
    size = sides[0] if sides[0] == sides[1] else None
    shown = None if size is None or channels not in (1, 3) else Preprocessing(size, channels=channels)
    return named(word, embed, None, shown, [ASSUMED], library=f"torch {torch.__version__}")


def _input(program: torch.export.ExportedProgram, file: Path) -> list[int | None]:
    """The shape of the images it takes; None for a dimension that is free."""
    names = program.graph_signature.user_inputs
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise HoldfastError(
            f"{file} takes {counted(len(shapes), 'input')} {[[*map(str, one)] for one in shapes]}, not one (n, C, H, W)"
        )
    return [side if isinstance(side, int) else None for side in shapes[0]]


class InBatches(nn.Module):
    """A program that takes ``batch`` images at once, for any number (n, C, H, W) -> (n, D)."""

    def __init__(self, program: nn.Module, batch: int) -> None:
        super().__init__()
        self.program, self.batch = program, batch

    def forward(self, images: Tensor) -> Tensor:
        return fixed_batch(self.program, images, width=self.batch)


def _check_plain(content: bytes) -> None:
    """Raise HoldfastError where torch would unpickle a part of the archive, or load machine code from it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        within_root = [name.partition("/")[2] for name in names]
        if len({name.partition("/")[0] for name in names}) != 1 or "archive_format" not in within_root:
            raise HoldfastError("it is no program of torch.export of torch 2.8 or newer: export it again")
        if len({*map(str.lower, names)}) != len(names):
            raise HoldfastError("it holds two parts of one name")
        for name, inside in zip(names, within_root, strict=True):
            if inside.startswith("data/aotinductor/"):
                raise HoldfastError(f"it holds machine code, {inside}, which is not run")
            if inside.startswith(("data/weights/", "data/constants/")):
                _check_payload(archive, name, inside)
            elif inside.startswith("data/sample_inputs/") and (sample := archive.read(name)):
                torch.load(io.BytesIO(sample), weights_only=True)
            elif inside.startswith("models/"):
                _check_expressions(json.loads(archive.read(name)))


def _check_payload(archive: zipfile.ZipFile, name: str, inside: str) -> None:
    if inside.endswith(".pt"):
        raise HoldfastError(f"it holds a pickle, {inside}, which is not loaded: export it again")
    if not inside.endswith(".json"):
        return
    for part in json.loads(archive.read(name))["config"].values():
        if part["use_pickle"] or not part["path_name"].startswith(("weight_", "tensor_")):
            raise HoldfastError(f"it holds a pickle, {part['path_name']}, which is not loaded")


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and bool(FUNCTIONS.fullmatch(node.func.id))
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or node.value.isidentifier()
    return isinstance(node, ARITHMETIC)


def _check_expressions(part: Any) -> None:
    if isinstance(part, dict):
        text = part.get("expr_str", "")
        if text and not all(map(_is_arithmetic, ast.walk(ast.parse(text, mode="eval")))):
            raise HoldfastError("the size of a dimension is written as code, which is not run")
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _check_expressions(inner)
