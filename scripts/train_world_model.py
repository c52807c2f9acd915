"""Train a language model of the simulated world from scratch: ``python scripts/train_world_model.py --size world-4m``.

It is a Llama of one or four million weights that is trained on `world_corpus` for some minutes on a CPU. The result is
written in bfloat16 to ``models/SIZE``; the same seed and thread count give the same weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from world_corpus import CorpusSettings, Lesson, Make, facts_lesson, lessons, notes_lesson, titles_lesson, viewer_lesson

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.chat import ChatEncoder
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.packing import Branch, Tree, tree_tokens
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import Item, Rated, history_segment, reccot_segments, validator_segments

_KINDS = ("text", "answered", "noted", "told")
# Share of the steps after which answers given notes are trained: before the model can read notes, they are noise.
_NOTED_FROM = 0.35
START, END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Shape and training of the model.

    Learning rates are the peaks. ``viewers``, ``facts``, ``notes`` and ``titles`` are lessons of that kind per step;
    the first ``drills`` steps have no viewers.
    """

    width: int = 128
    inner: int = 320
    steps: int = 1700
    lr: float = 4e-3
    muon_lr: float = 0.02
    layers: int = 5
    heads: int = 4
    drills: int = 200
    viewers: int = 3
    facts: int = 6
    notes: int = 2
    titles: int = 0


SIZES = {
    "world-1m": Size(),
    "world-4m": Size(width=256, inner=640, heads=8, steps=1500, lr=3e-3, titles=4),
}


def phrases() -> list[str]:
    """Phrases that every prompt repeats. Each becomes one token, which halves the length of prompts."""
    words = PromptSettings()
    ask = reccot_segments("", words)[1].split(str(words.max_words))
    *_, notes, question, name = validator_segments("", "@", Item("@"), words)
    first = history_segment([Rated(Item("@"), True)], words)
    return [
        "user\n",
        "assistant\n",
        *ask,
        *notes.split("@"),
        question,
        name.split("@")[0],
        first.split("@")[0],
        f"A {words.user}.",
        f" Mostly {words.liked}:",
        f" Mostly {words.disliked}:",
        " The latest, oldest first:\n",
        *(f"{mark}: {word}\n" for mark in ("", "]") for word in (words.liked, words.disliked)),
        *(f"{mark}: {word}" for mark in ("", "]") for word in (words.liked, words.disliked)),
    ]


