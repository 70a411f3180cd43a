"""``.eval_results``: read by the Hub's own library, true to the results, and only of those whose verdict is ok."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from holdfast.export import export
from holdfast.export.benchmark import eval_results
from holdfast.report import find
from holdfast.util.errors import HoldfastError
from tests.helpers.result_files import write


def test_the_hub_reads_every_entry(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.json", protocol="worst", columns={}), write(tmp_path / "b.json")]
    files += [write(tmp_path / "c.json", protocol="benign", trusted=False)]
    text = eval_results(find(files), "owner/name")
    entries = parse_eval_result_entries(yaml.safe_load(text))
    assert {one.dataset_id for one in entries} == {"owner/name"}
    values = {one.task_id: one.value for one in entries}
    assert values == {
        **{"worst-r1": 78.64, "worst-map": 68.8, "worst-robust_r1": 12.04, "worst-ers": 63.31},
        **{"strict-r1": 78.64, "strict-map": 68.8, "strict-robust_r1": 12.04, "strict-ers": 63.31},
    }
    (robust,) = (one.notes for one in entries if one.task_id == "worst-robust_r1")
    assert robust == "robust R@1, fashion-mnist: protocol worst, ε = 77/255, 32 steps"


def test_a_benchmark_is_named_for_the_hub_alone(digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="OWNER/NAME, not 'digits'"):
        export(digits_run, "hub", tmp_path / "hub", benchmark="digits")
    with pytest.raises(HoldfastError, match="goes with format 'hub'"):
        export(digits_run, "onnx", tmp_path / "x.onnx", benchmark="owner/name")
    place, _, _ = export(digits_run, "hub", tmp_path / "hub", benchmark="owner/name")
    assert yaml.safe_load((place / ".eval_results" / "holdfast.yaml").read_text()) == []
    assert not (export(digits_run, "hub", tmp_path / "plain")[0] / ".eval_results").exists()
