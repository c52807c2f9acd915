"""Stands in for vLLM in tests of the process around it: it answers with what it was asked.

A text is [last prompt token, adapter's number, seed, end-of-text token]. Prompts that hold 666 fail, 999 ends the
process, 998 kills it. What each engine was built with and asked is a line of the file named by FAKE_VLLM_RECORD.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace


class SamplingParams(SimpleNamespace):
    pass


def record(**values):
    with Path(os.environ["FAKE_VLLM_RECORD"]).open("a") as file:
        file.write(json.dumps(values) + "\n")


class LLM:
    def __init__(self, **arguments):
        environment = {key: os.environ.get(key) for key in ("VLLM_ENABLE_V1_MULTIPROCESSING", "HF_HUB_OFFLINE")}
        record(event="start", arguments=arguments, environment=environment, pid=os.getpid())
        print("a line of the log", flush=True)
        if arguments.get("revision") == "broken":
            raise ValueError("no such revision\nand a long story")
        self.llm_engine = Engine()

    def reset_prefix_cache(self):
        record(event="reset")


class Engine:
    def __init__(self):
        self.waiting = []

    def add_request(self, request_id, prompt, params, lora_request=None):
        ids = prompt["prompt_token_ids"]
        lora = vars(lora_request) if lora_request else None
        files = sorted(path.name for path in Path(lora["path"]).iterdir()) if lora else []
        record(event="request", id=request_id, prompt=ids, params=vars(params), lora=lora, files=files)
        self.waiting.append((request_id, ids, params, lora))

    def has_unfinished_requests(self):
        return bool(self.waiting)

    def step(self):
        """The last request first, as an engine may; half of the answers are still being written."""
        request_id, ids, params, lora = self.waiting.pop()
        if 666 in ids:
            raise RuntimeError("the prompt is bad")
        if 999 in ids:
            print("out of cheese", flush=True)
            os._exit(7)
        if 998 in ids:
            os.kill(os.getpid(), signal.SIGKILL)
        seed = getattr(params, "seed", None)
        asked = getattr(params, "logprob_token_ids", None) or []
        one = SimpleNamespace(
            token_ids=[ids[-1], lora["number"] if lora else 0, -1 if seed is None else seed],
            finish_reason="length",
            logprobs=[{token: SimpleNamespace(logprob=-float(token + ids[-1])) for token in asked}],
        )
        if stop := getattr(params, "stop_token_ids", None):
            one.token_ids, one.finish_reason = [*one.token_ids, *stop], "stop"
        unfinished = SimpleNamespace(request_id="7", outputs=[], finished=False)
        return [unfinished, SimpleNamespace(request_id=f"{request_id}-ab", outputs=[one], finished=True)]
