"""Scores with vLLM, in a process of its own: each target under each RecCoT is one prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trackrec.llm.backbone import LanguageModel
from trackrec.llm.packing import path_ids
from trackrec.llm.vllm.host import VLLMHost
from trackrec.validator.score import Entry

if TYPE_CHECKING:
    from trackrec.validator.settings import ScoreSettings


class VLLMReader:
    """Scores each question as a separate prompt, with vLLM."""

    def __init__(self, settings: ScoreSettings) -> None:
        # With a bfloat16 output layer half the rows would have tied answers.
        overrides = {"hf_overrides": {"head_dtype": "float32"}}
        self._host = VLLMHost(settings.vllm, settings.batch_tokens, "scoring.vllm", overrides)

    def read(
        self, lm: LanguageModel, adapter: str | None, entries: Sequence[Entry]
    ) -> Iterator[tuple[Sequence[Entry], Tensor]]:
        """See `AnswerReader.read`; all entries are one batch, which vLLM divides itself."""
        labels = lm.chat.label_tokens()
        prompts = [path_ids(entry.tree, branch) for _, entry in entries for branch in entry.branches]
        if prompts:
            logps = self._host.score(lm, adapter, prompts, [*labels.yes, *labels.no], lambda _count: None)
            yield entries, torch.tensor(logps)

    def release(self) -> None:
        """End vLLM's process."""
        self._host.release()
