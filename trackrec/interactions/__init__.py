"""Raw ratings in, histories and labelled samples out."""

from trackrec.interactions.samples.samples import SampleRules, SampleTables, build_samples, check_labels, check_splits
from trackrec.interactions.simulated.source import Simulated
from trackrec.interactions.source import DataError, Ratings, RatingSource
from trackrec.interactions.sources.amazon import AmazonBook
from trackrec.interactions.sources.movielens import MovieLens
from trackrec.interactions.sources.table import Table
from trackrec.interactions.sources.table_keys import ItemColumns, RatingColumns, UserColumns
from trackrec.interactions.sources.text_format import TextFormat

__all__ = [
    "AmazonBook",
    "DataError",
    "ItemColumns",
    "MovieLens",
    "RatingColumns",
    "RatingSource",
    "Ratings",
    "SampleRules",
    "SampleTables",
    "Simulated",
    "Table",
    "TextFormat",
    "UserColumns",
    "build_samples",
    "check_labels",
    "check_splits",
]
