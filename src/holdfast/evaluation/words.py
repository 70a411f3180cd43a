"""What scores, attacks and checks are called and what they mean, by id.

An id never changes. Result files hold the ids of scores, the ``unit`` of each, and the ``name`` of each check.
"""

from dataclasses import dataclass
from functools import partial

from holdfast.evaluation.result import ENOUGH

HIGHER, LOWER = "higher is better", "lower is better"


@dataclass(frozen=True)
class ScoreWords:
    """A score: a title, what is done and what is shown (``sentence``), and which direction is better.

    unit: as result files have it. short: the same where space is tight. low, high: the ends of its axis.
    """

    title: str
    sentence: str
    unit: str
    short: str
    low: float
    high: float
    better: str

    @property
    def label(self) -> str:
        """Title and unit: ``a random image raised: rank, %``."""
        return f"{self.title}: {self.short}"


ITS_RANK = "Shown: the rank of the image, in % of the gallery."
STILL_RIGHT = "Shown: how often its first result is still of its class."

_rank = partial(ScoreWords, unit="rank in % of the gallery", short="rank, %", low=0)
_raised, _lowered = partial(_rank, high=60, better=HIGHER), partial(_rank, high=100, better=LOWER)
_recall = partial(ScoreWords, unit="R@1 in %", short="R@1, %", low=0, high=100, better=HIGHER)

SCORE_WORDS: dict[str, ScoreWords] = {
    "CA+": _raised(
        "a random image raised", f"A gallery image is perturbed to rank high for a random query. {ITS_RANK}"
    ),
    "CA-": _lowered(
        "a top result lowered",
        f"A gallery image is perturbed to rank low for a query that has it in its nearest 1 %. {ITS_RANK}",
    ),
    "QA+": _raised(
        "a query that raises a random image", f"A query is perturbed to rank a random gallery image high. {ITS_RANK}"
    ),
    "QA-": _lowered(
        "a query that lowers a top result", f"A query is perturbed to rank one of its nearest 1 % low. {ITS_RANK}"
    ),
    "TMA": ScoreWords(
        "a query made like another image",
        "A query is perturbed to have the embedding of a random gallery image. Shown: the cosine of the two.",
        *("cosine to the target", "cosine", 0, 1, LOWER),
    ),
    "ES:D": ScoreWords(
        "a query moved far away",
        "A query is perturbed to move its embedding as far as possible. Shown: the distance moved.",
        *("distance moved, 0 to 2", "distance, 0 to 2", 0, 2, LOWER),
    ),
    "ES:R": _recall("what a query moved far away finds", f"The query that was moved far away. {STILL_RIGHT}"),
    "LTM": _recall(
        "a query pushed to wrong classes",
        f"A query is perturbed to have images of other classes nearer than those of its own. {STILL_RIGHT}",
    ),
    "GTM": _recall(
        "a query pulled to a wrong image",
        f"A query is perturbed to have the embedding of the nearest image of another class. {STILL_RIGHT}",
    ),
    "GTT": ScoreWords(
        "a query that loses its first result",
        "A query is perturbed to push its first result out of the top four. Shown: how often it is still there.",
        *("% of queries with their first result still in the top 4", "% kept", 0, 100, HIGHER),
    ),
    "robust R@1": _recall(
        "the worst case",
        "Robust R@1: how often no attack of the cascade makes a query's first result wrong.",
        unit="R@1 in %, the worst case",
    ),
    "least R@1": _recall(
        "the worst of three quick attacks",
        "How often a query's first result is of its class under the worst of ES, LTM, GTM: robust R@1 is at most that.",
        unit="R@1 in %, the worst attack of each query",
    ),
    "RRS": ScoreWords(
        "Retained Robustness Score",
        "How far the ten attacks are kept from their goals, where the model is right without them.",
        *("0 to 100, higher is better", "0 to 100", 0, 100, HIGHER),
    ),
    "ERS": ScoreWords(
        "Empirical Robustness Score",
        "The mean of the ten scores, each brought to 0 to 100.",
        *("0 to 100, higher is better", "0 to 100", 0, 100, HIGHER),
    ),
}
"""The ten scores in the order of tables, then what is made of them."""


@dataclass(frozen=True)
class Reading:
    """What an attack reads of one image. unit: ``"%"``, ``"yes"`` (100 is yes, 0 is no), or none."""

    words: str
    unit: str = ""


@dataclass(frozen=True)
class AttackWords:
    """An attack: a title, what it does (``aim``), and what each of its readings is, in their order.

    target: what the images it chooses are to it; empty where it chooses none.
    """

    title: str
    aim: str
    readings: tuple[Reading, ...]
    target: str = ""


FIRST_RIGHT = Reading("first result is of the right class", "yes")
RANK = Reading("rank of the target, in % of the gallery", "%")
RANK_FOR_QUERY = Reading("rank of the image for the target, in % of the gallery", "%")
KEPT = Reading("mean rank of the five to be kept on top, in % of the gallery", "%")

