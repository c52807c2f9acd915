"""Models and encoders are looked at before the first stage, without their weights and without the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny_encoder
from transformers import AutoTokenizer

from trackrec.commands.early_models import backbone_device, check_backbone, check_encoder
from trackrec.embed.encode import EmbedSettings, embed_texts
from trackrec.llm.loading import BackboneSettings
from trackrec.runtime.errors import MissingFileError, SettingError


def settings(folder: Path | str, **more: Any) -> BackboneSettings:
    return BackboneSettings(str(folder), dtype="float32", device="cpu", **more)


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model without its weights, which nothing here may read."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    return folder


def change_tokenizer(folder: Path, **values: Any) -> None:
    """Change entries of tokenizer_config.json; None takes one out."""
    file = folder / "tokenizer_config.json"
    known = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))


def test_a_model_that_fits_its_tokenizer_is_fine(model: Path) -> None:
    check_backbone(settings(model), "backbone", answers=True)


def test_a_token_above_the_rows_of_the_embedding_is_named(model: Path) -> None:
    """The tiny tokenizer has as many tokens as the model has rows, so the first that is added has none."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = len(tokenizer)
    tokenizer.add_tokens(["Rosebud"])
    tokenizer.save_pretrained(model)
    with pytest.raises(SettingError) as found:
        check_backbone(settings(model), "validator_backbone", answers=True)
    assert str(found.value).startswith(
        f"validator_backbone.model {model}: its tokenizer has token {rows} ('Rosebud'), but the embedding of the model "
        f"has {rows} rows"
    )


def test_a_control_token_that_no_prompt_holds_may_lie_above(model: Path) -> None:
    """As in models that also read images."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    tokenizer.save_pretrained(model)
    check_backbone(settings(model), "backbone", answers=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>assistant", "<|image|>assistant")
    tokenizer.save_pretrained(model)
    with pytest.raises(SettingError, match=r"\('<\|image\|>'\)"):
        check_backbone(settings(model), "backbone", answers=True)


def test_the_rows_of_a_model_that_also_reads_images_are_those_of_its_text_part(model: Path) -> None:
    file = model / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({"model_type": "llama", "text_config": {"vocab_size": 10}, "vocab_size": 10**6}))
    with pytest.raises(SettingError, match="has 10 rows"):
        check_backbone(settings(model), "backbone", answers=True)
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"chat_template_kwargs": {"enable_thought": True}}, r"^backbone\.chat_template_kwargs: 'enable_thought'"),
        ({"device": "gpu"}, r"^backbone\.device must be auto, cpu, cuda or a GPU such as cuda:1, got 'gpu'"),
        ({"device": "cuda"}, r"^backbone\.device is cuda, but torch finds none here\. Set it to auto or cpu\."),
    ],
)
def test_what_the_model_would_refuse_hours_later_is_said(
    model: Path, more: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=said):
        check_backbone(BackboneSettings(str(model), **more), "backbone", answers=True)


def test_the_device_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert backbone_device(BackboneSettings("m"), "backbone") == torch.device("cuda")
    assert backbone_device(BackboneSettings("m", device="cuda:1"), "backbone") == torch.device("cuda:1")
    with pytest.raises(SettingError, match="torch finds 2 of them here"):
        backbone_device(BackboneSettings("m", device="cuda:2"), "backbone")


def test_a_model_of_the_hub_is_left_to_the_hub_unless_that_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    check_backbone(settings("nobody/nothing"), "backbone", answers=True)
    check_encoder(EmbedSettings("nothing"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingError, match=r"^backbone\.model: no folder 'nobody/nothing', and the cache of the model"):
        check_backbone(settings("nobody/nothing"), "backbone", answers=True)


def test_an_encoder_that_is_a_language_model_pads_with_its_end_of_text(tiny_model_dir: Path, tmp_path: Path) -> None:
    """What is padded is masked: a text has the vector that it has alone."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "encoder"))
    change_tokenizer(folder, pad_token=None)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id is None
    embed = EmbedSettings(str(folder))
    check_encoder(embed)
    texts = ["likes drama", "likes comedy and films about war and hates all of horror"]
    assert embed_texts(texts, embed, tmp_path / "both", None)["encoded"] == 2
    embed_texts(texts[:1], embed, tmp_path / "one", None)
    from trackrec.embed.vectors import vectors_of

    both, alone = vectors_of(tmp_path / "both", texts[:1]), vectors_of(tmp_path / "one", texts[:1])
    torch.testing.assert_close(torch.tensor(both), torch.tensor(alone), atol=2e-3, rtol=0)


def test_an_encoder_that_cannot_pad_is_named(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path)
    check_encoder(EmbedSettings(str(tmp_path)))
    change_tokenizer(tmp_path, pad_token=None, eos_token=None)
    with pytest.raises(SettingError, match=r"^embed\.model .*: its tokenizer has no token to pad with and no end-of"):
        check_encoder(EmbedSettings(str(tmp_path)))


def test_an_encoder_with_too_few_rows_or_no_tokenizer_is_named(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] - 1}))
    with pytest.raises(SettingError, match=rf"^embed\.model .*has {config['vocab_size'] - 1} rows"):
        check_encoder(EmbedSettings(str(tmp_path)))
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(SettingError, match=r"^embed\.model .*: its tokenizer (knows no word|can't be loaded)"):
        check_encoder(EmbedSettings(str(tmp_path)))
    with pytest.raises(MissingFileError, match=r"^embed\.model: no model .* in '\./nowhere'"):
        check_encoder(EmbedSettings("./nowhere"))


def test_the_parts_of_a_sentence_transformer_are_found(tmp_path: Path) -> None:
    """Its first part holds the tokenizer; one without a transformer isn't looked at."""
    save_tiny_encoder(tmp_path / "0_Transformer")
    modules = tmp_path / "modules.json"
    first = {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    modules.write_text(json.dumps([first]))
    change_tokenizer(tmp_path / "0_Transformer", pad_token=None, eos_token=None)
    with pytest.raises(SettingError, match="no token to pad with"):
        check_encoder(EmbedSettings(str(tmp_path)))
    modules.write_text(json.dumps([{**first, "type": "sentence_transformers.models.StaticEmbedding"}]))
    check_encoder(EmbedSettings(str(tmp_path)))
