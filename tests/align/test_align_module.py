"""S-DPO on a tiny model: the reference, the check at the start, and what a batch is made of."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny import reccot_row

from trackrec.align.data import AlignData
from trackrec.align.module import SoftmaxDPOModule, StaleReferenceError, write_references
from trackrec.llm.loading import LoRASettings
from trackrec.llm.logprobs import branch_logprobs
from trackrec.llm.packing import unroll
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.sampling.sampler import draw_seed
from trackrec.llm.training.fit import fit_adapter
from trackrec.llm.training.optimizer import OptimizerSettings
from trackrec.runtime.errors import SettingError
from trackrec.storage.parts import read_table, write_part

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
HISTORIES = [f"h{i}" for i in range(6)]


def shake(lm: Any, adapter: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in lm.train_only(adapter):
        parameter.data.normal_(std=0.05, generator=generator)


@pytest.fixture
def lm(tiny_lm):
    """Adapter g is a G that has learned something; ``other`` has learned something else."""
    lm = tiny_lm(adapters=["g", "other"], lora=LoRASettings(r=4))
    shake(lm, "g", 0)
    shake(lm, "other", 1)
    return lm


@pytest.fixture
def stage(lm, tiny_book, tmp_path) -> Path:
    """Four draws of g per history as it really samples them, and sets with 1, 2 or 3 rejected texts."""
    prompts = [lm.chat.encode_prompt(tiny_book.reccot_prompt(key)) for key in HISTORIES]
    seeds = [[draw_seed(0, 1, key, draw) for draw in range(4)] for key in HISTORIES]
    sampler = HFSampler(n=4, max_new_tokens=10, top_p=1.0)
    # the token that the tiny model writes most is its end-of-text token, so that some draws finish and some are cut
    draws = sampler.draw(lm, "g", prompts, seeds, lambda done: None)
    lm.chat.eos_id = Counter(t for made in draws for one in made for t in one.token_ids[1:]).most_common(1)[0][0]
    draws = sampler.draw(lm, "g", prompts, seeds, lambda done: None)
    rows = [
        reccot_row(key, number, source="g0", token_ids=one.token_ids, finish_reason=one.finish_reason)
        for key, made in zip(HISTORIES, draws, strict=True)
        for number, one in enumerate(made)
    ]
    write_part(tmp_path / "sample", "reccots", rows)
    sets = [
        {"history_id": key, "source": "g0", "round": 1, "chosen": i % 4, "chosen_reward": 0.9}
        | {"rejected": [d for d in range(4) if d != i % 4][: 1 + i % 3], "rejected_rewards": [0.1] * (1 + i % 3)}
        for i, key in enumerate(HISTORIES)
    ]
    write_part(tmp_path / "preferences", "preferences", sets)
    return tmp_path


def align_data(lm, book, stage, **settings) -> AlignData:
    data = AlignData(lm, book, [(stage / "preferences", stage / "sample")], **settings)
    data.setup("fit")
    return data


def with_references(module, data, out: Path) -> AlignData:
    write_references(module, data, QUIET, out)
    return data


def test_a_tree_is_the_prompt_and_the_sampled_tokens(lm, tiny_book, stage):
    """Not re-tokenised text, and no end-of-text token for a draw that the length limit cut."""
    draws = {(row["history_id"], row["draw"]): row for row in read_table(stage / "sample", "reccots").to_dicts()}
    sets = read_table(stage / "preferences", "preferences").to_dicts()
    examples = align_data(lm, tiny_book, stage).examples
    ends = {"stop": 0, "length": 0}
    for row, (history_id, tree, *_) in zip(sets, examples, strict=True):
        assert history_id == row["history_id"]
        for draw, branch in zip([row["chosen"], *row["rejected"]], tree[1:], strict=True):
            sampled = draws[history_id, draw]
            assert list(branch.ids) == sampled["token_ids"]
            assert branch.parent == 0
            assert (branch.ids[-1] == lm.chat.eos_id) == (sampled["finish_reason"] == "stop")
            ends[sampled["finish_reason"]] += 1
    assert min(ends.values()) > 0


def test_cached_references_equal_live_ones(lm, tiny_book, stage):
    """The table, against each text alone in a plain row, under the adapter that sampled."""
    module = SoftmaxDPOModule(lm, "g")
    data = with_references(module, align_data(lm, tiny_book, stage), stage)
    rows = read_table(stage, "reference_logps", check_keys=True).to_dicts()
    assert [row["history_id"] for row in rows] == HISTORIES
    assert [len(row["rejected_logps"]) for row in rows] == [1, 2, 3, 1, 2, 3]
    with lm.using("g"):
        for row, (_, tree, *_) in zip(rows, data.examples, strict=True):
            alone = [branch_logprobs(lm, unroll([[tree[0], b]]), [(0, 1)], [b.ids])[0].item() for b in tree[1:]]
            assert [row["chosen_logp"], *row["rejected_logps"]] == pytest.approx(alone, abs=1e-4)


def test_sets_of_two_rounds_keep_their_own_references(lm, tiny_book, stage):
    """The same histories in two rounds whose draws stand in reverse order: references follow the round."""
    draws = read_table(stage / "sample", "reccots").to_dicts()
    write_part(stage / "sample-2", "reccots", [{**row, "round": 2, "draw": 3 - row["draw"]} for row in draws])
    sets = read_table(stage / "preferences", "preferences").to_dicts()
    turned = [
        {**row, "round": 2, "chosen": 3 - row["chosen"], "rejected": [3 - d for d in row["rejected"]]} for row in sets
    ]
    write_part(stage / "preferences-2", "preferences", turned)
    one = align_data(lm, tiny_book, stage)
    directories = [*one.directories, (stage / "preferences-2", stage / "sample-2")]
    both = AlignData(lm, tiny_book, directories)
    both.setup("fit")
    assert both.examples[:6] == one.examples
    assert [entry.tree for entry in both.examples[6:]] == [entry.tree for entry in one.examples]
    assert {entry.round for entry in both.examples[6:]} == {2}
    module = SoftmaxDPOModule(lm, "g")
    with_references(module, both, stage)
    rows = read_table(stage, "reference_logps", check_keys=True)
    assert sorted(set(rows["round"])) == [1, 2]
    both.references["h4", 2] = (both.references["h4", 2][0] + 3.0, both.references["h4", 2][1])
    changed = module.losses(both.collate(both.examples))[0] - module.losses(both.collate(one.examples * 2))[0]
    assert changed[10].abs() > 0.05
    assert changed[[*range(10), 11]].abs().max() < 1e-4


def test_a_finished_reference_table_is_read_and_not_computed(lm, tiny_book, stage):
    module, data = SoftmaxDPOModule(lm, "g"), align_data(lm, tiny_book, stage)
    with_references(module, data, stage)
    first = data.references
    shake(lm, "g", 7)
    assert with_references(module, align_data(lm, tiny_book, stage), stage).references == first


@pytest.mark.parametrize(
    "settings", [{}, {"length_norm": "avg"}, {"sft_coef": 0.5}, {"beta": 2.0}, {"method": "listwise"}]
)
def test_at_the_start_the_loss_is_ln_of_one_plus_k(lm, tiny_book, stage, settings):
    module = SoftmaxDPOModule(lm, "g", **settings)
    data = with_references(module, align_data(lm, tiny_book, stage, batch_size=6), stage)
    losses, values = module.losses(data.collate(data.examples))
    losses = losses - settings.get("sft_coef", 0) * values.get("sft_loss", 0)
    due = [math.log(1 + size) for size in (1, 2, 3, 1, 2, 3)]
    if "sft_coef" in settings:  # the mean is what the check takes it off from
        assert losses.mean().item() == pytest.approx(sum(due) / 6, abs=1e-4)
    else:
        assert losses.tolist() == pytest.approx(due, abs=1e-4)
    assert values["margin"].item() == pytest.approx(0, abs=1e-4)
    trainer = fit_adapter(module, data, QUIET | {"max_steps": 1}, stage / "out")
    assert trainer.global_step == 1


@pytest.mark.parametrize(
    ("method", "found"), [("sdpo", "the S-DPO loss"), ("listwise", "the listwise loss"), ("sft", "beta times the")]
)
def test_a_stale_reference_stops_the_run_before_the_first_step(lm, tiny_book, stage, method, found):
    """The reference of another adapter: the loss is not ln(1+K) and says so; nothing is trained or saved."""
    data = with_references(SoftmaxDPOModule(lm, "other"), align_data(lm, tiny_book, stage), stage)
    module = SoftmaxDPOModule(lm, "g", method=method)
    before = [parameter.detach().clone() for parameter in module._trained]
    with pytest.raises(StaleReferenceError, match=rf"at step 0 {found} .*were not computed by the adapter"):
        fit_adapter(module, data, QUIET | {"max_epochs": 1}, stage / "out")
    assert all(torch.equal(p, b) for p, b in zip(module._trained, before, strict=True))
    assert not (stage / "out" / "adapter").exists()


def test_one_stale_set_is_enough(lm, tiny_book, stage):
    module = SoftmaxDPOModule(lm, "g")
    data = with_references(module, align_data(lm, tiny_book, stage), stage)
    chosen, rejected = data.references["h4", 1]
    data.references["h4", 1] = (chosen + 3.0, rejected)
    with pytest.raises(StaleReferenceError):
        fit_adapter(module, data, QUIET | {"max_epochs": 1}, stage / "out")


@pytest.mark.parametrize(("copies", "random_sets"), [(1, 6), (9, 8), (30, 22), (80, 32)])
def test_the_start_is_checked_on_the_first_batch_and_an_eighth_of_the_sets(lm, tiny_book, stage, copies, random_sets):
    data = with_references(SoftmaxDPOModule(lm, "g"), align_data(lm, tiny_book, stage), stage)
    data.examples *= copies
    first, *picked = data.check_batches()
    assert first.ids == next(iter(data.train_dataloader())).ids
    assert sum(len(batch.ids) for batch in picked) == random_sets


def test_without_references_there_is_no_loss(lm, tiny_book, stage):
    module, data = SoftmaxDPOModule(lm, "g"), align_data(lm, tiny_book, stage)
    with pytest.raises(StaleReferenceError, match="no reference log-probabilities"):
        module.losses(data.collate(data.examples))


def test_no_preference_set_is_an_error_that_says_what_to_do(lm, tiny_book, stage):
    write_part(stage / "empty", "preferences", [])
    data = AlignData(lm, tiny_book, [(stage / "empty", stage / "sample")])
    with pytest.raises(SettingError, match=r"no preference set is left.*align\.sets\.min_spread"):
        data.setup("fit")


def gradient(module, data, groups: list[list]) -> list[torch.Tensor]:
    """Of the mean over groups of the mean loss of each, as gradient accumulation makes it."""
    total = sum(module.losses(data.collate(group))[0].mean() / len(groups) for group in groups)
    return torch.autograd.grad(total, module._trained)


def test_a_batch_of_six_is_three_accumulated_batches_of_two(lm, tiny_book, stage):
    """The policy has moved off its reference, so that every d_j is its own."""
    module = SoftmaxDPOModule(lm, "g", beta=0.5)
    data = with_references(module, align_data(lm, tiny_book, stage), stage)
    shake(lm, "g", 5)
    sets = data.examples
    whole = gradient(module, data, [sets])
    parts = gradient(module, data, [sets[start : start + 2] for start in (0, 2, 4)])
    for one, other in zip(whole, parts, strict=True):
        assert one.norm() > 0
        assert (one - other).norm() <= 1e-4 * one.norm()


def test_sets_weigh_by_their_spread_over_the_rounds_mean(lm, tiny_book, stage):
    """Spreads .1, .2 and .6 twice each: their mean is .3, so the weights are 1/3, 2/3 and 2."""
    sets = read_table(stage / "preferences", "preferences").to_dicts()
    spreads = [0.1, 0.2, 0.6] * 2
    for row, spread in zip(sets, spreads, strict=True):
        row["rejected_rewards"] = [0.9 - spread, *[0.89] * (len(row["rejected"]) - 1)]
    write_part(stage / "preferences", "preferences", sets)
    data = align_data(lm, tiny_book, stage, weight="spread")
    assert [entry.weight for entry in data.examples] == pytest.approx([1 / 3, 2 / 3, 2] * 2, rel=1e-4)
    assert data.collate(data.examples[1:3]).weights.tolist() == pytest.approx([2 / 3, 2], rel=1e-4)
    assert {entry.weight for entry in align_data(lm, tiny_book, stage).examples} == {1.0}


def test_weights_hold_under_gradient_accumulation(lm, tiny_book, stage):
    """One step over three accumulated batches of two is one step over a batch of six, weighted."""
    ends = []
    for size, accumulated in ((6, 1), (2, 3)):
        shake(lm, "g", 0)
        module = SoftmaxDPOModule(lm, "g", lr=1e-2, beta=0.5, kl_coef=0.1, optimizer=OptimizerSettings(warmup=0.0))
        data = with_references(module, align_data(lm, tiny_book, stage, batch_size=size), stage / str(size))
        weights = (0.1, 0.4, 0.5, 1.5, 0.5, 3.0)
        data.examples = [e._replace(weight=w) for e, w in zip(data.examples, weights, strict=True)]
        trainer = fit_adapter(
            module, data, QUIET | {"max_epochs": 1, "accumulate_grad_batches": accumulated}, stage / f"out-{size}"
        )
        assert trainer.global_step == 1
        # At the start each loss is ln(1 + K), K = 1, 2, 3, 1, 2, 3.
        due = sum(w * math.log(k) for w, k in zip(weights, (2, 3, 4, 2, 3, 4), strict=True)) / 6
        assert module.last_values["loss"] == pytest.approx(due, rel=1e-4)
        ends.append([parameter.detach().clone() for parameter in module._trained])
    shake(lm, "g", 0)
    for one, other, start in zip(*ends, module._trained, strict=True):
        assert (one - start).abs().max() > 1e-3
        assert (one - other).abs().max() <= 0.02 * (one - start).abs().max()


def test_a_sets_loss_is_its_own_in_any_company(lm, tiny_book, stage):
    module = SoftmaxDPOModule(lm, "g", beta=0.5)
    data = with_references(module, align_data(lm, tiny_book, stage), stage)
    shake(lm, "g", 5)
    together, _ = module.losses(data.collate(data.examples))
    alone = [module.losses(data.collate([entry]))[0].item() for entry in data.examples]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)
    assert together.std() > 0.01


@pytest.mark.parametrize("length_norm", ["none", "avg"])
def test_the_loss_by_hand_from_log_probabilities(lm, tiny_book, stage, length_norm):
    """ln(1 + sum_j exp(beta * (ratio_j - ratio_chosen))); with avg each ratio is divided by its text's tokens."""
    module = SoftmaxDPOModule(lm, "g", beta=0.5, length_norm=length_norm, sft_coef=0.25)
    data = with_references(module, align_data(lm, tiny_book, stage), stage)
    shake(lm, "g", 5)
    found, _ = module.losses(data.collate(data.examples))
    for place, (history_id, tree, round_, *_) in enumerate(data.examples):
        tokens = [list(branch.ids) for branch in tree[1:]]
        wanted = [(0, branch) for branch in range(1, len(tree))]
        with torch.no_grad():
            policy = branch_logprobs(lm, lm.layout([tree]), wanted, tokens)[0].tolist()
        chosen, rejected = data.references[history_id, round_]
        by = [len(ids) if length_norm == "avg" else 1 for ids in tokens]
        ratios = [(p - r) / n for p, r, n in zip(policy, [chosen, *rejected], by, strict=True)]
        dpo = math.log(1 + sum(math.exp(0.5 * (ratio - ratios[0])) for ratio in ratios[1:]))
        sft = -policy[0] / len(tokens[0])
        assert found[place].item() == pytest.approx(dpo + 0.25 * sft, abs=1e-3)


class Margins(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append(trainer.callback_metrics["margin"].item())


@pytest.mark.parametrize("method", ["sdpo", "sft", "listwise"])
def test_training_moves_toward_the_chosen_texts(lm, tiny_book, stage, method):
    margins, module = Margins(), SoftmaxDPOModule(lm, "g", lr=5e-3, method=method)
    data = with_references(module, align_data(lm, tiny_book, stage, batch_size=6), stage)
    fit_adapter(module, data, QUIET | {"max_epochs": 8, "callbacks": [margins]}, stage / "out")
    assert margins.seen[0] == pytest.approx(0, abs=1e-4)
    assert margins.seen[-1] > 0.1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beta": 0.0}, r"align\.model\.beta must be above 0"),
        ({"sft_coef": -1}, r"align\.model\.sft_coef must be at least 0"),
    ],
)
def test_bad_settings_are_named(lm, setting, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxDPOModule(lm, "g", **setting)


def test_lora_dropout_is_refused(tiny_lm):
    lm = tiny_lm(adapters=["g"], lora=LoRASettings(r=2, dropout=0.05))
    with pytest.raises(ValueError, match=r"backbone\.lora\.dropout is 0\.05, S-DPO needs 0"):
        SoftmaxDPOModule(lm, "g")
