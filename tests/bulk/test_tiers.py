"""Which runs may write the tiers with an adapter that was added to the weights."""

from __future__ import annotations

import pytest

from trackrec.bulk.tiers import check_merge
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.sampling.hf_sampler import HFSampler
from trackrec.llm.vllm.sampler import VLLMSampler
from trackrec.runtime.errors import SettingError


def test_an_adapter_is_merged_only_where_the_sampler_reads_these_weights() -> None:
    plain = BackboneSettings("model", quantize="none")
    check_merge(plain, HFSampler())
    with pytest.raises(SettingError, match=r"bulk\.merge_adapter must be false with VLLMSampler"):
        check_merge(plain, VLLMSampler())
    with pytest.raises(SettingError, match=r"bulk\.merge_adapter must be false where backbone\.quantize is nf4"):
        check_merge(BackboneSettings("model", quantize="nf4"), HFSampler())
