"""One alignment step of a config at its real shape: random weights of the backbone's size, few layers, any device.

Shows that the config's quantization, adapters, precision, checkpointing and optimizer work together, and what a step
costs, without downloading a model:

    python scripts/align_step.py --config configs/movielens.yaml --layers 1 --new-tokens 40

``--shape tiny`` takes a tiny model instead, to try the script.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from trackrec.llm.memory_plan.shapes import SHAPES
from trackrec.runtime.lightning_import import import_lightning

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 512,
}


def save_random_model(directory: Path, shape: dict[str, Any], layers: int) -> None:
    """A Qwen2 of the given shape with random weights, and a byte tokenizer with a ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*symbols, "Yes", "No"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    config = Qwen2Config(
        **(shape | {"num_hidden_layers": layers}), max_position_embeddings=32768, use_sliding_window=False
    )
    torch.set_default_dtype(torch.bfloat16)
    # Seven billion normal numbers take minutes on a CPU.
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory)


def write_sets(root: Path, items: int, draws: int, new_tokens: int, vocabulary: int, sets: int) -> Any:
    """Preference sets of random tokens about histories of ``items`` films; returns the tables for the prompts."""
    import polars as pl

    from trackrec.storage.parts import write_part
    from trackrec.storage.schemas import to_arrow

    rng = random.Random(0)
    films = [
        {"item_id": f"i{n}", "title": f"Film number {n}", "attributes": ["Drama"], "year": 1990} for n in range(items)
    ]
    names = [film["item_id"] for film in films]
    histories = [
        {"history_id": f"h{n}", "user_id": f"u{n}", "item_ids": names, "ratings": [4.0, 2.0] * (items // 2)}
        for n in range(sets)
    ]
    texts = [
        {
            "history_id": f"h{n}",
            "source": "g",
            "round": 1,
            "draw": draw,
            "text": "",
            "token_ids": [rng.randrange(300, vocabulary) for _ in range(new_tokens)],
            "prompt_hash": "",
            "finish_reason": "stop",
            "seed": 0,
        }
        for n in range(sets)
        for draw in range(draws)
    ]
    preferences = [
        {
            "history_id": f"h{n}",
            "source": "g",
            "round": 1,
            "chosen": 0,
            "rejected": list(range(1, draws)),
            "chosen_reward": 0.6,
            "rejected_rewards": [0.5] * (draws - 1),
        }
        for n in range(sets)
    ]
    write_part(root, "reccots", texts)
    write_part(root, "preferences", preferences)
    users = [{"user_id": f"u{n}", "attributes": []} for n in range(sets)]
    return [
        pl.from_arrow(to_arrow(name, rows))
        for name, rows in (("histories", histories), ("items", films), ("users", users))
    ]


def main() -> None:
    """Build the model, compute the reference, check step 0, make one optimizer step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--shape", default=None, help=f"instead of the config's model: tiny, {', '.join(SHAPES)}")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--new-tokens", type=int, default=None, help="tokens per draw; default: the sampler's limit")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # LightningCLI warns if there are arguments on the command line besides those passed to it
    import_lightning()
    from trackrec.align.data import AlignData
    from trackrec.align.module import SoftmaxDPOModule, write_references
    from trackrec.cli.app import parse_objects
    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.training.fit import fit_adapter
    from trackrec.prompts.book import PromptBook
    from trackrec.runtime.peak_memory import peak_memory, reset_peak_memory

    objects = parse_objects(["fit", "--config", str(args.config)])
    shape = TINY if args.shape == "tiny" else SHAPES[args.shape or objects.backbone.model]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save_random_model(root / "model", shape, args.layers)
        sampler = objects.sampler
        new_tokens = args.new_tokens or sampler.max_new_tokens
        sets = objects.align.data.batch_size
        shown = objects.prompts.for_generator().max_history
        tables = write_sets(root, shown, sampler.n, new_tokens, shape["vocab_size"], sets)
        lm = LanguageModel(replace(objects.backbone, model=str(root / "model")))
        print(lm.describe())
        lm.add_adapter("generator", seed=0)
        before = {key: value.clone() for key, value in lm.base.state_dict().items() if "lora_" in key}
        data = AlignData(lm, PromptBook(*tables, 3.0, objects.prompts), [(root, root)], **vars(objects.align.data))
        data.setup("fit")
        trainer = {**vars(objects.align.trainer), "accumulate_grad_batches": 1, "max_steps": 1, "logger": False}
        module = SoftmaxDPOModule(lm, "generator", **vars(objects.align.model))
        reset_peak_memory()
        started = time.perf_counter()
        write_references(module, data, dict(trainer), root / "out")
        reference = time.perf_counter() - started
        fitted = fit_adapter(module, data, trainer, root / "out")
        step = time.perf_counter() - started - reference
        moved = sum(not value.equal(before[key]) for key, value in lm.base.state_dict().items() if key in before)
        metrics = {key: round(float(value), 4) for key, value in fitted.callback_metrics.items()}
        print(f"prompt {len(data.examples[0].tree[0].ids)} tokens, {sampler.n} draws of {new_tokens}: {metrics}")
        print(f"adapter tensors moved: {moved} of {len(before)}")
        print(f"reference {reference:.1f} s, step with check {step:.1f} s, peak {peak_memory() / 2**30:.1f} GiB")
    sys.exit(0 if moved else 1)


if __name__ == "__main__":
    main()
