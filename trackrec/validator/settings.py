"""The ``scoring`` section of a configuration: the engine that computes the validator's (V's) scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from trackrec.llm.vllm.process import VLLMSettings, check_vllm
from trackrec.runtime.classes import load_class
from trackrec.runtime.errors import SettingError

if TYPE_CHECKING:
    from trackrec.llm.loading import BackboneSettings
    from trackrec.validator.score import AnswerReader


@dataclass(frozen=True)
class ScoreSettings:
    """How V's scores are computed.

    Attributes:
        batch_tokens: most tokens of one forward pass, padding included.
        engine: ``hf`` reads each history once for all its texts and targets, in this process; ``vllm`` runs in a
            process of its own and shares the beginnings of prompts through its prefix cache.
        vllm: vLLM's limits, for ``engine: vllm``.
    """

    batch_tokens: int = 8192
    engine: Literal["hf", "vllm"] = "hf"
    vllm: VLLMSettings = field(default_factory=VLLMSettings)

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise SettingError(f"scoring.batch_tokens must be at least 1, got {self.batch_tokens}.")
        self.vllm.check("scoring.vllm")

    def check(self, backbone: BackboneSettings) -> None:
        """Check, before any stage runs, that the engine works on this machine.

        Raises:
            MissingPackageError: the engine is vLLM, which isn't installed.
            SettingError: vLLM does not load this form of weights.
        """
        if self.engine == "vllm":
            check_vllm(backbone, "scoring.engine vllm", "scoring.engine hf")

    @property
    def reader_path(self) -> str:
        """Import path of the engine's class."""
        return {
            "hf": f"{__package__}.packed_reader.PackedReader",
            "vllm": f"{__package__}.vllm_reader.VLLMReader",
        }[self.engine]

    def reader(self) -> AnswerReader:
        """The engine. It is imported here, so that a stage's recorded source code holds only the engine in use."""
        reader: AnswerReader = load_class(self.reader_path)(self)
        return reader
