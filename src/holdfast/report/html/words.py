"""The scores and the checks in plain words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """What a score is read from, in a sentence; its unit; what an undefended and a robust model come near to."""

    title: str
    sentence: str
    unit: str
    low: float
    high: float
    robust: str


PERCENT = "R@1, %"
HIGH, LOW = "higher is better", "lower is better"
SCORES: dict[str, Score] = {
    "CA+": Score(
        "CA+, a random image raised",
        "A gallery image is changed so that a query it has nothing to do with finds it early. Where it then stands.",
        *("place in % of the gallery", 0, 60, HIGH),
    ),
    "CA-": Score(
        "CA-, a good answer sunk",
        "A gallery image is changed so that a query that found it among its nearest 1 % finds it late.",
        *("place in % of the gallery", 0, 100, LOW),
    ),
    "QA+": Score(
        "QA+, a query that raises a random image",
        "A query is changed so that it finds an image that was drawn at random early. Where that then stands.",
        *("place in % of the gallery", 0, 60, HIGH),
    ),
    "QA-": Score(
        "QA-, a query that sinks a good answer",
        "A query is changed so that it finds one of its nearest 1 % late.",
        *("place in % of the gallery", 0, 100, LOW),
    ),
    "TMA": Score(
        "TMA, a query made like another image",
        "A query is changed so that its embedding becomes that of an image drawn at random.",
        *("cosine of the two", 0, 1, LOW),
    ),
    "ES:D": Score(
        "ES:D, a query moved far off",
        "A query is changed so that its embedding moves as far as it can.",
        *("distance moved, 0 to 2", 0, 2, LOW),
    ),
    "ES:R": Score(
        "ES:R, what it finds then",
        "The query that was moved far off: how often its first result is still of its class.",
        *(PERCENT, 0, 100, HIGH),
    ),
    "LTM": Score(
        "LTM, a query pushed to wrong classes",
        "A query is changed so that images of other classes come nearer than those of its own.",
        *(PERCENT, 0, 100, HIGH),
    ),
    "GTM": Score(
        "GTM, a query pulled onto a wrong image",
        "A query is changed so that it lies on an image of another class.",
        *(PERCENT, 0, 100, HIGH),
    ),
    "GTT": Score(
        "GTT, a query that loses its best answer",
        "A query is changed so that its first result leaves the top four. How often it is still there.",
        *("% of queries", 0, 100, HIGH),
    ),
}
"""By name, in the order of tables."""


@dataclass(frozen=True)
class Tried:
    """A check: what was tried, and what it means when it passes, and when it fails."""

    tried: str
    passed: str
    failed: str


CHECKS: dict[str, Tried] = {
    "ε = 0 changes nothing": Tried(
        "An attack that may change nothing.",
        "Without a change there is no loss: numbers can be repeated.",
        "The evaluation itself is broken, or the model answers differently each time.",
    ),
    "stronger attacks do no less": Tried(
        "The same attack with a larger radius, more steps, another start.",
        "More effort gains no less, as it must be.",
        "The attack gets lost on the way, and the scores overstate robustness.",
    ),
    "unlimited changes defeat the model": Tried(
        "An attack that may change the images at will.",
        "The attack sees the whole model, and can defeat it.",
        "Gradients are masked, or the attack does not see the whole model: scores overstate robustness.",
    ),
    "weaker attacks do no better": Tried(
        "Random noise, and two attacks that use no gradients.",
        "Gradients are of use to the attack, as they should be.",
        "Gradients mislead, and the scores overstate robustness.",
    ),
    "gradients are not zero": Tried(
        "The gradient for the pixels of each query.",
        "Every query has a direction to be attacked in.",
        "Where the gradient is zero nothing was attacked, as with pixels that are rounded inside the model.",
    ),
    "gradients tell the truth": Tried(
        "Small steps along the gradient.",
        "The embedding moves as the gradient says.",
        "The gradient belongs to something else than the model computes, and following it leads astray.",
    ),
    "a second run gives the same": Tried(
        "The same attack again, in batches of another size.",
        "Results depend on nothing but the image and the model.",
        "The model draws random numbers, or an image's embedding depends on the images beside it.",
    ),
    "perturbations stay within bounds": Tried(
        "The changed pixels of all attacks above.",
        "No attack took more than it may.",
        "Attacks took more than they may, and the scores understate robustness.",
    ),
    "the model's preprocessing": Tried(
        "What the first layer makes of black and white images.",
        "No normalisation or division too many was found.",
        "Pixels are normalised or divided twice, and ε does not mean what it says.",
    ),
}
"""By the names that results have."""
MARKS: dict[bool | None, str] = {True: "passed", False: "FAILED", None: "not done"}
