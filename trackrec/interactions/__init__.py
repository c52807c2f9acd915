"""Raw ratings in, histories and labelled samples out."""

from trackrec.interactions.amazon import AmazonBook
from trackrec.interactions.cohort import Cohort, LoopSettings, select_cohort, tuning_rows
from trackrec.interactions.history import SampleRules, SampleTables, build_samples, check_labels, check_splits
from trackrec.interactions.movielens import MovieLens
from trackrec.interactions.simulated import Simulated
from trackrec.interactions.source import DataError, Ratings, RatingSource
from trackrec.interactions.table import Table

__all__ = [
    "AmazonBook",
    "Cohort",
    "DataError",
    "LoopSettings",
    "MovieLens",
    "RatingSource",
    "Ratings",
    "SampleRules",
    "SampleTables",
    "Simulated",
    "Table",
    "build_samples",
    "check_labels",
    "check_splits",
    "select_cohort",
    "tuning_rows",
]
