"""A local teacher: any language model, through the sampler that the generator (G) uses too."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trackrec.distill.answers import Answer, AnswerStore
from trackrec.distill.teacher import Teacher, TeacherRequest, TeacherTexts
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.model_files import model_digest
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.sampling.sampler import Sampler
from trackrec.prompts.settings import PromptSettings
from trackrec.prompts.templates import RECCOT_TEMPLATE, prompt_hash
from trackrec.storage.atomic import stable_hash

_CHUNK = 64  # texts that a crash can lose at most


class _Job(NamedTuple):
    """One text to write, and the key under which its answer is stored."""

    key: str
    history_id: str
    segments: list[str]


class LocalTeacher(Teacher):
    """A local language model writes greedily, with the prompt that G will see.

    The model is loaded if texts are missing, and freed once they are written. Texts are saved in the stage directory in
    chunks of 64, so a rerun writes only the missing ones.

    Args:
        backbone: the model; its ``lora`` isn't used.
        sampler: the engine, its ``max_new_tokens`` and ``batch_tokens``; null is `HFSampler` with its defaults.
        fraction: see `Teacher`.
    """

    def __init__(self, backbone: BackboneSettings, sampler: Sampler | None = None, fraction: float = 0.05) -> None:
        super().__init__(fraction)
        self.backbone = backbone
        self.sampler = HFSampler(n=1) if sampler is None else sampler

    def check(self) -> None:
        """See `Teacher.check`: whether the model is there, and the sampler can use it.

        Raises:
            MissingFileError: ``backbone.model`` is a path that holds no model.
        """
        self.backbone.check_path("teacher.init_args.backbone")
        self.sampler.check(self.backbone)

    def content_key(self) -> dict[str, str]:
        """A hash of the model's files, so that replaced weights are noticed."""
        return {"backbone": model_digest(self.backbone.model)}

    def write(self, requests: Sequence[TeacherRequest], words: PromptSettings, out_dir: Path) -> TeacherTexts:
        """See `Teacher.write`; an empty history gets no text.

        Raises:
            FileNotFoundError: ``backbone.model`` is a path that holds no model.
            ValueError: a prompt is longer than the model's context.
        """
        self.check()
        jobs = sorted(self._job(request, words) for request in requests if request.history)
        chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
        with AnswerStore(out_dir, [job.key for job in jobs]) as store:
            kept = len(store)
            # A chunk is always written completely, so that its batches are the same after a crash.
            missing = [chunk for chunk in chunks if any(store.get(job.key) is None for job in chunk)]
            if missing:
                self._write(missing, len(jobs), store)
            answers = {job.history_id: answer for job in jobs if (answer := store.get(job.key))}
        texts = [answers[key].text or None if (key := request.history_id) in answers else None for request in requests]
        cut = frozenset(key for key, answer in answers.items() if answer.cut)
        return TeacherTexts(texts, {"answers_kept": kept, **_counts(answers.values())}, cut)

    def _job(self, request: TeacherRequest, words: PromptSettings) -> _Job:
        segments = request.segments(words)
        fields = ("model", "revision", "gguf_file", "quantize", "dtype", "system_prompt", "chat_template_kwargs")
        model = [getattr(self.backbone, name) for name in fields]
        engine = f"{type(self.sampler).__module__}.{type(self.sampler).__qualname__}"
        settings = (*model, model_digest(self.backbone.model), engine, self.sampler.max_new_tokens)
        key = stable_hash("local", request.history_id, prompt_hash(RECCOT_TEMPLATE, segments), *settings, digits=32)
        return _Job(key, request.history_id, segments)

    def _write(self, chunks: Sequence[Sequence[_Job]], total: int, store: AnswerStore) -> None:
        """Load the model, write the chunks, and free the model."""
        import torch
        from tqdm import tqdm

        from trackrec.llm.backbone import LanguageModel

        lm = LanguageModel(self.backbone, "teacher.init_args.backbone")
        n_missing = sum(map(len, chunks))
        with tqdm(total=total, initial=total - n_missing, desc="teacher", unit="text", disable=None) as bar:
            try:
                for chunk in chunks:
                    self._write_chunk(lm, chunk, store, bar.update)
            finally:
                self.sampler.release()
                del lm
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def _write_chunk(
        self, lm: Any, chunk: Sequence[_Job], store: AnswerStore, on_progress: Callable[[int], object]
    ) -> None:
        prompts = [lm.chat.encode_prompt(job.segments) for job in chunk]
        drawn = self.sampler.draw(lm, None, prompts, None, on_progress)
        for job, prompt, (draw, *_) in zip(chunk, prompts, drawn, strict=True):
            text = lm.chat.decode(draw.token_ids)
            cut = draw.finish_reason == "length"
            answer = Answer("text" if text else "empty", text, cut, len(prompt), len(draw.token_ids))
            store.add(job.key, job.history_id, answer)


def _counts(answers: Collection[Answer]) -> dict[str, int]:
    """Outcomes and tokens for the manifest."""
    return {
        "empty": sum(answer.outcome == "empty" for answer in answers),
        "cut": sum(answer.cut for answer in answers),
        "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
        "new_tokens": sum(answer.completion_tokens for answer in answers),
    }
