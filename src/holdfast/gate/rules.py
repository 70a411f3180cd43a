"""Rules such as ``robust R@1=2``: a score, and how much it may drop or how much it has to be."""

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.evaluation.result import CERTIFIED, LEAST, ROBUST, RRS, SAMPLE, SCORES
from holdfast.evaluation.words import LOWER, SCORE_WORDS
from holdfast.util.errors import HoldfastError, unknown
from holdfast.util.validate import Number, fit

UNATTACKED = ("R@1", "R@2", "R@4", "R@8", "mAP", "mAP@R", "R-Precision")
"""The scores of queries as they are."""
PAIRED = (*UNATTACKED, SAMPLE, ROBUST, LEAST, *SCORES, "ERS")
"""The scores that have a value for each query, which can be compared with that of another model."""
SHORT = "certified R@1@"
"""What may stand for :data:`CERTIFIED` before a radius."""


@dataclass(frozen=True)
class Rule:
    """What a score has to keep to. number: in the units of the score, points of 100 for a share in percent."""

    score: str
    number: float

    @property
    def lower(self) -> bool:
        """Whether a lower score is better."""
        return self.score in SCORE_WORDS and SCORE_WORDS[self.score].better == LOWER


@dataclass(frozen=True)
class MaxDrop(Rule):
    """A score may become worse by ``number``, 0 or more, and no further."""

    def __str__(self) -> str:
        return f"{self.score}: {'rise' if self.lower else 'drop'} of at most {self.number:g}"


@dataclass(frozen=True)
class Min(Rule):
    """A score, of which more is better, is at least ``number``."""

    def __str__(self) -> str:
        return f"{self.score}: at least {self.number:g}"


def parse_max_drops(texts: Iterable[str]) -> list[MaxDrop]:
    """Rules from ``NAME=NUMBER``. Raises HoldfastError for an unknown score, and for a number below 0."""
    rules = [MaxDrop(*_parsed(text, "--max-drop", PAIRED)) for text in texts]
    for rule in rules:
        if rule.number < 0:
            raise HoldfastError(f"--max-drop {rule.score}={rule.number:g}: a drop is allowed from 0 on")
    return rules


def parse_mins(texts: Iterable[str]) -> list[Min]:
    """Rules from ``NAME=NUMBER``. Raises HoldfastError for an unknown score, and for one of which less is better."""
    rules = [Min(*_parsed(text, "--min", (*PAIRED, RRS))) for text in texts]
    for rule in rules:
        if rule.lower:
            raise HoldfastError(f"--min {rule.score}: of {rule.score} less is better; --max-drop takes it")
    return rules


def _parsed(text: str, option: str, allowed: Iterable[str]) -> tuple[str, float]:
    name, sign, number = (part.strip() for part in text.rpartition("="))
    if not sign:
        raise HoldfastError(f'{option} takes a score and a number, as {option} "robust R@1=2", not {text!r}')
    if name.startswith(SHORT):
        name = CERTIFIED + name.removeprefix(SHORT)
    if not name.startswith(CERTIFIED):
        if name not in allowed:
            raise unknown("score", name, [*allowed, f"{SHORT}RADIUS"])
    else:
        radius = fit(Number, name.removeprefix(CERTIFIED), f"{option} {SHORT}RADIUS")
        name = f"{CERTIFIED}{radius:g}"
    return name, fit(Number, number, f"{option} {name}")
