"""Values that would end a run at its stage are refused at its start."""

import pytest

from trackrec.llm.loading import BackboneSettings, LoRASettings
from trackrec.recipe.build import check_training
from trackrec.recipe.settings import LoopSettings

BACKBONE = BackboneSettings("model")


@pytest.mark.parametrize(
    ("name", "model", "data", "backbone", "draws", "message"),
    [
        ("distill", {"lr": -1.0}, {}, BACKBONE, 10, r"^distill\.model\.lr must be above 0, got -1\.0"),
        ("align", {"beta": 0}, {}, BACKBONE, 10, r"^align\.model\.beta must be above 0"),
        ("align", {"sft_coef": -1}, {}, BACKBONE, 10, r"^align\.model\.sft_coef must be at least 0"),
        ("align", {}, {"batch_size": 0}, BACKBONE, 10, r"^align\.data\.batch_size must be at least 1, got 0"),
        ("rec_tune", {}, {"samples_per_history": 0}, BACKBONE, 10, r"^rec_tune\.data\.samples_per_history must be at"),
        ("align", {}, {}, BACKBONE, 1, r"^sampler\.init_args\.n must be at least 2, got 1: .*loop\.align: false"),
        (
            *("align", {}, {}, BackboneSettings("model", lora=LoRASettings(dropout=0.1)), 10),
            r"^backbone\.lora\.dropout is 0\.1, S-DPO needs 0",
        ),
    ],
)
def test_a_bad_value_is_named_before_a_model_is_loaded(name, model, data, backbone, draws, message):
    check_training(name, {"lr": 1e-4}, {"batch_size": 4}, BACKBONE, LoopSettings(), 10)
    with pytest.raises(ValueError, match=message):
        check_training(name, model, data, backbone, LoopSettings(), draws)


def test_without_alignment_its_values_don_t_matter():
    check_training("align", {"beta": 0}, {}, BACKBONE, LoopSettings(align=False), 1)
