"""Adam for nets with tables so large that a step over all their rows would be most of the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LazyAdam(torch.optim.Adam):
    """Adam that updates a parameter with a sparse gradient only in the rows that the gradient contains.

    The other rows of such a table keep their values and moments: neither momentum nor weight decay changes them until
    a batch reads them. That is the rule of `torch.optim.SparseAdam` (TensorFlow's LazyAdam), here with weight decay and
    together with dense parameters in one optimizer. Where a gradient contains every row the step is Adam's.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` computes the loss and its gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None and table.grad.is_sparse:
                    self._move_rows(table, table.grad.coalesce(), group)
                    table.grad = None  # torch.optim.Adam rejects sparse gradients
        super().step()
        return loss

    @torch.no_grad()
    def _move_rows(self, table: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Kingma & Ba 2015, algorithm 1, for the rows of ``grad`` (coalesced, (N, D))."""
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        step = float(state["step"])
        beta1, beta2 = group["betas"]
        index = grad.indices()[0]
        rows = table.index_select(0, index)
        g = grad.values() + group["weight_decay"] * rows
        mean = state["exp_avg"].index_select(0, index).lerp_(g, 1 - beta1)
        square = state["exp_avg_sq"].index_select(0, index).mul_(beta2).addcmul_(g, g, value=1 - beta2)
        state["exp_avg"].index_copy_(0, index, mean)
        state["exp_avg_sq"].index_copy_(0, index, square)
        denominator = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        table.index_copy_(0, index, rows.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**step)))
