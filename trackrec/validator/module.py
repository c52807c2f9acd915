"""Rec-Tuning: the validator (V) learns to answer Yes or No on history, RecCoT and target."""

from __future__ import annotations

from typing import Literal

import torch

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.logprobs import next_token_logprobs
from trackrec.llm.training.microbatch import StepSums
from trackrec.llm.training.training import AdapterModule, OptimizerSettings
from trackrec.validator.data import ValidatorBatch
from trackrec.validator.prompt_tree import label_logps


class RecTuningModule(AdapterModule):
    """Cross-entropy of the answer (TrackRec, eq. of Rec-Tuning).

    Args:
        lm: the model.
        adapter: the adapter that becomes V.
        lr: peak learning rate.
        answers: ``vocabulary`` (paper) raises the answer token's probability among all tokens; ``labels`` that of
            all forms of the right answer among all forms of Yes and No, which is what scoring reads: a small model
            then needs no steps to learn the answer format.
        optimizer: the rest of the optimizer.
    """

    stage = "rec_tune"
    alone = (
        "Lower rec_tune.data.samples_per_history or prompts.max_history, or set backbone.gradient_checkpointing: true."
    )

    def __init__(
        self,
        lm: LanguageModel,
        adapter: str,
        lr: float = 1e-4,
        answers: Literal["vocabulary", "labels"] = "vocabulary",
        optimizer: OptimizerSettings | None = None,
    ) -> None:
        super().__init__(lm, adapter, lr, optimizer)
        self._labels = lm.chat.label_tokens()
        self.answers = answers

    def sums(self, batch: ValidatorBatch) -> StepSums:
        """Over the rows, -log p(answer)."""
        yes, no = self._labels
        logps = next_token_logprobs(self.lm, batch.layout, batch.spots, [*yes, *no])  # (M, L)
        answer_logps = logps[:, [len(yes), 0]]  # (M, 2), the first forms of No and Yes
        if self.answers == "labels":
            answer_logps = label_logps(logps, self._labels)
        labels = torch.tensor(batch.labels, device=logps.device)
        rows = len(labels)
        correct = float((answer_logps.argmax(-1) == labels).sum())
        loss = -answer_logps.gather(-1, labels.unsqueeze(-1)).sum()
        return StepSums(loss, rows, {"accuracy": (correct, rows)}, {"rows": float(rows)})
