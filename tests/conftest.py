"""Tiny random language models and the prompts they are fed (see `tiny`), and the command line in this process."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trackrec.llm.backbone import LanguageModel
    from trackrec.prompts.book import PromptBook


BESIDE_OTHERS = "PYTEST_XDIST_WORKER" in os.environ
if BESIDE_OTHERS:  # before torch is imported: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# The files that take longest begin: then the processes end at about the same time.
LONGEST_FIRST = (
    *("test_full_disk.py", "test_devices.py", "test_fit.py", "test_sweep.py", "test_crash.py", "test_loop_shapes.py"),
    *("test_ctr_commands.py", "test_resume.py", "test_across.py", "test_openai_real_server.py", "test_secrets.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU are skipped where there is none or it isn't theirs alone, tests of vLLM where it isn't installed.

    Several processes (``pytest -n 2 --dist loadfile --no-loadscope-reorder``) get the longest files first.
    """
    if BESIDE_OTHERS:
        place = {name: number for number, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: place.get(item.path.name, len(place)))
    for marker, there, reason in (
        ("gpu", _has_gpu, "needs a CUDA device of its own: pytest -m gpu" if BESIDE_OTHERS else "needs a CUDA device"),
        ("vllm", _has_vllm, "needs vLLM: make test-vllm"),
    ):
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not there():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available() and not BESIDE_OTHERS


def _has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_models("qwen2", **config)``: the directory of such a model, made once."""
    from tiny import save_tiny_model

    made: dict[str, Path] = {}

    def get(architecture: str = "llama", **changes: Any) -> Path:
        key = f"{architecture} {sorted(changes.items())}"
        if key not in made:
            made[key] = save_tiny_model(tmp_path_factory.mktemp(architecture), architecture, **changes)
        return made[key]

    return get


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_models: Callable[..., Path]) -> Path:
    """A tiny random Llama with its tokenizer."""
    return tiny_models("llama")


@pytest.fixture
def tiny_lm(tiny_models: Callable[..., Path]) -> Iterator[Callable[..., LanguageModel]]:
    """``tiny_lm("qwen2", adapters=["g"], lora=LoRASettings(...), config={...})``: a freshly loaded float32 model."""
    import torch

    from trackrec.llm.backbone import LanguageModel
    from trackrec.llm.loading import BackboneSettings

    def build(architecture: str = "llama", adapters: Any = (), config: Any = None, **settings: Any) -> LanguageModel:
        where = tiny_models(architecture, **(config or {}))
        lm = LanguageModel(BackboneSettings(**{"model": str(where), "dtype": "float32", "device": "cpu"} | settings))
        for seed, name in enumerate(adapters):
            lm.add_adapter(name, seed)
        return lm

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield build
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_book() -> PromptBook:
    """Histories h0 ... h5 over items i0 ... i19."""
    from tiny import build_book

    return build_book()


@pytest.fixture
def trackrec(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command line in this process; returns what it printed."""

    def run(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["trackrec"])
        capfd.readouterr()
        from trackrec.cli.app import run_cli  # heavy, and most tests don't need it

        run_cli(list(args))
        return capfd.readouterr().out

    return run
