"""Looks at language models and encoders before the first stage: devices, tokenizers, config.json, and no weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackrec.embed.encode import EmbedSettings
from trackrec.llm.chat import ChatEncoder
from trackrec.llm.loading import BackboneSettings, tokenizer_or_explain
from trackrec.llm.model_files import check_model_path
from trackrec.runtime.errors import SettingError, reason

if TYPE_CHECKING:
    import torch


_PARTS = "modules.json"
"""Lists the parts of a sentence-transformers model."""


def backbone_device(settings: BackboneSettings, key: str) -> torch.device:
    """The device that a model will be on.

    Raises:
        SettingError: this machine hasn't got it, or there is no such device.
    """
    import torch

    cuda = torch.cuda.is_available()
    if settings.device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(settings.device)
    except RuntimeError as error:
        raise SettingError(
            f"{key}.device must be auto, cpu, cuda or a GPU such as cuda:1, got {settings.device!r}."
        ) from error
    count = torch.cuda.device_count() if cuda else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        found = f"{count} of them" if count else "none"
        raise SettingError(f"{key}.device is {settings.device}, but torch finds {found} here. Set it to auto or cpu.")
    return device


def check_backbone(settings: BackboneSettings, key: str, answers: bool) -> None:
    """Check a language model by its tokenizer and its config.json.

    Args:
        settings: of the model.
        key: its config key.
        answers: whether it is asked for Yes or No.

    Raises:
        SettingError: naming the key.
    """
    backbone_device(settings, key)
    folder = local_folder(settings.model, key, settings.revision)
    if folder is None or settings.gguf_file:  # the tokenizer of a GGUF file takes as long to read as its weights
        return
    here = replace(settings, model=str(folder), revision=None)
    tokenizer = tokenizer_or_explain(here, key)
    chat = ChatEncoder(tokenizer, (), settings.system_prompt, key, settings.chat_template_kwargs)
    if answers:
        chat.label_tokens()
    if (folder / "config.json").is_file():
        check_rows(tokenizer, folder, f"{key}.model {settings.model}", {*chat.opening, *chat.closing, chat.eos_id})


def check_encoder(settings: EmbedSettings) -> None:
    """Check the text encoder by its tokenizer and its config.json.

    Raises:
        SettingError: it can't pad texts to a batch, or its tokenizer has more tokens than it has rows.
    """
    from transformers import AutoTokenizer

    if not (Path(settings.model).expanduser() / _PARTS).is_file():
        check_model_path(settings.model, "embed")
    folder = local_folder(settings.model, "embed", None)
    if folder is None:
        return
    modules = folder / _PARTS
    if modules.is_file():  # only the first part has a tokenizer
        first = json.loads(modules.read_text())[0]
        if not str(first.get("type", "")).endswith(".Transformer"):
            return
        folder = folder / str(first.get("path", ""))
    if not (folder / "config.json").is_file():
        return
    name = f"embed.model {settings.model}"
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise SettingError(
            f"{name}: its tokenizer can't be loaded ({reason(error)}). It must be a sentence-transformers or BERT-like "
            "model with its tokenizer beside it."
        ) from error
    if tokenizer.get_vocab().keys() <= {*tokenizer.all_special_tokens}:  # made by transformers where files are missing
        raise SettingError(f"{name}: its tokenizer knows no word. Put the files of the model's tokenizer beside it.")
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise SettingError(
            f"{name}: its tokenizer has no token to pad with and no end-of-text token, so texts of several lengths "
            "make no batch. Set pad_token in its tokenizer_config.json, or choose another encoder."
        )
    used = {tokenizer.pad_token_id, tokenizer.eos_token_id, *tokenizer("a").input_ids} - {None}
    check_rows(tokenizer, folder, name, used)


def check_rows(tokenizer: Any, folder: Path, name: str, used: set[int]) -> None:
    """Check that the embedding has a row for every token that can be read.

    Control tokens that no prompt holds may lie above: models that also read images have such.

    Args:
        tokenizer: of the model.
        folder: holds config.json.
        name: key and value, for errors.
        used: control tokens that are read.

    Raises:
        SettingError: a token has no row.
    """
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config")
    rows = (text if isinstance(text, dict) else config).get("vocab_size")
    if not isinstance(rows, int):
        return
    control = {*tokenizer.all_special_ids, *(i for i, one in tokenizer.added_tokens_decoder.items() if one.special)}
    last = max({*tokenizer.get_vocab().values()} - control | used)
    if last >= rows:
        raise SettingError(
            f"{name}: its tokenizer has token {last} ({tokenizer.convert_ids_to_tokens(last)!r}), but the embedding of "
            f"the model has {rows} rows (vocab_size in config.json). Put the model's own tokenizer beside it, or "
            "a model that was resized to this one."
        )


def local_folder(model: str, key: str, revision: str | None) -> Path | None:
    """Where the files of a model lie on this machine; None for a model that the hub will send.

    Raises:
        SettingError: the hub is switched off, and its cache lacks the model.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    names = [model, f"sentence-transformers/{model}"] if key == "embed" and "/" not in model else [model]
    for name in names:
        try:
            found = Path(snapshot_download(name, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            continue
        return found if (found / "config.json").is_file() or (found / _PARTS).is_file() else None
    if constants.HF_HUB_OFFLINE:
        raise SettingError(
            f"{key}.model: no folder {model!r}, and the cache of the model hub lacks it while HF_HUB_OFFLINE is set. "
            "Give a directory with a model, or fetch it first with HF_HUB_OFFLINE unset."
        )
    return None
