"""The language models of a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from trackrec.llm.loading import BackboneSettings
from trackrec.recipe.models import language_model
from trackrec.runtime.errors import SettingError

# As Qwen3.5 has it: a thought is begun unless it is switched off.
THINKING = (
    "{% for message in messages %}{{ message.content }}{% endfor %}"
    "{% if enable_thinking is false %}<think></think>{% else %}<think>{% endif %}"
)


def test_the_validators_template_reads_its_own_variables_when_g_is_loaded(tiny_model_dir: Path, tmp_path: Path) -> None:
    thinker = Path(shutil.copytree(tiny_model_dir, tmp_path / "thinker"))
    tokenizer = AutoTokenizer.from_pretrained(thinker)
    tokenizer.chat_template = THINKING
    tokenizer.save_pretrained(thinker)

    def load(**changes: Any) -> Any:
        other = BackboneSettings(str(thinker), dtype="float32", device="cpu", **changes)
        plain = BackboneSettings(str(tiny_model_dir), dtype="float32", device="cpu")
        exp: Any = SimpleNamespace(backbone=plain, validator_backbone=other, models={}, say=lambda text: None)
        return language_model(exp, "generator"), language_model(exp, "validator")

    _, validator = load()
    assert validator.chat.tokenizer.decode(validator.chat.closing) == "<think></think>"
    with pytest.raises(SettingError, match=r"^validator_backbone\.model: .* inside a thought \(<think>\)"):
        load(chat_template_kwargs={"enable_thinking": True})
