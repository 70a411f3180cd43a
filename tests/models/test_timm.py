"""Networks from timm, in an environment of their own: ``make test-timm``.

timm imports torchvision, and torchvision's wheel registers its operators with a CUDA build of torch only. Defining the
two operator schemas it asks for makes its import succeed on a CPU build; no test uses the operators.
"""

from importlib.util import find_spec

import pytest
import torch

from holdfast.core.pgd import PGD, LInf
from holdfast.defense.recipes import parse
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.util.errors import HoldfastError

if find_spec("timm") is None:
    pytest.skip("timm is not installed here; make test-timm runs these", allow_module_level=True)

OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_050"])
def test_a_timm_network_takes_a_hardening_step(name: str) -> None:
    embedder = Embedder(EmbedderConfig(name, dim=32, size=64))
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(4).repeat_interleave(2)
    assert torch.allclose(embedder(images).norm(dim=1), torch.ones(8), atol=1e-5)
    step = parse("hm-s-lga-ics").build(PGD(LInf(8 / 255), 1 / 255, 2))(embedder, images, labels)
    step.loss.backward()
    assert step.loss.isfinite()


def test_mean_and_std_are_the_network_s_own() -> None:
    assert Embedder(EmbedderConfig("timm:vit_tiny_patch16_224", dim=8)).mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_an_unknown_network_names_the_nearest() -> None:
    with pytest.raises(HoldfastError, match="resnet18"):
        Embedder(EmbedderConfig("timm:resnet1888", dim=8))
