"""``trackrec export --adapter``: the generator (G) or the validator (V) as a folder that PEFT and vLLM load.

Without ``--merged`` the folder holds ``adapter_config.json`` and ``adapter_model.safetensors``; with it, a whole model
and its tokenizer. Both hold a model card, ``README.md``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import polars as pl

import trackrec
from trackrec.recipe.cohort import cohort_of
from trackrec.recipe.experiment import Experiment
from trackrec.recipe.graph import Graph
from trackrec.recipe.models import drop_models, language_model, load_adapter
from trackrec.recipe.names import DATA, is_compared, kind_of
from trackrec.runtime.errors import SettingError, reason
from trackrec.serving.card import metrics_table, split_table
from trackrec.serving.whole_folder import whole_or_nothing
from trackrec.storage.atomic import write_atomic

Role = Literal["G", "V"]
_FILES = ("adapter_config.json", "adapter_model.safetensors")
_NAMES = {"G": "generator", "V": "validator"}
_DOES = {
    "G": "It reads a user's history and writes a short text about their taste (a RecCoT).",
    "V": "It reads a text about a user, some of their recent items and one candidate, and answers Yes or No to "
    "whether the user will like it; P(Yes) against No is the score.",
}


def export_adapter(
    exp: Experiment, graph: Graph, role: Role, output: Path, merged: bool = False, push_to_hub: str | None = None
) -> None:
    """Write the last G or V of a run, and upload it where a name is given.

    Args:
        exp: a run whose stage of the adapter is done.
        graph: its stages.
        role: which of the two.
        output: folder to write; it must not exist.
        merged: a whole model, with the adapter added to its weights.
        push_to_hub: name of a repository on the Hugging Face Hub, ``owner/name``. It is made private if it is new.

    Raises:
        SettingError: the run tunes no such model, the folder exists, a quantized model can't be merged, or the upload
            fails; the folder stays then.
        StageError: the stage isn't done, or is damaged.
    """
    stage = graph.generator if role == "G" else graph.validator
    if stage is None:
        raise SettingError(f"--adapter {role}: this run tunes no {_NAMES[role]}; its {role} is the backbone itself.")
    settings = exp.validator_backbone if role == "V" and exp.validator_backbone is not None else exp.backbone
    if merged and settings.quantize != "none":
        raise SettingError(
            f"--merged: the model is loaded as {settings.quantize}, and a merged adapter would be rounded with it. Set "
            "backbone.quantize to none, or leave --merged out."
        )
    exp.pipeline.manifest(stage)
    with whole_or_nothing(output) as work:
        if merged:
            _write_merged(exp, role, stage, work)
        else:
            _write_adapter(exp.directory(stage) / "adapter", settings.model, settings.revision, work)
        write_atomic(work / "README.md", _card(exp, graph, role, settings.model, merged))
    exp.say(f"{role} of stage {stage} in {output}")
    if push_to_hub is not None:
        exp.say(f"uploaded to {push(output, push_to_hub)}")


def _write_adapter(source: Path, model: str, revision: str | None, work: Path) -> None:
    for name in _FILES:
        shutil.copyfile(source / name, work / name)
    config = json.loads((work / _FILES[0]).read_text())
    config |= {"base_model_name_or_path": model, "revision": revision}
    write_atomic(work / _FILES[0], json.dumps(config, indent=1, sort_keys=True) + "\n")


def _write_merged(exp: Experiment, role: Role, stage: str, work: Path) -> None:
    lm = language_model(exp, "generator" if role == "G" else "validator")
    name = load_adapter(exp, lm, stage)
    assert name is not None
    lm.merge_adapter(name)
    lm.base.save_pretrained(str(work))
    lm.chat.tokenizer.save_pretrained(str(work))
    drop_models(exp)  # its weights aren't those of the backbone any more


def push(folder: Path, name: str) -> str:
    """Upload a folder as a private repository; returns its address.

    Raises:
        SettingError: the hub can't be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    api = HfApi(library_name="trackrec", library_version=trackrec.__version__)
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id, folder_path=folder, commit_message=f"trackrec {trackrec.__version__}"
        )
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise SettingError(
            f"--push_to_hub {name}: the upload failed ({reason(error)}). The folder {folder} is written: log in with "
            f"`hf auth login` or the variable HF_TOKEN, and run `hf upload {name} {folder}`."
        ) from error
    return str(address)


_CARD = """---
library_name: {library}
base_model: {base}
pipeline_tag: text-generation
tags: [trackrec, recommendation, lora]
license: other
---

# The {name} of a recommender, tuned from {model}

{does} Tuned by trackrec {version} as in TrackRec (arXiv 2508.15388).

    {load}

## Data

{ratings:,} ratings; the models were tuned on rows of {users:,} users.

## Split

{split}

## Metrics

Of the last evaluation, with 95 % intervals over users.

{metrics}

## Limits

- It was tuned for the prompts of this run and answers others worse.
- Texts about people may be wrong, and repeat what the base model holds of groups of people.
- Quality outside this data set wasn't measured.

## Licence

That of the base model holds, and that of the ratings. The code of trackrec is Apache-2.0.
"""


def _card(exp: Experiment, graph: Graph, role: Role, model: str, merged: bool) -> str:
    cohort = cohort_of(exp)
    users = pl.concat([rows["user_id"] for rows in (cohort.reward, cohort.tune, cohort.warmup)])
    evaluations = [one.name for one in graph.stages if kind_of(one.name) == "evaluate" and not is_compared(one.name)]
    load = "AutoModelForCausalLM.from_pretrained(folder)"
    if not merged:
        load = f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{model}"), folder)'
    return _CARD.format(
        library="transformers" if merged else "peft",
        base=json.dumps(model),
        name=_NAMES[role],
        model=model,
        does=_DOES[role],
        version=trackrec.__version__,
        load=load,
        ratings=len(exp.table(DATA, "interactions")),
        users=users.n_unique(),
        split=split_table(exp.table(DATA, "samples")),
        metrics=metrics_table(exp.table(evaluations[-1], "metrics")),
    )
