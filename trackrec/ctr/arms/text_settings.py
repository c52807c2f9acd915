"""The ``ctr.text`` section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trackrec.runtime.errors import SettingError


@dataclass(frozen=True)
class TextSettings:
    """How texts enter the CTR nets.

    Attributes:
        use: ``dense``: the connector's output beside the dense features (the paper's way). ``query``: it asks history
            and target, as DIN's target does. ``log_odds``: V's log-odds for the target, given the text, as a dense
            feature; V then scores every row in a stage of its own.
        pca_dim: reduce the text vectors to so many principal components of the train rows' texts; null leaves them.
        missing: rows without a text are left out of every arm (``leave_out``), or stay (``keep``) with a learned vector
            in the place of the text.
        coverage: further arms ``reccot@0.5`` and so on, in which only that share of the users keeps its texts; shares
            below 1 need ``missing: keep``.
        score_rows: with ``use: log_odds``, most rows of a history and split that V scores, chosen by hash; the others
            go without. null: all.
    """

    use: Literal["dense", "query", "log_odds"] = "dense"
    pca_dim: int | None = None
    missing: Literal["leave_out", "keep"] = "leave_out"
    coverage: list[float] | None = None
    score_rows: int | None = None

    def __post_init__(self) -> None:
        if self.pca_dim is not None and self.pca_dim < 3:
            raise SettingError(
                f"ctr.text.pca_dim must be at least 3 or null, got {self.pca_dim}: connectors put all vectors on one "
                "scale, which leaves nothing of one number and a sign of two."
            )
        for share in self.coverage or ():
            if not 0 < share < 1:
                raise SettingError(f"ctr.text.coverage: shares must be between 0 and 1, got {share}.")
        if self.score_rows is not None and self.score_rows < 1:
            raise SettingError(f"ctr.text.score_rows must be at least 1 or null, got {self.score_rows}.")
        if self.coverage and self.missing != "keep" and self.use != "log_odds":
            raise SettingError("ctr.text.coverage needs ctr.text.missing: keep, since rows lose their text.")
