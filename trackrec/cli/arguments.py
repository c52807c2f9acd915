"""The keys of an experiment, each an argument of a constructor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jsonargparse.typing import register_type
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from trackrec.align.data import AlignData
from trackrec.align.module import SoftmaxDPOModule
from trackrec.align.preferences import PreferenceSettings
from trackrec.bulk.settings import BulkSettings
from trackrec.commands.search_space import TuneSettings
from trackrec.ctr import FeatureSpec
from trackrec.ctr.arms.arm import ARMS, NO_STATS
from trackrec.ctr.arms.text_settings import TextSettings
from trackrec.ctr.features.dense_statistics import FeatureSettings
from trackrec.ctr.settings import DEFAULT_ARMS
from trackrec.ctr.training.data import CTRDataModule
from trackrec.ctr.training.module import CTRModule
from trackrec.distill import Teacher
from trackrec.distill.data import DistillData
from trackrec.distill.module import DistillModule
from trackrec.embed.encode import EmbedSettings
from trackrec.engine.engine import Engine
from trackrec.engine.local import LocalEngine  # noqa: F401 - an engine of the config is found by its short name
from trackrec.engine.ray_engine import RayEngine  # noqa: F401 - likewise
from trackrec.interactions import RatingSource, SampleRules
from trackrec.llm.loading import BackboneSettings
from trackrec.llm.sampling.auto_sampler import AutoSampler  # noqa: F401 - a sampler of the config is found by its short name
from trackrec.llm.sampling.hf_sampler import HFSampler  # noqa: F401 - likewise
from trackrec.llm.sampling.sampler import Sampler
from trackrec.llm.vllm.sampler import VLLMSampler  # noqa: F401 - likewise
from trackrec.prompts.settings import PromptSettings
from trackrec.recipe.settings import LoopSettings
from trackrec.runs.hooks import StageHook
from trackrec.runtime.quantities import GiB, Seconds, parse_gib, parse_seconds
from trackrec.validator.data import RecTuneData
from trackrec.validator.module import RecTuningModule
from trackrec.validator.settings import ScoreSettings

# What the pipeline hands to the classes itself; the rest of their arguments are configuration.
_LM_MODULE = {"lm", "adapter"}
_LM_DATA = {"lm", "book", "teacher_dir", "directories", "weight", "texts", "targets", "held", "others", "seed"}
# Named, not imported: nothing here knows the callbacks.
_MONITORS = (
    "Collapse",
    "LengthDrift",
    "LikelihoodDisplacement",
    "Saturation",
    "StaleReference",
    "RewardHacking",
    "RewardReliability",
    "ValidatorReads",
    "Calibration",
    "AnswerMass",
    "AlwaysYes",
)
register_type(Seconds, float, parse_seconds, deserializer_exceptions=(ValueError,))
register_type(GiB, float, parse_gib, deserializer_exceptions=(ValueError,))
DEFAULT_CLASSES = {
    "sampler": "AutoSampler",
    "teacher": "ProfileTeacher",
    "engine": "LocalEngine",
    "ctr.net": "trackrec.ctr.DIN",
    "ctr.connector": "trackrec.ctr.MLPConnector",
}
"""Classes of a configuration that names none; see `trackrec.cli.given.with_default_classes`."""

SHORT_NAMES = {"--engine": {"local": "LocalEngine", "ray": "RayEngine"}}
"""Words that stand for classes on the command line."""

_TRAINERS = ("distill.trainer", "align.trainer", "rec_tune.trainer", "ctr.trainer")


def add_experiment(parser: LightningArgumentParser) -> None:
    """Every key of an experiment: each is an argument of a constructor."""
    parser.add_argument("--seed_everything", type=int, default=42, help="Seed of the whole run.")
    parser.add_argument("--run_dir", type=Path, required=True, help="Where the stages of this run live.")
    parser.add_argument("--dataset", type=RatingSource, required=True, help="MovieLens, AmazonBook, Table.")
    parser.add_argument("--samples", type=SampleRules, default=SampleRules())
    parser.add_argument("--prompts", type=PromptSettings, default=PromptSettings())
    parser.add_argument("--backbone", type=BackboneSettings, required=True)
    parser.add_argument(
        "--validator_backbone", type=BackboneSettings | None, default=None, help="null: shares backbone."
    )
    # Required here: see DEFAULT_CLASSES.
    parser.add_argument(
        "--sampler", type=Sampler, required=True, help="Who draws texts: AutoSampler, HFSampler, VLLMSampler."
    )
    parser.add_argument(
        "--teacher", type=Teacher, required=True, help="Who writes first: ProfileTeacher, OpenAITeacher."
    )
    parser.add_argument("--loop", type=LoopSettings, default=LoopSettings())
    parser.add_argument("--scoring", type=ScoreSettings, default=ScoreSettings())
    for stage, module, data in (
        ("distill", DistillModule, DistillData),
        ("align", SoftmaxDPOModule, AlignData),
        ("rec_tune", RecTuningModule, RecTuneData),
    ):
        parser.add_class_arguments(module, f"{stage}.model", skip=_LM_MODULE, instantiate=False, sub_configs=True)
        parser.add_class_arguments(data, f"{stage}.data", skip=_LM_DATA, instantiate=False, sub_configs=True)
    parser.add_argument("--align.sets", type=PreferenceSettings, default=PreferenceSettings())
    parser.add_argument("--embed", type=EmbedSettings, default=EmbedSettings())
    _add_ctr(parser)
    parser.add_argument("--engine", type=Engine, required=True, help="Who runs parts: LocalEngine, RayEngine.")
    parser.add_argument("--bulk", type=BulkSettings, default=BulkSettings())
    parser.add_argument("--tune", type=TuneSettings, default=TuneSettings())
    monitors = [{"class_path": f"trackrec.callbacks.{name}"} for name in _MONITORS]
    parser.add_argument("--monitors", type=list[StageHook], default=monitors, help="Looked at after every stage.")
    for key in _TRAINERS:
        parser.add_lightning_class_args(Trainer, key)
        epochs = 20 if key.startswith("ctr") else 1
        parser.set_defaults({f"{key}.max_epochs": epochs, f"{key}.enable_model_summary": False})


def _add_ctr(parser: LightningArgumentParser) -> None:
    net = Callable[[FeatureSpec, nn.Module | None], nn.Module]
    parser.add_argument("--ctr.net", type=net, required=True, help="DIN, DeepFM, LightFM, or the path of a class.")
    connector = Callable[[int], nn.Module] | None
    parser.add_argument("--ctr.connector", type=connector, default=None, help="Text vector to the net.")
    parser.add_class_arguments(CTRModule, "ctr.model", skip={"build_net"}, instantiate=False)
    parser.add_class_arguments(CTRDataModule, "ctr.data", skip={"data", "arm", "seed"}, instantiate=False)
    parser.add_argument(
        "--ctr.arms",
        type=list[str],
        default=list(DEFAULT_ARMS),
        help=f"Among {', '.join(ARMS)}, each also as {NO_STATS[1:]}: ARM{NO_STATS}.",
    )
    parser.add_argument("--ctr.text", type=TextSettings, default=TextSettings())
    parser.add_argument("--ctr.features", type=FeatureSettings, default=FeatureSettings())
    parser.add_argument("--ctr.classics", type=list[str], default=["logistic"], help="Among logistic, lightgbm.")
    parser.add_argument("--ctr.seeds", type=list[int], default=[0, 1, 2], help="One training per arm and seed.")
    parser.add_argument("--ctr.patience", type=int, default=3, help="Epochs without a better validation AUC.")
