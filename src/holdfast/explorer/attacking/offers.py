"""The attacks that the page offers: what each is called, what may be chosen of it, and what carries it out."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from holdfast.attacks import ATTACKS, RankingAttack
from holdfast.attacks.hub import Hub
from holdfast.attacks.shared import Patch
from holdfast.attacks.verification import Dodging, NearestImpersonation
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.evaluation.words import ATTACK_WORDS, FIRST_RIGHT, AttackWords, Reading
from holdfast.explorer.attacking.course import Outcome
from holdfast.explorer.attacking.hub import READ_ON, attack_hub
from holdfast.explorer.attacking.pair import Pair, attack_pair
from holdfast.explorer.attacking.query import attack_patch, attack_query
from holdfast.explorer.jobs import Tell
from holdfast.explorer.scene import Query, Scene
from holdfast.threats.hub import DEPTH
from holdfast.util.errors import HoldfastError

TEMPLATE = "template"
BUDGET = ("eps", "step", "steps", "seed")
"""What may be chosen of an attack that changes every pixel a little."""
COMPARED = (Reading("distance to the image it is compared with, 0 to 2"), Reading("taken for the same", "yes"))


@dataclass(frozen=True)
class Offer:
    """One attack.

    carry_out: on the models of a scene. made: from the seed, where it is of no protocol. takes: the settings to choose.
    shows: what the page shows of it. indexed: whether it goes through an index.
    """

    words: AttackWords
    carry_out: Callable[[Scene, Query, AttackSettings, Tell], Outcome] = attack_query
    made: Callable[[int], RankingAttack] | None = None
    takes: tuple[str, ...] = BUDGET
    shows: str = "ranking"
    indexed: bool = True

    def plain(self, name: str) -> dict[str, Any]:
        """What the page is told of it."""
        return {
            "name": name,
            **asdict(self.words),
            "title": f"{name.upper()}: {self.words.title}",
            "takes": self.takes,
            "shows": self.shows,
        }


def _of_a_pair(title: str, aim: str, made: Callable[[], Pair]) -> Offer:
    """An attack on a verifier."""
    words, takes = AttackWords(title, aim, COMPARED), (*BUDGET, TEMPLATE)
    return Offer(words, attack_pair, lambda seed: made(), takes=takes, shows="pair", indexed=False)


OFFERS: dict[str, Offer] = {
    **{name: Offer(words) for name, words in ATTACK_WORDS.items() if ATTACKS[name].side == "query"},
    Patch.name: Offer(
        AttackWords(
            "paint a patch",
            f"Hides {100 * Patch.area:g} % of the query below a square of any pixels, so that its first result is "
            "wrong. It is made anew for this query at places drawn at random, in four rounds of the steps below.",
            (FIRST_RIGHT,),
        ),
        attack_patch,
        lambda seed: Patch(),
        takes=("steps", "seed"),
    ),
    Hub.name: Offer(
        AttackWords(
            "come first for many",
            "Makes a gallery image of this one that comes first for as many queries as possible, whatever they ask "
            "for. It is made on 100 of them at most, and read on others.",
            (
                Reading("other queries that have it first", "%"),
                Reading(f"other queries that have it among their first {DEPTH}", "%"),
                Reading("z-score, by which a detector tells hubs"),
                Reading("R@1 of these queries", "%"),
            ),
        ),
        attack_hub,
        lambda seed: Hub(read_on=READ_ON, seed=seed),
        shows="hub",
        indexed=False,
    ),
    "dodging": _of_a_pair(
        "no longer recognised",
        "Moves the image as far as possible from another one of its class, so that a verifier takes them for two.",
        lambda: Pair("dodging", Dodging()),
    ),
    "impersonation": _of_a_pair(
        "taken for another",
        "Moves the image onto one of another class, so that a verifier takes them for the same.",
        lambda: Pair("impersonation", NearestImpersonation()),
    ),
}
"""By name: the attacks on queries of :data:`.ATTACKS`, then the threats."""


def settled(name: str, family: str | None, given: Mapping[str, Any], template: Query | None = None) -> AttackSettings:
    """The settings of an attack that is offered, of what was ``given``; raises HoldfastError for what it takes not.

    template: what an attack on a verifier compares with; None: the attack chooses it.
    """
    offer = OFFERS[name]
    keys = given.keys() if template is None else {*given, TEMPLATE}
    if extra := sorted(keys - set(offer.takes)):
        raise HoldfastError(f"attack {name} takes no {extra[0]}; it takes {', '.join(offer.takes)}")
    kind: RankingAttack | str = name
    if offer.made is not None:
        kind = offer.made(given.get("seed", 0))
        kind = replace(kind, template=template) if isinstance(kind, Pair) else kind
    fixed: dict[str, Any] = {} if "eps" in offer.takes else {"eps": 1.0}  # every value is open to the pixels
    return resolve_settings(family, attacks=(kind,), **fixed, **given)


def attack(scene: Scene, query: Query, resolved: AttackSettings, tell: Tell) -> Outcome:
    """Carry out the only attack of the settings, one that is offered; raises HoldfastError where it is impossible."""
    offer = OFFERS[resolved.attacks[0]]
    if scene.index is not None and not offer.indexed:
        raise HoldfastError(f"attack {resolved.attacks[0]} goes without --index {scene.index}")
    return offer.carry_out(scene, query, resolved, tell)
