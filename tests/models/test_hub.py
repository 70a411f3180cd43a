"""Embedders on the Hub: uploaded to a server on this machine, fetched from it, and from the cache without one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from holdfast.models.embedder import Embedder
from holdfast.util.errors import HoldfastError
from tests.helpers.hub_server import Hub, running
from tests.helpers.tiny import embedder, snapshot

CLIENT = """
import sys
import torch
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.util.errors import HoldfastError

for line in sys.stdin:
    try:
        print(eval(line))
    except HoldfastError as error:
        print("refused:", error)
"""
"""Evaluates its lines; the endpoint and the cache are read once, when huggingface_hub is imported."""


def client(home: Path, *lines: str, **variables: str) -> list[str]:
    """What a process of its own makes of each line."""
    given = {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    unset = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HUB_CACHE")
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input="\n".join(lines),
        env={**kept, **given, **variables},
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with running() as hub:
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a client runs and has its cache; a saved embedder and a card lie there."""
    folder = tmp_path_factory.mktemp("home")
    embedder(seed=3).save_pretrained(folder / "saved")
    (folder / "card.md").write_text("---\nlibrary_name: holdfast\n---\n# mine\n")
    return folder


SUM = "Embedder.from_pretrained({}).get_parameter('backbone.fc1.weight').double().sum().item()"


def total(seed: int = 3) -> float:
    """The same of an embedder here."""
    return embedder(seed=seed).get_parameter("backbone.fc1.weight").double().sum().item()


@pytest.fixture(scope="module")
def told(server: Hub, home: Path) -> dict[str, str]:
    """What a client with the server within reach is told, by what it asked."""
    main = snapshot(home / "saved")
    for name in ("other", "mine/model"):
        embedder(seed=4).save_pretrained(home / name)
    server.repositories = {
        "own/there": {"main": {**main, "notes.bin": b"much"}, "v1": snapshot(home / "other")},
        "mine/model": {"main": {}},
        "own/half": {"main": {"config.json": main["config.json"]}},
        "own/foreign": {"main": {"config.json": b'{"architectures": ["ViT"]}', "model.safetensors": b"x"}},
    }
    push = "Embedder.from_pretrained('saved').push_to_hub({})"
    asked = [
        push.format("'own/new', card='card.md', private=True, token='hf_secret', dtype=torch.bfloat16"),
        push.format("'own/gated', token='hf_secret'"),
        push.format("'own/new', card='absent.md'"),
        *map(
            SUM.format,
            ("'own/there'", "'own/there@v1'", "'own/there', revision='v1'", "'own/new'", "'saved'", "'mine/model'"),
        ),
        *map(SUM.format, ("'own/absent'", "'own/gated'", "'own/there@v2'", "'own/half'", "'own/foreign'")),
        *map(SUM.format, ("'own/there@v1', revision='v2'", "'own--x/a..b'", "'nothing'", "'a/b/c'")),
    ]
    return dict(zip(asked, client(home, *asked, HF_ENDPOINT=server.address), strict=True))


def answer(told: dict[str, str], part: str) -> str:
    """The answer to the one question that contains ``part``."""
    (found,) = [value for key, value in told.items() if part in key]
    return found


def test_an_embedder_is_fetched_with_nothing_beside_it(told: dict[str, str], server: Hub) -> None:
    assert float(answer(told, "('own/there')")) == total()
    assert "notes.bin" not in server.fetched
    assert {"config.json", "model.safetensors"} <= set(server.fetched)


def test_a_revision_is_named_in_two_ways(told: dict[str, str]) -> None:
    assert float(answer(told, "('own/there@v1')")) == float(answer(told, "('own/there', revision='v1')")) == total(4)
    assert "names a revision already; leave out 'v2'" in answer(told, "revision='v2'")


def test_an_upload_hands_over_what_was_saved_and_the_card(told: dict[str, str], server: Hub, tmp_path: Path) -> None:
    assert answer(told, "hf_secret', dtype") == f"{server.address}/own/new"
    files = server.repositories["own/new"]["main"]
    embedder(seed=3).save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {name: files[name] for name in ("config.json", "model.safetensors")} == snapshot(tmp_path)
    assert files["README.md"].startswith(b"---\nlibrary_name: holdfast\n---\n# mine\n")
    assert set(files) <= {"config.json", "model.safetensors", "README.md"}
    assert server.created[0]["name"] == "new"
    assert server.created[0].get("private") or server.created[0].get("visibility") == "private"
    assert server.tokens == {"Bearer hf_secret"}
    back = Embedder.from_pretrained(tmp_path).get_parameter("backbone.fc1.weight").double().sum().item()
    assert float(answer(told, "('own/new')")) == back != total()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("('own/absent')", "own/absent cannot be fetched: there is no such repository, or it is private"),
        ("pretrained('own/gated')", "own/gated cannot be fetched: it is gated: ask for access"),
        ("('own/there@v2')", "own/there@v2 cannot be fetched: it has no such revision"),
        ("('own/half')", "own/half holds no embedder that holdfast wrote, or its download was cut short"),
        ("('own/foreign')", "does not describe a holdfast embedder"),
        ("('own--x/a..b')", "that is no name of a repository"),
        ("('nothing')", "nothing holds no saved embedder: cannot read"),
        ("('a/b/c')", "a/b/c holds no saved embedder"),
        ("push_to_hub('own/gated'", "cannot upload to own/gated: HfHubHTTPError: "),
        ("card='absent.md'", "there is no card absent.md"),
    ],
)
def test_what_cannot_be_fetched_or_uploaded_is_one_line(told: dict[str, str], part: str, message: str) -> None:
    assert answer(told, part).startswith("refused: ")
    assert message in answer(told, part)


def test_a_local_folder_wins(told: dict[str, str]) -> None:
    assert float(answer(told, "('saved').get")) == total()
    assert float(answer(told, "('mine/model')")) == total(4)


def test_without_a_network_the_cache_serves(told: dict[str, str], server: Hub, home: Path) -> None:
    """What was fetched once is there; what was not is named, and so is what lacks a file."""
    asked = list(map(SUM.format, ("'own/there'", "'own/never'", "'own/cut'")))
    cut = home / "hub" / "models--own--cut"
    (cut / "refs").mkdir(parents=True)
    (cut / "refs" / "main").write_text("c" * 40)
    (cut / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (cut / "snapshots" / ("c" * 40) / "config.json").write_text("{}")
    for variables in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        here, never, half = client(home, *asked, **variables)
        assert float(here) == total()
        assert "own/never cannot be fetched: the Hub cannot be reached (no network, or HF_HUB_OFFLINE" in never
        assert "cut short" in half or "incomplete" in half


def test_without_huggingface_hub_a_local_folder_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    embedder(seed=3).save_pretrained(tmp_path)
    assert Embedder.from_pretrained(str(tmp_path)).config.dim == 16
    with pytest.raises(HoldfastError, match=r"no folder own/x, and to look for it on the Hub: .*holdfast\[hub\]"):
        Embedder.from_pretrained("own/x")
    with pytest.raises(HoldfastError, match=r"holdfast\[hub\]"):
        embedder().push_to_hub("own/x")


def test_a_path_is_never_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HoldfastError, match=r"own/x holds no saved embedder"):
        Embedder.from_pretrained(Path("own/x"))


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    embedder().save_pretrained(tmp_path)
    with pytest.raises(HoldfastError, match="no repository on the Hub: leave out revision 'v1'"):
        Embedder.from_pretrained(str(tmp_path), revision="v1")
