"""Whatever a file or a request holds, its reader returns a value or raises a HoldfastError of one line.

HOLDFAST_FUZZ: inputs tried for each reader. What is not made of trees: test_damaged_files.py.
"""

import json
import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from holdfast.evaluation.records import Records, read_benign
from holdfast.evaluation.result import BENIGN, COST, MEASURED, SCORES, find
from holdfast.models.embedder import FORMAT, EmbedderConfig, _read_config
from holdfast.report import STYLES
from holdfast.runs.config import resolve_config
from holdfast.runs.folder import Place, Run, State
from holdfast.search.index import Index
from holdfast.sweep.plan import plan
from holdfast.util.errors import HoldfastError
from holdfast.util.validate import fit, parse_json, read_json
from tests.helpers import result_files, tiny

EXAMPLES = int(os.environ.get("HOLDFAST_FUZZ", "40"))

CONFIG = resolve_config({"recipe": "none-r", "optim.clip": 1, "model.weights": None})
SWEEP = {
    "settings": {"data": {"name": "digits"}, "optim.lr": "1e-4"},
    "start": {"recipe": "none-s"},
    "runs": [{"recipe": ["act-r", "none-r"], "pgd.steps": [1, 2]}, {"seed": 1}],
    "evaluations": [{"protocol": "cvpr22", "max_queries": 4}, {"eps": "8/255", "attacks": ["es"], "checks": False}],
}
RESULT = result_files.CONTENT | {
    "model": {"recipe": "act-r", "training": {"settings": asdict(CONFIG), "passes": 10, "seconds": 1.5}},
    "settings": result_files.CONTENT["settings"] | {"gradient": "nes", "precision": "float32", "attacks": ["es"]},
    "checks": [{"name": "a check", "passed": True, "detail": "seen"}],
}
STEP = {"step": 1, "epoch": 1, "loss": 0.5, "hardness": -0.1, "passes": 16.0, "seconds": 0.1}
RECORD = {"id": 3, "chosen": [4], "before": {"ES:D": 0.0}, "after": {"ES:D": 0.25}, "moved": 0.1}
COSTS = {"attack": "es", "images": 1, "forward": 64, "backward": 32, "seconds": 0.5}
INDEX = Index.build(tiny.embedder(), tiny.digits(40), quiet=True)


def a_config(folder: Path, content: bytes) -> None:
    (folder / "config.yaml").write_bytes(content)
    Run(folder).config().to_yaml()


def a_sweep(folder: Path, content: bytes) -> None:
    (folder / "sweep.yaml").write_bytes(content)
    for run in plan([folder / "sweep.yaml"], folder / "out"):
        json.dumps([run.words(), [one.options() for one in run.evaluations]])


def an_embedder(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    _read_config(folder / "config.json")


def a_result(folder: Path, content: bytes) -> None:
    (folder / "result.json").write_bytes(content)
    (result,) = find([folder / "result.json"])
    assert isinstance(result.name + result.dataset + result.protocol + result.verdict, str)
    for column in (*BENIGN, *SCORES, *MEASURED, *COST):
        assert isinstance(result.number(column), float | int | None)
        assert result.interval(column) is None or len(result.interval(column) or ()) == 2
    for style in ("markdown", "csv", "json"):
        STYLES[style]([result])


def a_state(folder: Path, content: bytes) -> None:
    save_file({"model/w": torch.ones(1)}, folder / "state.safetensors", {"progress": content.decode(errors="replace")})
    assert repr(Run(folder).place()) == repr(Run(folder).load_state().place)


def begun(folder: Path) -> Run:
    run = Run(folder)
    run.config_file.write_text(CONFIG.to_yaml())
    run.save_state(State({"model/w": torch.ones(1)}, Place(epoch=1, step=2)))
    with patch("holdfast.runs.folder.environment", dict):
        run.begin(CONFIG, resume=True)
    return run


def steps(folder: Path, content: bytes) -> None:
    (folder / "steps.jsonl").write_bytes(content)
    assert isinstance(begun(folder).cost()["passes"], float | int)


def epochs(folder: Path, content: bytes) -> None:
    (folder / "epochs.csv").write_bytes(content)
    begun(folder).log_epoch({"step": 3, "epoch": 2})


def records(folder: Path, content: bytes) -> None:
    (folder / "records").mkdir(exist_ok=True)
    (folder / "records" / "es.jsonl").write_bytes(content)
    (folder / "costs.jsonl").write_text(json.dumps(COSTS) + "\n")
    assert all(isinstance(record["after"], dict) for record in Records(folder).of("es"))


def benign(folder: Path, content: bytes) -> None:
    (folder / "benign.jsonl").write_bytes(content)
    assert all(isinstance(line["scores"], dict) for line in read_benign(folder))


def costs(folder: Path, content: bytes) -> None:
    (folder / "records").mkdir(exist_ok=True)
    (folder / "records" / "es.jsonl").write_text(json.dumps(RECORD) + "\n")
    (folder / "costs.jsonl").write_bytes(content)
    assert isinstance(sum(Records(folder).cost().values()), float | int)


def an_index(folder: Path, content: bytes) -> None:
    INDEX.save(folder / "a.npz")
    arrays = dict(np.load(folder / "a.npz")) | {"about": np.array(content.decode(errors="replace"))}
    np.savez(folder / "a.npz", **arrays)
    assert Index.load(folder / "a.npz").preprocessing.size > 0


def a_request(folder: Path, content: bytes) -> None:
    pytest.importorskip("starlette", reason="the explorer needs the extra serve")
    from holdfast.explorer.server import AttackRequest

    fit(AttackRequest, parse_json(content, "the request"), "the request")


def an_environment(folder: Path, content: bytes) -> None:
    (folder / "environment.json").write_bytes(content)
    read_json(folder / "environment.json")


def as_yaml(tree: Any) -> bytes:
    return yaml.dump(tree, Dumper=yaml.SafeDumper, sort_keys=False).encode(errors="replace")


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def as_line(tree: Any) -> bytes:
    return as_json(tree) + b"\n"


def as_csv(tree: Any) -> bytes:
    rows = [tree.keys(), tree.values()] if isinstance(tree, dict) else [[tree]]
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode(errors="replace")


KINDS: dict[str, tuple[Callable[[Path, bytes], None], Any, Callable[[Any], bytes]]] = {
    "config": (a_config, asdict(CONFIG), as_yaml),
    "sweep": (a_sweep, SWEEP, as_yaml),
    "embedder": (an_embedder, {"format": FORMAT, **asdict(EmbedderConfig("c2f2", mean=(0.5,)))}, as_json),
    "result": (a_result, RESULT, as_json),
    "state": (a_state, vars(Place()), as_json),
    "steps": (steps, STEP, as_line),
    "epochs": (epochs, {"step": 1, "epoch": 1, "R@1": 50.0}, as_csv),
    "records": (records, RECORD, as_line),
    "costs": (costs, COSTS, as_line),
    "benign": (benign, {"id": 3, "scores": {"R@1": 100.0, "mAP": 75.5}}, as_line),
    "index": (an_index, INDEX.about, as_json),
    "request": (a_request, {"query": "0", "attack": "es", "label": None, "eps": 8, "steps": 3}, as_json),
    "environment": (an_environment, {"python": "3.11", "devices": []}, as_json),
}

texts = st.text(max_size=5) | st.sampled_from(["", "a\0b", "\ud800", "x" * 5000, "8/255", "nan", "1e999999999", "../x"])
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -1, 2**64, 1e308, 0])
plain = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values of a tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return [path, *(deep for key, value in inner for deep in places(value, (*path, key)))]


