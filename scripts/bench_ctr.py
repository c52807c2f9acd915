"""Rows per second of training DIN and DeepFM: this package, a bare loop over the same net, FuxiCTR and deepctr-torch.

Random rows of ML-100K's shape, equal batches and widths, no validation. The ways take turns, one epoch each. Each way
has a process of its own, as for its users. Peers run their own training loop, if they are installed: deepctr-torch on
arrays, FuxiCTR from its npz loader, and FuxiCTR from a list of prepared batches, without the cost of making them, which
every other way includes. FuxiCTR's package ships no DeepFM, so one is built from its layers. Prints medians; ``--json``
writes them.
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
from trackrec.ctr.features.rating_scale import RatingScale
from trackrec.ctr.training.data import CTRDataModule, TensorLoader
from trackrec.ctr.training.module import CTRModule
from trackrec.ctr.training.train import trainer_of

NETS = {"DIN": DIN, "DeepFM": DeepFM}
N_ITEMS, N_USERS, N_GENRES, H, A, N_DENSE = 1684, 945, 21, 10, 6, 21
DIM, HIDDEN, ATTENTION = 16, (200, 80), (64,)


class Taken(NamedTuple):
    """What a piece of work took: seconds of wall and CPU time, and minor page faults."""

    wall: float
    cpu: float
    faults: int

    def __add__(self, other: Taken) -> Taken:  # type: ignore[override]
        return Taken(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: Taken) -> Taken:
        return Taken(*(a - b for a, b in zip(self, other, strict=True)))


Way = Callable[[str, CTRData, int], Taken]


def main() -> None:
    """Time every way at a given shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    ways = {"trackrec": ours, "trackrec, compiled": partial(ours, compile=True), "bare loop": bare, **_peers()}
    others = list(ways)[1:]
    parser.add_argument("--beside", nargs="*", default=others, choices=others, help="ways to compare trackrec with")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    quiet()
    report: dict[str, Any] = {
        **vars(args),
        "json": None,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    for net in args.nets:
        with contextlib.ExitStack() as stack:
            turns = {}
            for name in ("trackrec", *args.beside):
                process = _WayProcess(ways[name], net, args.rows, args.batch_size)
                turns[name] = stack.enter_context(process).turn
            report[net] = compare(turns, args.rows, args.batch_size, args.repeats)
        for way, numbers in report[net].items():
            print(
                f"{net:7} {way:22} " + "  ".join(f"{name} {value:,.2f}" for name, value in numbers.items()), flush=True
            )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def _peers() -> dict[str, Way]:
    """The ways of other packages that are installed."""
    ways: dict[str, Way] = {}
    if importlib.util.find_spec("fuxictr"):
        ways |= {"FuxiCTR": fuxi, "FuxiCTR, ready batches": partial(fuxi, ready=True)}
    if importlib.util.find_spec("deepctr_torch"):
        ways["deepctr-torch"] = deepctr
    return ways


class _WayProcess:
    """A process that trains one way, an epoch per call of `turn`."""

    def __init__(self, way: Way, net: str, rows: int, batch_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, way, net, rows, batch_size), daemon=True)

    def __enter__(self) -> _WayProcess:
        self._process.start()
        return self

    def turn(self) -> Taken:
        """Train an epoch in the process and wait for it."""
        self._connection.send(True)
        while not self._connection.poll(1.0):
            if not self._process.is_alive():
                raise RuntimeError(f"a way's process ended with exit code {self._process.exitcode}")
        return self._connection.recv()

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._connection.send(False)
        self._process.join()


def _serve(connection: Connection, way: Way, net: str, rows: int, batch_size: int) -> None:
    """Train an epoch for every True that is received."""
    quiet()
    data = made_up(rows)
    while connection.recv():
        connection.send(way(net, data, batch_size))


def compare(
    turns: dict[str, Callable[[], Taken]], rows: int, batch_size: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Median rows per second, of wall and of CPU time, and page faults a step, after one turn that isn't counted."""
    taken: dict[str, list[Taken]] = {name: [] for name in turns}
    for repeat in range(repeats + 1):
        for name, turn in turns.items():
            epoch = turn()
            if repeat:
                taken[name].append(epoch)
    steps = -(-rows // batch_size)
    # Within a turn all ways have the same load from other processes: the ratio is taken turn by turn.
    return {
        name: {
            "rows/s": rows / statistics.median(epoch.wall for epoch in epochs),
            "rows/CPU-s": rows / statistics.median(epoch.cpu for epoch in epochs),
            "times as slow as trackrec": statistics.median(
                epoch.cpu / base.cpu for epoch, base in zip(epochs, taken["trackrec"], strict=True)
            ),
            "page faults a step": statistics.median(epoch.faults for epoch in epochs) / steps,
        }
        for name, epochs in taken.items()
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
    """Random rows of ML-100K's shape, or with other numbers of users and items."""
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
    spec = FeatureSpec(n_items, n_users, N_GENRES, recent_len=H, n_dense=N_DENSE)
    vocabularies = Vocabularies([], [], [])
    scale = RatingScale(0.0, (-1.0, 1.0), (-1.0, 1.0), liked=0.5)
    return CTRData(
        spec, scale, {"train": columns}, attributes, {"train": []}, {"train": []}, ["h"], ["u"], vocabularies
    )


def _net(name: str, data: CTRData) -> torch.nn.Module:
    torch.manual_seed(0)
    return NETS[name](data.spec, embed_dim=DIM, hidden=HIDDEN)


class _EpochTime(pl.Callback):
    """Times an epoch until its first batch and until its end, without the trainer's set-up."""

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
    """What an epoch, or its first ``steps`` steps, took until the first batch and from there to the end."""
    timed = _EpochTime()
    with tempfile.TemporaryDirectory() as folder:
        args = {"accelerator": "cpu", "max_epochs": 1, "limit_val_batches": 0, "limit_train_batches": steps}
        trainer = trainer_of(args, Path(folder), [timed])
        trainer.fit(
            CTRModule(partial(_net, name, data), **model_args), datamodule=CTRDataModule(data, batch_size=batch_size)
        )
    return timed.first, timed.watch.taken - timed.first


def bare(name: str, data: CTRData, batch_size: int) -> Taken:
    """The same net, loss and batches with plain Adam, in a loop of five lines."""
    net = _net(name, data).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    loader = TensorLoader(data, "train", "none", batch_size, shuffle=True)
    with Stopwatch() as watch:
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
        # What BaseModel.fit sets before the first epoch; no evaluation during it.
        model._max_gradient_norm = 10.0
        model._eval_steps = len(batches) + 1
        model._total_steps = model._batch_index = model._epoch_index = 0
        model._stop_training = False
        with Stopwatch() as watch:
            model.train_epoch(batches)
    return watch.taken


class _FuxiBatches:
    """FuxiCTR's ``NpzDataLoader`` in this process, its columns in the form that its DIN takes."""

    def __init__(self, data: CTRData, batch_size: int, path: Path, lists: bool) -> None:
        from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

        self.lists = lists
        features = _fuxi_features("")
        train = data.splits["train"]
        columns = {name: train[name].numpy() for name in ("user", "item", "label")}
        columns |= {f"dense_{index}": train["dense"][:, index].numpy() for index in range(N_DENSE)}
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
    for index in range(N_DENSE):
        features.features[f"dense_{index}"] = {"source": "", "type": "numeric"}
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
    """Silence what Lightning and torch print about a training without validation."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")


if __name__ == "__main__":
    main()
