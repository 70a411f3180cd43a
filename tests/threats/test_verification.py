"""``holdfast verify``: pairs and rates by twins, attacks in closed form, resumed, refused, and read by the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.attacks.base import attack_images
from holdfast.attacks.verification import Dodging, Impersonation, NearestImpersonation
from holdfast.core.pgd import PGD, Adaptive
from holdfast.core.steps import LInf
from holdfast.data import Pixels, Table
from holdfast.evaluation.result import Result
from holdfast.evaluation.robust import minimal
from holdfast.report import find
from holdfast.threats import pairs
from holdfast.threats.pairs import Faces, count_pairs, distances, equal_error_rate, threshold_at
from holdfast.threats.verification import verification_of, verify
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.html_page import page_of
from tests.helpers.tiny import counted, digits, embedder, lasting, records, rows
from tests.oracles import verification as oracles
from tests.oracles.attacks import generators, listed, world

EMBEDDER = embedder()
QUICK: dict[str, Any] = {"far": 0.05, "steps": 2, "max_queries": 5, "quiet": True, "device": "cpu"}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minimal, "HALVINGS", 3)


def found(result: Result) -> Any:
    return verification_of(result)


# --- pairs


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.05, 0.2, 0.5]))
def test_pairs_thresholds_and_errors_agree_with_twins(seed: int, grid: bool, far: float) -> None:
    system = world(seed, grid=grid)
    genuine, impostors = distances(system.queries, system.gallery)
    expected = oracles.pair_distances(listed(system.queries), listed(system.gallery))
    assert genuine.tolist() == pytest.approx(expected[0], abs=1e-5)
    assert impostors.tolist() == pytest.approx(expected[1], abs=1e-5)
    assert count_pairs(Faces.of(system.queries), Faces.of(system.gallery)) == tuple(map(len, expected))
    if len(genuine) and len(impostors):
        threshold = threshold_at(far, impostors)
        assert threshold == pytest.approx(oracles.threshold(far, impostors.tolist()))
        assert (impostors < threshold).sum() <= far * len(impostors) + 1e-9
        assert round(equal_error_rate(genuine, impostors), 6) in oracles.equal_errors(
            genuine.tolist(), impostors.tolist()
        )


def test_errors_in_closed_form() -> None:
    near, far = torch.linspace(0, 1, 50), torch.linspace(2, 3, 80)
    assert equal_error_rate(near, far) == 0
    assert equal_error_rate(far, near) == 100
    assert equal_error_rate(near, near) == pytest.approx(50, abs=1)
    assert equal_error_rate(torch.tensor([0.0, 0.0, 0.0, 2.0]), torch.tensor([1.0, 3.0, 3.0, 3.0])) == 25


def test_where_there_are_too_many_pairs_probes_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MOST_PAIRS", 50)
    rows_ = pairs.drawn_probes(100, 10, 0)
    assert len(rows_) == 5
    assert torch.equal(rows_, pairs.drawn_probes(100, 10, 0))
    assert pairs.drawn_probes(3, 10, 0).tolist() == [0, 1, 2]
    assert len(pairs.drawn_probes(3, 1000, 0)) == 1


# --- attacks


def test_whom_they_choose() -> None:
    system = world(3, grid=False)
    labels = system.gallery.labels
    mine = torch.tensor([i for i in range(12) if ((labels == system.queries.labels[i]).sum() > 1)])
    probes = system.queries.take(mine)
    for attack, genuine in ((Dodging(), True), (Impersonation(), False), (NearestImpersonation(), False)):
        chosen = attack.choose(probes, system, generators(len(mine)))[:, 0]
        assert ((labels[chosen] == probes.labels) == genuine).all()
        assert (system.gallery.ids[chosen] != probes.ids).all()
    nearest = NearestImpersonation().choose(probes, system, generators(len(mine)))[:, 0]
    for i, row in enumerate(nearest.tolist()):
        away = (system.gallery.embeddings - probes.embeddings[i]).norm(dim=1)
        away[labels == probes.labels[i]] = torch.inf
        assert away[row] == away.min()


def test_a_linear_verifier_in_closed_form() -> None:
    """Pixels as embeddings: the box's farthest corner from the template, and its nearest point to it."""
    system = world(5, grid=False, dim=9)
    squeezed = (system.gallery.embeddings - system.gallery.embeddings.min()) / 40 + 0.4
    gallery = type(system.gallery)(squeezed, system.gallery.labels, system.gallery.ids)
    system = type(system)(system.queries.take(torch.arange(4)), gallery)
    x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    probes = type(system.queries)(x.flatten(1), system.queries.labels, system.queries.ids)
    pgd = PGD(LInf(0.1), 0.1, 60, best=True, schedule=Adaptive())
    chosen = torch.tensor([[0], [3], [5], [9]])
    template = squeezed[chosen[:, 0]]

    def pushed(attack: Any) -> Tensor:
        return attack_images(
            attack, lambda z: z.flatten(1), system, probes, x, chosen=chosen, pgd=pgd, generators=generators(4)
        ).images.flatten(1)

    onto = x.flatten(1) + (template - x.flatten(1)).clamp(-0.1, 0.1)
    assert ((pushed(Impersonation()) - template).norm(dim=1) - (onto - template).norm(dim=1)).abs().max() < 2e-3
    corner = x.flatten(1) + 0.1 * (x.flatten(1) - template).sign()
    assert (pushed(Dodging()) - template).norm(dim=1) == pytest.approx((corner - template).norm(dim=1), abs=2e-3)


