"""Logistic regression and gradient boosting on the nets' own dense features, with and without the text.

On ratings they are hard to beat. A net that loses to them has learned less than its dense features hold.

Letters: N rows, F columns.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackrec.ctr.arms.arm import CLASSICS, Arm
from trackrec.ctr.arms.assemble import draw_arm
from trackrec.ctr.arms.texts import principal_components, used_histories
from trackrec.ctr.features.features import CTRData
from trackrec.metrics.scores import auc
from trackrec.runtime.errors import SettingError
from trackrec.runtime.packages import MissingPackageError

TEXT_COMPONENTS = 16
_STRENGTHS = (0.01, 0.1, 1.0)  # C of the logistic regression, chosen by AUC on validation
_BOOSTING: dict[str, Any] = {
    "objective": "binary",
    "metric": "auc",
    "learning_rate": 0.02,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.7,
    "lambda_l2": 10.0,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
_BOOSTING_TREES = 2000  # at most
_BOOSTING_PATIENCE = 100  # trees without a better validation AUC

Float = NDArray[np.float64]


def check_classics(names: Iterable[str]) -> None:
    """Check that the models can run, before the nets are trained.

    Raises:
        SettingError: an unknown name.
        MissingPackageError: LightGBM is named and not installed.
    """
    for name in names:
        if name not in CLASSICS:
            raise SettingError(f"ctr.classics must be among {', '.join(CLASSICS)}, got {name!r}.")
        if name == "lightgbm" and importlib.util.find_spec("lightgbm") is None:
            raise MissingPackageError(
                "ctr.classics names lightgbm, which is not installed. Run `pip install 'trackrec[lightgbm]'`, or leave "
                "it out."
            )


def classic_predictions(
    data: CTRData, names: Sequence[str], arms: Sequence[str], seeds: Sequence[int], seed: int = 0
) -> pl.DataFrame:
    """Rows of the predictions table for valid and test: each model on the dense features and the text of each arm.

    The text enters as its principal components, fitted on train texts (``logistic+reccot``). The boosting has one
    result per seed; so has the regression where the arm is drawn anew for each, else it has one. Regularisation and the
    number of trees are chosen on validation.

    Args:
        data: features, with the arms attached.
        names: among ``logistic`` and ``lightgbm``.
        arms: ``none`` or arms of ``data``; ``logistic+reccot`` is named after its arm, ``logistic`` after ``none``.
        seeds: of the boosting, and of what is drawn; see `draw_arm`.
        seed: of the run.
    """
    frames = []
    for arm in map(Arm.parse, arms):
        for model_seed in seeds:
            own = draw_arm(data, arm.name, seed, model_seed)
            if own is not data or model_seed == seeds[0]:
                columns = {split: _columns(own, split, arm.name) for split in data.splits}
            for name in names:
                label = f"{name}+{arm.name}" if arm.texts else f"{name}{arm.suffix}"
                if name == "lightgbm":
                    frames += _rows(data, _boosting(data, columns, model_seed), label, model_seed)
                elif own is not data or model_seed == seeds[0]:
                    frames += _rows(data, _logistic(data, columns), label, model_seed)
    return pl.concat(frames)


def _rows(data: CTRData, predictions: dict[str, Float], arm: str, seed: int) -> list[pl.DataFrame]:
    frames = [
        pl.DataFrame({"sample_id": data.sample_ids[split], "p": p, "split": split}) for split, p in predictions.items()
    ]
    return [frame.with_columns(model=pl.lit("classic"), arm=pl.lit(arm), seed=pl.lit(seed)) for frame in frames]


def _columns(data: CTRData, split: str, arm: str) -> Float:
    """(N, F): dense features, then the arm's dense columns, or the components of its text and whether it has one."""
    dense = data.dense(split, arm).double().numpy()
    if arm not in data.arms:
        return dense
    texts = data.arms[arm]
    rows = texts.rows[data.splits[split]["history"].long()].numpy()
    components = np.where(rows[:, None] >= 0, _components(data, arm)[rows], 0.0)
    return np.concatenate([dense, components, rows[:, None] >= 0], axis=1)


def _components(data: CTRData, arm: str) -> Float:
    """(n_texts, at most TEXT_COMPONENTS): principal components of the arm's vectors, fitted on train texts."""
    texts = data.arms[arm]
    rows = texts.rows[used_histories(data, "train")]
    n_texts = len(rows[rows >= 0].unique())
    dim = min(TEXT_COMPONENTS, n_texts, texts.matrix.shape[1])
    return principal_components(data, texts, dim, arm).matrix.double().numpy()


def _logistic(data: CTRData, columns: dict[str, Float]) -> dict[str, Float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(
            columns["train"], _labels(data, "train")
        )
        for strength in _STRENGTHS
    ]
    labels = _labels(data, "valid")
    best = max(fitted, key=lambda model: auc(model.predict_proba(columns["valid"])[:, 1], labels))
    return {split: best.predict_proba(columns[split])[:, 1] for split in _predicted(data)}


def _boosting(data: CTRData, columns: dict[str, Float], seed: int) -> dict[str, Float]:
    import lightgbm

    train = lightgbm.Dataset(columns["train"], _labels(data, "train"))
    valid = lightgbm.Dataset(columns["valid"], _labels(data, "valid"), reference=train)
    stop = lightgbm.early_stopping(_BOOSTING_PATIENCE, verbose=False)
    model = lightgbm.train({**_BOOSTING, "seed": seed}, train, _BOOSTING_TREES, [valid], callbacks=[stop])
    return {split: np.asarray(model.predict(columns[split])) for split in _predicted(data)}


def _labels(data: CTRData, split: str) -> NDArray[np.int64]:
    return data.splits[split]["label"].numpy().astype(np.int64)


def _predicted(data: CTRData) -> list[str]:
    return [split for split in ("valid", "test") if split in data.splits]
