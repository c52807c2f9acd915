"""How stages train an adapter: the budget, the effective batch, the trainer, the notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback

from trackrec.llm.training.fit import fit_adapter
from trackrec.recipe.models import announce

if TYPE_CHECKING:
    from trackrec.recipe.experiment import Experiment
    from trackrec.recipe.settings import Training


def fit(
    exp: Experiment,
    out: Path,
    module: Any,
    data: Any,
    section: Training,
    examples: int,
    tokens: int,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train a module's adapter, and print the effective batch where it isn't the one that is typed.

    Args:
        exp: the run.
        out: the stage directory.
        module: a Lightning module of `trackrec.llm.training`.
        data: its data module, set up.
        section: the stage's arguments.
        examples: how many there are in an epoch.
        tokens: how many tokens they have together.
        callbacks: of the stage, before the run's monitors.

    Returns:
        Notes for the manifest.
    """
    trainer_args = section.trainer()
    epochs = trainer_args.get("max_epochs") or 1
    notes = announce(exp, "train", examples, tokens * epochs)
    accumulated = trainer_args.get("accumulate_grad_batches") or 1
    size, unit = data.batch_size, "examples"
    if tokens_each := getattr(data, "batch_tokens", None):
        size, unit = tokens_each, "tokens"
    if section.processes * accumulated > 1:
        exp.say(
            f"    effective batch {size * accumulated * section.processes}: {size} {unit}, "
            f"accumulated {accumulated} times, in {section.processes} process(es)"
        )
    monitors = [*callbacks, *(monitor for monitor in exp.monitors if isinstance(monitor, Callback))]
    trainer = fit_adapter(module, data, trainer_args, out, seed=data.seed, monitors=monitors)
    effective = size * trainer.accumulate_grad_batches * trainer.world_size
    return {
        **module.last_values,
        **notes,
        "examples": examples,
        "effective_batch" if unit == "examples" else "effective_batch_tokens": effective,
        "optimizer_steps": trainer.global_step,
    }
