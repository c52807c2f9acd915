"""vLLM's process, with a stand-in for vLLM: what it is told, what comes back, and how its failures are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.llm.vllm.process import VLLMError, VLLMSettings, check_vllm, engine_arguments
from trackrec.llm.vllm.sampler import VLLMSampler

PROMPTS = [[5, 1], [5, 2], [5, 3]]
FAKE = Path(__file__).parent / "fake_vllm"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """``asked("request")``: what the stand-in was told so far."""
    path = tmp_path / "record.jsonl"
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("FAKE_VLLM_RECORD", str(path))

    def read(event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    return read


@pytest.fixture
def sampler(asked) -> Iterator[Callable[..., VLLMSampler]]:
    """``sampler(n=2, ...)``; its process ends with the test."""
    made: list[VLLMSampler] = []

    def build(**settings: Any) -> VLLMSampler:
        made.append(VLLMSampler(**{"n": 2, "max_new_tokens": 7} | settings))
        return made[-1]

    yield build
    for one in made:
        one.release()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def nothing(count: int) -> None:
    pass


def test_each_draw_has_its_seed_and_comes_back_in_order(tiny_lm, sampler, asked):
    lm, one = tiny_lm(), sampler(temperature=0.7, top_p=0.8)
    done: list[int] = []
    draws = one.draw(lm, None, PROMPTS, [[10, 11], [20, 21], [30, 31]], done.append)
    eos = lm.chat.eos_id
    assert [[draw.token_ids for draw in row] for row in draws] == [
        [[prompt[-1], 0, seed, eos] for seed in (base, base + 1)]
        for prompt, base in zip(PROMPTS, (10, 20, 30), strict=True)
    ]
    assert {draw.finish_reason for row in draws for draw in row} == {"stop"}
    assert sum(done) == len(PROMPTS)
    requests = asked("request")
    assert [request["prompt"] for request in requests] == [prompt for prompt in PROMPTS for _ in range(2)]
    due = {"temperature": 0.7, "top_p": 0.8, "max_tokens": 7, "stop_token_ids": [eos], "seed": 10}
    assert due.items() <= requests[0]["params"].items()
    assert requests[0]["params"]["ignore_eos"]  # no other end-of-text token of the model counts
    assert len(asked("reset")) == 1


def test_without_seeds_one_greedy_text_each(tiny_lm, sampler, asked):
    draws = sampler().draw(tiny_lm(), None, PROMPTS, None, nothing)
    assert [len(row) for row in draws] == [1, 1, 1]
    assert all(request["params"]["temperature"] == 0 for request in asked("request"))
    assert all("seed" not in request["params"] for request in asked("request"))


def test_the_process_stays_between_draws_and_is_gone_after_release(tiny_lm, sampler, asked):
    lm, one = tiny_lm(), sampler()
    one.draw(lm, None, PROMPTS, None, nothing)
    pid = one.host.pid
    one.draw(lm, None, PROMPTS, None, nothing)
    assert one.host.pid == pid
    assert not gone(pid)
    one.release()
    assert gone(pid)
    assert one.host.pid is None
    one.draw(lm, None, PROMPTS, None, nothing)  # and it may draw again
    assert [start["pid"] for start in asked("start")] == [pid, one.host.pid]


def test_the_process_is_set_up_before_torch(tiny_lm, sampler, asked):
    sampler().draw(tiny_lm(), None, PROMPTS, None, nothing)
    (start,) = asked("start")
    assert start["environment"] == {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    assert start["pid"] != os.getpid()


def test_the_child_imports_nothing_heavy_before_the_engine():
    code = "import sys, trackrec.llm.vllm.child; print([name for name in ('torch', 'vllm') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_adapters_are_known_by_their_weights(tiny_lm, sampler, asked):
    """The same weights are loaded once; changed weights under the same name get a new name and number."""
    lm, one = tiny_lm(adapters=["one", "two"], lora=LoRASettings(r=12)), sampler()

    def number(adapter: str) -> int:
        return one.draw(lm, adapter, PROMPTS[:1], None, nothing)[0][0].token_ids[1]

    assert [number("one"), number("two"), number("one"), number("two")] == [1, 2, 1, 2]
    for parameter in lm.train_only("one"):
        parameter.data.add_(0.1)
    assert [number("one"), number("two")] == [3, 2]
    assert one.draw(lm, None, PROMPTS[:1], None, nothing)[0][0].token_ids[1] == 0  # the base, by the same engine
    given = [request for request in asked("request") if request["lora"]]
    names = {request["lora"]["number"]: request["lora"]["name"] for request in given}
    assert len(set(names.values())) == 3
    assert all(request["files"] == ["adapter_config.json", "adapter_model.safetensors"] for request in given)
    (start,) = asked("start")
    assert start["arguments"]["max_lora_rank"] == 16
    folder = Path(asked("request")[0]["lora"]["path"]).parent
    one.release()
    assert not folder.exists()


def test_a_longer_prompt_starts_a_longer_engine(tiny_lm, sampler, asked):
    lm, one = tiny_lm(), sampler(max_new_tokens=30)
    one.draw(lm, None, PROMPTS, None, nothing)
    one.draw(lm, None, [[5] * 1000], None, nothing)
    one.draw(lm, None, PROMPTS, None, nothing)
    assert [start["arguments"]["max_model_len"] for start in asked("start")] == [1024, 2048]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, "the model reaches 2048"), ({"max_model_len": 500}, r"sampler.init_args.max_model_len is 500")],
)
def test_a_prompt_that_is_too_long_is_refused(tiny_lm, sampler, settings, words):
    with pytest.raises(ValueError, match=words):
        sampler(max_new_tokens=50, **settings).draw(tiny_lm(), None, [[5] * 2000], None, nothing)


def test_an_error_is_told_with_the_log_and_leaves_no_process(tiny_lm, sampler, asked):
    one = sampler()
    with pytest.raises(VLLMError, match="vLLM failed while it wrote texts: RuntimeError: the prompt is bad") as caught:
        one.draw(tiny_lm(), None, [[666]], None, nothing)
    assert "a line of the log" in str(caught.value)
    path = Path(str(caught.value).splitlines()[1].removeprefix("The end of its log, ").removesuffix(":"))
    assert "Traceback" in path.read_text()
    assert one.host.pid is None
    assert gone(asked("start")[0]["pid"])
    path.unlink()


@pytest.mark.parametrize(
    ("token", "words"), [(999, "exit status 7"), (998, "killed, most often for lack of memory: lower kv_cache_gib")]
)
def test_a_death_is_told_with_the_log(tiny_lm, sampler, token, words):
    one = sampler()
    with pytest.raises(VLLMError, match=f"died while it wrote texts .{words}") as caught:
        one.draw(tiny_lm(), None, [[5], [token]], None, nothing)
    assert "a line of the log" in str(caught.value)
    assert ("out of cheese" in str(caught.value)) == (token == 999)
    draws = one.draw(tiny_lm(), None, [[5]], None, nothing)  # the next call starts afresh
    assert draws[0][0].token_ids[0] == 5


def test_a_process_killed_between_draws_is_told(tiny_lm, sampler):
    one = sampler()
    one.draw(tiny_lm(), None, PROMPTS, None, nothing)
    os.kill(one.host.pid, signal.SIGKILL)
    with pytest.raises(VLLMError, match="killed"):
        one.draw(tiny_lm(), None, PROMPTS, None, nothing)


def test_an_engine_that_does_not_start_is_told(tiny_lm, sampler, asked):
    one = sampler()
    lm = tiny_lm()
    lm.settings = BackboneSettings(model=lm.settings.model, dtype="float32", revision="broken")
    with pytest.raises(VLLMError, match="vLLM failed while it started: ValueError: no such revision\n") as caught:
        one.draw(lm, None, PROMPTS, None, nothing)
    assert one.host.pid is None
    assert gone(asked("start")[0]["pid"])
    assert "and a long story" in str(caught.value)


def test_an_interruption_ends_the_process(tiny_lm, sampler, asked):
    """Its answer to the interrupted request would be taken for the answer to the next."""

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    one = sampler()
    with pytest.raises(KeyboardInterrupt):
        one.draw(tiny_lm(), None, PROMPTS, None, interrupt)
    assert gone(asked("start")[0]["pid"])
    assert [draw.token_ids[0] for (draw,) in one.draw(tiny_lm(), None, PROMPTS[:2], None, nothing)] == [1, 2]


def test_missing_vllm_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"scripts/install_vllm_cpu.sh. Or use HFSampler"):
        VLLMSampler().check(BackboneSettings(model="m"))


@pytest.mark.parametrize(
    ("backbone", "error", "words"),
    [
        ({"quantize": "int8"}, ValueError, "int8"),
        ({"gguf_file": "x.gguf"}, ValueError, "x.gguf"),
        ({"quantize": "nf4"}, ImportError, "vllm-bnb-plugin.* Or use HFSampler"),
    ],
)
def test_weights_that_vllm_does_not_load_are_refused(monkeypatch, backbone, error, words):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "vllm" else None)
    with pytest.raises(error, match=words):
        check_vllm(BackboneSettings(model="m", **backbone), "sampler VLLMSampler", "HFSampler")


def test_arguments_of_the_engine():
    gpu = engine_arguments(
        BackboneSettings(model="org/name", quantize="nf4", dtype="float16"),
        VLLMSettings(0.4),
        4096,
        8192,
        20,
        cpu=False,
    )
    assert gpu["model"] == "org/name"
    assert (gpu["quantization"], gpu["dtype"], gpu["gpu_memory_utilization"]) == ("bitsandbytes", "float16", 0.4)
    assert (gpu["enable_lora"], gpu["max_lora_rank"], gpu["enforce_eager"]) == (True, 32, False)
    assert (gpu["max_model_len"], gpu["max_num_batched_tokens"]) == (4096, 8192)
    assert "kv_cache_memory_bytes" not in gpu
    cpu = engine_arguments(BackboneSettings(model="org/name"), VLLMSettings(), 1024, 8192, 0, cpu=True)
    assert (cpu["kv_cache_memory_bytes"], cpu["enforce_eager"]) == (2**30, True)
    long = engine_arguments(BackboneSettings(model="m"), VLLMSettings(), 9000, 8192, 0, cpu=True)
    assert (long["enable_chunked_prefill"], long["max_num_batched_tokens"]) == (False, 9000)
    assert not {"enable_lora", "quantization", "gpu_memory_utilization"} & set(cpu)
    more = engine_arguments(BackboneSettings(model="m"), VLLMSettings(kv_cache_gib=0.5), 1024, 8192, 0, cpu=False)
    assert more["kv_cache_memory_bytes"] == 2**29


@pytest.mark.parametrize(
    "setting",
    [{"gpu_memory_utilization": 0.0}, {"gpu_memory_utilization": 1.5}, {"max_model_len": 0}, {"kv_cache_gib": -1.0}],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match=f"sampler.init_args.{next(iter(setting))} must be"):
        VLLMSampler(**setting)


def test_one_gpu_of_several_is_handed_on(monkeypatch):
    from trackrec.llm.vllm.process import _environment

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _environment(torch.device("cuda", 1), offline=False)["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in _environment(torch.device("cuda"), offline=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert _environment(torch.device("cuda", 1), offline=False)["CUDA_VISIBLE_DEVICES"] == "6"


@pytest.mark.slow
def test_the_child_ends_with_a_parent_that_is_killed(asked, tmp_path):
    code = (
        "import os, torch\nfrom trackrec.llm.vllm.process import VLLMProcess\n"
        "process = VLLMProcess({'model': 'm'}, torch.device('cpu'))\nprint(process.pid, flush=True)\nos._exit(9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    pid = int(found.stdout)
    deadline = time.monotonic() + 60
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert gone(pid)
