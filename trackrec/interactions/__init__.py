"""Raw ratings in, histories and labelled samples out."""

from trackrec.interactions.cohort import Cohort, LoopSettings, select_cohort, tuning_rows
from trackrec.interactions.history import SampleRules, SampleTables, build_samples
from trackrec.interactions.movielens import MovieLens
from trackrec.interactions.source import DataError, Ratings, RatingSource
from trackrec.interactions.table import Table

__all__ = [
    "Cohort",
    "DataError",
    "LoopSettings",
    "MovieLens",
    "RatingSource",
    "Ratings",
    "SampleRules",
    "SampleTables",
    "Table",
    "build_samples",
    "select_cohort",
    "tuning_rows",
]
