"""SFT of G on the teacher's texts."""

from __future__ import annotations

from torch import Tensor

from trackrec.distill.data import ResponseBatch
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.training import AdapterModule, OptimizerSettings


class DistillModule(AdapterModule):
    """Cross-entropy on the RecCoT's tokens only; the prompt carries no loss (TrackRec, section 3.2).

    Args:
        lm: the model.
        adapter: the adapter that becomes the distilled G.
        lr: peak learning rate.
        optimizer: the rest of the optimizer.
    """

    def __init__(
        self, lm: LanguageModel, adapter: str, lr: float = 1e-4, optimizer: OptimizerSettings | None = None
    ) -> None:
        super().__init__(lm, adapter, lr, optimizer)

    def training_step(self, batch: ResponseBatch, batch_idx: int) -> Tensor:
        """Mean over the texts of their mean token loss, so that a text's weight doesn't depend on the batch."""
        sums, lengths = branch_logprobs(self.lm, batch.layout, batch.wanted, batch.tokens)
        loss = (-sums / lengths).mean()
        self.log_step({"loss": loss, "tokens": lengths.sum()}, batch.history_ids)
        return loss
