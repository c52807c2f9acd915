"""The text of a configuration that ``trackrec init`` writes: what was guessed, with why, and sizes for a laptop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from trackrec.interactions.guess.draft import Draft
from trackrec.runtime.terminal_text import printable

MODEL = ("data/smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct")
ENCODER = ("data/all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2")
"""The small models: the folder where ``make models`` puts one, and its name on the model hub."""

_LOOP_USERS = 60
_MOST_COMMENT = 90
_LINE_KEYS = ("text",)  # written in one line
_SHOWN = {
    "order": "prefill", "max_words": 40, "max_history": 4, "history_counts": True, "history_kinds": 3,
    "history_attributes": False, "history_years": False,
}  # fmt: skip

_LAPTOP = """
# The language model: a small one, for two CPU cores and 5 GiB. On a GPU with 12 GB: model: Qwen/Qwen2.5-1.5B-Instruct,
# quantize: nf4, without the keys dtype, device and system_prompt; then delete everything below `backbone` too.
backbone:
  model: {model}
  dtype: bfloat16
  device: cpu
  system_prompt: ""
  lora: {{r: 8, alpha: 16}}

# Sizes and learning rates for this small model.
sampler: {{class_path: HFSampler, init_args: {{n: 4, max_new_tokens: 64, batch_tokens: 32768}}}}
teacher: {{class_path: ProfileTeacher, init_args: {{fraction: 1.0, max_words: 26}}}}
loop:
  users: {users:g}  # {why}; the time grows with it
  warmup_users: {warmup:g}
  rounds: 2
  targets: 4
  validator_start: previous
  validator_lr: 2.0e-4
  texts: played
  eval_samples: 144
  test_samples: 1200
  eval_per_history: 12
scoring: {{batch_tokens: 2048}}
distill:
  model: {{lr: 2.0e-3, optimizer: {{schedule: linear}}}}
  data: {{batch_size: 2}}
  trainer: {{max_epochs: 1, accelerator: cpu, precision: bf16-mixed, gradient_clip_val: 1.0}}
align:
  model: {{lr: 1.5e-4, beta: 0.1}}
  sets: {{min_spread: 0.0, drop_flattest: 0.25, min_best: 0.4}}
  data: {{batch_size: 4}}
  trainer: {{accelerator: cpu, precision: bf16-mixed}}
rec_tune:
  model: {{lr: 8.0e-4, answers: labels, optimizer: {{schedule: linear}}}}
  data: {{batch_size: 3, samples_per_history: 6}}
  trainer: {{accelerator: cpu, precision: bf16-mixed, gradient_clip_val: 1.0}}
embed: {{model: {encoder}}}
ctr:
  model: {{weight_decay: 1.0e-3}}
  data: {{batch_size: 512}}
  trainer: {{accelerator: cpu}}
"""


def config_text(draft: Draft, run_dir: Path, files: list[str], users: int | None) -> str:
    """The YAML of a draft.

    Args:
        draft: what was guessed.
        run_dir: where the run will live.
        files: what was looked at, for the first line.
        users: how many there are; None where that isn't known.
    """
    head = f"Written by `trackrec init` from {', '.join(files)}."
    dataset = {"class_path": draft.source, "init_args": draft.args}
    why = {f"dataset.init_args.{key.removeprefix('args.')}": text for key, text in draft.why.items()}
    why |= {key: text for key, text in draft.why.items() if not key.startswith("args.")}
    sections: dict[str, Any] = {"run_dir": str(run_dir), "dataset": dataset}
    if draft.samples:
        sections["samples"] = draft.samples
    sections["prompts"] = draft.prompts
    lines = [_comment(head, 118), "# Comments say why; correct what is wrong.", *_lines(sections, why, "", "")]
    lines += ["  # How much a prompt shows; short, since the model is small."]
    lines += [f"  {key}: {_scalar(value)}" for key, value in _SHOWN.items()]
    share = 0.05 if users is None else min(1.0, float(f"{_LOOP_USERS / (0.8 * max(users, 1)):.2g}"))
    known = "5 % of the train users" if users is None else f"about {min(_LOOP_USERS, round(0.8 * users))} train users"
    model, encoder = (here if Path(here).is_dir() else hub for here, hub in (MODEL, ENCODER))
    laptop = _LAPTOP.format(
        model=model, encoder=encoder, users=share, warmup=min(1.0, 2 * share), why=f"{known} take part in the loop"
    )
    return "\n".join(lines) + "\n" + laptop


def shown_lines(draft: Draft) -> Iterator[tuple[str, str, str]]:
    """The key, the value and why, of what was guessed."""
    for section, values in (("args", draft.args), ("samples", draft.samples), ("prompts", draft.prompts)):
        for key, value in values.items():
            inner = value if isinstance(value, dict) and key != "text" else {"": value}
            for below, leaf in inner.items():
                path = ".".join(filter(None, (key, below)))
                name = path if section == "args" else f"{section}.{path}"
                yield (
                    name,
                    printable(_scalar(leaf), keep=""),
                    printable(draft.why.get(f"{section}.{path}", ""), keep=""),
                )


def _lines(values: Mapping[str, Any], why: Mapping[str, str], indent: str, prefix: str) -> Iterator[str]:
    for key, value in values.items():
        path = prefix + key
        comment = f"  {_comment(why[path])}" if why.get(path) else ""
        if isinstance(value, dict) and key not in _LINE_KEYS:
            yield f"{indent}{key}:{comment}"
            yield from _lines(value, why, f"{indent}  ", f"{path}.")
        else:
            yield f"{indent}{key}: {_scalar(value)}{comment}"


def _scalar(value: Any) -> str:
    if isinstance(value, dict):
        # Separators are easier to see in quotation marks; JSON's are YAML's.
        return "{" + ", ".join(f"{key}: {json.dumps(each)}" for key, each in value.items()) + "}"
    if isinstance(value, float) and value == round(value) and abs(value) < 1e6:
        return f"{value:.1f}"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False).strip()
    return text.removesuffix("\n...").strip()


def _comment(text: str, most: int = _MOST_COMMENT) -> str:
    line = printable(text, keep="")
    return f"# {line if len(line) <= most else line[: most - 3].rstrip() + '...'}"
