"""Every causal family of transformers against its own eager forward pass; docs/models.md says what came of each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from families import FAMILIES, save_family

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.kernels.attention import NAME
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.parity import root_mean_square
from trackrec.runtime.errors import SettingError

DOC = Path(__file__).parents[2] / "docs" / "models.md"
TABLE = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+?) \|$", DOC.read_text(), re.MULTILINE))
REFUSALS = {
    "doesn't have the layout": "refused: layout",
    "layers without keys and values": "refused: layers without keys and values",
    "log-probabilities are not those": "refused: other log-probabilities",
    "own forward pass in transformers fails": "refused: fails alone",
}


def outcome(family: str, directory: Path) -> str:
    try:
        save_family(family, directory)
    except Exception:
        return "not tried"
    try:
        lm = LanguageModel(BackboneSettings(model=str(directory), dtype="float32", device="cpu"))
    except SettingError as error:
        return next((refusal for words, refusal in REFUSALS.items() if words in str(error)), "refused: not loaded")
    how = ["packed rows" if lm.can_pack() else "plain rows"]
    if lm.base.config._attn_implementation != NAME:
        how.append("own attention")
    elif not lm.shares_prompts:
        how.append("prompt copied")
    return ", ".join(how)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # of transformers, about families of all ages
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_does_as_the_table_says(tmp_path, family):
    assert outcome(family, tmp_path) == TABLE[family]


def test_a_family_that_scales_its_logits_the_other_way_is_refused(tmp_path, monkeypatch):
    """Without a word about HyperCLOVAX its logits would be divided by 2, not multiplied."""
    save_family("hyperclovax", tmp_path)
    monkeypatch.setattr("trackrec.llm.backbone._MULTIPLYING", ())
    words = r"^backbone\.model .* \(family hyperclovax\) can't be used: .*\(plain rows: [\d.]+ nats; generation: [\d.]+"
    with pytest.raises(SettingError, match=words):
        LanguageModel(BackboneSettings(model=str(tmp_path), dtype="float32", device="cpu"))


def test_attention_that_is_wrong_gives_way_to_the_models_own(tmp_path, monkeypatch, caplog):
    """A soft cap that is left out, as it was."""
    save_family("gemma2", tmp_path)
    monkeypatch.setattr(
        "trackrec.llm.kernels.attention._weights", lambda scores, mask, cap, sinks: (scores + mask).softmax(-1)
    )
    lm = LanguageModel(BackboneSettings(model=str(tmp_path), dtype="float32", device="cpu"))
    assert lm.base.config._attn_implementation == "eager"
    assert "trackrec's attention differs from the model's own (plain rows: " in caplog.text


def test_packed_rows_that_are_wrong_give_way_to_plain_ones(tiny_lm, monkeypatch, caplog):
    real = LanguageModel.hidden

    def careless(lm, layout):
        hidden = real(lm, layout)
        return hidden if layout.until is None else hidden * 1.01

    monkeypatch.setattr(LanguageModel, "hidden", careless)
    assert not tiny_lm().can_pack()
    assert re.search(r"computes packed rows differently \([\d.]+ nats\): using plain rows instead", caplog.text)


@pytest.mark.parametrize(("dtype", "quantize"), [("float32", "none"), ("bfloat16", "none"), ("float16", "none")])
def test_rounding_passes(tiny_lm, dtype, quantize):
    lm = tiny_lm(dtype=dtype, quantize=quantize)
    assert lm.can_pack()
    assert lm.shares_prompts
    assert lm.base.config._attn_implementation == NAME


def test_the_gap_by_hand():
    assert root_mean_square(torch.tensor([[3.0, 0.0], [0.0, 4.0]])) == pytest.approx(2.5)
    assert root_mean_square(torch.tensor([0.0, torch.nan])) != root_mean_square(torch.tensor([0.0]))
