"""The tuned generator and validator as folders that others load, and the upload of one."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [
    pytest.mark.recipe,
    pytest.mark.slow,
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21326
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


@pytest.fixture(scope="module")
def finished(config: Path) -> Path:
    from trackrec.cli.app import run_cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["trackrec"])
        run_cli(["fit", "--config", str(config), "--loop.rounds", "1"])
    return config


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(3, 23)[None]).logits
    return found


def test_the_adapters_and_the_merged_model_are_loaded_by_others(
    finished: Path, trackrec: Callable[..., str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ("export", "--config", str(finished), "--loop.rounds", "1", "--adapter")
    model = yaml.safe_load(finished.read_text())["backbone"]["model"]
    answers = {}
    for role, stage in (("G", "round-1/align"), ("V", "round-1/rec_tune")):
        said = trackrec(*command, role, "--output", str(tmp_path / role))
        assert f"{role} of stage {stage} in {tmp_path / role}" in said
        assert {path.name for path in (tmp_path / role).iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "README.md",
        }
        assert json.loads((tmp_path / role / "adapter_config.json").read_text())["base_model_name_or_path"] == model
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        plain = logits(base)
        answers[role] = logits(PeftModel.from_pretrained(base, str(tmp_path / role)))
        assert (answers[role] - plain).abs().max() > 1e-4
    assert (answers["G"] - answers["V"]).abs().max() > 1e-4
    trackrec(*command, "G", "--merged", "true", "--output", str(tmp_path / "whole"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    torch.testing.assert_close(logits(merged), answers["G"], rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "whole")("Film").input_ids
    card = (tmp_path / "V" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["library_name"], front["base_model"]) == ("peft", model)
    assert "# The validator of a recommender" in card
    assert "| auc | " in card
    for flags, words in (
        (["--adapter", "G", "--output", str(tmp_path / "G")], "exists already"),
        (["--adapter", "G", "--loop.distill", "false", "--loop.align", "false"], "--adapter G: this run tunes no gen"),
        (["--adapter", "G", "--merged", "true", "--backbone.quantize", "nf4"], "--merged: the model is loaded as nf4"),
        (["--merged", "true"], "--merged and --push_to_hub go with --adapter"),
    ):
        asked = ["export", "--config", str(finished), "--loop.rounds", "1", "--output", str(tmp_path / "new"), *flags]
        with pytest.raises(SystemExit):
            trackrec(*asked)
        assert words in " ".join(capfd.readouterr().err.split())
        assert not (tmp_path / "new").exists()


class _Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that an upload of small files uses."""

    asked: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append((self.path, body))
        host = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.headers.get("Authorization") != "Bearer hf_secret":
            self._say(401, {"error": "no token"})
        elif self.path == "/api/repos/create":
            self._say(200, {"url": f"{host}/someone/taste", "id": "someone/taste"})
        elif self.path.endswith("/preupload/main"):
            names = [one["path"] for one in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._say(200, {"files": files})
        elif self.path == "/api/validate-yaml":
            self._say(200, {"errors": [], "warnings": []})
        else:
            self._say(200, {"success": True, "commitOid": "1", "commitUrl": f"{host}/someone/taste/commit/1"})

    def do_GET(self) -> None:
        self.asked.append((self.path, b""))
        self._say(200, {"id": "someone/taste", "sha": "0", "siblings": []})

    def _say(self, status: int, content: dict[str, Any]) -> None:
        answer = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bytes]]]:
    """A hub on loopback; what it was asked."""
    handler = type("Hub", (_Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield handler.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def test_an_adapter_is_uploaded_as_a_private_repository(
    finished: Path,
    trackrec: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    hub: list[tuple[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("export", "--config", str(finished), "--loop.rounds", "1", "--adapter", "V", "--push_to_hub")
    said = trackrec(*command, "someone/taste", "--output", str(tmp_path / "V"))
    assert "uploaded to http://127.0.0.1:" in said
    created = json.loads(next(body for path, body in hub if path == "/api/repos/create"))
    assert (created["name"], created["organization"], created["visibility"]) == ("taste", "someone", "private")
    lines = [json.loads(line) for line in next(body for path, body in hub if "/commit/main" in path).splitlines()]
    sent = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert sent == {path.name for path in (tmp_path / "V").iterdir()}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SystemExit):
        trackrec(*command, "someone/taste", "--output", str(tmp_path / "again"))
    message = " ".join(capfd.readouterr().err.split())
    assert "--push_to_hub someone/taste: the upload failed (" in message
    assert "hf auth login" in message
    assert (tmp_path / "again" / "README.md").is_file()
