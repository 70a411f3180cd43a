"""Settings: the paper's defaults, what overrides what, and every way a value can be refused."""

import re
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.fused import PRECISIONS
from holdfast.core.samplers import SAMPLERS
from holdfast.core.steps import BALLS
from holdfast.data import DATASETS
from holdfast.runs.config import Config, flatten, resolve_config
from holdfast.training.trackers import TRACKERS
from holdfast.util.errors import HoldfastError

CHOICES = {
    "precision": tuple(PRECISIONS),
    "tracker": tuple(TRACKERS),
    "model.batchnorm": ("auto", "frozen", "train"),
    "pgd.norm": tuple(BALLS),
    "optim.name": ("adam", "adamw", "sgd"),
    "optim.schedule": ("constant", "cosine", "linear"),
    "warmup.sampler": tuple(SAMPLERS),
}
ABOVE_ZERO = {"optim.clip", "optim.head_lr", "optim.layer_decay", "loss.ceiling", "loss.rho"}
ONE = ("steps", "data.size", "data.workers")
TEXTS = ("data.root", "model.backbone", "model.weights")
TWO = ("batch.pairs", "batch.per_class", "model.dim")


def settings(**changes: Any) -> Config:
    return resolve_config({key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_papers_settings_at_28_pixels(name: str) -> None:
    config = settings(data__name=name)
    assert (config.data.size, config.data.resize, config.data.augment) == (28, None, False)
    assert (config.model.backbone, config.model.dim, config.batch.pairs, config.batch.per_class) == (
        "c2f2",
        512,
        128,
        2,
    )
    assert (config.pgd.norm, config.pgd.eps, config.pgd.step) == ("linf", 77 / 255, 3 / 255)
    assert (config.pgd.steps, config.pgd.start) == (32, 0)
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("adam", 1e-3, 1e-7)
    assert (config.optim.epochs, config.warmup.epochs) == (8, 0)
    assert (config.loss.margin, config.loss.structure, config.loss.boost) == (0.2, 0.5, 0.1)
    assert (config.optim.ema, config.optim.clip, config.precision) == (None, None, "float32")


@pytest.mark.parametrize("name", ["cub", "cars", "sop", "folder", "csv"])
def test_the_papers_settings_at_224_pixels(name: str) -> None:
    config = settings(data__name=name, model__weights="w.safetensors")
    assert (config.data.size, config.data.resize, config.data.augment) == (224, 256, True)
    assert (config.model.backbone, config.model.dim, config.batch.pairs) == ("resnet18", 512, 56)
    assert (config.pgd.eps, config.pgd.step, config.pgd.steps) == (8 / 255, 1 / 255, 8)
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("adam", 1e-5, 4e-4)
    assert (config.optim.epochs, config.warmup.epochs) == (75, 0)
    assert config.loss.structure == (0.05 if name == "sop" else 0.5)


def test_every_data_set_has_settings_and_digits_keep_their_size() -> None:
    for name in DATASETS:
        assert settings(data__name=name).data.name == name
    assert settings(data__name="digits").data.size == 8
    assert settings(data__name="digits", data__size=28).data.size == 28
    assert resolve_config() == settings(data__name="digits")


def test_a_224_pixel_network_from_random_weights_gets_a_warm_up_and_a_larger_learning_rate() -> None:
    pretrained, random = settings(data__name="cub", model__weights="w.pth"), settings(data__name="cub")
    assert pretrained.warmup.epochs == 0
    assert random.warmup.epochs > 0
    assert random.optim.lr > pretrained.optim.lr
    assert settings(data__name="cub", model__weights=None) == random
    chosen = settings(data__name="cub", warmup__epochs=0, optim__lr=1e-4)
    assert (chosen.warmup.epochs, chosen.optim.lr) == (0, 1e-4)


@pytest.mark.parametrize("recipe", ["fare", "LORE", "hm-lore", "act-r-lore"])
@pytest.mark.parametrize(("data", "eps"), [("folder", 8 / 255), ("digits", 77 / 255)])
def test_recipes_that_keep_the_original_have_the_settings_of_fare(recipe: str, data: str, eps: float) -> None:
    config = settings(recipe=recipe, data__name=data, model__weights="w.safetensors")
    optim = config.optim
    assert (optim.name, optim.lr, optim.weight_decay, optim.schedule) == ("adamw", 1e-5, 1e-4, "cosine")
    assert (optim.warmup_ratio, config.warmup.epochs, config.pgd.steps) == (0.07, 0, 10)
    assert (config.pgd.eps, config.pgd.step) == (eps, pytest.approx(eps / 4))
    own = settings(recipe=recipe, data__name=data, optim__lr=1e-3, pgd__eps="4/255", pgd__steps=5)
    assert (own.optim.lr, own.pgd.step) == (1e-3, pytest.approx(2 / 255))
    assert settings(recipe=recipe, data__name=data, pgd__step="3/255").pgd.step == 3 / 255
    assert resolve_config(yaml.safe_load(own.to_yaml())) == own


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (64, 73), (112, 128), (7, 8), (1, 1)])
def test_the_crop_margin_follows_the_size_unless_given(size: int, resize: int) -> None:
    assert settings(data__name="cub", data__size=size).data.resize == resize
    assert settings(data__name="cub", data__size=size, data__resize=None).data.resize is None
    assert settings(data__name="cub", data__size=size, data__resize=size + 9).data.resize == size + 9
    assert settings(data__name="mnist", data__size=size).data.resize is None


