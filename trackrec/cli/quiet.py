"""Silences what libraries say on every run and nobody needs."""

from __future__ import annotations

import logging
import warnings

from trackrec.runtime.terminal_text import PrintableFormatter


def quiet_libraries() -> None:
    """Lightning repeats which devices it sees before every training; a run of twenty trainings needs it never."""
    lightning = ("pytorch.utilities.rank_zero", "pytorch.accelerators.cuda", "fabric.utilities.distributed")
    for name in lightning:
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    # Says that a kernel for 4-bit inference on CPU isn't installed, on runs that quantize nothing too.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21326
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
    # Loaders that slice memory have no workers to tune, and a stage may be shorter than the logging interval.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