def replaced(tree: Any, path: tuple[Any, ...], change: Callable[[Any, Any], Any]) -> Any:
    """A tree in which the container of the value at a path has been changed."""
    if len(path) <= 1:
        return change(tree, path[0] if path else None)
    tree[path[0]] = replaced(tree[path[0]], path[1:], change)
    return tree


@st.composite
def mutations(draw: st.DrawFn, good: Any, written: Callable[[Any], bytes]) -> bytes:
    """What a file of good content may have become: a few values others, or absent, or added; bytes lost or changed."""
    tree = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(0, 2))):
        value, key, kind = draw(plain), draw(texts), draw(st.sampled_from(["replace", "remove", "add"]))

        def change(place: Any, at: Any, value: Any = value, key: str = key, kind: str = kind) -> Any:
            if at is None:
                return value
            if kind == "remove":
                place.pop(at)
            elif isinstance(place, dict) and kind == "add":
                place[key] = value
            else:
                place[at] = value
            return place

        tree = replaced(deepcopy(tree), draw(st.sampled_from(places(tree))), change)
    content = written(tree)
    if draw(st.booleans()):
        start = draw(st.integers(0, len(content)))
        content = content[:start] + draw(st.binary(max_size=3)) + content[start + draw(st.integers(0, 9)) :]
    return content


def refused_in_one_line(read: Callable[[Path, bytes], None], folder: Path, content: bytes) -> str:
    """What the reader says of the content; empty where it takes it."""
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    refusal = ""
    try:
        read(folder, content)
    except HoldfastError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) <= 1
    return refusal


@pytest.mark.parametrize("name", KINDS)
def test_good_content_is_read(name: str, tmp_path: Path) -> None:
    read, good, written = KINDS[name]
    read(tmp_path, written(good if name != "config" else json.loads(json.dumps(good))))


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_content_is_read_or_refused(name: str, tmp_path: Path, data: st.DataObject) -> None:
    read, good, written = KINDS[name]
    refused_in_one_line(read, tmp_path, data.draw(mutations(good, written)))


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
HARD = {
    "nothing": b"",
    "deep": b"[" * 5_000 + b"]" * 5_000,
    "brackets": b"[" * 200_000,
    "braces": b'{"a":' * 200_000,
    "deep mappings": b'{"a":' * 150 + b"1" + b"}" * 150,
    "aliases that grow": LAUGHS.encode(),
    "merges that grow": MERGED.encode(),
    "an alias of itself": b"&a [*a]",
    "a key twice": b"seed: 1\nseed: 2\n",
    "a huge number": b"seed: " + b"9" * 5_000,
    "a huge number of JSON": b'{"seed": ' + b"9" * 5_000 + b"}",
    "a huge hexadecimal number": b"seed: 0x" + b"f" * 5_000,
    "a number to the base of 60": b"seed: 1" + b":1" * 100_000,
    "UTF-16": '{"seed": 1}'.encode("utf-16"),
    "Latin-1": "{seed: \xe9}".encode("latin-1"),
    "null bytes": b"seed: 1\0\n",
    "tags": b"seed: !!int ''",
    "other tags": b"seed: !!bool maybe",
    "dates": b"seed: !!timestamp x",
    "code": b"seed: !!python/object/apply:os.system [ls]",
}


@pytest.mark.parametrize("content", HARD)
@pytest.mark.parametrize("name", KINDS)
def test_what_would_break_a_parser_is_refused(name: str, content: str, tmp_path: Path) -> None:
    refused = refused_in_one_line(KINDS[name][0], tmp_path, HARD[content])
    kept = name in ("steps", "epochs", "records", "costs", "benign", "environment") or (name, content) == (
        "config",
        "nothing",
    )
    assert refused or kept
