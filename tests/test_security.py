"""Files from strangers: nothing in a model, an adapter or a checkpoint is ever run, and what is broken is named."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny_encoder

from trackrec.embed.encode import EmbedSettings, embed_texts
from trackrec.llm.backbone import LanguageModel
from trackrec.llm.loading import BackboneSettings, LoRASettings

ROOT = Path(__file__).parent.parent
EVIL = "from pathlib import Path\nPath({proof!r}).touch()\n"


class Payload:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    return tmp_path / "proof"


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be spoilt."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def load(model: Path) -> LanguageModel:
    return LanguageModel(BackboneSettings(model=str(model), dtype="float32", device="cpu", lora=LoRASettings(r=2)))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# -- the base model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["a known architecture", "an unknown one"])
def test_code_beside_a_model_is_never_run(model: Path, proof: Path, known: bool) -> None:
    (model / "evil.py").write_text(EVIL.format(proof=str(proof)))
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", None]}
    edit(model / "config.json", auto_map=auto_map, **({} if known else {"model_type": "evil"}))
    edit(model / "tokenizer_config.json", auto_map=auto_map)
    if known:
        assert load(model).max_length == 2048
    else:
        with pytest.raises(ValueError, match=r"backbone\.model .* needs remote code, which trackrec never runs"):
            load(model)
    assert not proof.exists()


def test_a_pickled_base_is_not_unpickled(model: Path, proof: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"payload": Payload(proof)}, model / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"backbone\.model .* holds a pickle with more than weights"):
        load(model)
    assert not proof.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)
    assert proof.exists()  # it would have worked on a careless reader


def test_a_torn_base_is_named(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"backbone\.model .*: its weights are damaged .*Download it again"):
        load(model)


# -- the text encoder ---------------------------------------------------------------------------------------------


def embed(model: Path, out: Path) -> Any:
    return embed_texts(["Enjoys Drama."], EmbedSettings(model=str(model)), out, None)


def test_code_beside_an_encoder_is_never_run(tmp_path: Path, proof: Path) -> None:
    encoder = tmp_path / "encoder"
    save_tiny_encoder(encoder)
    (encoder / "evil.py").write_text(EVIL.format(proof=str(proof)))
    (encoder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]))
    with pytest.raises(ValueError, match=r"embed\.model .* can't be loaded"):
        embed(encoder, tmp_path / "out")
    assert not proof.exists()


def test_a_pickled_encoder_is_not_unpickled(tmp_path: Path, proof: Path) -> None:
    encoder = tmp_path / "encoder"
    save_tiny_encoder(encoder)
    (encoder / "model.safetensors").unlink()
    torch.save({"payload": Payload(proof)}, encoder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"embed\.model .* can't be loaded"):
        embed(encoder, tmp_path / "out")
    assert not proof.exists()


# -- adapters -----------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    lm = load(model)
    lm.add_adapter("g", seed=0)
    lm.save_adapter(tmp_path / "stage" / "adapter", "g")
    return tmp_path / "stage" / "adapter"


@pytest.mark.parametrize("left", [0, 7, 100, 2000])
def test_a_torn_adapter_is_named(model: Path, adapter: Path, left: int) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(
        ValueError, match=r"adapter_model\.safetensors can't be read .*Delete the directory of its stage"
    ):
        load(model).load_adapter(adapter, "g")


def test_a_header_that_lies_is_an_error(model: Path, adapter: Path) -> None:
    """Eight bytes that promise a header of exabytes."""
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors can't be read"):
        load(model).load_adapter(adapter, "g")


def test_a_pickled_adapter_is_not_read(model: Path, adapter: Path, proof: Path) -> None:
    torch.save({"payload": Payload(proof)}, adapter / "adapter_model.bin")
    load(model).load_adapter(adapter, "g")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no adapter_model\.safetensors"):
        load(model).load_adapter(adapter, "g")
    assert not proof.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"peft_type": "EVIL"}'])
def test_a_broken_adapter_config_is_an_error(model: Path, adapter: Path, text: str) -> None:
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"the adapter in .*stage/adapter can't be loaded .*Delete .*stage and run"):
        load(model).load_adapter(adapter, "g")


# -- the code itself ----------------------------------------------------------------------------------------------


def calls(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Name and constant keyword arguments of every call in a file; ``**`` stands under None."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {
                key.arg: key.value.value if isinstance(key.value, ast.Constant) else ast.unparse(key.value)
                for key in node.keywords
            }
            found.append((ast.unparse(node.func), keywords))
    return found


def test_nothing_is_unpickled_and_no_remote_code_is_trusted() -> None:
    """Every reader of a model says so itself, whatever the defaults of its library become."""
    files = [*(ROOT / "trackrec").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    readers = set[str]()
    for path in files:
        text = path.read_text()
        assert "trust_remote_code=True" not in text, path
        for name, keywords in calls(path):
            assert not name.endswith((".Unpickler", "pickle.load", "pickle.loads", "joblib.load")), path
            assert name not in ("eval", "exec", "compile", "__import__"), path
            if name == "torch.load" or keywords.get("weights_only") is False:
                assert keywords["weights_only"] is (name == "torch.load"), path
            if name.endswith("from_pretrained") and "Peft" not in name and "save" not in name:
                assert keywords.get("trust_remote_code", "common") in (False, "common"), path
                assert "trust_remote_code" in keywords or keywords.get(None) == "common", path
                readers.add(str(path.relative_to(ROOT)))
            if name == "SentenceTransformer":
                assert keywords["trust_remote_code"] is False, path
                readers.add(str(path.relative_to(ROOT)))
    assert len(files) > 80
    assert readers == {
        "scripts/bench_trl.py",
        "scripts/fetch_models.py",
        "trackrec/commands/early_models.py",
        "trackrec/commands/plan.py",
        "trackrec/embed/encode.py",
        "trackrec/llm/loading.py",
    }, "a reader of models that is new here: see that it trusts nothing, then add it"
