"""Rec-Tuning: the validator (V) learns to answer Yes or No on history, RecCoT and target."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.logprobs import next_token_logprobs
from trackrec.llm.training.adapter_module import AdapterModule
from trackrec.llm.training.batches import EmptyShare
from trackrec.llm.training.microbatch import StepSums
from trackrec.llm.training.optimizer import OptimizerSettings
from trackrec.validator.data import ValidatorBatch
from trackrec.validator.prompt_tree import label_logps


class RecTuningModule(AdapterModule):
    """Cross-entropy of the answer (TrackRec, eq. of Rec-Tuning).

    With ``rec_tune.data.contrast`` each target adds a margin between the text about the user and another user's; see
    `trackrec.validator.data.RecTuneData`.

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
    oom_hint = (
        "Lower rec_tune.data.samples_per_history or prompts.validator.max_history, or set "
        "backbone.gradient_checkpointing: true."
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
        self.valid_auc = BinaryAUROC()
        self.valid_accuracy = BinaryAccuracy()
        self.valid_loss = MeanMetric()

    def sums(self, batch: ValidatorBatch) -> StepSums:
        """Over the answered rows, -log p(answer), and the margins between two texts, if any."""
        logps = self._label_token_logps(batch)
        labels = torch.tensor(batch.labels, device=logps.device)
        answer_logps, answers = self._trained_logps(logps)[batch.answered], labels[batch.answered]
        rows = len(answers)
        correct = float((answer_logps.argmax(-1) == answers).sum())
        loss = -answer_logps.gather(-1, answers.unsqueeze(-1)).sum()
        means: dict[str, tuple[float, float]] = {"accuracy": (correct, rows)}
        if batch.contrast:
            own, wrong = (list(side) for side in zip(*batch.pairs, strict=True)) if batch.pairs else ([], [])
            true = label_logps(logps, self._labels).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
            margins = true[own] - true[wrong]
            loss = loss + batch.contrast * softplus(-margins).sum()
            means["text_margin"] = (float(margins.detach().sum()), len(own))
        return StepSums(loss, rows, means, {"rows": float(rows)})

    def validation_step(self, batch: ValidatorBatch | EmptyShare, batch_idx: int) -> None:
        """Log over all held rows: ``valid/auc`` and ``valid/acc`` (threshold 0.5) of P(Yes), and the mean loss.

        P(Yes) is the probability that scoring reads, ``valid/loss`` the loss that is trained (nats per row).
        """
        if not isinstance(batch, EmptyShare):
            for logps, labels in self.memory.run(batch, self._validate):
                p_yes = label_logps(logps, self._labels)[:, 1].exp()
                self.valid_auc.update(p_yes, labels)
                self.valid_accuracy.update(p_yes, labels)
                self.valid_loss.update(-self._trained_logps(logps).gather(-1, labels.unsqueeze(-1)))
        self.log_validation({"auc": self.valid_auc, "acc": self.valid_accuracy, "loss": self.valid_loss})

    def _validate(self, batch: ValidatorBatch) -> tuple[Tensor, Tensor]:
        logps = self._label_token_logps(batch)
        return logps, torch.tensor(batch.labels, device=logps.device)

    def _label_token_logps(self, batch: ValidatorBatch) -> Tensor:
        """(M, L) log-probabilities of every form of Yes, then of No."""
        yes, no = self._labels
        return next_token_logprobs(self.lm, batch.layout, batch.spots, [*yes, *no])

    def _trained_logps(self, logps: Tensor) -> Tensor:
        """(M, 2) log-probabilities of No and Yes as ``answers`` trains them, from those of all forms (M, L)."""
        if self.answers == "labels":
            return label_logps(logps, self._labels)
        return logps[:, [len(self._labels.yes), 0]]  # the first forms