def build_tokenizer(seed: int, vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which a word of the world is one token, a year two (decade and digit), a set phrase one."""
    first = itertools.islice(lessons(viewer_lesson, CorpusSettings(), seed), 600)
    texts = ["".join(line.segments) for lesson in first for line in lesson] + ["Yes", "No"] * 1000
    for phrase in phrases():
        texts = [part for text in texts for part in text.split(phrase)]
    inner = Tokenizer(models.BPE())
    pieces = r" \(\d{3}(?=\d\))|\d\)| \(\d{1,2}\)|\d{3}(?=\ds)| ?\p{L}+| ?\d{1,3}| ?[^\s\p{L}\d]+|\s+"
    split = pre_tokenizers.Split(Regex(pieces), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=END)
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases()])
    tokenizer.chat_template = CHATML
    tokenizer.padding_side = "right"
    return tokenizer


def build_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights."""
    init = size.width**-0.5
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=2048,
        initializer_range=init,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    # Layers add to the residual stream, and with large random weights their sum would drown the word embeddings.
    for layer in model.model.layers:
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.normal_(part.weight, std=init / math.sqrt(2 * size.layers))
    return model


class Learnt(NamedTuple):
    """A branch that is trained: its index in the tree, its kind of text, and its weight in the loss."""

    branch: int
    kind: Literal["text", "answered", "noted", "told"]
    weight: float


class Example(NamedTuple):
    """A lesson in tokens."""

    tree: Tree
    learnt: list[Learnt]


def encode(chat: ChatEncoder, lesson: Lesson) -> Example:
    """A lesson as a tree of tokens under one root, the opening of the user's turn, and the branches to be trained."""
    tree = [Branch(chat.opening)]
    learnt: list[Learnt] = []
    ends_prompt = {line.parent for line in lesson if line.said in ("answered", "noted")}
    for number, line in enumerate(lesson):
        ids = [token for segment in line.segments for token in chat.encode_data(segment)]
        if line.said in ("answered", "noted"):
            ids = [*ids, chat.eos_id]
        elif number in ends_prompt:
            ids = [*ids, *chat.closing]
        if line.said != "asked":
            long = line.said == "answered" and line.segments not in (["Yes"], ["No"])
            learnt.append(Learnt(len(tree), "text" if long else line.said, line.weight))
        tree.append(Branch(ids, line.parent + 1))
    return Example(tree, learnt)


def batches(chat: ChatEncoder, make: Make, size: int, seed: int) -> Iterator[list[Example]]:
    """Lessons of one kind, in batches of ``size`` with similar length."""
    endless = (encode(chat, lesson) for lesson in lessons(make, CorpusSettings(), seed))
    rng = random.Random(seed)
    while True:
        pool = sorted(itertools.islice(endless, 16 * size), key=lambda entry: tree_tokens(entry.tree))
        ready = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(ready)
        yield from ready


def steps(chat: ChatEncoder, size: Size, seed: int) -> Iterator[list[list[Example]]]:
    """The batches of each step: first only drills, then drills and viewers."""
    facts = batches(chat, facts_lesson, size.facts, seed)
    notes = batches(chat, notes_lesson, size.notes, seed)
    titles = batches(chat, titles_lesson, size.titles, seed)
    viewers = batches(chat, viewer_lesson, size.viewers, seed)
    for step in range(size.steps):
        drills = [next(facts), next(notes), *([next(titles)] if size.titles else [])]
        yield [*drills, next(facts), next(notes)] if step < size.drills else [*drills, next(viewers)]


def losses(lm: LanguageModel, batch: Sequence[Example]) -> dict[str, Tensor]:
    """For each kind of text the mean negative log-probability per token, weighted by line."""
    layout = lm.layout([entry.tree for entry in batch])
    flat = [(row, learnt) for row, entry in enumerate(batch) for learnt in entry.learnt]
    wanted = [(row, learnt.branch) for row, learnt in flat]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums, lengths = branch_logprobs(lm, layout, wanted, [batch[row].tree[branch].ids for row, branch in wanted])
    weights = torch.tensor([learnt.weight for _, learnt in flat])
    by_kind = {}
    for kind in _KINDS:
        of_kind = torch.tensor([learnt.kind == kind for _, learnt in flat])
        if of_kind.any():
            by_kind[kind] = -(weights * sums)[of_kind].sum() / (weights * lengths)[of_kind].sum()
    return by_kind


def train(directory: Path, size: Size, seed: int) -> None:
    """Muon for matrices, AdamW for the rest, warm-up and cosine. The weights replace those in ``directory``."""
    lm = LanguageModel(BackboneSettings(str(directory), dtype="float32", device="cpu", attention="eager"))
    lm.base.requires_grad_(True).train()
    parameters = dict(lm.base.named_parameters())
    matrices = [value for name, value in parameters.items() if value.ndim == 2 and "embed" not in name]
    others = [value for name, value in parameters.items() if value.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=size.muon_lr, weight_decay=0.05, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=size.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [size.muon_lr, size.lr]
    started = time.monotonic()
    tokens = 0
    for step, step_batches in enumerate(steps(lm.chat, size, seed)):
        share = min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / size.steps)))
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * share
        latest: dict[str, Tensor] = {}
        for batch in step_batches:
            by_kind = losses(lm, batch)
            trained = [loss for kind, loss in by_kind.items() if kind != "noted" or step >= _NOTED_FROM * size.steps]
            torch.stack(trained).sum().backward()
            latest.update((kind, loss.detach()) for kind, loss in by_kind.items())
            tokens += sum(tree_tokens(entry.tree) for entry in batch)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0 or step + 1 == size.steps:
            seconds = time.monotonic() - started
            shown = ", ".join(f"{kind} {value.item():.3f}" for kind, value in latest.items())
            print(
                f"{directory.name} step {step}: {shown}; {tokens / seconds:,.0f} tokens/s, {seconds:.0f} s", flush=True
            )
        if (step + 1) % 500 == 0 or step + 1 == size.steps:
            halved = {name: value.to(torch.bfloat16) for name, value in lm.base.state_dict().items()}
            lm.base.save_pretrained(directory, state_dict=halved)


def add_pooling(directory: Path) -> None:
    """Write the files that make sentence-transformers use the model's mean hidden state as a sentence vector."""
    width = json.loads((directory / "config.json").read_text())["hidden_size"]
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
    (directory / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=1) + "\n")


def main() -> None:
    """Build the tokenizer and the model, and train it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="world-1m", choices=list(SIZES))
    parser.add_argument("--out", type=Path, help="default: models/SIZE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, help="optimizer steps; few of them to try the script")
    args = parser.parse_args()
    out = args.out or Path("models") / args.size
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer(args.seed)
    size = SIZES[args.size]
    size = replace(size, steps=args.steps or size.steps)
    tokenizer.save_pretrained(out)
    build_model(size, tokenizer, args.seed).save_pretrained(out)
    train(out, size, args.seed)
    add_pooling(out)


if __name__ == "__main__":
    main()
