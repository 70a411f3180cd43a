"""How a model is shown images."""

from pathlib import Path

from holdfast.models.preprocessing import View, lasting, view_of
from tests.helpers import tiny


def test_an_embedder_says_what_it_takes_and_other_models_are_told(tmp_path: Path) -> None:
    embedder = tiny.embedder(channels=3)
    assert view_of("anything", embedder) == View(8, None, 3)
    assert view_of("anything", embedder, resize=10) == View(8, 10, 3)
    assert view_of("anything", len) == View(224, None, 3)
    assert view_of("anything", len, size=32, channels=1) == View(32, None, 1)
    assert lasting("timm:resnet18") == "timm:resnet18"
    assert lasting("pkg.module:name") == "pkg.module:name"
    assert lasting(str(tmp_path / "x" / ".." / "net.py") + ":net") == f"{tmp_path.resolve()}/net.py:net"
