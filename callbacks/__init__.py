"""Lightning callbacks, and monitors that a config names by class_path. Nothing in trackrec imports this package."""

from .alignment import LikelihoodDisplacement, Saturation, StaleReference
from .answers import AlwaysYes, AnswerMass, Calibration
from .best_weights import BestWeights
from .monitor import Limits, Monitor
from .reward_hacking import RewardHacking
from .reward_reliability import RewardReliability
from .step_checkpoint import StepCheckpoint
from .texts import Collapse, LengthDrift
from .validator_reads import ValidatorReads

__all__ = [
    "AlwaysYes",
    "AnswerMass",
    "BestWeights",
    "Calibration",
    "Collapse",
    "LengthDrift",
    "LikelihoodDisplacement",
    "Limits",
    "Monitor",
    "RewardHacking",
    "RewardReliability",
    "Saturation",
    "StaleReference",
    "StepCheckpoint",
    "ValidatorReads",
]
