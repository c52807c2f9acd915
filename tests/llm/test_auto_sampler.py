"""AutoSampler: what it picks, why."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest
import torch

from trackrec.llm.loading import BackboneSettings
from trackrec.llm.sampling.auto_sampler import AutoSampler, choose
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.vllm.sampler import VLLMSampler

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with so much GPU memory and these packages."""

    def make(gib: int, *packages: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gib > 0)
        properties = types.SimpleNamespace(total_memory=gib << 30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name in packages else None)

    return make


@pytest.mark.parametrize(
    ("gib", "packages", "backbone", "engine", "why"),
    [
        (0, ["vllm"], {}, HFSampler, "no GPU"),
        (80, ["vllm"], {"device": "cpu"}, HFSampler, "no GPU"),
        (80, [], {}, HFSampler, "not installed"),
        (80, ["vllm"], {"quantize": "int8"}, HFSampler, "int8"),
        (80, ["vllm"], {"quantize": "nf4"}, HFSampler, "plugin"),
        (80, ["vllm"], {"gguf_file": "m.gguf"}, HFSampler, "gguf_file"),
        (12, ["vllm"], {}, HFSampler, "12 GiB"),
        (24, ["vllm"], {}, VLLMSampler, "24 GiB"),
        (24, ["vllm", "vllm_bnb_plugin"], {"quantize": "nf4"}, VLLMSampler, "24 GiB"),
    ],
)
def test_what_is_picked_and_why(machine, gib, packages, backbone, engine, why):
    machine(gib, *packages)
    choice = choose(BackboneSettings(model="m", **backbone))
    assert choice.engine is engine
    assert why in choice.why


@pytest.mark.parametrize("gib", [0, 80])
def test_the_engine_gets_the_settings_and_its_own_defaults(machine, gib):
    machine(gib, "vllm")
    sampler, config, _ = AutoSampler(n=3, max_new_tokens=17).resolve(BackboneSettings(model="m"))
    fresh = type(sampler)()
    assert (sampler.n, sampler.max_new_tokens, sampler.batch_tokens) == (3, 17, fresh.batch_tokens)
    assert config["class_path"].endswith(type(sampler).__name__)
    assert type(sampler)(**config["init_args"]).n == 3
    assert config["init_args"]["batch_tokens"] == fresh.batch_tokens


def test_a_bad_setting_is_named():
    with pytest.raises(ValueError, match=r"sampler\.init_args\.batch_tokens must be at least 1, got 0"):
        AutoSampler(batch_tokens=0)
