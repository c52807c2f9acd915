"""Every language-model stage of a config at its real shape on random weights: memory, tokens/s, share of the peak.

Nothing is downloaded: random weights of the published shape need the memory and the time of the real ones. The device's
peak is that of a large bfloat16 product, measured in the same run. Model FLOPs count the linear layers of the decoder:
2 per weight and token forward, 4 in training (a frozen weight has no weight gradient); what gradient checkpointing
computes again is not counted. End-of-text tokens are never sampled, so no text ends early.

    python scripts/bench_gpu.py --config configs/movielens.yaml --attention sdpa flex --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from align_step import TINY, save_random_model

from trackrec.llm.memory_plan.shapes import SHAPES
from trackrec.runtime.lightning_import import import_lightning

MAX_PEAK_SIZE = 8192


def measured_peak(device: torch.device, size: int) -> float:
    """FLOP/s of a bfloat16 product of two (size, size) matrices, the best of five."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = [timed(lambda: left @ right, device)[0] for _ in range(6)][1:]
    return 2 * size**3 / min(seconds)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds until the device has finished, and the result."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


class StageBench:
    """A loaded model with one adapter, and one batch of each stage.

    Args:
        lm: the model, with adapter ``bench``.
        objects: the parsed config.
        args: the shape of the work.
    """

    def __init__(self, lm: Any, objects: Any, args: argparse.Namespace) -> None:
        from trackrec.llm.training.optimizer import OptimizerSettings

        self.lm, self.objects, self.args = lm, objects, args
        self.parameters = lm.train_only("bench")
        self.optimizer = (objects.align.model.optimizer or OptimizerSettings()).build(self.parameters, lr=1e-6)
        self.generator = torch.Generator().manual_seed(0)
        self.draws = objects.sampler.n
        self.new = args.new or objects.sampler.max_new_tokens

    def ids(self, count: int) -> list[int]:
        """Random tokens of the byte alphabet."""
        return torch.randint(0, 250, (count,), generator=self.generator).tolist()

    def works(self) -> dict[str, tuple[int, int, Callable[[], Any]]]:
        """Per stage: tokens that it computes, FLOPs per weight and token, and the work."""
        from trackrec.llm.packing import Branch, tree_tokens

        args, objects = self.args, self.objects
        answers = [[Branch(self.ids(args.prompt)), Branch(self.ids(self.new), 0)]]
        answers *= objects.distill.data.batch_size
        draws = [Branch(self.ids(args.prompt)), *(Branch(self.ids(self.new), 0) for _ in range(self.draws))]
        scored = list(draws)
        for draw in range(1, self.draws + 1):
            scored += [Branch(self.ids(args.target), draw) for _ in range(objects.loop.targets)]
        scored_batch = [scored] * max(1, objects.scoring.batch_tokens // tree_tokens(scored))
        samples = objects.rec_tune.data.samples_per_history
        tuned = [Branch(self.ids(args.prompt + self.new))]
        tuned += [Branch(self.ids(args.target), 0) for _ in range(samples)]
        tuned_batch = [tuned] * objects.rec_tune.data.batch_size

        def count(trees: Any) -> int:
            return sum(map(tree_tokens, trees))

        prompts = max(1, objects.sampler.batch_tokens // (args.prompt + self.draws * self.new))
        written = prompts * (args.prompt + self.draws * args.decode)
        return {
            "distill step": (count(answers), 4, lambda: self.learn(answers)),
            "sample": (written, 2, lambda: self.sample(prompts)),
            "score": (count(scored_batch), 2, lambda: self.answer(scored_batch, train=False)),
            "reference pass": (count([draws]), 2, lambda: self.read(draws)),
            "align step": (count([draws]), 4, lambda: self.align(draws)),
            "rec_tune step": (count(tuned_batch), 4, lambda: self.answer(tuned_batch, train=True)),
        }

    def _logps(self, trees: Any) -> Any:
        from trackrec.llm.logprobs import branch_logprobs

        wanted = [(index, branch) for index, tree in enumerate(trees) for branch in range(1, len(tree))]
        tokens = [trees[index][branch].ids for index, branch in wanted]
        return branch_logprobs(self.lm, self.lm.layout(trees), wanted, tokens)[0]

    def _step(self, loss: Any) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def mixed(self) -> torch.autocast:
        """The precision in which the stages train."""
        return torch.autocast(self.lm.device.type, dtype=torch.bfloat16)

    def learn(self, trees: Any) -> None:
        """One SFT step."""
        self.lm.base.train()
        with self.mixed():
            loss = -self._logps(trees).mean()
        self._step(loss)

    def read(self, tree: Any) -> Any:
        """The reference log-probabilities of one preference set."""
        with self.lm.using("bench"):
            return self._logps([tree])

    def align(self, tree: Any) -> None:
        """One S-DPO step on one preference set."""
        from trackrec.align.softmax_dpo import softmax_dpo

        self.lm.base.train()
        with self.mixed():
            logps = self._logps([tree])
        reference = logps.detach()
        mask = torch.ones(1, len(logps) - 1, dtype=torch.bool, device=logps.device)
        loss = softmax_dpo(logps[:1], logps[None, 1:], reference[:1], reference[None, 1:], mask, 0.1)
        self._step(loss.sum())

    def answer(self, trees: Any, train: bool) -> Any:
        """The validator's answers after every leaf; with ``train`` a Rec-Tuning step."""
        from trackrec.llm.logprobs import next_token_logprobs

        layout = self.lm.layout(trees)
        leaves = [sorted(set(range(len(tree))) - {branch.parent for branch in tree}) for tree in trees]
        spots = [layout.spots[index][leaf] for index, of_tree in enumerate(leaves) for leaf in of_tree]
        if not train:
            with self.lm.using("bench"):
                return next_token_logprobs(self.lm, layout, spots, [1, 2])
        self.lm.base.train()
        with self.mixed():
            logps = next_token_logprobs(self.lm, layout, spots, [1, 2])
        return self._step(-logps[:, 0].mean())

    def sample(self, prompts: int) -> Any:
        """The first ``--decode`` tokens of a full batch of draws."""
        from trackrec.llm.sampling.decode import write_texts
        from trackrec.llm.sampling.nucleus import SeededTopP

        rows = [self.ids(self.args.prompt) for _ in range(prompts)]
        steps = self.args.decode
        choose = SeededTopP(range(prompts * self.draws), steps, 1.0, 0.9)
        stops = torch.tensor(sorted(self.lm.chat.stop_ids), device=self.lm.device)

        def never_stop(logits: torch.Tensor, numbers: torch.Tensor, step: int) -> torch.Tensor:
            return choose(logits.index_fill(-1, stops, -torch.inf), numbers, step)

        with self.lm.using("bench"):
            return write_texts(self.lm, rows, self.draws, steps, never_stop)


def linear_weights(lm: Any) -> int:
    """Weights of the decoder's linear layers without adapters, counted as before quantization."""
    total = 0
    for name, module in lm.base.get_decoder().named_modules():
        if hasattr(module, "in_features") and "lora_" not in name and not name.endswith("base_layer"):
            total += module.in_features * module.out_features
    return total


def measure(bench: StageBench, repeats: int, weights: int, peak: float) -> dict[str, dict[str, float]]:
    """Median seconds, tokens/s, share of the peak and peak memory of every stage."""
    from trackrec.runtime.peak_memory import peak_memory, reset_peak_memory

    figures = {}
    for name, (tokens, flops, work) in bench.works().items():
        reset_peak_memory()
        seconds = [timed(work, bench.lm.device)[0] for _ in range(repeats + 1)][1:]
        median = statistics.median(seconds)
        figures[name] = {
            "tokens": tokens,
            "seconds": round(median, 3),
            "tokens_per_s": round(tokens / median),
            "share_of_peak": round(flops * weights * tokens / median / peak, 3),
            "peak_gib": round(peak_memory() / 2**30, 2),
        }
    return figures


def main() -> None:
    """Build the model, measure the device, then every stage with every attention in ``--attention``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/movielens.yaml"))
    parser.add_argument("--shape", default=None, help=f"instead of the config's model: tiny, {', '.join(SHAPES)}")
    parser.add_argument("--layers", type=int, default=None, help="default: all of the model")
    parser.add_argument("--attention", nargs="+", default=["sdpa"], choices=["sdpa", "flex", "eager"])
    for name, default in (("prompt", 600), ("new", 0), ("target", 40), ("decode", 64), ("repeats", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # LightningCLI warns if there are arguments on the command line besides those passed to it
    import_lightning()
    from trackrec.cli.app import parse_objects
    from trackrec.llm.backbone import LanguageModel

    objects = parse_objects(["fit", "--config", str(args.config)])
    name = args.shape or objects.backbone.model
    shape = TINY if name == "tiny" else SHAPES[name]
    layers = args.layers or shape["num_hidden_layers"]
    with tempfile.TemporaryDirectory() as folder:
        save_random_model(Path(folder), shape, layers)
        lm = LanguageModel(replace(objects.backbone, model=folder))
    lm.add_adapter("bench", seed=0)
    peak = measured_peak(lm.device, MAX_PEAK_SIZE if lm.device.type == "cuda" else 512)
    weights = linear_weights(lm)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if lm.device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "model": f"{name}, {layers} layers, {weights / 1e9:.2f} G linear weights, {lm.settings.quantize}",
        "weights_gib": round(lm.weight_bytes() / 2**30, 2),
        "measured_peak_tflops": round(peak / 1e12, 1),
    }
    for attention in args.attention:
        lm.settings = replace(lm.settings, attention=attention)
        report[attention] = measure(StageBench(lm, objects, args), args.repeats, weights, peak)
    if args.json:
        print(json.dumps(report, indent=1))
        return
    for key, value in report.items():
        if not isinstance(value, dict):
            print(f"{key}: {value}")
            continue
        for stage, figures in value.items():
            print(f"{key:5} {stage:15} " + "  ".join(f"{label} {number:,}" for label, number in figures.items()))


if __name__ == "__main__":
    main()
