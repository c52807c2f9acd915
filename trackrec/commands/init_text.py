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

_LOOP_USERS, _WARMUP_USERS = 110, 560  # of the quickstart: V hardly reads texts when fewer warm it up
_MOST_COMMENT = 90
_LINE_KEYS = ("text",)  # written in one line
_MAX_HISTORY = 60
_SHOWN = """
  # The text is a memory: G, which writes it, reads the counts and kinds of the whole history; V, which predicts, the
  # three newest titles and the text.
  order: prefill
  max_words: 40
  history_attributes: false
  history_years: false
  generator: {max_history: 12, history_counts: true, history_kinds: 3}
  validator: {max_history: 3, history_counts: false, history_kinds: 0}
"""

_LAPTOP = """
# The language model: a small one, for two CPU cores and 6 GiB. On a GPU with 12 GB: model: Qwen/Qwen2.5-1.5B-Instruct,
# quantize: nf4, without the keys dtype, device and system_prompt; then delete everything below `backbone` too.
backbone:
  model: {model}
  dtype: bfloat16
  device: cpu
  system_prompt: ""
  lora: {{r: 8, alpha: 16}}

# Sizes and learning rates for this small model.
sampler: {{class_path: HFSampler, init_args: {{n: 4, max_new_tokens: 64, batch_tokens: 32768}}}}
teacher: {{class_path: ProfileTeacher, init_args: {{fraction: 1.0, max_words: 40, favourites: 0}}}}
loop:
  users: {users:g}  # {why}; the time grows with it
  warmup_users: {warmup:g}  # V learns to read texts from these; 560 did on MovieLens, 300 hardly did
  rounds: 2
  targets: 8
  validator_start: previous
  validator_lr: 2.0e-4
  comparisons: [facts, whole]
  eval_samples: 2000
  test_samples: 4600
  eval_per_history: 28
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
  data: {{batch_size: 3, samples_per_history: 8}}
  trainer: {{accelerator: cpu, precision: bf16-mixed, gradient_clip_val: 1.0}}
embed: {{model: {encoder}}}
ctr:
  # Arms ending in /no_stats read ids and the last two ratings, the others statistics of all that a user rated too.
  features: {{history_statistics: all, recent_len: 2}}
  arms: [none, reccot, shuffled, random, facts, none/no_stats, reccot/no_stats, shuffled/no_stats, random/no_stats,
         facts/no_stats]
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
    sections["samples"] = draft.samples | {"max_history": _MAX_HISTORY}
    sections["prompts"] = draft.prompts
    lines = [_comment(head, 118), "# Comments say why; correct what is wrong.", *_lines(sections, why, "", "")]
    lines += _SHOWN.strip("\n").splitlines()
    train = None if users is None else 0.8 * max(users, 1)
    shares = [
        0.05 if train is None else min(1.0, float(f"{most / train:.2g}")) for most in (_LOOP_USERS, _WARMUP_USERS)
    ]
    known = "5 % of the train users" if train is None else f"about {min(_LOOP_USERS, round(train))} train users"
    model, encoder = (here if Path(here).is_dir() else hub for here, hub in (MODEL, ENCODER))
    laptop = _LAPTOP.format(
        model=model, encoder=encoder, users=shares[0], warmup=shares[1], why=f"{known} take part in the loop"
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
