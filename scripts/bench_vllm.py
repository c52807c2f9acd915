"""VLLMSampler against ``vllm.LLM.generate`` and HFSampler: the same prompts, draws, seeds and lengths, turn by turn.

    .venv-vllm/bin/python scripts/bench_vllm.py --prompt 400 --draws 10 --new 64

Both vLLM engines get the same arguments and a LoRA adapter. The raw one runs in this process and is called once per
turn with its prefix cache emptied, as the sampler's is. No text ends early. VLLMSampler adds a pipe, bookkeeping and
the hash of the adapter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench_llm import TEXT

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.vllm.process import VLLMSettings, engine_arguments
from trackrec.llm.vllm.sampler import VLLMSampler


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="data/smollm2-135m-instruct")
    for name, default in (("prompt", 400), ("prompts", 4), ("draws", 10), ("new", 64), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    import vllm

    lm = LanguageModel(BackboneSettings(args.model, dtype="bfloat16", lora=LoRASettings(r=8, alpha=16)))
    lm.add_adapter("bench", seed=0)
    words = lm.chat.encode_data(TEXT * (args.prompt // 16 + 8))
    prompts = [words[7 * number : 7 * number + args.prompt] for number in range(args.prompts)]
    seeds = [[100 * number + draw for draw in range(args.draws)] for number in range(args.prompts)]
    # Equal work: only a token that is hardly ever sampled ends a text.
    lm.chat.eos_id = lm.chat.tokenizer.vocab_size - 1
    lm.chat._ends = frozenset()
    settings = {"n": args.draws, "max_new_tokens": args.new}
    length = args.prompt + args.new
    ours = VLLMSampler(**settings, max_model_len=length)
    plain = HFSampler(**settings)
    ways: dict[str, Callable[[], int]] = {
        "VLLMSampler": lambda: count(ours.draw(lm, "bench", prompts, seeds, lambda _: None)),
        "LLM.generate": raw(lm, prompts, seeds, args.new, length),
        "HFSampler": lambda: count(plain.draw(lm, "bench", prompts, seeds, lambda _: None)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens = dict.fromkeys(ways, 0)
    for repeat in range(args.repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            tokens[name] = way()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
                print(f"turn {repeat}: {name} {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    ours.release()
    medians = {name: round(statistics.median(turns), 2) for name, turns in seconds.items()}
    versions = {"torch": torch.__version__, "vllm": vllm.__version__, "threads": torch.get_num_threads()}
    report = {"shape": vars(args), **versions, "new_tokens": tokens, "seconds": medians}
    report["raw / ours"] = round(medians["LLM.generate"] / medians["VLLMSampler"], 3)
    report["HF / ours"] = round(medians["HFSampler"] / medians["VLLMSampler"], 3)
    print(json.dumps(report, indent=1) if args.json else report)


def count(draws: list[list]) -> int:
    """New tokens of all draws."""
    return sum(len(draw.token_ids) for texts in draws for draw in texts)


def raw(
    lm: LanguageModel, prompts: list[list[int]], seeds: list[list[int]], new: int, length: int
) -> Callable[[], int]:
    """vLLM as its documentation shows it, with the arguments of the sampler's engine."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    cpu = lm.device.type == "cpu"
    llm = LLM(**engine_arguments(lm.settings, VLLMSettings(max_model_len=length), length, 8192, 8, cpu))
    folder = Path(tempfile.mkdtemp()) / "adapter"
    lm.save_adapter(folder, "bench")
    adapter = LoRARequest("raw", 1, str(folder))
    copies = [{"prompt_token_ids": ids} for ids, row in zip(prompts, seeds, strict=True) for _ in row]
    common = {"temperature": 1.0, "top_p": 0.9, "max_tokens": new, "ignore_eos": True, "detokenize": False}
    sampling = [SamplingParams(seed=seed, **common) for row in seeds for seed in row]

    def generate() -> int:
        llm.reset_prefix_cache()
        outputs = llm.generate(copies, sampling, lora_request=adapter, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate


if __name__ == "__main__":
    main()
