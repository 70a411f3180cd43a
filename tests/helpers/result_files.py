"""Result files as evaluations leave them, for the tests that read some."""

import copy
import json
from pathlib import Path
from typing import Any

from holdfast.report.published import SCORES

CONTENT: dict[str, Any] = {
    "format": "holdfast-evaluation-1",
    "name": "fashion-act",
    "model": {"recipe": "act-r", "backbone": "c2f2", "dim": 512},
    "data": {"name": "fashion-mnist", "queries": 10000},
    "protocol": "strict",
    "protocol_version": 1,
    "settings": {"eps": 0.30196, "step": 0.0117, "steps": 32, "norm": "linf"},
    "hash": "1a2b3c4d",
    "benign": {"R@1": 78.64, "R@2": 87.0, "R@4": 91.0, "mAP": 68.8, "NMI": 67.25},
    "collapsed": False,
    "columns": {
        name: {"value": float(i), "low": i - 0.5, "high": i + 0.25, "unit": "%", "queries": 1000}
        for i, name in enumerate(SCORES, start=1)
    },
    "ERS": {"value": 63.31, "low": 62.5, "high": 64.1},
    "robust R@1": {"value": 12.04, "low": 11.0, "high": 13.0, "converged": True, "stages": []},
    "checks": [],
    "trusted": True,
}


def write(path: Path, **changes: Any) -> Path:
    """A result file; a change of None takes the key out, one that is a dict is merged into it."""
    content = copy.deepcopy(CONTENT)
    for key, value in changes.items():
        if isinstance(value, dict):
            content[key] = {**content.get(key, {}), **value}
        elif value is None:
            content.pop(key)
        else:
            content[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
