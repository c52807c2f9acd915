"""One preference set, packed, against TRL's DPOTrainer on its pairs: time, in turns in one process.

    pip install trl && python scripts/bench_trl.py --prompt 400 --draws 10 --new 64

The set has one chosen and ``draws - 1`` rejected texts of one prompt. TRL gets them as ``draws - 1`` pairs in one
batch, as DPO does with several negatives. Both compute the reference, the loss and the gradients of a LoRA adapter of
the same shape in bfloat16. DPOTrainer's collator and ``compute_loss`` are called, its training loop is not. The losses
differ by definition (a softmax over negatives, a mean over pairs), so the summed log-probability of every text is
compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile

import torch
from bench_llm import Bench, compare
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from trackrec.llm.packing import Branch, Tree, pack


class TRLStep:
    """A DPOTrainer with the same model and adapter settings as ``bench``."""

    def __init__(self, bench: Bench, prompt: list[int], texts: list[list[int]]) -> None:
        from peft import LoraConfig
        from trl import DPOConfig, DPOTrainer

        args = bench.args
        config = DPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=len(texts) - 1,
            max_length=None,
            bf16=args.dtype == "bfloat16",
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            disable_dropout=True,
        )
        row = {"prompt": "a", "chosen": "b", "rejected": "c"}  # for the constructor; the batch is made below
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        self.trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(
                args.model, dtype=getattr(torch, args.dtype), trust_remote_code=False
            ),
            args=config,
            train_dataset=Dataset.from_list([row]),
            processing_class=AutoTokenizer.from_pretrained(args.model, trust_remote_code=False),
            peft_config=lora,
        )
        pairs = [{"prompt_ids": prompt, "chosen_ids": texts[0], "rejected_ids": other} for other in texts[1:]]
        self.batch = self.trainer.data_collator(pairs)
        self.parameters = [value for value in self.trainer.model.parameters() if value.requires_grad]

    def __call__(self) -> Tensor:
        """Reference, loss and gradients of the batch; returns the loss."""
        trainer = self.trainer
        trainer.model.train()
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, self.batch)
        loss.backward()
        for value in self.parameters:
            value.grad = None
        return loss.detach()[None]

    def logps(self) -> Tensor:
        """Log-probabilities of the chosen text, then of the rejected ones."""
        chosen, rejected = self.trainer.compute_ref_log_probs(self.trainer.model, self.batch)
        return torch.cat([chosen[:1], rejected]).float()


def main() -> None:
    """Compare, and print a line or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="data/smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    for name, default in (("prompt", 400), ("draws", 10), ("new", 64), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(gradients=False)
    args = parser.parse_args()
    torch.manual_seed(0)
    bench = Bench(args)
    texts = [bench.tokens(args.new - draw % 5, draw + 1) for draw in range(args.draws)]
    prompt = bench.tokens(args.prompt, 0)
    tree: Tree = [Branch(prompt), *(Branch(text, 0) for text in texts)]
    peer = TRLStep(bench, prompt, texts)

    def ours() -> Tensor:
        reference = bench.align(pack([tree], 64), texts, train=False)
        bench.align(pack([tree], 64), texts, train=True)
        return torch.log(torch.tensor([float(len(reference))]))  # ln(1 + K), S-DPO's loss at step 0

    gap = (bench.align(pack([tree], 64), texts, train=False) - peer.logps()).abs().max()
    comparison = compare({"packed": ours, "TRL DPOTrainer": peer}, args.repeats)
    del comparison["largest_gap"], comparison["relative_gap"]
    report = {"shape": vars(args), "log-probability gap": round(float(gap), 4), **comparison}
    print(json.dumps(report, indent=1) if args.json else report)


if __name__ == "__main__":
    main()
