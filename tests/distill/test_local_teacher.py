"""LocalTeacher: the texts are the sampler's, kept ones aren't written again, and the model goes."""

from __future__ import annotations

import gc
import json
import weakref

import pytest

from trackrec.distill import local_teacher
from trackrec.distill.answers import ANSWERS
from trackrec.distill.local_teacher import LocalTeacher
from trackrec.distill.teacher import TeacherRequest
from trackrec.llm import backbone
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.prompts.settings import PromptSettings

pytestmark = pytest.mark.slow
WORDS = PromptSettings()


@pytest.fixture(autouse=True)
def _one_thread(tiny_lm):
    """`tiny_lm` keeps torch to one thread: more of them only wait for each other over so small a model."""


@pytest.fixture
def local(tiny_model_dir):
    settings = BackboneSettings(str(tiny_model_dir), dtype="float32", device="cpu")

    def build(**changes):
        return LocalTeacher(**{"backbone": settings, "sampler": HFSampler(n=1, max_new_tokens=5)} | changes)

    return build


@pytest.fixture
def asked(tiny_book):
    keys = [f"h{i}" for i in range(6)]
    return [TeacherRequest(key, f"u{key}", tiny_book.history(key), tiny_book.reccot_prompt(key)) for key in keys]


@pytest.fixture
def loaded(monkeypatch):
    """Weak references to every model that is loaded."""
    models = []

    class Watched(backbone.LanguageModel):
        def __init__(self, settings, key):
            super().__init__(settings, key)
            models.append(weakref.ref(self))

    monkeypatch.setattr(backbone, "LanguageModel", Watched)
    return models


def test_the_texts_are_the_samplers_greedy_ones(local, asked, tiny_lm, tmp_path):
    made = local().write(asked, WORDS, tmp_path)
    lm = tiny_lm()
    due, tokens = [], 0
    for request in asked:
        ((draw,),) = HFSampler(n=1, max_new_tokens=5).draw(
            lm, None, [lm.chat.encode_prompt(request.prompt)], None, lambda done: None
        )
        due.append((lm.chat.decode(draw.token_ids) or None, draw.finish_reason == "length"))
        tokens += len(draw.token_ids)
    assert made.texts == [text for text, _ in due]
    assert made.cut == {request.history_id for request, (_, cut) in zip(asked, due, strict=True) if cut}
    prompts = sum(len(lm.chat.encode_prompt(request.prompt)) for request in asked)
    counts = {"answers_kept": 0, "empty": made.texts.count(None), "cut": len(made.cut), "prompt_tokens": prompts}
    assert made.counts == {**counts, "new_tokens": tokens}
    assert any(made.texts)


def test_the_model_is_loaded_late_and_freed(local, asked, loaded, tmp_path):
    teacher = local()
    assert not loaded
    teacher.write(asked, WORDS, tmp_path)
    gc.collect()
    assert [model() for model in loaded] == [None]


def test_a_second_run_loads_no_model(local, asked, loaded, tmp_path):
    first = local().write(asked, WORDS, tmp_path)
    again = local(fraction=1.0).write(asked[::-1], WORDS, tmp_path)
    assert len(loaded) == 1
    assert again.texts == first.texts[::-1]
    assert again.counts == {**first.counts, "answers_kept": 6}
    local(sampler=HFSampler(n=1, max_new_tokens=4)).write(asked, WORDS, tmp_path)
    assert len(loaded) == 2


def test_a_crash_costs_one_chunk(local, asked, tmp_path, monkeypatch):
    whole = local().write(asked, WORDS, tmp_path / "whole")
    monkeypatch.setattr(local_teacher, "_CHUNK", 2)

    class Crashing(HFSampler):
        batches = 0

        def draw(self, *args):
            self.batches += 1
            if self.batches == 3:
                raise KeyboardInterrupt
            return super().draw(*args)

    with pytest.raises(KeyboardInterrupt):
        local(sampler=Crashing(n=1, max_new_tokens=5)).write(asked, WORDS, tmp_path)
    path = tmp_path / ANSWERS
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    path.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # a chunk of which one text is left
    rest = Crashing(n=1, max_new_tokens=5)
    made = local(sampler=rest).write(asked, WORDS, tmp_path)
    assert rest.batches == 2
    assert made.texts == whole.texts
    assert made.counts["answers_kept"] == 3
    assert {json.loads(line)["history_id"] for line in path.read_bytes().splitlines() if line.endswith(b"}")} == {
        f"h{i}" for i in range(6)
    }


def test_nothing_is_written_about_an_empty_history(local, asked, tmp_path):
    made = local().write([TeacherRequest("h9", "u9", []), asked[0]], WORDS, tmp_path)
    assert made.texts[0] is None
    assert len((tmp_path / ANSWERS).read_text().splitlines()) == 1


def test_a_path_without_a_model_is_named(tmp_path):
    teacher = LocalTeacher(BackboneSettings(str(tmp_path / "none")))
    with pytest.raises(FileNotFoundError, match=r"teacher\.init_args\.backbone\.model: no model"):
        teacher.write([], WORDS, tmp_path)


def test_a_prompt_that_is_too_long_says_so(local, asked, tmp_path):
    with pytest.raises(ValueError, match=r"lower prompts\.generator\.max_history or max_new_tokens"):
        local(sampler=HFSampler(n=1, max_new_tokens=4000)).write(asked, WORDS, tmp_path)


def test_the_sampler_may_be_left_out(local):
    assert local(sampler=None).sampler.max_new_tokens == 320


def test_answers_are_kept_under_all_that_decides_them(local, asked, tiny_model_dir):
    """Three system prompts, two engines, two lengths, two revisions, two variables: each another key."""

    class Other(HFSampler):
        pass

    def backbone_with(**changes):
        return BackboneSettings(str(tiny_model_dir), dtype="float32", device="cpu", **changes)

    teachers = [
        *(local(backbone=backbone_with(system_prompt=prompt)) for prompt in (None, "", "Be brief.")),
        local(sampler=Other(n=1, max_new_tokens=5)),
        local(sampler=HFSampler(n=1, max_new_tokens=6)),
        local(backbone=backbone_with(revision="a")),
        local(backbone=backbone_with(chat_template_kwargs={"enable_thinking": True})),
    ]
    keys = {teacher._job(asked[0], WORDS).key for teacher in teachers}
    assert len(keys) == 7
    assert local()._job(asked[0], WORDS).key in keys
