"""The table of words: complete, and in keeping with what it names."""

from pathlib import Path

from holdfast.attacks import ATTACKS
from holdfast.evaluation.checks import CHECKS
from holdfast.evaluation.protocols import COLUMNS
from holdfast.evaluation.result import MEASURED, SCORES, find
from holdfast.evaluation.words import ATTACK_WORDS, CHECK_WORDS, HIGHER, PASSED, SCORE_WORDS, check_words


def test_every_score_has_words_in_the_order_of_tables() -> None:
    assert tuple(SCORE_WORDS) == (*SCORES, *reversed(MEASURED))
    assert all(words.low < words.high for words in SCORE_WORDS.values())


def test_a_score_that_raises_the_ers_is_better_when_higher() -> None:
    for column in COLUMNS:
        words = SCORE_WORDS[column.name]
        assert (column.to_score(words.high) > column.to_score(words.low)) == (words.better == HIGHER)


def test_every_attack_has_words_for_all_its_readings() -> None:
    assert ATTACK_WORDS.keys() == ATTACKS.keys()
    assert all(len(ATTACK_WORDS[name].readings) == len(attack.readings) for name, attack in ATTACKS.items())


def test_every_check_has_words_in_the_order_they_are_made() -> None:
    assert list(CHECK_WORDS) == [*CHECKS, "preprocessing", "longer"]
    assert all(check_words(words.name) is words for words in CHECK_WORDS.values())
    assert check_words("a check of another version") is None
    assert PASSED.keys() == {True, False, None}


def test_the_names_in_result_files_are_known() -> None:
    results = find([Path(__file__).parents[2] / "results" / "fashion-whole"])
    names = {check["name"] for result in results for check in result.content["checks"]}
    assert len(names) == len(CHECK_WORDS) - 2  # made before robust R@1 was
    assert all(map(check_words, names))
    for result in results:
        assert all(SCORE_WORDS[name].unit == one["unit"] for name, one in result.content["columns"].items())
        assert SCORE_WORDS["ERS"].unit == result.content["ERS"]["unit"]
        assert SCORE_WORDS["least R@1"].unit == result.content["least R@1"]["unit"]
