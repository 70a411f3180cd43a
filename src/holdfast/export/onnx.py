"""An embedder as ONNX: one file for any runtime that reads the format. Extra ``onnx``."""

from pathlib import Path

import torch

from holdfast.core.pgd import Embed
from holdfast.export.program import DYNAMIC, program
from holdfast.export.source import Source
from holdfast.models.adapters.onnx import OUTPUT, OnnxNetwork
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.extras import quiet, require

INPUT = "images"

TORCH = "2.7"
"""The first whose exporter writes BatchNorm as one node; that of 2.6 fails at it."""


def write(source: Source, path: Path) -> None:
    """An ``.onnx`` file: ``images`` (batch, channels, size, size) float32 -> ``embeddings`` (batch, dim).

    It passes ``onnx.checker``. Raises HoldfastError where torch is older than 2.7, and where the backbone uses what
    ONNX has no word for.
    """
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    if torch.__version__ < TORCH:
        raise HoldfastError(
            f"format onnx needs torch {TORCH} or newer, not {torch.__version__}; formats torch and hub do not"
        )
    traced = program(source.embedder)
    try:
        with quiet():
            found = torch.onnx.export(
                traced, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=DYNAMIC, verbose=False
            )
            assert found is not None
            model = found.model_proto
    except Exception as error:
        backbone = source.embedder.config.backbone
        raise HoldfastError(f"{backbone} cannot be exported as ONNX ({brief(error)})") from error
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model):
        part.ClearField("metadata_props")  # it tells where the code lies on this machine
    onnx.helper.set_model_props(model, source.facts)
    model.producer_name, model.producer_version = "holdfast", source.facts["holdfast"]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path, format="protobuf")


def load(path: Path) -> Embed:
    """What :func:`write` wrote, in onnxruntime on the CPU, as a function from images to embeddings."""
    return OnnxNetwork(path)
