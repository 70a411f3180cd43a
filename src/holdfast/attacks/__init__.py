"""Attacks on rankings: each says what it chooses, what PGD minimises, and what is read off afterwards."""

from holdfast.attacks.base import Plan, RankingAttack, System
from holdfast.attacks.rank import CA, QA, SPQA, Order
from holdfast.attacks.shift import ES, TMA
from holdfast.attacks.top1 import GTM, GTT, LTM

ATTACKS: dict[str, RankingAttack] = {
    "ca+": CA("+"),
    "ca-": CA("-"),
    "qa+": QA("+"),
    "qa-": QA("-"),
    "tma": TMA(),
    "es": ES(),
    "ltm": LTM(),
    "gtm": GTM(),
    "gtt": GTT(),
    "spqa+": SPQA("+"),
    "spqa-": SPQA("-", balance=100.0),
    "oa": Order(),
}
"""The attacks by name, each with the intent of its definition carried out."""

__all__ = [
    "ATTACKS",
    "CA",
    "ES",
    "GTM",
    "GTT",
    "LTM",
    "QA",
    "SPQA",
    "TMA",
    "Order",
    "Plan",
    "RankingAttack",
    "System",
]
