"""The vLLM child process: it loads an engine, answers requests, and ends when the pipe closes.

The protocol is one pickled tuple per message. The parent sends the engine's arguments first, then requests:

    ("write", prompts, sampling, adapter)   -> [(token ids, finish reason), ...]
    ("score", prompts, tokens, adapter)     -> [[log p of each token], ...]

An answer is ("done", value) or ("error", one line); before it, ("progress", n) reports that n more prompts are done.
An adapter is (name, number, directory), or None for the plain base.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from trackrec.runtime.parent import exit_with_parent

Adapter = tuple[str, int, str]
Report = Callable[[int], None]


class Engine:
    """A vLLM engine that takes and returns token ids only.

    Args:
        arguments: arguments of ``vllm.LLM``.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        from vllm import LLM

        self.llm = LLM(**arguments)

    def write(
        self, prompts: Sequence[list[int]], sampling: Sequence[dict[str, Any]], adapter: Adapter | None, report: Report
    ) -> list[tuple[list[int], str]]:
        """One text per prompt.

        Args:
            prompts: token ids; equal prompts are computed once.
            sampling: arguments of ``vllm.SamplingParams``, one per prompt.
            adapter: the LoRA adapter to use.
            report: called with the number of prompts done since the last call.
        """
        outputs = self._run(prompts, sampling, adapter, report)
        return [(list(output.outputs[0].token_ids), output.outputs[0].finish_reason) for output in outputs]

    def score(
        self, prompts: Sequence[list[int]], tokens: Sequence[int], adapter: Adapter | None, report: Report
    ) -> list[list[float]]:
        """Log-probabilities of ``tokens`` after each prompt, from the softmax over the whole vocabulary."""
        # `allowed_token_ids` would not help: vLLM computes log-probabilities before it applies that mask.
        sampling = {"max_tokens": 1, "temperature": 0.0, "logprob_token_ids": list(tokens), "detokenize": False}
        outputs = self._run(prompts, [sampling] * len(prompts), adapter, report)
        return [[output.outputs[0].logprobs[0][token].logprob for token in tokens] for output in outputs]

    def _run(
        self, prompts: Sequence[list[int]], sampling: Sequence[dict[str, Any]], adapter: Adapter | None, report: Report
    ) -> list[Any]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        # The content of the prefix cache affects how prompts are batched, and so the last bits of the logits.
        self.llm.reset_prefix_cache()
        engine = self.llm.llm_engine
        lora = None if adapter is None else LoRARequest(*adapter)
        for number, (ids, params) in enumerate(zip(prompts, sampling, strict=True)):
            engine.add_request(str(number), {"prompt_token_ids": ids}, SamplingParams(**params), lora_request=lora)
        done: dict[int, Any] = {}
        while engine.has_unfinished_requests():
            finished = [output for output in engine.step() if output.finished]
            # vLLM may append a suffix to a request id; the number comes before it.
            done.update((int(output.request_id.split("-")[0]), output) for output in finished)
            if finished:
                report(len(finished))
        return [done[number] for number in range(len(prompts))]


def serve(connection: Connection) -> None:
    """Answer requests until the parent closes the pipe or dies."""
    engine: Engine | None = None
    for message in _messages(connection):
        try:
            if engine is None:
                engine, value = Engine(message), None
            else:
                kind, *rest = message
                value = getattr(engine, kind)(*rest, lambda count: connection.send(("progress", count)))
        except BrokenPipeError:
            return
        except Exception as error:
            traceback.print_exc()
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            connection.send(("error", f"{type(error).__name__}: {lines[0] if lines else 'no message'}"))
        else:
            connection.send(("done", value))


def _messages(connection: Connection) -> Iterator[Any]:
    while True:
        try:
            yield connection.recv()
        except (EOFError, ConnectionResetError):
            return


if __name__ == "__main__":
    exit_with_parent(os.getppid())  # a killed parent can't stop this process
    serve(Connection(int(sys.argv[1])))