def test_the_smallest_change_of_a_linear_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pixels: an angle. The smallest change that leaves a cone around the template is known."""
    angles = np.array([20.0, 25.0, 30.0, 62.0, 66.0, 70.0])
    shades = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1)
    images = np.zeros((6, 2, 2), np.uint8)
    images[:, 0] = (200 * shades).round()
    table = Table.build("angles", images, [0, 0, 0, 1, 1, 1], ["test"] * 6)
    pixels = Pixels(table, 2, channels=1)
    monkeypatch.setattr(pairs, "NEEDED", 1)
    given_: dict[str, Any] = {"eps": 0.2, "steps": 20, "quiet": True, "device": "cpu"}
    result = found(verify(lambda x: x.flatten(1)[:, :2], pixels, far=0.12, **given_))
    x = torch.from_numpy(images[:, 0] / 255)
    z = normalize(x, dim=1)
    impostors = torch.cdist(z[:3], z[3:]).flatten().sort().values
    assert (result["genuine"], result["impostors"]) == (6, 9)
    assert result["threshold"] == pytest.approx(float(impostors[1]), abs=1e-6)
    for (_, size), point in zip(
        result["attacks"]["impersonation-nearest"]["smallest"]["each"], x.tolist(), strict=True
    ):
        mine = x.tolist().index(point) < 3
        template = z[3] if mine else z[2]

        def reaches(r: float, point: list[float] = point, template: Tensor = template) -> bool:
            corners = [[point[0] + a * r, point[1] + b * r] for a, b in ((1, -1), (-1, 1))]
            near = min(float((normalize(torch.tensor(one), dim=0) - template).norm()) for one in corners)
            return near < result["threshold"]

        if reaches(0):
            assert size == 0
        elif not reaches(0.199):
            assert size is None
        else:
            low, high = 0.0, 0.2
            for _ in range(40):
                low, high = (low, (low + high) / 2) if reaches((low + high) / 2) else ((low + high) / 2, high)
            assert size == pytest.approx(high, abs=0.2 / 100)


# --- the whole


def test_the_rates_are_those_of_the_records(few: None, tmp_path: Path) -> None:
    result = verify(EMBEDDER, digits(60), folder=tmp_path, **QUICK)
    content, (place,) = found(result), tmp_path.iterdir()
    threshold = content["threshold"]
    assert {*content["attacks"]} == {"dodging", "impersonation-nearest", "impersonation-random"}
    for name, one in content["attacks"].items():
        lines = rows(place / "records" / f"{name}.jsonl")
        assert len(lines) == 5
        for when in ("before", "after"):
            accepted = [next(iter(line[when].values())) < threshold for line in lines]
            assert one[when]["value"] == pytest.approx(100 * np.mean(accepted))
        smaller = {line["id"]: line for line in rows(place / "records" / f"minimal.{name}.jsonl")}
        for line, (identity, size) in zip(lines, one["smallest"]["each"], strict=True):
            assert identity == line["id"]
            accepts = {when: next(iter(line[when].values())) < threshold for when in ("before", "after")}
            wrong = {when: one != (name == "dodging") for when, one in accepts.items()}
            assert (size is None) == (not wrong["before"] and not wrong["after"])
            assert (size == 0) == wrong["before"]
            if size:
                assert size <= line["moved"] + 1e-6
                assert (next(iter(smaller[identity]["after"].values())) < threshold) != (name == "dodging")
                assert smaller[identity]["chosen"] == line["chosen"]
    assert content["attacks"]["dodging"]["after"]["value"] < content["attacks"]["dodging"]["before"]["value"]
    assert sum(bool(size) for one in content["attacks"].values() for _, size in one["smallest"]["each"]) > 3


def test_a_killed_verification_goes_on(few: None, tmp_path: Path) -> None:
    embed, calls = counted(EMBEDDER)
    whole = verify(embed, digits(60), folder=tmp_path / "all", batch=2, **QUICK)
    embed, _ = counted(EMBEDDER, int(0.7 * calls[0]))
    with pytest.raises(KeyboardInterrupt):
        verify(embed, digits(60), folder=tmp_path / "part", batch=2, **QUICK)
    again = verify(counted(EMBEDDER)[0], digits(60), folder=tmp_path / "part", batch=2, **QUICK)
    assert lasting(again.content) == lasting(whole.content)
    assert records(tmp_path / "part") == records(tmp_path / "all")
    other = verify(counted(EMBEDDER)[0], digits(60), batch=5, **QUICK)
    assert found(other) == found(whole), "whatever the batch"


def test_from_the_command_line_to_the_report(few: None, call: Call, digits_run: Path, tmp_path: Path) -> None:
    words = ("--far", "0.05", "--max-queries", "4", "--steps", "2", "--out", tmp_path)
    status, out, err = call("verify", digits_run, *words)
    assert (status, err) == (0, "")
    (result,) = find([tmp_path])
    content = found(result)
    assert f"nearer than {content['threshold']:.4f}" in out
    dodged = content["attacks"]["dodging"]
    assert f"{dodged['after']['value']:.1f} ({dodged['after']['kept']} of 4)" in out
    page = page_of(result.path)
    assert "verification" in page.sections
    assert f"TAR {content['TAR']['value']:.1f} %" in page.text
    damaged = json.loads(result.path.read_text()) if result.path else {}
    damaged["verification"]["attacks"]["dodging"]["after"] = "many"
    (tmp_path / "bad.json").write_text(json.dumps(damaged))
    with pytest.raises(HoldfastError, match="verification"):
        page_of(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--far", "0.00001"), "a rate needs to mean anything: "),
        (("--far", "1"), "far is above 0 and below 1"),
        (("--far", "0"), "far: it is above 0"),
        (("--eps", "0"), "eps is above 0"),
        (("--steps", "0"), "steps is at least 1"),
        (("--norm", "l3"), "unknown value of norm"),
    ],
)
def test_bad_input_is_refused(
    words: tuple[str, ...], said: str, refused: Refuse, digits_run: Path, tmp_path: Path
) -> None:
    assert said in refused("verify", digits_run, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_pairs_say_what_is_possible() -> None:
    with pytest.raises(HoldfastError, match=r"far 0\.001 of 4,500 impostor pairs .*: 0\.002223 is the least"):
        pairs.require_rate(0.001, 4500, 10)
    pairs.require_rate(0.002223, 4500, 10)
    with pytest.raises(HoldfastError, match="no rate is possible"):
        pairs.require_rate(0.5, 9, 10)
    with pytest.raises(HoldfastError, match="no genuine pairs"):
        pairs.require_rate(0.5, 9, 0)
