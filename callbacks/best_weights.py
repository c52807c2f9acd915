"""The weights of the best epoch, chosen on validation rows and kept in memory."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from trackrec.runtime.errors import SettingError


class BestWeights(Callback):
    """Keeps a copy of a submodule's weights from the epoch with the highest value; of equal ones the earliest.

    Args:
        monitor: the logged value, higher is better.
        submodule: name of the submodule in the LightningModule.

    Attributes:
        value: the highest value so far.
        epoch: where it was reached, from 1; 0 before the first validation.
        weights: the copy, on CPU.
    """

    def __init__(self, monitor: str = "valid/auc", submodule: str = "net") -> None:
        self.monitor = monitor
        self.submodule = submodule
        self.value = float("-inf")
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare and copy."""
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.monitor])
        if value > self.value:
            self.value = value
            self.epoch = trainer.current_epoch + 1
            weights = pl_module.get_submodule(self.submodule).state_dict()
            self.weights = {name: weight.detach().cpu().clone() for name, weight in weights.items()}

    def restore(self, trainer: Trainer, net: nn.Module) -> None:
        """Load the kept weights into a module.

        Raises:
            SettingError: no validation ran, so there are none.
        """
        if not self.weights:
            raise SettingError(
                f"ctr.trainer: no validation ran in {trainer.current_epoch} epochs ({trainer.global_step} steps) to "
                "choose weights. Look at max_epochs, max_steps, check_val_every_n_epoch and limit_val_batches."
            )
        net.load_state_dict(self.weights)
