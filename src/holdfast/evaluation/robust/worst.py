"""The worst case of an evaluation: robust R@1 and minimal ε, beside R@1 of the same queries without attack."""

from typing import Any

from torch import Tensor

from holdfast.evaluation.records import Records
from holdfast.evaluation.result import MINIMAL, ROBUST, SAMPLE
from holdfast.evaluation.robust.cascade import robust_recall
from holdfast.evaluation.robust.draws import unattacked
from holdfast.evaluation.robust.minimal import minimal_eps
from holdfast.evaluation.runner import Target
from holdfast.evaluation.scores import share
from holdfast.evaluation.settings import AttackSettings
from holdfast.util.progress import Progress


def worst_case(
    target: Target,
    resolved: AttackSettings,
    rows: Tensor,
    records: Records,
    progress: Progress,
    *,
    batch: int,
    surrogate: Target | None = None,
) -> tuple[dict[str, Any], Tensor]:
    """``sample R@1``, ``robust R@1`` and ``minimal eps`` of a result, None where they are not asked for, and the rows
    of the queries, of those at ``rows`` (n,), that nothing broke."""
    sample, robust, minimal, left = None, None, None, rows
    if resolved.attacking:
        sample = share(unattacked(target, rows, resolved.seed).double().cpu().numpy())
    if resolved.cascade:
        robust, left = robust_recall(target, resolved, rows, records, progress, batch=batch, surrogate=surrogate)
    if resolved.minimal_eps:
        minimal = minimal_eps(target, resolved, rows, records, progress, batch=batch, surrogate=surrogate)
    return {SAMPLE: sample, ROBUST: robust, MINIMAL: minimal}, left
