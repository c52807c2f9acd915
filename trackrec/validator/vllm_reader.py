"""Reads V's answers with vLLM, which runs beside this process: each question is a prompt of its own."""

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
    """Reads each question as a prompt of its own, with vLLM."""

    def __init__(self, settings: ScoreSettings) -> None:
        # In bfloat16 the output layer would tie the answers of half the rows.
        overrides = {"hf_overrides": {"head_dtype": "float32"}}
        self._host = VLLMHost(settings.vllm, settings.batch_tokens, "scoring.vllm", overrides)

    def read(
        self, lm: LanguageModel, adapter: str | None, entries: Sequence[Entry]
    ) -> Iterator[tuple[Sequence[Entry], Tensor]]:
        """See `AnswerReader.read`; all entries are one batch, vLLM makes its own."""
        labels = lm.chat.label_tokens()
        prompts = [path_ids(entry.tree, branch) for _, entry in entries for branch in entry.branches]
        if prompts:
            found = self._host.score(lm, adapter, prompts, [*labels.yes, *labels.no], lambda _count: None)
            yield entries, torch.tensor(found)

    def release(self) -> None:
        """End vLLM's process."""
        self._host.release()
