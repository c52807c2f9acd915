"""Rows per second of training DIN and DeepFM: this package, a bare loop over the same net, FuxiCTR and deepctr-torch.

Made-up rows of ML-100K's shape, equal batches and widths, no validation; the ways take turns, an epoch each, every way
in a process of its own, as its users run it: this package tells the C library to keep freed memory
(`trackrec.ctr.training.malloc`), and in one process its peers would train on that, too. Peers run their own training
loop, only where they are installed: deepctr-torch on arrays, FuxiCTR from its npz loader, and once more from a list of
ready batches, without the cost of making them, which every other way pays. FuxiCTR's package ships no DeepFM, so its is
put together from its own layers. Prints medians; ``--json`` writes them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import multiprocessing
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch.nn import functional as F

from trackrec.ctr import DIN, DeepFM
from trackrec.ctr.features.features import CTRData, FeatureSpec, Vocabularies
from trackrec.ctr.training.data import CTRDataModule, TensorLoader
from trackrec.ctr.training.malloc import keep_freed_memory
from trackrec.ctr.training.module import CTRModule
from trackrec.ctr.training.train import trainer_of

NETS = {"DIN": DIN, "DeepFM": DeepFM}
N_ITEMS, N_USERS, N_GENRES, H, A, N_DENSE = 1684, 945, 21, 10, 6, 21
DIM, HIDDEN, ATTENTION = 16, (200, 80), (64,)


class Taken(NamedTuple):
    """What a stretch of a process took: seconds of wall and CPU time, and pages of memory it had to ask for."""

    wall: float
    cpu: float
    faults: int

    def __add__(self, other: Taken) -> Taken:  # type: ignore[override]
        return Taken(*(one + two for one, two in zip(self, other, strict=True)))

    def __sub__(self, other: Taken) -> Taken:
        return Taken(*(one - two for one, two in zip(self, other, strict=True)))


Way = Callable[[str, CTRData, int], Taken]


def main() -> None:
    """Time every way at a given shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    quiet()
    ways = {"trackrec": ours, "trackrec, compiled": partial(ours, compile=True), "bare loop": bare, **_peers()}
    report: dict[str, Any] = {
        **vars(given),
        "json": None,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    for net in given.nets:
        with contextlib.ExitStack() as stack:
            apart = {name: _Apart(way, net, given.rows, given.batch_size) for name, way in ways.items()}
            turns = {name: stack.enter_context(process).turn for name, process in apart.items()}
            report[net] = compare(turns, given.rows, given.batch_size, given.repeats)
        for way, numbers in report[net].items():
            print(
                f"{net:7} {way:22} " + "  ".join(f"{name} {value:,.2f}" for name, value in numbers.items()), flush=True
            )
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


def _peers() -> dict[str, Way]:
    found: dict[str, Way] = {}
    if importlib.util.find_spec("fuxictr"):
        found |= {"FuxiCTR": fuxi, "FuxiCTR, ready batches": partial(fuxi, ready=True)}
    if importlib.util.find_spec("deepctr_torch"):
        found["deepctr-torch"] = deepctr
    return found


class _Apart:
    """One way in a process of its own, which does an epoch whenever it is asked."""

    def __init__(self, way: Way, net: str, rows: int, batch_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, way, net, rows, batch_size), daemon=True)

    def __enter__(self) -> _Apart:
        self._process.start()
        return self

    def turn(self) -> Taken:
        """Ask for an epoch and wait for it."""
        self._here.send(True)
        while not self._here.poll(1.0):
            if not self._process.is_alive():
                raise RuntimeError(f"a way's process ended with exit code {self._process.exitcode}")
        return self._here.recv()

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._here.send(False)
        self._process.join()


def _serve(asked: Connection, way: Way, net: str, rows: int, batch_size: int) -> None:
    quiet()
    data = made_up(rows)
    while asked.recv():
        asked.send(way(net, data, batch_size))


