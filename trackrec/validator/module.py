"""Rec-Tuning: V learns to answer Yes or No on history, RecCoT and target."""

from __future__ import annotations

import torch
from torch import Tensor

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.logprobs import next_token_logprobs
from trackrec.llm.training import AdapterModule, OptimizerSettings
from trackrec.validator.data import JudgeBatch


class RecTuningModule(AdapterModule):
    """Cross-entropy of the answer token over the whole vocabulary (TrackRec, eq. of Rec-Tuning).

    Args:
        lm: the model.
        adapter: the adapter that becomes V.
        lr: peak learning rate.
        optimizer: the rest of the optimizer.
    """

    def __init__(
        self, lm: LanguageModel, adapter: str, lr: float = 1e-4, optimizer: OptimizerSettings | None = None
    ) -> None:
        super().__init__(lm, adapter, lr, optimizer)
        labels = lm.chat.label_tokens()
        self._answers = (labels.no[0], labels.yes[0])

    def training_step(self, batch: JudgeBatch, batch_idx: int) -> Tensor:
        """Mean over the rows of -log p(answer)."""
        no, yes = self._answers
        logps = next_token_logprobs(self.lm, batch.layout, batch.spots, [no, yes])  # (M, 2)
        labels = torch.tensor(batch.labels, device=logps.device)
        loss = -logps.gather(-1, labels.unsqueeze(-1)).mean()
        accuracy = (logps.argmax(-1) == labels).float().mean()
        self.log_step({"loss": loss, "accuracy": accuracy, "rows": float(len(labels))}, len(labels))
        return loss
