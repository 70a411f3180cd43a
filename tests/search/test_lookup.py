"""Images found by other images, with a model by name."""

from pathlib import Path

from PIL import Image

from holdfast.data.readers.listing import listed
from holdfast.models.preprocessing import Preprocessing
from holdfast.search.lookup import answer, embed_files, model_of


def test_photos_of_birds_are_found_again_when_shifted(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "birds.py").write_text(
        "import torch\n"
        "from holdfast import Embedder, EmbedderConfig\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        '    return Embedder(EmbedderConfig("c2f2", dim=64, channels=3, size=32)).eval()\n'
    )
    photos = real_data / "CUB_200_2011" / "images"
    folders = sorted(photos.iterdir())[:2]
    (tmp_path / "photos").mkdir()
    for folder in folders:
        (tmp_path / "photos" / folder.name).mkdir()
        for photo in sorted(folder.iterdir())[:8]:
            (tmp_path / "photos" / folder.name / photo.name).symlink_to(photo.resolve())
    spec = f"{tmp_path / 'birds.py'}:build"
    index = embed_files(tmp_path / "photos", spec, tmp_path / "x.npz", size=32, resize=36, quiet=True)
    assert len(index) == 16
    assert set(index.labels) == {folder.name for folder in folders}
    assert index.preprocessing == Preprocessing(32, 36, 3)

    photo = Image.open(tmp_path / "photos" / index.paths[5]).convert("RGB")
    (tmp_path / "queries").mkdir()
    photo.crop((2, 2, photo.width, photo.height)).save(tmp_path / "queries/shifted.png")
    table, _ = listed(tmp_path / "queries")
    (best,), broken = answer(index, model_of(index), table, 1)
    assert not broken
    assert (best.rank, best.path, best.label) == (1, index.paths[5], index.labels[5])
