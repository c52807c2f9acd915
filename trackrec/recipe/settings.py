"""The ``loop`` section of a configuration, and the arguments of a training stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from trackrec.prompts.settings import PromptSettings
from trackrec.recipe.names import COMPARISONS
from trackrec.runtime.errors import SettingError


@dataclass(frozen=True)
class LoopSettings:
    """How many rounds, which users take part, which rows score texts and tune V. Rows are chosen by hash.

    G is the generator, V the validator.

    Attributes:
        rounds: T of the paper.
        users: share of the users with train rows whose histories take part.
        targets: most reward rows per history that score a draw: likes and dislikes by turns, so that a text which only
            makes V say Yes more often gains nothing. Histories without rows of both are not drawn for. With 4 or more,
            the reliability of the reward can be measured. 1 is the paper's: the reward is V's probability of that one
            answer, so that saying Yes wins for a like and No for a dislike, whatever else a text says.
        hold: share of the train rows that neither score draws nor tune V: after each epoch, Rec-Tuning is validated on
            them (``valid/auc``, ``valid/acc``, ``valid/loss``), and distillation on the teacher's texts of that share
            of the histories (``valid/loss``). A callback such as EarlyStopping can watch these. 0 holds nothing back.
        disjoint: V never tunes on a row that it later scores; false mixes them, as the public release does.
        warmup: tune V once on the distilled G's greedy texts before it scores round 1.
        warmup_users: share of the users whose rows warm V up, with the teacher's texts instead of greedy ones, so
            that V sees more users than take part in the loop; null keeps to those, and to the distilled G's texts.
        validator_start: each round's V starts from the plain ``base`` (paper) or from the ``previous`` V.
        validator_lr: peak learning rate of V in the rounds; null is ``rec_tune.model.lr``, that of the warm-up and of
            the V without texts. A V that goes on from the ``previous`` one loses at the warm-up's rate what it learnt
            there (docs/benchmarks.md).
        texts: in the end ``all`` histories get a greedy RecCoT, or only the ``played`` and evaluated ones.
        eval_samples: most validation rows on which V is evaluated each round.
        test_samples: most test rows on which V is evaluated in the end; null is as many as ``eval_samples``.
        eval_per_history: most of those rows per history.
        shard_histories: histories per part of an inference stage; a cut-off run loses at most one part.
        distill: G starts from SFT on the teacher's texts; false lets the plain base write round 1's.
        wrong_teacher: every history gets what the teacher wrote about another user.
        align: S-DPO moves G each round; false keeps the G that starts.
        rec_tune: Rec-Tuning moves V each round; false keeps the V that warmed up, or the base without a warm-up.
        alternate: the rounds take turns; false lets the first G write and the first V score the draws of all rounds,
            then aligns G once on all their sets and tunes V once on all their rows.
        min_reliability: G stays as it is in a round whose rewards have a split-half correlation below this, such as .1
            (`trackrec.align.reliability`): V's order of a history's draws is then noise. null always aligns. A round
            where it can't be measured is aligned too.
        min_reading: G stays as it is in a round that is scored by a V whose AUC with the texts about the users less
            that with other users' texts, measured when it was evaluated, is below this, such as 0
            (`trackrec.validator.evaluate.text_use`): such a V doesn't read, and its rewards say nothing of a text. null
            always aligns. A round where it can't be measured is aligned too.
        comparisons: what else a V reads in place of the RecCoT, each V tuned on the same rows in the same way and
            evaluated on the same rows, so that the RecCoT isn't only compared with a V that lacks the history.
            ``facts``: the counts and kinds of the whole history (``prompts.history_counts``, as many
            ``prompts.history_kinds`` as fit into the tokens that a RecCoT takes); ``titles``: as many further newest
            titles as fit into them; ``whole``: the history as G reads it; ``teacher``: the teacher's text, which is
            then also written about evaluated histories, whatever the teacher's ``fraction`` (a ``max_cost`` holds for
            these once more); ``untuned``: the text of the base model. null is facts, titles and whole where V reads
            something else of the history than G (``prompts.generator``, ``prompts.validator``), none where both read
            the same; [] is none.
        candidates: so many adapters of G are saved along each alignment, evenly spaced in its steps, the last one at
            its end, and the stage ``select`` takes the one whose greedy texts V rewards most. For that the users of the
            validation rows are split into two halves by hash: one chooses, and results are shown on the other.
        accept: ``always`` goes on with the aligned G (paper), or with the best candidate; ``better`` goes on with the G
            that sampled the round's draws where no candidate's reward is higher than its.
    """

    rounds: int = 3
    users: float = 1.0
    targets: int = 4
    hold: float = 0.0
    disjoint: bool = True
    warmup: bool = True
    warmup_users: float | None = None
    validator_start: Literal["base", "previous"] = "base"
    validator_lr: float | None = None
    texts: Literal["all", "played"] = "all"
    eval_samples: int = 2000
    test_samples: int | None = None
    eval_per_history: int = 8
    shard_histories: int = 64
    distill: bool = True
    wrong_teacher: bool = False
    align: bool = True
    rec_tune: bool = True
    alternate: bool = True
    min_reliability: float | None = None
    comparisons: list[str] | None = None  # names are checked here, in words of our own
    min_reading: float | None = None
    candidates: int = 1
    accept: Literal["always", "better"] = "always"

    def __post_init__(self) -> None:
        for key in ("users", "warmup_users"):
            share = getattr(self, key)
            if share is not None and not 0 < share <= 1:
                raise SettingError(f"loop.{key} must be in (0, 1], a share of the train users, got {share}.")
        if not 0 <= self.hold < 1:
            raise SettingError(f"loop.hold must be in [0, 1), a share of the train rows, got {self.hold}.")
        if self.validator_lr is not None and self.validator_lr <= 0:
            raise SettingError(
                f"loop.validator_lr must be above 0, or null for rec_tune.model.lr, got {self.validator_lr}."
            )
        for key in (
            "rounds",
            "targets",
            "eval_samples",
            "test_samples",
            "eval_per_history",
            "shard_histories",
            "candidates",
        ):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise SettingError(f"loop.{key} must be at least 1, got {value}.")
        if self.min_reliability is not None:
            if not -1 < self.min_reliability < 1:
                raise SettingError(
                    f"loop.min_reliability must be in (-1, 1), a correlation, or null, got {self.min_reliability}."
                )
            if self.targets < 4:
                raise SettingError(
                    f"loop.min_reliability is {self.min_reliability}, but with loop.targets: {self.targets} the "
                    "reliability can't be measured: it takes two likes and two dislikes of a history. Set loop.targets "
                    "to 4 or more, or loop.min_reliability to null."
                )
        given = self.comparisons or []
        if unknown := [name for name in given if name not in COMPARISONS]:
            raise SettingError(f"loop.comparisons must be among {', '.join(COMPARISONS)}, or null, got {unknown[0]!r}.")
        if len(set(given)) < len(given):
            raise SettingError(f"loop.comparisons must name each once, got {', '.join(given)}.")
        if self.min_reading is not None and not -1 < self.min_reading < 1:
            raise SettingError(
                f"loop.min_reading must be in (-1, 1), a difference of two AUCs, or null, got {self.min_reading}."
            )
        if not (self.align or self.rec_tune):
            raise SettingError(
                "loop.align and loop.rec_tune are both false: the rounds would change nothing. Leave one of them true."
            )

    @property
    def halves_validation(self) -> bool:
        """Whether half of the validation users choose among G's candidates, so that results are shown on the others.

        Without an alignment too: such a run is compared with the whole loop, on the same rows.
        """
        return self.candidates > 1 or self.accept == "better"

    @property
    def selects(self) -> bool:
        """Whether a stage ``select`` follows each alignment."""
        return self.align and self.halves_validation


def compared_readers(loop: LoopSettings, prompts: PromptSettings) -> tuple[str, ...]:
    """The comparisons of a run, in the order of their stages; see ``loop.comparisons``."""
    if loop.comparisons is None:
        apart = prompts.for_validator() != prompts.for_generator()
        return ("facts", "titles", "whole") if apart else ()
    return tuple(name for name in COMPARISONS if name in loop.comparisons)


class Training(NamedTuple):
    """Arguments of one training stage; the trainer's are built anew for each use, since callbacks hold state."""

    model: dict[str, Any]
    data: dict[str, Any]
    trainer: Callable[[], dict[str, Any]]
    processes: int = 1
