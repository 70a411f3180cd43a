"""``holdfast attack --attack hub``: closed forms, twins, files that do what the result says, resumed and refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from holdfast.attacks.base import Plan, System, attack_images
from holdfast.attacks.hub import TEMPERATURES, Hub, first_items, without
from holdfast.core.gallery import Gallery, Queries
from holdfast.core.objectives import AlignWith, ComeNearer
from holdfast.core.pgd import PGD, Adaptive
from holdfast.core.steps import LInf
from holdfast.report import find
from holdfast.threats.hub import attack_hub, poisoned, reverse_neighbours, robust_z
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.html_page import page_of
from tests.helpers.tiny import counted, digits, embedder, lasting, pair, records, rows, snapshot
from tests.oracles import hub as oracles
from tests.oracles.attacks import generators, listed, world

EMBEDDER = embedder()
QUICK: dict[str, Any] = {"poisons": 2, "made_on": 20, "steps": 4, "quiet": True, "device": "cpu"}


# --- closed forms


def test_a_linear_embedder_is_aligned_in_closed_form() -> None:
    """Of all images in the box the one at its corner ``x + ε sign(Wᵀc)`` has the largest ``⟨Wx, c⟩``."""
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 12, generator=draw), torch.rand(3, 1, 3, 4, generator=draw)
    centre = torch.randn(3, 5, generator=draw)
    pgd = PGD(LInf(0.1), 0.1, 10, best=True, schedule=Adaptive())
    found = pgd(lambda z: z.flatten(1) @ weight.T, x[:, None], AlignWith(centre))[:, 0]
    corner = (x.flatten(1) + 0.1 * (centre @ weight).sign()).clamp(0, 1)
    assert torch.allclose(found.flatten(1), corner, atol=1e-6)


def test_the_hub_of_queries_that_are_alike_is_the_nearest_image_to_them() -> None:
    """Pixels as embeddings: of all images in the box the nearest to the one query there is, pixel by pixel."""
    draw = torch.Generator().manual_seed(1)
    query, x = torch.rand(1, 6, generator=draw), torch.rand(2, 1, 2, 3, generator=draw) * 0.4 + 0.3
    asking = Queries(query.expand(8, -1), torch.zeros(8, dtype=torch.long), torch.arange(100, 108))
    stored = torch.cat([x.flatten(1), torch.rand(20, 6, generator=draw)])
    system = System(asking, Gallery(stored, torch.arange(22) % 3, torch.arange(22)))
    attack = Hub(made_on=4)
    candidates = system.gallery.take(torch.arange(2))
    found = attack_images(
        attack,
        lambda z: z.flatten(1),
        system,
        Queries(candidates.embeddings, candidates.labels, candidates.ids),
        x,
        chosen=attack.choose(candidates, system, generators(2)),
        pgd=PGD(LInf(0.2), 0.2, 80, best=True, schedule=Adaptive()),
        generators=generators(2),
    )
    wanted = x.flatten(1) + (query - x.flatten(1)).clamp(-0.2, 0.2)
    reached, least = ((one - query).norm(dim=1) for one in (found.images.flatten(1), wanted))
    assert (reached - least).abs().max() < 5e-3
    assert (least > 0.01).all()
    first = (stored - query).norm(dim=1)
    for i in range(2):
        others = torch.cat([first[:i], first[i + 1 :]])
        assert found.after["hit@1"][i] == 100 * (reached[i] <= others.min())


# --- twins


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.booleans())
def test_readings_and_objective_agree_with_twins(seed: int, grid: bool) -> None:
    system = world(seed, grid=grid, items=24)
    attack = Hub(made_on=4, seed=seed)
    made, others = attack.drawn(system.queries)
    assert len(made) == 4
    assert sorted([*made.tolist(), *others.tolist()]) == [*range(12)]
    candidates = system.gallery.take(torch.arange(3))
    plan = attack.plan(candidates, system, attack.choose(candidates, system, generators(3)))
    z = system.gallery.embeddings[5:8] + 0.015625
    queries, gallery = listed(system.queries), listed(system.gallery)
    for i, identity in enumerate(candidates.ids.tolist()):
        for k in (1, 10):
            expected = oracles.hit_rate(z[i].tolist(), identity, others.tolist(), queries=queries, gallery=gallery, k=k)
            assert float(plan.outcome(z)[f"hit@{k}"][i]) == pytest.approx(expected)
    objective = plan.objective
    assert isinstance(objective, ComeNearer)
    values = objective(z[:, None], torch.arange(3))
    for i, identity in enumerate(candidates.ids.tolist()):
        lists = [oracles.ranking(row, queries, gallery) for row in made.tolist()]
        reach = [next(d for d, one in ranked if one != identity) for ranked in lists]
        mine = [float(queries.ids[row] != identity) for row in made.tolist()]
        weights = [one / max(1.0, sum(mine)) for one in mine]
        usual = max(1e-6, sorted(reach)[(len(reach) - 1) // 2])
        ts = [usual * one for one in TEMPERATURES]
        points = [queries.points[row] for row in made.tolist()]
        expected = oracles.soft_count(z[i].tolist(), points, reach=reach, weights=weights, ts=ts)
        assert float(values[i]) == pytest.approx(expected, abs=2e-2 if usual < 1e-3 else 1e-3)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=30))
def test_robust_z_scores_agree_with_their_twin(counts: list[int]) -> None:
    assert robust_z(torch.tensor(counts)).tolist() == pytest.approx(oracles.robust_z(counts))


def test_reverse_neighbours_agree_with_their_twin() -> None:
    ids = torch.tensor([7, 3, 9, 1, 4])
    lists = torch.stack([ids[torch.randperm(5, generator=torch.Generator().manual_seed(i))[:3]] for i in range(20)])
    assert reverse_neighbours(lists, ids).tolist() == pytest.approx(
        oracles.weighted_counts(lists.tolist(), ids.tolist())
    )


def test_what_is_there_already_is_left_alone() -> None:
    """A query that an earlier poison has won counts nothing for the next one."""
    system = world(2, grid=False)
    attack = Hub(made_on=6)
    made = attack.drawn(system.queries)[0]
    first = first_items(system, made, 1)[1][:, 0]
    taken = int(first[0])
    candidates = system.gallery.take((system.gallery.ids != taken).nonzero()[:1, 0])
    plan = Hub(made_on=6, beside=(taken,)).plan(candidates, system, attack.choose(candidates, system, generators(1)))
    assert isinstance(plan, Plan)
    assert isinstance(plan.objective, ComeNearer)
    assert ((plan.objective.weights[0] == 0) == (first == taken) | (system.queries.ids[made] == candidates.ids)).all()
    values, ids = first_items(system, made, 2)
    second = values[:, 1].where(first == taken, values[:, 0])
    assert torch.equal(without(values, ids, torch.tensor([taken]), 1)[0], second)


# --- files and results


def vectors(images: Any) -> Any:
    with torch.no_grad():
        return EMBEDDER(torch.from_numpy(np.stack(images)[:, None] / 255).float()).double().numpy()


def test_whoever_reads_the_files_finds_the_hits(tmp_path: Path) -> None:
    result = attack_hub(EMBEDDER, digits(), None or tmp_path, **QUICK)
    found, (images, labels) = result.content["hub"], pair()
    attack = Hub(20)
    queries = Queries(torch.zeros(100, 1), torch.from_numpy(labels), torch.arange(100))
    assert (found["made_on"], len(found["poisons"])) == (20, 2)
    read_on = [i for i in attack.drawn(queries)[1].tolist() if i not in found["poisons"]]
    assert found["read_on"] == len(read_on)
    clean = vectors(list(images))
    for count in range(3):
        stored = clean.copy()
        for i in found["poisons"][:count]:
            with Image.open(tmp_path / f"{i}.png") as opened:
                stored[i] = vectors([np.asarray(opened)])[0]
        lists = []
        for i in read_on:
            away = np.linalg.norm(stored - clean[i], axis=1)
            away[i] = np.inf
            lists.append(np.argsort(away, kind="stable")[:10].tolist())
        seen = found["poisoned"][count - 1] if count else found["clean"]
        poisons = set(found["poisons"][:count])
        for k in (1, 10):
            assert seen["hits"][f"hit@{k}"] == pytest.approx(
                100 * np.mean([bool(poisons & {*one[:k]}) for one in lists])
            )
        assert seen["recall"] == pytest.approx(
            100 * np.mean([labels[one[0]] == labels[i] for one, i in zip(lists, read_on, strict=True)])
        )
        scores = oracles.robust_z(oracles.weighted_counts(lists, range(100)))
        assert seen["z"] == pytest.approx([scores[i] for i in found["poisons"][:count]], abs=1e-6)
        natural = [one for i, one in enumerate(scores) if i not in poisons]
        assert (seen["natural_z"], seen["natural_flagged"]) == (
            pytest.approx(max(natural)),
            sum(one > 3.5 for one in natural),
        )
    first = [one[0] for one in [lists[i] for i in range(len(read_on))]]
    assert found["natural"]["hit@1"] <= 100 * max(first.count(i) for i in range(100)) / len(read_on) + 5
    assert found["poisoned"][1]["hits"]["hit@10"] > 3 * found["natural"]["hit@10"] / 2
    assert max(found["poisoned"][1]["z"]) > found["clean"]["natural_z"]


def test_poisons_take_their_places() -> None:
    system = world(1, grid=True)
    ids, z = system.gallery.ids[[4, 1]], torch.full((2, 3), 9.0)
    found = poisoned(system, ids, z).gallery
    changed = (found.embeddings != system.gallery.embeddings).any(1).nonzero()[:, 0].tolist()
    assert changed == [1, 4]
    assert torch.equal(found.ids, system.gallery.ids)


def test_a_killed_call_goes_on(tmp_path: Path) -> None:
    embed, calls = counted(EMBEDDER)
    whole = attack_hub(embed, digits(), tmp_path / "all", **QUICK)
    for back in (60, 4):
        embed, _ = counted(EMBEDDER, calls[0] - back)
        with pytest.raises(KeyboardInterrupt):
            attack_hub(embed, digits(), tmp_path / f"part{back}", **QUICK)
        again = attack_hub(counted(EMBEDDER)[0], digits(), tmp_path / f"part{back}", **QUICK)
        assert lasting(again.content) == lasting(whole.content)
        assert records(tmp_path / f"part{back}") == records(tmp_path / "all")
        kept = ("costs.jsonl", "result.json")
        one, other = (snapshot(tmp_path / name) for name in ("all", f"part{back}"))
        assert {k: v for k, v in one.items() if k not in kept} == {k: v for k, v in other.items() if k not in kept}
    with pytest.raises(HoldfastError, match="holds images of another attack"):
        attack_hub(counted(EMBEDDER)[0], digits(), tmp_path / "all", **{**QUICK, "poisons": 1})


def test_queries_of_one_class(tmp_path: Path) -> None:
    found = attack_hub(EMBEDDER, digits(), tmp_path, query_class="3", max_queries=4, **{**QUICK, "poisons": 1}).content
    labels = pair()[1]
    assert found["hub"]["read_on"] == 4
    assert found["hub"]["made_on"] == (labels == 3).sum() // 2
    assert labels[found["hub"]["poisons"][0]] != 3
    (line,) = rows(tmp_path / "records" / "hub.jsonl")
    assert {int(labels[i]) for i in line["chosen"]} == {3}


def test_from_the_command_line_to_the_report(call: Call, digits_run: Path, tmp_path: Path) -> None:
    words = ("--attack", "hub", "--poisons", "2", "--made-on", "10", "--steps", "2", "--max-queries", "50")
    status, out, err = call("attack", digits_run, *words, "--save", tmp_path)
    assert (status, err) == (0, "")
    (result,) = find([tmp_path])
    hits = [f"{one:.1f}" for one in result.content["hub"]["poisoned"][1]["hits"].values()]
    assert [line.split()[1:3] for line in out.splitlines() if line.split()[:1] == ["2"]] == [hits]
    assert len([*tmp_path.glob("*-clean.png")]) == 2
    page = page_of(result.path)
    assert "poisons" in page.sections
    assert {*hits} <= {*page.inside("td")}
    assert result.path is not None
    (tmp_path / "bad.json").write_text(result.path.read_text().replace('"natural_z"', '"natural"'))
    with pytest.raises(HoldfastError, match="hub"):
        page_of(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--attack", "hub", "--poisons", "0"), "poisons is at least 1, not 0"),
        (("--attack", "hub", "--poisons", "9999"), "poisons is at most 787 in a gallery with 797 images"),
        (("--attack", "hub", "--made-on", "0"), "made_on is at least 1"),
        (("--attack", "hub", "--query-class", "x"), "unknown class 'x'"),
        (("--attack", "hub", "--eps", "0"), "eps is above 0"),
        (("--attack", "es", "--poisons", "2"), "--poisons goes with --attack hub, not es"),
        (
            (
                "--attack",
                "hubb",
            ),
            "did you mean 'hub'?",
        ),
    ],
)
def test_bad_input_is_refused(
    words: tuple[str, ...], said: str, refused: Refuse, digits_run: Path, tmp_path: Path
) -> None:
    assert said in refused("attack", digits_run, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