def test_later_settings_win_and_the_rest_stays() -> None:
    file = {"optim": {"lr": 1.0, "clip": 1.0, "epochs": 1}, "seed": 1}
    options = {"optim.lr": 2.0, "optim.clip": 2.0}
    config = resolve_config(file, options, assignments=["optim.lr=3", "optim.lr=4"])
    assert (config.optim.lr, config.optim.clip, config.optim.epochs, config.seed) == (4.0, 2.0, 1, 1)
    assert config.optim.weight_decay == resolve_config().optim.weight_decay


def test_the_family_follows_the_data_set_that_wins() -> None:
    config = resolve_config({"data": {"name": "cub"}}, {"data.name": "digits"}, assignments=["data.name=mnist"])
    assert (config.data.size, config.model.backbone) == (28, "c2f2")
    assert resolve_config({"data": {"name": "digits"}}, assignments=["data.name=cub"]).model.backbone == "resnet18"


def test_weights_count_whoever_gives_them() -> None:
    assert resolve_config({"data.name": "cub"}, assignments=["model.weights=w.pth"]).optim.lr == 1e-5
    assert resolve_config({"data.name": "cub", "model": {"weights": "w.pth"}}, {"model.weights": None}).optim.lr > 1e-5


def test_dotted_keys_and_sections_mix() -> None:
    assert (
        resolve_config({"optim.lr": 0.5, "optim": {"clip": 1}, "optim.ema": 0.5}).optim
        == resolve_config({"optim": {"lr": 0.5, "clip": 1, "ema": 0.5}}).optim
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), ("0.25", 0.25), ("1e-4", 1e-4), ("1", 1.0), ("0", 0.0), ("'1/4'", 0.25), ("1e-1", 0.1)],
)
def test_numbers_in_every_spelling(text: str, value: float) -> None:
    read = resolve_config(assignments=[f"pgd.eps={text}"]).pgd.eps
    assert read == value
    assert isinstance(read, float)


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("steps=null", "steps", None),
        ("steps= 5", "steps", 5),
        (" steps =5", "steps", 5),
        ("data.augment=true", "data.augment", True),
        ("data.cache=no", "data.cache", False),
        ("data.root=a=b", "data.root", "a=b"),
        ("data.root=12", "data.root", "12"),
        ("recipe=HM[S,g_LGA]&ICS", "recipe", "HM[S,g_LGA]&ICS"),
        ("optim.ema=0", "optim.ema", 0.0),
    ],
)
def test_assignments(assignment: str, key: str, value: Any) -> None:
    assert flatten(asdict(resolve_config(assignments=[assignment])))[key] == value


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "recipe": st.sampled_from(["none-r", "HM[S,g_LGA]&ICS", "act-r"]),
    "seed": st.integers(0, 2**32),
    "steps": st.none() | st.integers(1, 10**6),
    "precision": st.sampled_from(CHOICES["precision"]),
    "stop_on_collapse": st.booleans(),
    "data.root": st.none() | st.text("aZ9 ./\\:#'\"é-{}[]&*!|>%@`~\n\t", max_size=8),
    "data.size": st.integers(1, 300),
    "data.augment": st.booleans(),
    "model.weights": st.none() | st.sampled_from(["a.pth", "123", "null", "1e-5", "yes", ""]),
    "pgd.norm": st.sampled_from(CHOICES["pgd.norm"]),
    "pgd.eps": st.floats(0, 1),
    "optim.lr": st.floats(0, 10),
    "optim.weight_decay": st.floats(0, 1e-300),
    "optim.clip": st.none() | st.floats(1e-9, 1e9),
    "optim.ema": st.none() | st.floats(0, 1, exclude_max=True),
    "loss.ceiling": st.none() | st.floats(1e-6, 2),
}


