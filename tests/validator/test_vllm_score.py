"""V asked by vLLM: the same questions, the same opinions as packed rows give."""

from __future__ import annotations

import pytest
import torch
from tiny import build_book

from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.vllm.host import VLLMHost
from trackrec.storage.parts import read_table
from trackrec.validator.score import encode_jobs, score_jobs, score_reccots
from trackrec.validator.settings import ScoreSettings

TEXTS = {0: "Enjoys Drama (3 of 4).", 1: "Avoids Horror; likes War.", 2: None}
TARGETS = {f"h{i}": [(f"s{i}{t}", f"i{(i + 7 * t) % 20}", (i + t) % 2) for t in range(1 + i % 3)] for i in range(6)}
# vLLM's attention on CPUs takes heads from 32 on.
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}


def opinions(lm, out, engine: str, adapter: str | None = None) -> dict[tuple[str, int, str], tuple[float, ...]]:
    entries = encode_jobs(lm, build_book(), score_jobs(TARGETS, {key: list(TEXTS.items()) for key in TARGETS}))
    settings = ScoreSettings(engine=engine)
    names = {"source": "g1", "round_": 1, "validator": "v1"}
    notes = score_reccots(lm, adapter, entries, out, **names, reader=settings.reader(), shard_size=4)
    table = read_table(out, "scores", check_keys=True)
    assert notes["questions"] == len(table) == sum(map(len, TARGETS.values())) * len(TEXTS)
    columns = table.select("history_id", "draw", "sample_id", "p_yes", "answer_mass", "p_true")
    return {row[:3]: row[3:] for row in columns.iter_rows()}


def test_the_questions_are_whole_prompts(tiny_lm, tmp_path, monkeypatch):
    """With vLLM's answer replaced by a forward pass over each prompt, both ways agree to the last digits."""
    released = []

    def score(self, lm, adapter, prompts, tokens, on_progress):
        assert self._overrides == {"hf_overrides": {"head_dtype": "float32"}}
        with lm.using(adapter):
            rows = [lm.base(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in prompts]
        return [row[tokens].tolist() for row in rows]

    monkeypatch.setattr(VLLMHost, "score", score)
    monkeypatch.setattr(VLLMHost, "release", lambda self: released.append(self))
    lm = tiny_lm(config={"initializer_range": 0.6}, adapters=["v"])
    packed, single = (opinions(lm, tmp_path / name, name, "v") for name in ("hf", "vllm"))
    assert packed.keys() == single.keys()
    for key, values in packed.items():
        assert single[key] == pytest.approx(values, abs=1e-5)
    assert len(released) == 1


def test_a_missing_vllm_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ScoreSettings().check(BackboneSettings(model="m"))
    words = r"scoring\.engine vllm can't be used: vLLM is not installed.* Or use scoring\.engine hf"
    with pytest.raises(ImportError, match=words):
        ScoreSettings(engine="vllm").check(BackboneSettings(model="m"))


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_agrees_with_packed_rows(tiny_lm, tmp_path):
    lm = tiny_lm(config=SHAPE | {"initializer_range": 0.3}, adapters=["v"], lora=LoRASettings(r=4, alpha=8))
    generator = torch.Generator().manual_seed(0)
    for parameter in lm.train_only("v"):
        parameter.data.normal_(std=0.15, generator=generator)
    packed, single = (opinions(lm, tmp_path / name, name, "v") for name in ("hf", "vllm"))
    base = opinions(lm, tmp_path / "base", "hf")
    assert packed.keys() == single.keys()
    for key, (p_yes, mass, _) in packed.items():
        assert single[key][0] == pytest.approx(p_yes, abs=0.002)
        assert single[key][1] == pytest.approx(mass, abs=0.002)
    assert max(abs(base[key][0] - packed[key][0]) for key in packed) > 0.1  # the adapter was asked, not the base
