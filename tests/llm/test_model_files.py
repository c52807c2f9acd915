"""Replaced weights at the same path are other weights."""

from trackrec.llm.model_files import model_digest


def test_a_digest_follows_the_files_and_not_their_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(bytes(range(256)) * 40_000)  # 10 MB: read in pieces
        (tmp_path / name / "notes.md").write_text(name)
    first = model_digest(str(tmp_path / "a"))
    assert first
    assert model_digest(str(tmp_path / "b")) == first
    weights = bytearray((tmp_path / "b" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "b" / "model.safetensors").write_bytes(weights)
    assert model_digest(str(tmp_path / "b")) != first
    (tmp_path / "a" / "config.json").write_text("[]")
    assert model_digest(str(tmp_path / "a")) != first


def test_a_hub_name_has_none():
    assert model_digest("Qwen/Qwen2.5-7B-Instruct") == ""
