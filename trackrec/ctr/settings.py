"""What the CTR stage trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.features.dense_statistics import FeatureSettings

DEFAULT_ARMS = ("none", "reccot", "shuffled", "random")


class CTRSettings(NamedTuple):
    """What to train.

    Attributes:
        net: called with a `FeatureSpec` and a connector, None for arms without text.
        connector: called with the text width; None where no arm has texts.
        model: further arguments of `CTRModule`.
        data: further arguments of `CTRDataModule`.
        trainer: makes the arguments of Lightning's ``Trainer``, anew for each training.
        arms: names of the arms; see `trackrec.ctr.arms.arm`.
        seeds: one training per arm and seed.
        patience: validations without a better AUC before a training stops.
        text: how texts enter the nets.
        classics: models on the same dense features, beside the nets.
        features: what the dense features hold.
    """

    net: Callable[..., nn.Module]
    connector: Callable[..., nn.Module] | None
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: Callable[[], dict[str, Any]]
    arms: Sequence[str]
    seeds: Sequence[int]
    patience: int
    text: TextSettings = TextSettings()
    classics: Sequence[str] = ()
    features: FeatureSettings = FeatureSettings()
