"""Which tests need a torch that exports ONNX."""

import pytest
import torch

from holdfast.export.onnx import TORCH

EXPORTS = torch.__version__ >= TORCH
REASON = f"ONNX needs torch {TORCH}"
needs_onnx = pytest.mark.skipif(not EXPORTS, reason=REASON)
