"""S-DPO, and two other losses: they move the generator (G) toward the draws that the validator (V) scores highest.

The reference is the G that sampled the draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from trackrec.align.data import AlignData, PreferenceBatch
from trackrec.align.listwise import listwise
from trackrec.align.softmax_dpo import reward_margins, softmax_dpo
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.training.adapter_module import AdapterModule
from trackrec.llm.training.batches import EmptyShare
from trackrec.llm.training.distributed import all_gather, process_rank
from trackrec.llm.training.fit import stage_trainer
from trackrec.llm.training.microbatch import StepSums
from trackrec.llm.training.optimizer import OptimizerSettings
from trackrec.runtime.errors import SettingError, TrackRecError
from trackrec.storage.parts import read_table, write_part
from trackrec.storage.schemas import TableError

# Logged values that are means over rejected texts; the others are means over sets.
_PER_NEGATIVE = ("rejected_reward", "margin", "accuracy", "rejected_tokens")
# A set is saturated when its rejected texts hold less than this share of the softmax: its gradient is near zero.
_SATURATED = 0.01
# By method: what `SoftmaxDPOModule.check_start` found, and what holds for the reference.
_START = {
    "sdpo": "the S-DPO loss is {}, and ln(1+K) is {}",
    "sft": "beta times the chosen texts' log-ratio to their reference is {}, and not {}",
    "listwise": "the listwise loss is {}, and ln(1+K) is {}",
}


class StaleReferenceError(TrackRecError, RuntimeError):
    """At step 0 the policy differs from the reference: other weights computed the reference log-probabilities."""


class SetLogps(NamedTuple):
    """Log-probabilities of B sets with up to K rejected texts, (B,) and (B, K), and their lengths in tokens."""

    chosen: Tensor
    rejected: Tensor
    mask: Tensor
    chosen_length: Tensor
    rejected_length: Tensor


class SoftmaxDPOModule(AdapterModule):
    """S-DPO (arXiv 2406.09215) on preference sets, or another method on the same sets.

    Args:
        lm: the model. Its LoRA dropout must be 0: the reference is computed without dropout.
        adapter: the adapter that becomes this round's G; it starts as a copy of the G that sampled.
        lr: peak learning rate.
        beta: how strongly the policy is held to the reference.
        length_norm: ``none`` compares summed log-probabilities (paper), ``avg`` their mean per token. With
            ``method: sft`` it changes the logged rewards and margins only.
        sft_coef: weight of the chosen text's mean token loss, added so that its likelihood doesn't fall; the paper
            has 0.
        method: ``sdpo`` (paper) raises the chosen text over the rejected ones, see `softmax_dpo`. ``sft`` learns the
            chosen text alone, by its mean token cross-entropy: distillation of the best of N, without a rejected side
            that could drag the likelihood of all texts down. ``listwise`` learns the order of all texts of the set
            from V's rewards, see `listwise`. All log the same values, so that they can be compared.
        reward_temperature: of ``listwise``: V's rewards are divided by it before the softmax that is learned. Rewards
            of a set that differ by this much have targets that differ by a factor of e.
        kl_coef: weight of a penalty on every text of a set, chosen or not, for moving away from the reference: half the
            squared log-ratio per token, (log π − log π_ref)² / (2 · tokens), the mean over the set's texts. The texts
            are draws of the reference, so it estimates the KL divergence per token (Schulman 2020, "Approximating KL
            Divergence", k2). S-DPO alone holds differences of log-ratios only: all texts of a set may become unlikely
            together. 0 in the paper.
        optimizer: the rest of the optimizer.

    Raises:
        SettingError: beta, sft_coef, kl_coef, method or reward_temperature is out of range, sft_coef meets
            ``method: sft``, or the adapter has dropout.
    """

    stage = "align"
    check_interval = 0.25
    oom_hint = (
        "Lower align.sets.negatives, sampler.init_args.max_new_tokens or prompts.generator.max_history, or set "
        "backbone.gradient_checkpointing: true."
    )

    def __init__(
        self,
        lm: LanguageModel,
        adapter: str,
        lr: float = 5e-6,
        beta: float = 0.1,
        length_norm: Literal["none", "avg"] = "none",
        sft_coef: float = 0.0,
        method: Literal["sdpo", "sft", "listwise"] = "sdpo",
        reward_temperature: float = 0.05,
        kl_coef: float = 0.0,
        optimizer: OptimizerSettings | None = None,
    ) -> None:
        super().__init__(lm, adapter, lr, optimizer)
        weights = {"beta": beta, "sft_coef": sft_coef, "kl_coef": kl_coef}
        self.check({**weights, "method": method, "reward_temperature": reward_temperature}, lm.settings)
        self.beta, self.length_norm, self.sft_coef = beta, length_norm, sft_coef
        self.method, self.reward_temperature, self.kl_coef = method, reward_temperature, kl_coef
        self.valid_loss, self.valid_margin = MeanMetric(), MeanMetric()
        self.valid_accuracy, self.valid_chosen_reward = MeanMetric(), MeanMetric()

    @classmethod
    def check(cls, values: Mapping[str, Any], backbone: BackboneSettings) -> None:
        """See `AdapterModule.check`."""
        super().check(values, backbone)
        if (beta := values.get("beta", 0.1)) <= 0:
            raise SettingError(f"align.model.beta must be above 0, got {beta}.")
        for key in ("sft_coef", "kl_coef"):
            if values.get(key, 0.0) < 0:
                raise SettingError(f"align.model.{key} must be at least 0, got {values[key]}.")
        if (method := values.get("method", "sdpo")) not in _START:
            raise SettingError(f"align.model.method must be one of {', '.join(_START)}, got {method!r}.")
        if method == "sft" and values.get("sft_coef", 0.0):
            raise SettingError(
                f"align.model.sft_coef is {values['sft_coef']}, but with method: sft the chosen text's loss is all of "
                "the loss: set align.model.sft_coef to 0 and use align.model.lr."
            )
        if (temperature := values.get("reward_temperature", 1.0)) <= 0:
            raise SettingError(f"align.model.reward_temperature must be above 0, got {temperature}.")
        if backbone.lora.dropout:
            raise SettingError(
                f"backbone.lora.dropout is {backbone.lora.dropout}, S-DPO needs 0: its reference is computed without "
                "dropout."
            )

    def set_logps(self, batch: PreferenceBatch) -> SetLogps:
        """Log-probabilities of every text of a batch of sets."""
        sums, lengths = branch_logprobs(self.lm, batch.layout, batch.wanted, batch.tokens)
        B, K = len(batch.sizes), max(batch.sizes)
        rows = [index for index, size in enumerate(batch.sizes) for _ in range(size + 1)]
        columns = [column for size in batch.sizes for column in range(size + 1)]
        table, length = sums.new_zeros(B, K + 1), sums.new_ones(B, K + 1)
        table = table.index_put((torch.tensor(rows), torch.tensor(columns)), sums)
        length[rows, columns] = lengths
        mask = torch.zeros(B, K + 1, dtype=torch.bool, device=sums.device)
        mask[rows, columns] = True
        return SetLogps(table[:, 0], table[:, 1:], mask[:, 1:], length[:, 0], length[:, 1:])

    def predict_step(self, batch: PreferenceBatch | EmptyShare, batch_idx: int) -> list[dict[str, Any]]:
        """Rows of the reference_logps table, computed by the adapter with its present weights."""
        if isinstance(batch, EmptyShare):
            return []
        return [row for piece in self.memory.run(batch, self._reference_rows) for row in piece]

    def _reference_rows(self, batch: PreferenceBatch) -> list[dict[str, Any]]:
        logps = self.set_logps(batch)
        return [
            {
                "history_id": entry.history_id,
                "round": entry.round,
                "chosen_logp": logps.chosen[index].item(),
                "rejected_logps": logps.rejected[index, : batch.sizes[index]].tolist(),
            }
            for index, entry in enumerate(batch.examples)
        ]

    def losses(self, batch: PreferenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Unreduced losses (B,) as they are trained, with the weights of their sets, and the values that are logged."""
        logps, loss, values = self.compare(batch)
        if self.sft_coef:
            sft = -logps.chosen / logps.chosen_length
            values["sft_loss"] = sft.detach().mean()
            loss = loss + self.sft_coef * sft
        if self.kl_coef:
            lengths = joined(logps.chosen_length, logps.rejected_length, logps.mask).clamp(min=1)
            refs = [ref.to(loss.device) for ref in (batch.ref_chosen, batch.ref_rejected) if ref is not None]
            moved = joined(logps.chosen, logps.rejected, logps.mask) - joined(refs[0], refs[1], logps.mask)
            kl = (moved.square() / (2 * lengths)).sum(-1) / (1 + logps.mask.sum(-1))
            values["kl"] = kl.detach().mean()
            loss = loss + self.kl_coef * kl
        return loss * batch.weights.to(loss.device), values

    def compare(self, batch: PreferenceBatch) -> tuple[SetLogps, Tensor, dict[str, Tensor]]:
        """Log-probabilities, each set's loss (B,) by ``method`` alone, and means over the batch to log."""
        if batch.ref_chosen is None or batch.ref_rejected is None:
            raise StaleReferenceError("the batch has no reference log-probabilities")
        logps = self.set_logps(batch)
        device = logps.chosen.device
        terms = [logps.chosen, logps.rejected, batch.ref_chosen.to(device), batch.ref_rejected.to(device)]
        if self.length_norm == "avg":
            lengths = [logps.chosen_length, logps.rejected_length] * 2
            terms = [term / length for term, length in zip(terms, lengths, strict=True)]
        chosen, rejected, ref_chosen, ref_rejected = terms
        if self.method == "sft":
            loss = -logps.chosen / logps.chosen_length
        elif self.method == "listwise":
            mask = torch.nn.functional.pad(logps.mask, (1, 0), value=True)
            scores = self.beta * (joined(chosen, rejected, logps.mask) - joined(ref_chosen, ref_rejected, logps.mask))
            loss = listwise(scores, batch.rewards.to(device), mask, self.reward_temperature)
        else:
            loss = softmax_dpo(chosen, rejected, ref_chosen, ref_rejected, logps.mask, self.beta)
        with torch.no_grad():
            d = reward_margins(chosen, rejected, ref_chosen, ref_rejected, logps.mask, self.beta)
            chosen_reward = self.beta * (chosen - ref_chosen)
            rejected_reward = (self.beta * (rejected - ref_rejected))[logps.mask].mean()
            values = {
                "chosen_reward": chosen_reward.mean(),
                "rejected_reward": rejected_reward,
                "margin": -d[logps.mask].mean(),
                "accuracy": (d[logps.mask] < 0).float().mean(),
                "chosen_log_ratio": (logps.chosen - batch.ref_chosen.to(device)).mean(),
                "chosen_tokens": logps.chosen_length.mean(),
                "rejected_tokens": logps.rejected_length[logps.mask].mean(),
                "saturated": (torch.logsumexp(d, -1).sigmoid() < _SATURATED).float().mean(),
                "negatives": logps.mask.sum(-1).float().mean(),
            }
        return logps, loss, values

    def validation_step(self, batch: PreferenceBatch | EmptyShare, batch_idx: int) -> None:
        """Log over all held sets: ``valid/loss``, ``valid/margin``, ``valid/accuracy``, ``valid/chosen_reward``.

        The loss is that of ``method`` alone, without the SFT part: S-DPO's begins at ln(1 + K) in every setting.
        """
        self._validate(batch)
        self.log_validation(self._valid_metrics())

    def _valid_metrics(self) -> dict[str, MeanMetric]:
        return {
            "loss": self.valid_loss,
            "margin": self.valid_margin,
            "accuracy": self.valid_accuracy,
            "chosen_reward": self.valid_chosen_reward,
        }

    def _validate(self, batch: PreferenceBatch | EmptyShare) -> None:
        """Add held sets to the metrics: each set, and in ``margin`` and ``accuracy`` each rejected text, weighs 1."""
        if isinstance(batch, EmptyShare):
            return
        for sums in self.memory.run(batch, lambda piece: set_sums(*self.compare(piece)[1:], piece.sizes)):
            for name, metric in self._valid_metrics().items():
                total, count = (float(sums.loss), sums.units) if name == "loss" else sums.means[name]
                metric.update(total / count, weight=count)

    def on_train_start(self) -> None:
        """Check the loss at step 0, and log the held sets' values there: where their curves begin.

        Raises:
            StaleReferenceError: the reference isn't this policy; the message has the measured and the expected loss.
        """
        super().on_train_start()
        if self.global_step:
            return
        data: AlignData = self.trainer.datamodule  # type: ignore[attr-defined]
        for batch in data.check_batches():
            self.check_start(batch)
        loaders = data.val_dataloader() if self.trainer.enable_validation else []
        for loader in loaders:
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                for batch in loader:
                    self._validate(batch)
        if loaders:
            start = {f"valid/{name}": metric.compute().item() for name, metric in self._valid_metrics().items()}
            for metric in self._valid_metrics().values():
                metric.reset()
            for logger in self.trainer.loggers:
                logger.log_metrics({**start, "epoch": 0}, 0)

    def check_start(self, batch: PreferenceBatch) -> None:
        """Compare one batch with what holds only for the reference itself. See `on_train_start`.

        The losses of S-DPO and of the list are ln(1 + K) there; that of SFT knows no reference, so the chosen texts'
        log-ratios are looked at, which are 0.
        """
        exact = self.lm.dtype == torch.float32 and self.trainer.precision in ("32-true", "32", 32)
        tolerance = 1e-3 if exact and self.lm.settings.quantize == "none" else 0.05 * max(1.0, 10 * self.beta)
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            loss = sum(self.memory.run(batch, self._start_loss)) / len(batch.sizes)
        expected = sum(math.log(1 + size) for size in batch.sizes) / len(batch.sizes) if self.method != "sft" else 0.0
        if not abs(loss - expected) <= tolerance:
            found = _START[self.method].format(f"{loss:.4f}", f"{expected:.4f}")
            raise StaleReferenceError(
                f"at step 0 {found} (tolerance {tolerance}): the "
                "reference log-probabilities were not computed by the adapter that trains. Delete the stage and rerun."
            )

    def _start_loss(self, batch: PreferenceBatch) -> float:
        """Summed over some sets, what `check_start` compares."""
        logps, loss, _ = self.compare(batch)
        if self.method == "sft":
            assert batch.ref_chosen is not None
            loss = self.beta * (logps.chosen - batch.ref_chosen.to(logps.chosen.device)).abs()
        return loss.sum().item()

    def sums(self, batch: PreferenceBatch) -> StepSums:
        """Sums over the sets: a set's weight is its own, whatever the sizes and the weights of the others.

        The mean is over the number of sets, not over their weights, whose mean over a round is 1: a step that only has
        flat sets is a small step.
        """
        return set_sums(*self.losses(batch), batch.sizes)


def joined(chosen: Tensor, rejected: Tensor, mask: Tensor) -> Tensor:
    """(B, 1 + K) values of all texts, the chosen one's first; 0 where a set has fewer."""
    return torch.cat([chosen.unsqueeze(-1), rejected.masked_fill(~mask, 0.0)], -1)


def set_sums(losses: Tensor, values: Mapping[str, Tensor], sizes: Sequence[int]) -> StepSums:
    """Sums of a batch of sets, from its losses (B,) and its means, over sets or over rejected texts."""
    counts = {name: sum(sizes) if name in _PER_NEGATIVE else len(sizes) for name in values}
    means = {name: (float(value) * counts[name], float(counts[name])) for name, value in values.items()}
    return StepSums(losses.sum(), len(sizes), means, {})


def write_references(module: SoftmaxDPOModule, data: AlignData, trainer_args: dict[str, Any], out_dir: Path) -> None:
    """Compute the reference log-probabilities once, before training, and store them in ``data``.

    Reference and training use the same packing, rows, precision and adapter, so that at step 0 they agree.

    Args:
        module: its adapter is still the G that sampled.
        data: after ``setup``.
        trainer_args: of the training; the precision is taken from them.
        out_dir: the stage directory; if it has a finished reference_logps table, that is read instead.
    """
    try:
        rows = read_table(out_dir, "reference_logps").to_dicts()
    except TableError:
        # Limits of the training (fast_dev_run, batch limits) must not cut the reference pass short.
        args = {**trainer_args, "callbacks": [], "logger": False, "enable_checkpointing": False}
        args |= {"fast_dev_run": False, "limit_predict_batches": None}
        batches = stage_trainer(args, out_dir, module).predict(module, datamodule=data) or []
        rows = [row for share in all_gather([row for batch in batches for row in batch]) for row in share]
        rows.sort(key=lambda row: (row["history_id"], row["round"]))
        if process_rank().rank == 0:
            write_part(out_dir, "reference_logps", rows)
    data.set_references(rows)
