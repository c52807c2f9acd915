"""One preference set, packed, against TRL's DPOTrainer on its pairs: time, interleaved, in one process.

    pip install trl && python scripts/bench_trl.py --prompt 400 --draws 10 --new 64

The set has one chosen and ``draws - 1`` rejected texts of one prompt. TRL sees them as ``draws - 1`` pairs in one
batch, as DPO does with several negatives; both sides compute the reference, the loss and the gradients of a LoRA
adapter of the same shape in bfloat16. DPOTrainer's own collator and ``compute_loss`` are called, its loop is not. The
losses differ by definition (a softmax over negatives, a mean over pairs): what is compared is the summed
log-probability of every text.
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
    """A DPOTrainer on the model and adapter settings of the other side."""

    def __init__(self, bench: Bench, prompt: list[int], texts: list[list[int]]) -> None:
        from peft import LoraConfig
        from trl import DPOConfig, DPOTrainer

        given = bench.given
        config = DPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=len(texts) - 1,
            max_length=None,
            bf16=given.dtype == "bfloat16",
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            disable_dropout=True,
        )
        row = {"prompt": "a", "chosen": "b", "rejected": "c"}  # what the constructor wants; the batch is made below
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        self.trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(
                given.model, dtype=getattr(torch, given.dtype), trust_remote_code=False
            ),
            args=config,
            train_dataset=Dataset.from_list([row]),
            processing_class=AutoTokenizer.from_pretrained(given.model, trust_remote_code=False),
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
        """Of the chosen text, then of the rejected ones."""
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
    given = parser.parse_args()
    torch.manual_seed(0)
    bench = Bench(given)
    texts = [bench.tokens(given.new - place % 5, place + 1) for place in range(given.draws)]
    prompt = bench.tokens(given.prompt, 0)
    tree: Tree = [Branch(prompt), *(Branch(text, 0) for text in texts)]
    peer = TRLStep(bench, prompt, texts)

    def ours() -> Tensor:
        reference = bench.align(pack([tree], 64), texts, train=False)
        bench.align(pack([tree], 64), texts, train=True)
        return torch.log(torch.tensor([float(len(reference))]))  # what S-DPO's loss is at its start

    gap = (bench.align(pack([tree], 64), texts, train=False) - peer.logps()).abs().max()
    found = compare({"packed": ours, "TRL DPOTrainer": peer}, given.repeats)
    del found["largest_gap"], found["relative_gap"]
    report = {"shape": vars(given), "log-probability gap": round(float(gap), 4), **found}
    print(json.dumps(report, indent=1) if given.json else report)


if __name__ == "__main__":
    main()