@given(st.sampled_from(sorted(DATASETS)), st.fixed_dictionaries({}, optional=VALUES))
def test_yaml_round_trip(name: str, changes: dict[str, Any]) -> None:
    config = resolve_config({"data.name": name}, changes)
    assert resolve_config(yaml.safe_load(config.to_yaml())) == config
    flat = flatten(asdict(config))
    assert {key: flat[key] for key in changes} == changes
    assert resolve_config(flat) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.lrr": 1}, r"unknown setting 'optim\.lrr'; did you mean 'optim\.lr'\? \(allowed: optim\.name, .*ema\)"),
        ({"recipee": 1}, r"unknown setting 'recipee'; did you mean 'recipe'\? \(allowed: recipe, seed, .*validation\)"),
        ({"": 1}, "unknown setting ''"),
        ({1: 1}, "unknown setting '1'"),
        ({"optim": 1}, "optim takes a mapping of name, lr, .*, ema, not 1"),
        ({"optim": 1, "optim.lr": 1}, "optim takes a mapping of .*, not 1"),
        ({"data": "cub"}, "data takes a mapping of .*, not 'cub'"),
        ({"seed": None}, "seed takes a whole number, not None"),
        ({"seed": 2**64}, "seed is below 18446744073709551616"),
        ({"steps": 2**63}, "steps is below 9223372036854775808"),
        ({"data.root": "a\0b"}, r"data\.root takes text or null, not 'a\\x00b'"),
        ({"data.name": "cup"}, r"unknown data set 'cup'; did you mean 'cub'\? \(allowed: mnist"),
        ({"data.resize": 5}, r"data\.resize 5 is smaller than the crop data\.size 8"),
        ({"optim.ema": 1}, "optim.ema is below 1, not 1"),
        ({"optim.clip": 0}, r"optim\.clip is above 0"),
        ({"loss.ceiling": 0}, r"loss\.ceiling is above 0"),
        ({"optim.epochs": 0}, "nothing to train"),
        ({"pgd.eps": 8}, r"pgd\.eps is in units of the pixel range \[0, 1\], as 8/255, not 8\.0"),
        ({"pgd.step": 1.5}, r"pgd\.step is in units of the pixel range"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[Any, Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        resolve_config(changes)


@pytest.mark.parametrize("size", ["abc", None, float("inf"), [1], 6.4, True])
def test_a_size_that_is_no_number_is_refused_where_the_crop_follows_it(size: Any) -> None:
    with pytest.raises(HoldfastError, match=r"data\.size takes a whole number"):
        settings(data__name="cub", data__size=size)


def test_an_l2_radius_may_exceed_the_pixel_range() -> None:
    assert settings(pgd__norm="l2", pgd__eps=3.0).pgd.eps == 3.0


@pytest.mark.parametrize("key", CHOICES)
def test_every_choice_is_held_to(key: str) -> None:
    for choice in CHOICES[key]:
        assert flatten(asdict(resolve_config({key: choice})))[key] == choice
    wrong = CHOICES[key][0] + "x"
    with pytest.raises(
        HoldfastError, match=rf"unknown value of {re.escape(key)} '{wrong}'.*allowed: {CHOICES[key][0]}"
    ):
        resolve_config({key: wrong})


def numbers() -> dict[str, bool]:
    """The settings that are numbers, and which of them are whole."""
    flat = flatten(asdict(Config()))
    known = {key: isinstance(value, int) for key, value in flat.items() if type(value) in (int, float)}
    return known | {
        "steps": True,
        "data.resize": True,
        "optim.clip": False,
        "optim.head_lr": False,
        "optim.ema": False,
        "loss.ceiling": False,
    }


@pytest.mark.parametrize("key", sorted(numbers().keys() - {"data.resize"} - ABOVE_ZERO))
def test_every_minimum_is_held_to(key: str) -> None:
    least = 1 if key in ONE else 2 if key in TWO else 0
    others = {"optim.epochs": 1, "warmup.epochs": 1}
    assert flatten(asdict(resolve_config(others, {key: least})))[key] == least
    below = least - 1 if numbers()[key] else least - 1e-9
    with pytest.raises(HoldfastError, match=rf"{re.escape(key)} is at least {least}, not {below}"):
        resolve_config({key: below})


@pytest.mark.parametrize("key", sorted(ABOVE_ZERO))
def test_what_is_above_zero(key: str) -> None:
    assert flatten(asdict(resolve_config({key: 0.5})))[key] == 0.5
    with pytest.raises(HoldfastError, match=rf"{re.escape(key)} is above 0, not 0"):
        resolve_config({key: 0})


@pytest.mark.parametrize("key", sorted(flatten(asdict(Config())).keys() - {"data.name", "model.trainable"}))
@pytest.mark.parametrize("value", [-1, True, float("nan"), "many", [0], b"1", {"a": {"b": 0}}], ids=repr)
def test_every_setting_refuses_what_it_is_not(key: str, value: Any) -> None:
    right = isinstance(value, bool) and isinstance(flatten(asdict(Config()))[key], bool)
    text = isinstance(value, (int, float, str)) and not isinstance(value, bool) and key in TEXTS
    if right or text:
        resolve_config({key: value})
    else:
        with pytest.raises(HoldfastError, match=re.escape(key)) as caught:
            resolve_config({"data.name": "digits"} | {key: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "kept"), [("fc", ("fc",)), (["fc", "layer4"], ("fc", "layer4")), ([], ())])
def test_parts_that_train_are_one_name_or_several(given: Any, kept: tuple[str, ...]) -> None:
    assert settings(model__trainable=given).model.trainable == kept


@pytest.mark.parametrize("value", [-1, True, [None], {"a": 0}, b"1"], ids=repr)
def test_parts_that_train_are_names(value: Any) -> None:
    with pytest.raises(HoldfastError, match=r"model\.trainable"):
        settings(model__trainable=value)


@pytest.mark.parametrize("assignment", ["optim.lr", "=3", " =3", "", "optim.lr 3"])
def test_an_assignment_needs_a_key_and_a_value(assignment: str) -> None:
    with pytest.raises(HoldfastError, match=rf"--set takes key=value.*got '{assignment}'"):
        resolve_config(assignments=[assignment])


@pytest.mark.parametrize("value", ["[1", "*x", "{", "2020-13-45", "!!int abc", "!!python/name:os.system"])
def test_an_assignment_that_is_not_yaml_is_refused(value: str) -> None:
    with pytest.raises(HoldfastError, match=rf"--set steps={re.escape(value)}: the value is not YAML"):
        resolve_config(assignments=[f"steps={value}"])


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(st.text("ab", min_size=1, max_size=2), inner)))
def test_flatten_keeps_every_leaf(tree: Any) -> None:
    if isinstance(tree, dict):
        assert sorted(flatten(tree).values()) == sorted(_leaves(tree))
        assert all(_reach(tree, key) == value for key, value in flatten(tree).items())


def _leaves(tree: Any) -> list[int]:
    return [leaf for value in tree.values() for leaf in _leaves(value)] if isinstance(tree, dict) else [tree]


def _reach(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_fractions_are_exact_to_the_last_bit() -> None:
    assert all(settings(pgd__eps=f"{n}/255").pgd.eps == float(Fraction(n, 255)) == n / 255 for n in range(256))
