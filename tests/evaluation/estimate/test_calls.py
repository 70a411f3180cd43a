"""The calls of a model, watched on a few images and scaled to many."""

from collections import Counter
from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.attacks import ATTACKS
from holdfast.core.gradients import NES, Square
from holdfast.core.pgd import PGD, Adaptive
from holdfast.core.steps import LInf
from holdfast.evaluation.estimate.calls import Call, Pace, cost, most_calls, stretched, watch
from holdfast.evaluation.evaluate import prepared
from holdfast.evaluation.runner import Runner
from holdfast.evaluation.settings import resolve_settings
from tests.helpers.tiny import digits, embedder

CALLS = st.lists(st.builds(Call, st.fractions(0, 1).map(float), st.booleans()), max_size=5)


@given(calls=CALLS, images=st.integers(0, 40), batch=st.integers(1, 17), width=st.sampled_from([1, 2, 8]))
def test_costs_are_those_of_every_batch_and_block(calls: list[Call], images: int, batch: int, width: int) -> None:
    seconds, passes, pace = 0.0, 0, Pace(width, {False: 1.0, True: 3.0}, 0.5, None)
    for first in range(0, images, batch):
        size = min(batch, images - first)
        seconds += 0.5 * bool(calls)
        for share, slope in calls:
            for _ in range(ceil(size * share / width)):
                seconds += 3.0 if slope else 1.0
                passes += 2 * width if slope else width
    found = cost(calls, images, batch, pace)
    assert found.seconds == pytest.approx(seconds)
    assert found.passes == passes


def test_a_kind_of_call_that_was_not_seen_takes_as_long_as_the_slowest() -> None:
    assert cost([Call(1.0, True)], 8, 8, Pace(8, {False: 2.0}, 0.0, None)).seconds == 2


ES = PGD(LInf(0.1), 0.1, 9, best=True, schedule=Adaptive())


@pytest.mark.parametrize(
    "pgd",
    [
        ES,
        PGD(LInf(0.1), 0.1, 9, best=True, restarts=2),
        PGD(LInf(0.1), 0.1, 9),
        PGD(LInf(0.1), 0.2, 9, gradient=Square(), best=True),
        PGD(LInf(0.1), 0.1, 9, gradient=NES(pairs=2), best=True),
    ],
)
def test_an_attack_that_never_ends_early_makes_the_calls_foreseen(pgd: PGD) -> None:
    """The embedding is moved as far as it goes: an aim that is never reached."""
    rows = torch.arange(5)
    runner = Runner("es", ATTACKS["es"], pgd, rows)
    with prepared(embedder(), digits(), resolve_settings("28"), "cpu", quiet=True) as target:
        before = target.model.asked
        calls, pace, attacked = watch(target, 5, lambda one, _: runner.carry_out(one, rows))
        assert target.model.asked == before, "the target's own counts are as they were"
        assert attacked.images.equal(runner.carry_out(target, rows).images)
        assert pace.width == target.model.width
    made, foreseen = Counter(calls), Counter(most_calls(pgd))
    assert made.keys() == foreseen.keys()
    assert made[Call(1.0, True)] == foreseen[Call(1.0, True)]
    assert made[Call(1.0, False)] - foreseen[Call(1.0, False)] in (0, 1), "where it starts may be asked about"
    assert min(pace.block.values()) > 0


def test_what_is_unfinished_at_the_end_of_few_steps_stays_so() -> None:
    def calls(steps: int, share: float) -> list[Call]:
        made = [Call(1.0, True), *[Call(share, True)] * (steps - 1), Call(share, False)]
        return [*made, Call(1.0, False)]

    short, long = (PGD(LInf(0.1), 0.1, steps, best=True) for steps in (4, 32))
    found = stretched(calls(4, 0.5), short, long)
    assert len(found) == len(most_calls(long))
    assert [call.share for call in found] == [1.0, *[0.5] * 32, 1.0]
    finished = [Call(1.0, True), Call(0.5, True), Call(1.0, False)]
    assert stretched(finished, short, long) == finished, "all images were finished after two steps"
