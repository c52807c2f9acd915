"""SFT of the generator (G) on the teacher's texts."""

from __future__ import annotations

from trackrec.distill.data import ResponseBatch
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.training.microbatch import StepSums
from trackrec.llm.training.training import AdapterModule, OptimizerSettings


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

    def sums(self, batch: ResponseBatch) -> StepSums:
        """The sum over texts of the mean token loss, so that a text's weight doesn't depend on the batch."""
        sums, lengths = branch_logprobs(self.lm, batch.layout, batch.wanted, batch.tokens)
        return StepSums((-sums / lengths).sum(), len(batch.ids), {}, {"tokens": float(lengths.sum())})
