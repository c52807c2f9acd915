"""The saved nets of a finished CTR stage: their files, and their predictions for new rows.

Letters: N rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from trackrec.ctr.arms.assemble import CTRInputs, attach_arms, draw_arm, feature_builder, sample_rows
from trackrec.ctr.arms.texts import MissingEmbeddingError
from trackrec.ctr.features.features import CTRData, FeatureBuilder, FeatureSpec, Vocabularies
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.ctr.training.data import TensorLoader
from trackrec.runtime.errors import SettingError
from trackrec.storage.parts import check_weights

if TYPE_CHECKING:
    from trackrec.ctr.settings import CTRSettings

BATCH = 8192
_SLASH = "~"  # stands for the slash of an arm's name in the names of files


class SavedNets:
    """Predicts with the nets of one arm. Rows may come in several calls; nothing of them is kept between calls.

    Args:
        inputs: the tables on which the stage ran.
        settings: of the stage.
        ctr_dir: the stage's directory.
        arm: the arm whose nets predict.
        seed: of the run, for what is drawn for the arm.
        now: the timestamp that all rows will have; None: any timestamps, and each row uses only what came before it.

    Raises:
        SettingError: the stage has no nets of this arm, an earlier version drew what they read, or the settings
            describe another net.
    """

    def __init__(
        self, inputs: CTRInputs, settings: CTRSettings, ctr_dir: Path, arm: str, seed: int, now: int | None = None
    ) -> None:
        self._inputs, self._settings, self._arm, self._seed = inputs, settings, arm, seed
        saved = _saved(ctr_dir)
        self._gaps = saved["gaps"][arm]
        self._builder = _builder(inputs, settings, saved, now)
        self._samples = sample_rows(inputs, settings.text)
        self._seeds = saved_seeds(ctr_dir, arm)
        self._data = self._attached(inputs, self._samples)
        self._nets = [
            load_net(settings, data.spec_for(arm), saved_net(ctr_dir, arm, net_seed))
            for net_seed, data in zip(self._seeds, self._data, strict=True)
        ]

    def __call__(self, rows: pl.DataFrame, log_odds: Mapping[str, Mapping[str, float]] | None = None) -> NDArray[Any]:
        """P(like) of rows of the samples table, averaged over the seeds: (N,) float32.

        Args:
            rows: all of one split, which must not be one of the stage's.
            log_odds: the log-odds of the validator (V) for these rows, as in `CTRInputs`, where the nets read them.

        Raises:
            MissingEmbeddingError: a row's history has no text, and the nets were trained without such rows.
        """
        (split,) = rows["split"].unique()
        attached = self._data
        if self._arm in attached[0].columns:
            known = self._inputs.log_odds
            merged = {arm: {**known.get(arm, {}), **values} for arm, values in (log_odds or {}).items()}
            inputs = self._inputs._replace(log_odds={**known, **merged})
            attached = self._attached(inputs, pl.concat([self._samples.select(rows.columns), rows]))
        features = {name: torch.from_numpy(value) for name, value in self._builder.columns(rows).items()}
        predictions = []
        with torch.inference_mode():
            for net, of_net in zip(self._nets, attached, strict=True):
                data = replace(of_net, splits={split: features})
                check_texts(data, self._arm, split)
                batches = TensorLoader(data, split, self._arm, batch_size=BATCH, labels=False)
                predictions.append(torch.cat([net(batch).sigmoid() for batch in batches]).numpy())
        return np.asarray(np.mean(predictions, axis=0, dtype=np.float64), np.float32)

    def _attached(self, inputs: CTRInputs, rows: pl.DataFrame) -> list[CTRData]:
        """The rows with the arm as each of the nets reads it."""
        data = attach_arms(self._builder.whose(rows), inputs, [self._arm], self._settings.text)
        drawn = [draw_arm(data, self._arm, self._seed, net_seed) for net_seed in self._seeds]
        return [_with_gaps(own, self._arm, self._gaps) for own in drawn]


def check_texts(data: CTRData, arm: str, split: str) -> None:
    """Check that every row of a split has a text, unless the arm's nets were trained on rows without one.

    Raises:
        MissingEmbeddingError: a row has no text.
    """
    texts = data.arms.get(arm)
    if texts is None or texts.gaps:
        return
    histories = data.splits[split]["history"]
    missing = histories[texts.rows[histories] < 0].unique().tolist()
    if missing:
        first = [data.history_ids[row] for row in missing[:3]]
        raise MissingEmbeddingError(f"arm {arm!r}: {len(missing)} histories have no text, first {first}.")


def features_file(ctr_dir: Path) -> Path:
    """The file that holds sizes, vocabularies and whether each arm has gaps."""
    return ctr_dir / "nets" / "features.json"


def saved_net(ctr_dir: Path, arm: str, seed: int) -> Path:
    """The file that holds the weights of one training."""
    return ctr_dir / "nets" / f"{arm.replace('/', _SLASH)}-{seed}.safetensors"


def saved_seeds(ctr_dir: Path, arm: str) -> list[int]:
    """Seeds of the saved nets of an arm, sorted by name.

    Raises:
        SettingError: the stage has no nets of this arm.
    """
    stems = [path.stem.replace(_SLASH, "/") for path in sorted((ctr_dir / "nets").glob("*.safetensors"))]
    names = [stem.rpartition("-") for stem in stems]
    seeds = [int(seed) for name, _, seed in names if name == arm]
    if not seeds:
        raise SettingError(f"--arm must be among {', '.join(sorted({name for name, _, _ in names}))}, got {arm!r}.")
    return seeds


def saved_features(
    inputs: CTRInputs, settings: CTRSettings, ctr_dir: Path, arm: str, seed: int, net_seed: int
) -> CTRData:
    """Features of the samples in the form that a saved net of an arm was trained on.

    Args:
        inputs: the tables on which the stage ran.
        settings: of the stage.
        ctr_dir: the stage's directory.
        arm: the arm of the net.
        seed: of the run.
        net_seed: of the net's training.

    Raises:
        SettingError: an earlier version drew what the net reads.
    """
    saved = _saved(ctr_dir)
    data = _builder(inputs, settings, saved)(sample_rows(inputs, settings.text))
    attached = attach_arms(data, inputs, [arm], settings.text)
    return _with_gaps(draw_arm(attached, arm, seed, net_seed), arm, saved["gaps"][arm])


def _saved(ctr_dir: Path) -> dict[str, Any]:
    """The content of `features_file`.

    Raises:
        SettingError: the nets were trained by an earlier version, whose features and placebos were others.
    """
    saved: dict[str, Any] = json.loads(features_file(ctr_dir).read_text())
    if "scale" not in saved:
        raise SettingError(
            f"the nets in {ctr_dir} were trained by trackrec 0.1.0, whose features were others. Run `trackrec fit` to "
            "train them again, or predict with that version."
        )
    return saved


def _builder(
    inputs: CTRInputs, settings: CTRSettings, saved: Mapping[str, Any], now: int | None = None
) -> FeatureBuilder:
    return feature_builder(
        inputs,
        settings.text,
        settings.features,
        Vocabularies.of(saved["vocabularies"]),
        int(saved["spec"]["recent_len"]),
        RatingScale.saved(saved["scale"]),
        now,
    )


def _with_gaps(data: CTRData, arm: str, gaps: bool) -> CTRData:
    """Set ``gaps`` as it was in training: only nets trained on rows without a text have a vector for them."""
    if arm not in data.arms:
        return data
    return replace(data, arms={**data.arms, arm: replace(data.arms[arm], gaps=gaps)})


def load_net(settings: CTRSettings, spec: FeatureSpec, path: Path) -> nn.Module:
    """A saved net, in eval mode.

    Raises:
        TableError: its file is damaged.
        SettingError: the configuration describes another net than the one that was trained.
    """
    from safetensors.torch import load_file

    check_weights(path)
    connector = settings.connector(spec.text_dim) if spec.text_dim and settings.connector else None
    net = settings.net(spec, connector)
    try:
        net.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise SettingError(
            f"ctr.net: {type(net).__name__} as configured isn't the net in {path}. Give the config of the run, or run "
            "`trackrec fit` with this one."
        ) from error
    return net.eval()
