"""The loop's language-model work, packed, against the plain way: time, in turns in one process, or peak memory.

Plain rows are right-padded and hold one text or one target each. ``full logits`` is what the S-DPO release and most
trainers do: logits of every position, then a log-softmax. Both ways train the same adapter on the same tokens, and the
values that they compute are compared. Prints a table, or JSON with ``--json``.

    python scripts/bench_llm.py --prompt 400 --draws 10 --new 64
    python scripts/bench_llm.py --memory
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trackrec.align.softmax_dpo import softmax_dpo
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.logprobs import branch_logprobs, next_token_logprobs
from trackrec.llm.packing import Branch, Layout, Tree, pack, path_ids, unroll
from trackrec.llm.sampling.decode import write_texts
from trackrec.llm.sampling.nucleus import SeededTopP
from trackrec.runtime.peak_memory import peak_memory, reset_peak_memory

Work = Callable[[], Tensor]
TEXT = "The viewer liked quiet dramas of the nineties, old comedies and a few westerns, and disliked loud thrillers. "


class Bench:
    """One model, and work of one shape."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        lora = LoRASettings(r=8, alpha=16)
        self.lm = LanguageModel(BackboneSettings(args.model, dtype=args.dtype, lora=lora))
        self.lm.add_adapter("bench", seed=0)
        self.parameters = self.lm.train_only("bench")
        self.words = self.lm.chat.encode_data(TEXT * (args.prompt // 16 + 8))

    def tokens(self, count: int, shift: int) -> list[int]:
        """Plain English, different tokens for each shift."""
        return [self.words[(index + 7 * shift) % len(self.words)] for index in range(count)]

    def mixed(self) -> torch.autocast:
        """The precision in which the quickstart trains."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.lm.dtype == torch.bfloat16)

    def works(self) -> dict[str, dict[str, Work]]:
        """For each kind of work, the ways to do it; the first is this package's."""
        args = self.args
        texts = [self.tokens(args.new - draw % 5, draw + 1) for draw in range(args.draws)]
        draws: Tree = [Branch(self.tokens(args.prompt, 0)), *(Branch(text, 0) for text in texts)]
        scored: list[Branch] = [Branch(self.tokens(args.prompt, 0))]
        for text in texts:
            scored.append(Branch(text, 0))
            parent = len(scored) - 1
            scored.extend(Branch(self.tokens(args.target, parent + number), parent) for number in range(4))
        tuned: Tree = [
            Branch([*draws[0].ids, *texts[0]]),
            *(Branch(self.tokens(args.target, number), 0) for number in range(4)),
        ]
        return {
            "S-DPO step": {
                "packed": lambda: self.align(pack([draws], 64), texts, train=True),
                "plain rows, full logits": lambda: self.align_plain(draws, texts, train=True),
            },
            "S-DPO reference pass": {
                "packed": lambda: self.align(pack([draws], 64), texts, train=False),
                "plain rows, full logits": lambda: self.align_plain(draws, texts, train=False),
            },
            "scoring of all draws, 4 targets": {
                "packed": lambda: self.score(pack([scored], 64), scored),
                "plain rows": lambda: self.score(unroll([scored], 64), scored),
            },
            "scoring of all draws, one token written": {
                "packed": lambda: self.score(pack([scored], 64), scored),
                "generate(max_new_tokens=1)": lambda: self.answer(scored),
            },
            "V evaluation, 4 targets": {
                "packed": lambda: self.score(pack([tuned], 64), tuned),
                "plain rows": lambda: self.score(unroll([tuned], 64), tuned),
            },
            "Rec-Tuning, 4 targets": {
                "packed": lambda: self.score(pack([tuned], 64), tuned, train=True),
                "plain rows": lambda: self.score(unroll([tuned], 64), tuned, train=True),
            },
            "sampling": {"shared prompt": self.sample, "generate(num_return_sequences)": self.generate},
        }

    def align(self, layout: Layout, texts: list[list[int]], train: bool) -> Tensor:
        """Log-probabilities of one preference set; with ``train`` also the step's gradients."""
        wanted = [(0, branch) for branch in range(1, len(texts) + 1)]
        with torch.set_grad_enabled(train), self.mixed():
            logps = branch_logprobs(self.lm, layout, wanted, texts)[0]
        return self._step(logps, train)

    def align_plain(self, tree: Tree, texts: list[list[int]], train: bool) -> Tensor:
        """The same from padded rows and the logits of every position."""
        layout = unroll([tree], 64)
        ids = torch.from_numpy(layout.ids)
        start = len(tree[0].ids)
        with torch.set_grad_enabled(train), self.mixed():
            logits = self.lm.base(input_ids=ids, attention_mask=torch.from_numpy(layout.valid).long()).logits
            every = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
            position = torch.arange(1, ids.shape[1])
            counted = torch.stack([(position >= start) & (position < start + len(text)) for text in texts])
            logps = (every * counted).sum(-1)
        return self._step(logps, train)

    def _step(self, logps: Tensor, train: bool) -> Tensor:
        """The values to compare: log-probabilities, or with ``--gradients`` the adapter's gradients."""
        if train:
            reference = logps.detach()
            mask = torch.ones(1, len(logps) - 1, dtype=torch.bool)
            softmax_dpo(logps[:1], logps[None, 1:], reference[:1], reference[None, 1:], mask, 0.1).sum().backward()
            gradients = torch.cat([parameter.grad.flatten() for parameter in self.parameters])
            self._clear()
            if self.args.gradients:
                return gradients
        return logps.detach()

    def score(self, layout: Layout, tree: Tree, train: bool = False) -> Tensor:
        """Log-probabilities of Yes and No after every leaf; with ``train`` also gradients."""
        parents = {branch.parent for branch in tree}
        spots = [layout.spots[0][index] for index in range(len(tree)) if index not in parents]
        yes, no = self.lm.chat.label_tokens()
        with torch.set_grad_enabled(train), self.mixed():
            logps = next_token_logprobs(self.lm, layout, spots, [yes[0], no[0]])
        if train:
            (-logps[:, 0].mean()).backward()
            self._clear()
        return logps.detach().flatten()

    def answer(self, tree: Tree) -> Tensor:
        """The same from one step of transformers' generate: one row per leaf from the root on, padded left."""
        parents = {branch.parent for branch in tree}
        rows = [path_ids(tree, index) for index in range(len(tree)) if index not in parents]
        width = max(map(len, rows))
        padded = torch.tensor([[0] * (width - len(ids)) + ids for ids in rows])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in rows])
        yes, no = self.lm.chat.label_tokens()
        with torch.no_grad(), self.mixed(), self.lm.using("bench"):
            out = self.lm.base.generate(
                input_ids=padded,
                attention_mask=mask,
                max_new_tokens=1,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=self.lm.chat.eos_id,
            )
        return out.logits[0].float().log_softmax(-1)[:, [yes[0], no[0]]].flatten()

    def sample(self) -> Tensor:
        """Draws of four prompts, each prompt read once; returns the number of new tokens."""
        args = self.args
        prompts = [self.tokens(args.prompt, shift) for shift in range(4)]
        choose = SeededTopP(range(4 * args.draws), args.new, 1.0, 0.9)
        stops = torch.tensor(sorted(self.lm.chat.stop_ids), device=self.lm.device)

        def never_stop(logits: Tensor, rows: Tensor, step: int) -> Tensor:
            """No text ends early, so that both ways do equal work; ``min_new_tokens`` masks the same logits."""
            return choose(logits.index_fill(-1, stops, -torch.inf), rows, step)

        with self.lm.using("bench"):
            texts = write_texts(self.lm, prompts, args.draws, args.new, never_stop)
        return torch.tensor([float(sum(map(len, texts)))])

    def generate(self) -> Tensor:
        """The same with transformers' generate, which reads every prompt once per draw."""
        from transformers import GenerationConfig

        args = self.args
        ids = torch.tensor([self.tokens(args.prompt, shift) for shift in range(4)])
        config = GenerationConfig(
            max_new_tokens=args.new,
            min_new_tokens=args.new,
            do_sample=True,
            top_p=0.9,
            top_k=0,
            num_return_sequences=args.draws,
            pad_token_id=self.lm.chat.eos_id,
        )
        with self.lm.using("bench"):
            out = self.lm.base.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return torch.tensor([float(out[:, ids.shape[1] :].numel())])

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def compare(ways: dict[str, Work], repeats: int) -> dict[str, object]:
    """Median seconds of each way, turn by turn after one turn that isn't counted, and how far their values differ."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, Tensor] = {}
    for repeat in range(repeats + 1):
        for name, work in ways.items():
            started = time.perf_counter()
            values[name] = work()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    ours, plain = ways
    medians = {name: statistics.median(turns) for name, turns in seconds.items()}
    gap = (values[ours] - values[plain]).abs().max()
    return {
        "seconds": {name: round(median, 2) for name, median in medians.items()},
        "time_ratio": round(medians[plain] / medians[ours], 2),
        "largest_gap": float(gap),
        "relative_gap": float(gap / values[plain].abs().max()),
    }


def peak_of(work: Work, parameters: Sequence[Tensor]) -> int:
    """Peak bytes of one turn of some work, above what the process held before it."""
    for parameter in parameters:
        parameter.detach().float().sum()  # weights are read from the disk at their first use, which must come before
    reset_peak_memory()
    before = peak_memory()
    work()
    return peak_memory() - before


def peaks(script: str, args: list[str], name: str, ways: Sequence[str]) -> dict[str, object]:
    """Peak memory of each way in a process of its own, whose allocator returns freed blocks at once."""
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    peak_by_way = {}
    for way in ways:
        command = [sys.executable, script, *args, "--only", name, "--way", way]
        peak_by_way[way] = int(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    ours, plain = peak_by_way.values()
    # At tiny sizes a way may need no memory above the model's.
    ratio = round(plain / ours, 2) if ours else None
    return {"peak_mib": {way: peak >> 20 for way, peak in peak_by_way.items()}, "memory_ratio": ratio}


def main() -> None:
    """Run every comparison whose name contains ``--only``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="data/smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    for name, default in (("prompt", 400), ("draws", 10), ("new", 64), ("target", 30), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="run the kinds of work whose names contain this")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--gradients", action="store_true", help="compare the gradients of S-DPO steps")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    parser.add_argument("--way", help="do the work once in this way and print its peak memory")
    args = parser.parse_args()
    if not Path(args.model).exists():
        raise SystemExit(f"no model in {args.model!r}: `make models` fetches it")
    torch.manual_seed(0)
    bench = Bench(args)
    works = {name: ways for name, ways in bench.works().items() if args.only in name}
    if args.way:
        (ways,) = works.values()
        print(peak_of(ways[args.way], list(bench.lm.base.parameters())))
        return
    if args.memory:
        argv = [arg for arg in sys.argv[1:] if arg not in ("--memory", "--json")]
        results = {name: peaks(sys.argv[0], argv, name, list(ways)) for name, ways in works.items()}
    else:
        results = {name: compare(ways, args.repeats) for name, ways in works.items()}
    report = {"shape": vars(args), "torch": torch.__version__, "threads": torch.get_num_threads(), "work": results}
    if args.json:
        print(json.dumps(report, indent=1))
        return
    for name, result in results.items():
        print(f"{name}: {result}")


if __name__ == "__main__":
    main()
