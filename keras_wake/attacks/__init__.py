"""Attacks: what an adversary may do, and how it finds the worst of it."""

from keras_wake.attacks.apgd import APGD
from keras_wake.attacks.attack import Attack
from keras_wake.attacks.fab import FAB
from keras_wake.attacks.pgd import FGSM
from keras_wake.attacks.pgd import PGD
from keras_wake.attacks.square import Square
from keras_wake.attacks.staged import StagedAttack
from keras_wake.attacks.threat_model import ThreatModel

__all__ = [
    "APGD",
    "FAB",
    "FGSM",
    "PGD",
    "Attack",
    "Square",
    "StagedAttack",
    "ThreatModel",
]
