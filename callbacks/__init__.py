"""Monitors that a config names by class_path. Nothing in trackrec imports this package."""

from .alignment import LikelihoodDisplacement, Saturation, StaleReference
from .answers import AlwaysYes, AnswerMass, Calibration
from .monitor import Limits, Monitor
from .reward_hacking import RewardHacking
from .texts import Collapse, LengthDrift

__all__ = [
    "AlwaysYes",
    "AnswerMass",
    "Calibration",
    "Collapse",
    "LengthDrift",
    "LikelihoodDisplacement",
    "Limits",
    "Monitor",
    "RewardHacking",
    "Saturation",
    "StaleReference",
]