ATTACK_WORDS: dict[str, AttackWords] = {
    "es": AttackWords(
        "as far away as possible",
        "Moves the embedding of the query as far as possible from where it was.",
        (Reading("distance the embedding moved, 0 to 2"), FIRST_RIGHT),
    ),
    "tma": AttackWords(
        "like another image",
        "Gives the query the embedding of a random image.",
        (Reading("cosine to the embedding of the target, −1 to 1"),),
        "the image to be like",
    ),
    "qa+": AttackWords("raise an image", "Makes the query rank a random image first.", (RANK,), "the image to raise"),
    "qa-": AttackWords(
        "lower a top result", "Makes the query rank one of its nearest 1 % last.", (RANK,), "the image to lower"
    ),
    "gtm": AttackWords(
        "onto the nearest wrong image",
        "Moves the query onto the nearest image of another class.",
        (FIRST_RIGHT,),
        "the image to reach",
    ),
    "ltm": AttackWords(
        "a wrong result first", "Brings some image of another class nearer than all of the query's own.", (FIRST_RIGHT,)
    ),
    "gtt": AttackWords(
        "lose the first result",
        "Pushes the first result out of the top four.",
        (Reading("first result is still in the top four", "yes"),),
        "the first result, to be lost",
    ),
    "spqa+": AttackWords(
        "raise an image unnoticed",
        "Makes the query rank a random image first while its top five stay on top.",
        (RANK, KEPT),
        "the image to raise, then the five to keep",
    ),
    "spqa-": AttackWords(
        "lower a result unnoticed",
        "Makes the query rank one of its nearest 1 % last while its top five stay on top.",
        (RANK, KEPT),
        "the image to lower, then the five to keep",
    ),
    "oa": AttackWords(
        "reorder the top five",
        "Brings the top five into a random order, and keeps them on top.",
        (Reading("agreement with the wanted order, −1 to 1"), KEPT),
        "the five, in the wanted order",
    ),
    "ca+": AttackWords(
        "raise this image", "Makes a random query rank the image first.", (RANK_FOR_QUERY,), "the query"
    ),
    "ca-": AttackWords(
        "lower this image",
        "Makes a query that has the image among its nearest 1 % rank it last.",
        (RANK_FOR_QUERY,),
        "the query",
    ),
}
"""By the name in :data:`holdfast.attacks.ATTACKS`."""


@dataclass(frozen=True)
class CheckWords:
    """A check: its name in result files, what is tried, and what it means when it passes and when it fails."""

    name: str
    tried: str
    passed: str
    failed: str


CHECK_WORDS: dict[str, CheckWords] = {
    "zero-eps": CheckWords(
        "ε = 0 changes nothing",
        "An attack that may change nothing.",
        "Unchanged images score the same: the numbers can be repeated.",
        "The evaluation is broken, or the model does not embed an image twice in the same way.",
    ),
    "stronger": CheckWords(
        "stronger attacks do no less",
        "The same attack with a larger radius, more steps, a restart.",
        "No stronger attack leaves clearly more: small differences are chance.",
        "The attack gets stuck, and the scores overstate robustness.",
    ),
    "unlimited": CheckWords(
        "unlimited changes defeat the model",
        "An attack that may change the images at will.",
        "The attack sees the whole model and can defeat it.",
        "Gradients are masked, or the attack does not see the whole model: the scores overstate robustness.",
    ),
    "weaker": CheckWords(
        "weaker attacks do no better",
        "Random noise, and two attacks that use no gradients.",
        "No attack without gradients does clearly better.",
        "Gradients mislead the attack, and the scores overstate robustness.",
    ),
    "asked": CheckWords(
        "the attacks asked for do as much",
        "The attack on R@1 with the steps asked for, beside the check's own.",
        "The scores come from attacks about as strong as the check's, or stronger.",
        "The attacks asked for are too weak, and the scores overstate robustness.",
    ),
    "zero-gradients": CheckWords(
        "gradients are not zero",
        "The gradient for the pixels of each query.",
        "Every query has a direction to be attacked in.",
        "Queries with a zero gradient were not attacked. Rounding pixels inside the model does this.",
    ),
    "true-gradients": CheckWords(
        "gradients tell the truth",
        "Small steps along the gradient.",
        "The embedding moves as the gradient says.",
        "The gradient is not that of the function the model computes, so the attack goes the wrong way.",
    ),
    "repeat": CheckWords(
        "a second run gives the same",
        "The same attack again, in batches of another size.",
        "Results depend on nothing but the image and the model.",
        "The model draws random numbers, or an image's embedding depends on the other images of its batch.",
    ),
    "bounds": CheckWords(
        "perturbations stay within bounds",
        "The perturbed pixels of all attacks above.",
        "No attack changed more than it may.",
        "Attacks changed more than they may, and the scores understate robustness.",
    ),
    "preprocessing": CheckWords(
        "the model's preprocessing",
        "What the first layer makes of black and of white images.",
        "Pixels are not normalised or divided twice.",
        "Pixels are normalised or divided twice, and ε does not mean what it says.",
    ),
    "longer": CheckWords(
        "a longer attack does no more",
        "Four times the steps, on queries that nothing broke.",
        "Robust R@1 stands: more work breaks hardly any more queries.",
        "Robust R@1 has not converged: more work would lower it.",
    ),
}
"""By id, in the order they are made."""

VERDICT_WORDS: dict[str, str] = {
    "COLLAPSED": "all embeddings are nearly alike, and the scores say nothing about robustness, however good they look",
    "UNTRUSTED": "a check failed, and the scores say nothing about robustness, however good they look",
    "CHOSEN ON TEST": "the weights are the best of several on this very test set, and its scores are too good",
    "upper bound": "the attacks had no gradients of this model: whoever knows the network does more",
    "too few queries": f"fewer than {ENOUGH} were attacked, and the intervals are too wide for a verdict",
}
"""By the part of a verdict that they explain."""

PASSED: dict[bool | None, str] = {True: "passed", False: "FAILED", None: "not done"}
"""What to print for the ``passed`` of a check in a result file."""


def verdict_words(verdict: str) -> list[str]:
    """What speaks against the numbers, a sentence for each part of a verdict that needs one."""
    return [f"{part}: {words}." for part, words in VERDICT_WORDS.items() if part in verdict]


def check_words(name: str) -> CheckWords | None:
    """The words for a check by its name in result files; None for a name that this version does not know."""
    return next((words for words in CHECK_WORDS.values() if words.name == name), None)
