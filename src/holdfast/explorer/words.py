"""What the attacks do and what is read off them, in words that fit on the page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """What a reading is. unit: ``"%"``, ``"yes"`` (100 is yes, 0 no), or none."""

    words: str
    unit: str = ""


@dataclass(frozen=True)
class Words:
    """An attack on a query: a title, what the attacker wants, and what each of its readings is, in their order.

    target: what the chosen gallery images are to the attack; empty where it chooses none.
    """

    title: str
    aim: str
    readings: tuple[Reading, ...]
    target: str = ""


FIRST_RIGHT = Reading("first answer of the right class", "yes")
PLACE = Reading("place of the target from the top, in % of the gallery", "%")
KEPT = Reading("mean place of the five that should stay on top, in % of the gallery", "%")

WORDS: dict[str, Words] = {
    "ltm": Words(
        "LTM: wrong answers first", "Images of other classes shall come before those of its own.", (FIRST_RIGHT,)
    ),
    "gtm": Words(
        "GTM: onto the nearest wrong image",
        "The query shall look to the model like the nearest image of another class.",
        (FIRST_RIGHT,),
        "the image it is pulled onto",
    ),
    "es": Words(
        "ES: as far away as possible",
        "The embedding shall move as far as it can from where it was.",
        (Reading("distance the embedding moved, 0 to 2"), FIRST_RIGHT),
    ),
    "gtt": Words(
        "GTT: lose the best answer",
        "The first answer shall fall out of the first four.",
        (Reading("best answer still among the first four", "yes"),),
        "the best answer, to be lost",
    ),
    "tma": Words(
        "TMA: like another image",
        "The query shall have the embedding of a random gallery image.",
        (Reading("cosine to the target's embedding, −1 to 1"),),
        "the image it is made like",
    ),
    "qa+": Words(
        "QA+: raise an image", "A random gallery image shall come to the top.", (PLACE,), "the image to be raised"
    ),
    "qa-": Words(
        "QA−: sink a good answer", "One of the nearest 1 % shall go to the bottom.", (PLACE,), "the image to be sunk"
    ),
    "spqa+": Words(
        "SPQA+: raise an image unnoticed",
        "A random gallery image shall come to the top while the best five answers stay there.",
        (PLACE, KEPT),
        "the image to be raised, then the five to be kept",
    ),
    "spqa-": Words(
        "SPQA−: sink an answer unnoticed",
        "One of the nearest 1 % shall go to the bottom while the best five answers stay on top.",
        (PLACE, KEPT),
        "the image to be sunk, then the five to be kept",
    ),
    "oa": Words(
        "OA: reorder the top five",
        "The five best answers shall come in an order drawn at random, and stay on top.",
        (Reading("agreement with the wanted order, −1 to 1"), KEPT),
        "the five, in the order wanted",
    ),
}
"""By the name in :data:`.attacks.ATTACKS`; those that perturb a gallery image are not for a page about one query."""
