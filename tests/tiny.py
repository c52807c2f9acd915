"""Tiny random language models with a trained tokenizer, made on the spot: no network, the same bytes every time."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.utils import logging as transformers_logging

from trackrec.prompts.book import PromptBook
from trackrec.prompts.settings import PromptSettings
from trackrec.storage.schemas import to_arrow

START, END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCES = [
    "Yes yes YES. No no NO. Answer Yes or No. Yes, No, yes, no.",
    "The films a viewer rated, oldest first: liked, disliked.",
    "Describe the taste of this viewer in at most 200 words: which kinds of films are liked.",
    "Notes on this viewer: <summary>Enjoys Drama (3 of 4); avoids Horror.</summary>",
    "Next film: The Silver River (1994) [Drama, War]. Will this viewer like it?",
    "A generous viewer: 7 of 9 liked. Mostly a guess, from 9 films.",
    "Is drawn to Comedy and Thriller; dislikes Western. Favourites: Blue Harbour and Last Winter.",
    "The Night Garden (1987) [Comedy]: liked\nIron Coast (2001) [Action]: disliked",
    "user assistant system. Use only the list above, and how sure that is.",
]
CONFIGS = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "mistral": MistralConfig,
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,
    "granite": GraniteConfig,
    "cohere": CohereConfig,
}


def build_tokenizer(vocab_size: int = 600, chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Byte-level BPE on a few sentences, with ChatML's control tokens; eos and pad are ``<|im_end|>``."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=END)
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.chat_template = chat_template
    return tokenizer


def save_tiny_model(directory: Path, architecture: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """A random model of an architecture, float32, and its tokenizer. ``changes`` go to its config.

    The weights are larger than a training would start from, so that attention and answers are far from uniform.
    """
    tokenizer = build_tokenizer()
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": architecture in ("gemma", "gemma2", "cohere"),
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "mistral":
        values["sliding_window"] = None
    if architecture in ("qwen2", "granite", "cohere"):
        del values["head_dim"]
    config = CONFIGS[architecture](**(values | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def frame(table: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a frame of exactly the schema of a table."""
    made = pl.from_arrow(to_arrow(table, rows))
    assert isinstance(made, pl.DataFrame)
    return made


def build_book(
    settings: PromptSettings | None = None, threshold: float = 3.0, empty: Collection[str] = ()
) -> PromptBook:
    """Six viewers h0 ... h5 with histories of 2 ... 7 films out of 20; the last film has no year and no genre.

    The histories named in ``empty`` have no film.
    """
    genres = ["Drama", "Comedy", "War", "Horror", "Action"]
    words = ["Silver", "Night", "Iron", "Blue", "Last"]
    items = [
        {"item_id": f"i{i}", "title": f"The {words[i % 5]} River {i}", "year": 1970 + 2 * i if i < 19 else None}
        | {"attributes": [genres[i % 5], genres[(i + 2) % 5]][: 1 + i % 2] if i < 19 else []}
        for i in range(20)
    ]
    users = [{"user_id": f"u{u}", "attributes": ["F" if u % 2 else "M", "25-34"]} for u in range(6)]
    histories = [
        {"history_id": f"h{u}", "user_id": f"u{u}", "item_ids": [f"i{(3 * u + j) % 20}" for j in range(2 + u)]}
        | {"ratings": [float(1 + (u + 2 * j) % 5) for j in range(2 + u)]}
        for u in range(6)
    ]
    histories = [row | ({"item_ids": [], "ratings": []} if row["history_id"] in empty else {}) for row in histories]
    tables = frame("histories", histories), frame("items", items), frame("users", users)
    return PromptBook(*tables, threshold, settings or PromptSettings())


def reccot_row(history_id: str, draw: int = 0, **values: Any) -> dict[str, Any]:
    """A row of the reccots table."""
    row = {"history_id": history_id, "source": "teacher", "round": 0, "draw": draw, "text": "", "token_ids": []}
    return row | {"prompt_hash": "", "finish_reason": "stop", "seed": 0} | values


def save_tiny_encoder(directory: Path, seed: int = 0) -> Path:
    """A random BERT of width 16 as a directory that sentence-transformers loads with mean pooling."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
