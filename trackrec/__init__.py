"""trackrec: a recommender whose features are an LLM's own reasoning about each user."""

__version__ = "0.2.0.dev0"
