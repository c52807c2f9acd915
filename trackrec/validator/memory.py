"""The batches of the stages ``score``, ``rec_tune`` and ``log_odds``, for the memory plan."""

from __future__ import annotations

from trackrec.llm.memory_plan.footprint import Work
from trackrec.llm.memory_plan.stage_work import TARGET, StageWork


def score_work(prompt: int, draws: int, new: int, targets: int, batch_tokens: int) -> StageWork:
    """Packed rows of a history with all draws and their targets.

    Args:
        prompt: tokens of the validator's prompt before the text.
        draws: ``sampler.init_args.n``.
        new: tokens of a draw at most.
        targets: ``loop.targets``.
        batch_tokens: ``scoring.batch_tokens``.
    """
    row = prompt + draws * (new + targets * TARGET)
    work = Work(max(1, batch_tokens // row), row, False, True)
    return StageWork("score", "validator", "rec_tune", [work], "scoring.batch_tokens, loop.targets")


def rec_tune_work(prompt: int, new: int, samples: int, batch_size: int, texts: int = 1) -> StageWork:
    """Packed rows of a history, its text or texts, and its tuning targets under each.

    Args:
        prompt: tokens of the validator's prompt before the text.
        new: tokens of a text at most.
        samples: ``rec_tune.data.samples_per_history``.
        batch_size: ``rec_tune.data.batch_size``.
        texts: 2 where another user's text is read as well (``rec_tune.data.contrast``, ``wrong_texts``).
    """
    work = Work(batch_size, prompt + texts * (new + samples * TARGET), True, True)
    return StageWork("rec_tune", "validator", "rec_tune", [work], "rec_tune.data.batch_size")


def log_odds_work(prompt: int, new: int, per_row: int, score_rows: int | None, batch_tokens: int) -> StageWork:
    """Packed rows of a history, its text and the candidates of the CTR nets.

    Args:
        prompt: tokens of the validator's prompt before the text.
        new: tokens of a text at most.
        per_row: targets that share a packed row at most.
        score_rows: ``ctr.text.score_rows``: rows of a history in each of three splits; None is all.
        batch_tokens: ``scoring.batch_tokens``.
    """
    targets = min(per_row, 3 * score_rows) if score_rows else per_row
    row = prompt + new + targets * TARGET
    work = Work(max(1, batch_tokens // row), row, False, True)
    return StageWork("log_odds", "validator", "rec_tune", [work], "scoring.batch_tokens")
