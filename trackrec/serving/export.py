"""``trackrec export``: the nets of an arm as a bundle; see `trackrec.serving.bundle` for what is in it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

import trackrec
from trackrec.ctr.arms.arm import Arm
from trackrec.ctr.arms.assemble import CTRInputs, sample_rows
from trackrec.ctr.arms.log_odds import log_odds_columns
from trackrec.ctr.features.dense_statistics import ITEM_NAMES, HistoryStatistics, dense_names
from trackrec.ctr.features.features import CTRData
from trackrec.ctr.saved import load_net, saved_features, saved_net, saved_seeds
from trackrec.ctr.settings import CTRSettings
from trackrec.embed.encode import EmbedSettings, embed_texts
from trackrec.embed.vectors import vectors_of
from trackrec.recipe.ctr_inputs import check_nets, ctr_inputs
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.names import EMBED
from trackrec.recipe.tables import without_items
from trackrec.runtime.errors import SettingError
from trackrec.runtime.packages import need
from trackrec.serving.bundle import (
    CARD,
    FORMAT,
    INFO,
    NET,
    WITHOUT_TEXT,
    Net,
    digest_of,
    file_facts,
)
from trackrec.serving.bundle_tables import BundleTables
from trackrec.serving.bundle_texts import Embed, text_vectors, write_item_vectors
from trackrec.serving.card import bundle_card
from trackrec.serving.everyone import newest_histories_of_all
from trackrec.serving.ladder import base_rate
from trackrec.serving.onnx_file import largest_difference, write_onnx
from trackrec.serving.ranges import ranges
from trackrec.serving.requests import net_inputs
from trackrec.serving.whole_folder import whole_or_nothing
from trackrec.storage.atomic import write_atomic

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CHECKED_ROWS = 512
_LOG_ODDS_COLUMNS = ("log_odds", "has_log_odds")
Seed = int | Literal["all"] | None


class Exported(NamedTuple):
    """What was written.

    Attributes:
        net: the nets' class.
        seeds: of the trainings whose mean answers.
        difference: the largest between onnxruntime and torch.
        rows: validation rows on which it was measured.
        without_text: the arm whose net answers users without a text; None where the first net does.
    """

    net: str
    seeds: tuple[int, ...]
    difference: float
    rows: int
    without_text: str | None


def export(exp: Experiment, arm: str, seed: Seed, output: Path, embed_items: bool = True) -> None:
    """Write the bundle of one arm of a finished run; see the module.

    Args:
        exp: a run whose ctr stage is done.
        arm: one of those the ctr stage trained.
        seed: of one training; ``all``: the mean of all of them; None: the first.
        output: folder to write; it must not exist.
        embed_items: encode the items' own texts too, so that a user's text finds items.

    Raises:
        MissingPackageError: a package of the extra ``export`` is missing.
        StageError: a stage that it reads isn't done, or is damaged.
        SettingError: the folder exists, there is no such net, or onnxruntime doesn't agree with torch.
    """
    check_packages()
    check_nets(exp)
    inputs = ctr_inputs(exp)
    encoder = str(exp.table(EMBED, "embeddings")["encoder"][0]) if inputs.vectors else ""
    empty_text = not exp.prompts.user_attributes
    embed = partial(_embed, settings=exp.embed) if embed_items else None
    exported = export_bundle(
        inputs, exp.ctr, exp.directory("ctr"), arm, seed, exp.seed, output, encoder, empty_text, embed
    )
    others = f"; users without a text are answered by arm {exported.without_text}" if exported.without_text else ""
    exp.say(
        f"{exported.net} of arm {arm}, seed {', '.join(map(str, exported.seeds))}, in {output}: onnxruntime differs "
        f"from torch by at most {exported.difference:.1e} on {exported.rows} validation rows{others}"
    )


def _embed(texts: list[str], settings: EmbedSettings) -> NDArray[np.floating[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        embed_texts(texts, settings, Path(folder), None)
        return vectors_of(Path(folder), texts)


def check_packages() -> None:
    """Check that the extra ``export`` is installed.

    Raises:
        MissingPackageError: it isn't.
    """
    need("trackrec export", "export", *PACKAGES)


class _Trained(NamedTuple):
    """The nets of an arm, and the features that they read."""

    arm: Arm
    seeds: tuple[int, ...]
    data: CTRData
    nets: list[nn.Module]

    @property
    def statistics(self) -> int:
        """How many dense statistics they read."""
        columns = self.data.columns.get(self.arm.name)
        return self.data.spec_for(self.arm.name).n_dense - (0 if columns is None else columns["train"].shape[1])


def export_bundle(
    inputs: CTRInputs,
    settings: CTRSettings,
    ctr_dir: Path,
    arm: str,
    net_seed: Seed,
    seed: int,
    output: Path,
    encoder: str = "",
    empty_text: bool = True,
    embed_items: Embed | None = None,
) -> Exported:
    """The body of `export`: built in a temporary folder, checked, then renamed.

    Args:
        inputs: the tables on which the stage ran.
        settings: of the stage.
        ctr_dir: the stage's directory.
        arm: the arm of the nets.
        net_seed: of the training; ``all``: the mean of all; None: the first.
        seed: of the run, for what is drawn for the arm.
        output: folder to write.
        encoder: what made the text vectors.
        empty_text: whether the text about an empty history fits every new user.
        embed_items: texts -> their vectors by the same encoder; None leaves the items' vectors out.
    """
    main = _trained(inputs, settings, ctr_dir, arm, net_seed, seed)
    other = _for_others(main, inputs, settings, ctr_dir, net_seed, seed)
    with whole_or_nothing(output) as work:
        nets, difference, rows = [], 0.0, 0
        for trained, file in ((main, NET), (other, WITHOUT_TEXT)):
            if trained is not None:
                example = net_inputs(trained.data, trained.arm.name, "valid", slice(_CHECKED_ROWS))
                write_onnx(trained.nets, example, work / file)
                difference = max(difference, largest_difference(trained.nets, example, work / file))
                rows = len(example["item"])
                nets.append(_net(trained, file, example))
        info = _contents(main, inputs, settings, encoder, empty_text, work)
        info = {"format": FORMAT, "trackrec": trackrec.__version__, **info, "nets": [asdict(net) for net in nets]}
        if embed_items is not None and info["text"] is not None and info["text"]["live"]:
            write_item_vectors(inputs.items, embed_items, work)
        write_atomic(work / CARD, bundle_card(info, ctr_dir, sample_rows(inputs, settings.text), inputs.interactions))
        files = sorted(path for path in work.iterdir() if path.name != INFO)
        info["files"] = {path.name: file_facts(path) for path in files}
        write_atomic(work / INFO, json.dumps({**info, "digest": digest_of(info)}, indent=1) + "\n")
    return Exported(info["net"], main.seeds, difference, rows, other.arm.name if other else None)


def _trained(inputs: CTRInputs, settings: CTRSettings, ctr_dir: Path, arm: str, net_seed: Seed, seed: int) -> _Trained:
    seeds = saved_seeds(ctr_dir, arm)
    parsed = Arm.parse(arm)
    if net_seed is None:
        chosen = seeds[:1]
    elif net_seed == "all":
        chosen = seeds
    elif net_seed in seeds:
        chosen = [net_seed]
    else:
        raise SettingError(f"--seed must be all or among {', '.join(map(str, seeds))}, got {net_seed}.")
    if len(chosen) > 1 and parsed.is_drawn:
        raise SettingError(
            f"--seed all: each training of arm {arm} read texts that were drawn for it. Name one of "
            f"{', '.join(map(str, seeds))}."
        )
    data = saved_features(inputs, settings, ctr_dir, arm, seed, chosen[0])
    spec = data.spec_for(arm)
    return _Trained(
        parsed, tuple(chosen), data, [load_net(settings, spec, saved_net(ctr_dir, arm, one)) for one in chosen]
    )


def _for_others(
    main: _Trained, inputs: CTRInputs, settings: CTRSettings, ctr_dir: Path, net_seed: Seed, seed: int
) -> _Trained | None:
    """The nets without text, where those of the arm can't answer users without one and the run trained them."""
    texts = main.data.arms.get(main.arm.name)
    if texts is None or texts.gaps:
        return None
    name = f"none{main.arm.suffix}"
    try:
        seeds = saved_seeds(ctr_dir, name)
    except SettingError:  # the run has no such arm; the card says who answers instead
        return None
    return _trained(inputs, settings, ctr_dir, name, net_seed if net_seed in ("all", *seeds) else None, seed)


