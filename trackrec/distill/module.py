"""SFT of the generator (G) on the teacher's texts."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import MeanMetric

from trackrec.distill.data import ResponseBatch
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.training.adapter_module import AdapterModule
from trackrec.llm.training.batches import EmptyShare
from trackrec.llm.training.microbatch import StepSums
from trackrec.llm.training.optimizer import OptimizerSettings


class DistillModule(AdapterModule):
    """Cross-entropy on the RecCoT's tokens only; the prompt carries no loss (TrackRec, section 3.2).

    Args:
        lm: the model.
        adapter: the adapter that becomes the distilled G.
        lr: peak learning rate.
        optimizer: the rest of the optimizer.
    """

    stage = "distill"

    def __init__(
        self, lm: LanguageModel, adapter: str, lr: float = 1e-4, optimizer: OptimizerSettings | None = None
    ) -> None:
        super().__init__(lm, adapter, lr, optimizer)
        self.valid_loss = MeanMetric()

    def sums(self, batch: ResponseBatch) -> StepSums:
        """The sum over texts of the mean token loss, so that a text's weight doesn't depend on the batch."""
        sums, lengths = branch_logprobs(self.lm, batch.layout, batch.wanted, batch.tokens)
        return StepSums((-sums / lengths).sum(), len(batch.ids), {}, {"tokens": float(lengths.sum())})

    def validation_step(self, batch: ResponseBatch | EmptyShare, batch_idx: int) -> None:
        """Log ``valid/loss`` over all held texts: the loss that is trained, nats per token.

        A text has no label, so there is no AUC.
        """
        if not isinstance(batch, EmptyShare):
            for losses in self.memory.run(batch, self._validate):
                self.valid_loss.update(losses)
        self.log_validation({"loss": self.valid_loss})

    def _validate(self, batch: ResponseBatch) -> Tensor:
        """The mean token loss of each text."""
        sums, lengths = branch_logprobs(self.lm, batch.layout, batch.wanted, batch.tokens)
        return -sums / lengths
