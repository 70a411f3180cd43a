"""What is found out about a result once its attacks are made: checks, longer attacks, a longer cascade."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from holdfast.core.batching import spread
from holdfast.evaluation.checks import CHECKS, Check, check
from holdfast.evaluation.checks.arrival import further
from holdfast.evaluation.records import Records
from holdfast.evaluation.robust.cascade import longer
from holdfast.evaluation.runner import Runner, Target, attacked_rows
from holdfast.evaluation.settings import AttackSettings
from holdfast.evaluation.words import CHECK_WORDS
from holdfast.util.errors import foreign
from holdfast.util.progress import Progress

LONGER = CHECK_WORDS["longer"].name
CHECKED = 64
"""Queries that the checks are made on."""


@dataclass(frozen=True)
class Trust:
    """``checks`` and ``further`` of a result; nothing of one that is not checked."""

    checks: list[Check] = field(default_factory=list)
    further: dict[str, float] = field(default_factory=dict)

    @property
    def converged(self) -> bool | None:
        """Whether four times the steps leave robust R@1 where it is; None where that was not tried."""
        return next((one.passed for one in self.checks if one.name == LONGER), None)

    def trusted(self, target: Target) -> bool | None:
        """Whether nothing speaks against the scores; None where it was not found out."""
        if target.model.faults:
            return False
        return all(one.passed is not False for one in self.checks if one.name != LONGER) if self.checks else None


def find_out(
    target: Target,
    resolved: AttackSettings,
    runners: Sequence[Runner],
    records: Records,
    standing: Tensor,
    *,
    transfer: Target | None,
    quiet: bool,
) -> Trust:
    """Check attacks that were made. standing: rows (n,) of the queries that withstood the cascade."""
    if not resolved.attacking:
        return Trust()
    queries = attacked_rows("query", target, resolved)
    chosen = queries[spread(len(queries), CHECKED)]
    with (
        Progress("checking", len(CHECKS), quiet=quiet) as progress,
        foreign("the checks of the model fail", "the attacks are kept: mend the model, or leave out the checks"),
    ):
        found = check(target, resolved, chosen, progress, transfer)
    taken = {} if resolved.black_box else further(target, runners, records.kept, transfer, quiet)
    if resolved.cascade:
        found.append(Check(LONGER, *longer(target, resolved, standing, len(queries), transfer)))
    return Trust(found, taken)