def _net(trained: _Trained, file: str, example: Mapping[str, Any]) -> Net:
    name, spec = trained.arm.name, trained.data.spec_for(trained.arm.name)
    return Net(
        file=file,
        arm=name,
        seeds=trained.seeds,
        inputs=tuple(example),
        n_statistics=trained.statistics,
        text=bool(spec.text_dim),
        gaps=spec.text_gaps,
        log_odds=name in trained.data.columns,
    )


def _contents(
    main: _Trained, inputs: CTRInputs, settings: CTRSettings, encoder: str, empty_text: bool, work: Path
) -> dict[str, Any]:
    """Writes the tables; returns what ``bundle.json`` says of them."""
    data, arm = main.data, main.arm.name
    history: HistoryStatistics = settings.features.history_statistics
    tables = BundleTables(inputs, data.vocabularies, data.scale, history, data.spec.recent_len)
    tables.write_items(work)
    answerable = set(sample_rows(inputs, settings.text)["history_id"].to_list())
    reccots = inputs.vectors.get("reccot")
    vectors, text = text_vectors(data, main.arm, reccots, settings.text.pca_dim, encoder, work)
    empty = sorted(without_items(inputs.histories) & answerable)
    everything = tables.everything()
    dense = list(dense_names(history) if main.arm.statistics else ITEM_NAMES)
    own = _LOG_ODDS_COLUMNS if arm in data.columns else ()
    return {
        "net": type(main.nets[0]).__name__,
        "arm": arm,
        "seeds": list(main.seeds),
        "threshold": data.scale.threshold,
        "scale": asdict(data.scale),
        "history_statistics": history,
        "recent_len": data.spec.recent_len,
        "dense": [*dense, *own],
        "vocabularies": {name: len(words) for name, words in asdict(data.vocabularies).items()},
        "attributes": data.vocabularies.attributes,
        "text": text,
        "log_odds": _log_odds_reading() if arm in data.columns else None,
        "published_lists": inputs.published_lists,
        "everything": [float(value[0]) for value in everything],
        "base_rate": base_rate(everything),
        "cold": bool((~data.splits["train"]["recent_mask"].any(dim=1)).any()),
        "cold_text": vectors[empty[0]].tolist() if empty_text and empty and empty[0] in vectors else None,
        "users": tables.write_users(work, newest_histories_of_all(inputs.samples, answerable), vectors),
        "items": len(inputs.items),
        "ranges": ranges(data, arm, [*dense, *own], main.nets),
    }


def _log_odds_reading() -> dict[str, float]:
    """How `log_odds_columns` clips and scales, read from what it does."""
    small, large = log_odds_columns(["a", "b"], {"a": 1.0, "b": 1e9})[:, 0].tolist()
    return {"limit": large / small, "divisor": 1.0 / small}