def compare(
    turns: dict[str, Callable[[], Taken]], rows: int, batch_size: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Median rows per second, of wall and of CPU time, and page faults a step, after one turn that isn't counted."""
    found: dict[str, list[Taken]] = {name: [] for name in turns}
    for repeat in range(repeats + 1):
        for name, turn in turns.items():
            taken = turn()
            if repeat:
                found[name].append(taken)
    steps = -(-rows // batch_size)
    # Within a turn the ways meet the same neighbours: the ratio is taken turn by turn.
    return {
        name: {
            "rows/s": rows / statistics.median(one.wall for one in taken),
            "rows/CPU-s": rows / statistics.median(one.cpu for one in taken),
            "times as slow as trackrec": statistics.median(
                one.cpu / own.cpu for one, own in zip(taken, found["trackrec"], strict=True)
            ),
            "page faults a step": statistics.median(one.faults for one in taken) / steps,
        }
        for name, taken in found.items()
    }


def _now() -> Taken:
    return Taken(time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt)


class Stopwatch:
    """What a ``with`` block took."""

    def __enter__(self) -> Stopwatch:
        self._start = _now()
        return self

    def __exit__(self, *_: object) -> None:
        self.taken = _now() - self._start


def made_up(rows: int, n_users: int = N_USERS, n_items: int = N_ITEMS) -> CTRData:
    """Rows of ML-100K's shape, or of larger tables."""
    rng = torch.Generator().manual_seed(0)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(2, high, shape, generator=rng, dtype=torch.int32)

    attributes = draw(N_GENRES, n_items, A)
    attributes[torch.arange(A) >= torch.randint(1, 4, (n_items, 1), generator=rng)] = 0
    recent = draw(n_items, rows, H)
    columns = {
        "user": draw(n_users, rows),
        "item": draw(n_items, rows),
        "item_row": draw(n_items, rows),
        "history": torch.zeros(rows, dtype=torch.int32),
        "recent_items": recent,
        "recent_rows": recent,
        "recent_ratings": torch.randn(rows, H, generator=rng),
        "recent_mask": torch.ones(rows, H, dtype=torch.bool),
        "dense": torch.randn(rows, N_DENSE, generator=rng),
        "label": torch.randint(2, (rows,), generator=rng).float(),
    }
    spec, nothing = FeatureSpec(n_items, n_users, N_GENRES, recent_len=H, n_dense=N_DENSE), Vocabularies([], [], [], [])
    return CTRData(spec, {"train": columns}, attributes, {"train": []}, {"train": []}, ["h"], ["u"], nothing)


def _net(name: str, data: CTRData) -> torch.nn.Module:
    torch.manual_seed(0)
    return NETS[name](data.spec, embed_dim=DIM, hidden=HIDDEN)


class _EpochTime(pl.Callback):
    """The seconds until an epoch's first batch, and those of its steps, without the trainer's set-up."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.watch = Stopwatch().__enter__()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if index == 0:
            self.watch.__exit__()
            self.first = self.watch.taken

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.watch.__exit__()


def ours(name: str, data: CTRData, batch_size: int, **model_args: Any) -> Taken:
    """An epoch as the CTR stage trains: TensorLoader, CTRModule, Lightning."""
    first, rest = train(name, data, batch_size, **model_args)
    return first + rest


def train(
    name: str, data: CTRData, batch_size: int, steps: int | None = None, **model_args: Any
) -> tuple[Taken, Taken]:
    """What it took until the first batch, and for the rest of an epoch, or for so many steps of it."""
    timed = _EpochTime()
    with tempfile.TemporaryDirectory() as folder:
        args = {"accelerator": "cpu", "max_epochs": 1, "limit_val_batches": 0, "limit_train_batches": steps}
        trainer = trainer_of(args, Path(folder), [timed])
        with keep_freed_memory():
            trainer.fit(
                CTRModule(_net(name, data), **model_args), datamodule=CTRDataModule(data, batch_size=batch_size)
            )
    return timed.first, timed.watch.taken - timed.first


def bare(name: str, data: CTRData, batch_size: int) -> Taken:
    """The same net, loss, batches and memory settings, and plain Adam, in a loop of five lines."""
    net = _net(name, data).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    loader = TensorLoader(data, "train", "none", batch_size, shuffle=True)
    with keep_freed_memory(), Stopwatch() as watch:
        for batch in loader:
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(net(batch), batch["label"]).backward()
            optimizer.step()
    return watch.taken


def fuxi(name: str, data: CTRData, batch_size: int, ready: bool = False) -> Taken:
    """``BaseModel.train_epoch``; embeddings of user, items and dense features."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        model = _fuxi_din() if name == "DIN" else _fuxi_deepfm()
        batches: Any = _FuxiBatches(data, batch_size, Path(folder) / "train.npz", name == "DIN")
        batches = list(batches) if ready else batches
        model._max_gradient_norm, model._eval_steps, model._total_steps = 10.0, len(batches) + 1, 0
        model._stop_training, model._batch_index, model._epoch_index = False, 0, 0
        with Stopwatch() as watch:
            model.train_epoch(batches)
    return watch.taken


class _FuxiBatches:
    """FuxiCTR's ``NpzDataLoader`` in this process, its columns in the form that its DIN takes."""

    def __init__(self, data: CTRData, batch_size: int, path: Path, lists: bool) -> None:
        from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

        features, self.lists = _fuxi_features(""), lists
        train = data.splits["train"]
        columns = {name: train[name].numpy() for name in ("user", "item", "label")}
        columns |= {f"dense_{place}": train["dense"][:, place].numpy() for place in range(N_DENSE)}
        if lists:
            features.features["recent"] = {"source": "", "type": "sequence", "max_len": H}
            features.features["mask"] = {"source": "", "type": "sequence", "max_len": H}
            columns |= {"recent": train["recent_items"].numpy(), "mask": train["recent_mask"].numpy()}
        np.savez(path, **columns)
        self.loader = NpzDataLoader(features, str(path), batch_size, shuffle=True, num_workers=0)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if not self.lists:
                yield batch
                continue
            items = torch.cat([batch.pop("recent"), batch.pop("item")[:, None]], dim=1).flatten()
            mask = batch.pop("mask").float()
            yield batch, {"item": items}, mask


_FUXI = {
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "learning_rate": 1e-3,
    "gpu": -1,
    "verbose": 0,
    "metrics": ["AUC"],
    "model_root": tempfile.gettempdir(),
    "embedding_dim": DIM,
}


def _fuxi_features(item_source: str) -> Any:
    from fuxictr.features import FeatureMap

    features = FeatureMap("bench", tempfile.gettempdir())
    features.default_emb_dim = DIM
    features.labels = ["label"]
    features.features["user"] = {"source": "user", "type": "categorical", "vocab_size": N_USERS}
    features.features["item"] = {"source": item_source, "type": "categorical", "vocab_size": N_ITEMS}
    for place in range(N_DENSE):
        features.features[f"dense_{place}"] = {"source": "", "type": "numeric"}
    features.num_fields = features.get_num_fields()
    return features


def _fuxi_din() -> Any:
    from model_zoo import LongCTR

    return LongCTR.DIN(
        _fuxi_features("item"),
        dnn_hidden_units=list(HIDDEN),
        attention_hidden_units=list(ATTENTION),
        attention_hidden_activations="ReLU",
        net_dropout=0.2,
        **_FUXI,
    )


def _fuxi_deepfm() -> Any:
    from fuxictr.pytorch import layers
    from fuxictr.pytorch.models import BaseModel

    features = _fuxi_features("")

    class FuxiDeepFM(BaseModel):
        def __init__(self) -> None:
            super().__init__(features, **_FUXI)
            self.embedding_layer = layers.FeatureEmbedding(features, DIM)
            self.fm = layers.FactorizationMachine(features)
            width = features.sum_emb_out_dim()
            self.mlp = layers.MLP_Block(width, list(HIDDEN), output_dim=1, dropout_rates=0.2)
            self.compile("adam", "binary_crossentropy", 1e-3)

        def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
            x = self.get_inputs(inputs)
            v = self.embedding_layer(x)
            return {"y_pred": self.output_activation(self.fm(x, v) + self.mlp(v.flatten(start_dim=1)))}

    return FuxiDeepFM()


def deepctr(name: str, data: CTRData, batch_size: int) -> Taken:
    """``model.fit`` for one epoch."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from deepctr_torch import models
        from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat

        columns = data.splits["train"]
        features: list[Any] = [
            SparseFeat("user", N_USERS, DIM),
            SparseFeat("item", N_ITEMS, DIM),
            DenseFeat("dense", N_DENSE),
        ]
        x = {"user": columns["user"].numpy(), "item": columns["item"].numpy(), "dense": columns["dense"].numpy()}
        if name == "DIN":
            history = SparseFeat("hist_item", N_ITEMS, DIM, embedding_name="item")
            features.append(VarLenSparseFeat(history, maxlen=H, length_name="length"))
            x |= {"hist_item": columns["recent_items"].numpy(), "length": np.full(len(columns["item"]), H)}
            model = models.DIN(features, ["item"], HIDDEN, att_hidden_size=ATTENTION, dnn_dropout=0.2, device="cpu")
        else:
            model = models.DeepFM(features, features, True, HIDDEN, dnn_dropout=0.2, device="cpu")
        model.compile("adam", "binary_crossentropy")
        with Stopwatch() as watch:
            model.fit(x, columns["label"].numpy(), batch_size=batch_size, epochs=1, verbose=0)
    return watch.taken


def quiet() -> None:
    """Leave out what Lightning and torch say of a training without a validation."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")


if __name__ == "__main__":
    main()
