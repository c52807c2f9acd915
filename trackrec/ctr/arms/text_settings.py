"""The ``ctr.text`` section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trackrec.runtime.errors import SettingError


@dataclass(frozen=True)
class TextSettings:
    """How texts enter the CTR nets.

    Attributes:
        use: ``dense``: the connector's output beside the dense features (the paper's way). ``query``: the query
            of an attention over history and target, as the target is in DIN. ``log_odds``: the log-odds of the
            validator (V) for the target, given the text, as a dense feature; V then scores the rows in a further stage.
        pca_dim: reduce the text vectors to so many principal components of the train rows' texts; null: don't reduce.
        missing: rows without a text are left out of every arm (``leave_out``), or stay (``keep``) with a learned vector
            instead of the text.
        coverage: further arms ``reccot@0.5`` and so on, in which only that share of the users keeps its texts; they
            need ``missing: keep``, except with ``use: log_odds``.
        score_rows: with ``use: log_odds``, how many rows of each history and split V scores at most, chosen by hash;
            the others get no log-odds. null: all.
    """

    use: Literal["dense", "query", "log_odds"] = "dense"
    pca_dim: int | None = None
    missing: Literal["leave_out", "keep"] = "leave_out"
    coverage: list[float] | None = None
    score_rows: int | None = None

    def __post_init__(self) -> None:
        if self.pca_dim is not None and self.pca_dim < 3:
            raise SettingError(
                f"ctr.text.pca_dim must be at least 3 or null, got {self.pca_dim}: connectors normalise each "
                "vector, which turns one number into 0 and two numbers into ±1."
            )
        for share in self.coverage or ():
            if not 0 < share < 1:
                raise SettingError(f"ctr.text.coverage: shares must be between 0 and 1, got {share}.")
        if self.score_rows is not None and self.score_rows < 1:
            raise SettingError(f"ctr.text.score_rows must be at least 1 or null, got {self.score_rows}.")
        if self.coverage and self.missing != "keep" and self.use != "log_odds":
            raise SettingError("ctr.text.coverage needs ctr.text.missing: keep, since rows lose their text.")
