"""Worker processes of an engine, from the configuration that a work folder holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

from trackrec.engine.engine import Body


def refresh_worker(work: str, cwd: str) -> Body:
    """What writes the parts of a generation in the making; see `trackrec.commands.refresh`.

    Args:
        work: its folder.
        cwd: the directory that relative paths of the configuration start from.
    """
    if Path(cwd).is_dir():
        os.chdir(cwd)
    from trackrec.cli.quiet import quiet_libraries
    from trackrec.runtime.lightning_import import import_lightning

    quiet_libraries()
    import_lightning()
    import torch

    from trackrec.bulk.tiers import open_tier
    from trackrec.cli.app import parse_run
    from trackrec.commands.refresh import part_writer

    folder = Path(work)
    plan = json.loads((folder / "plan.json").read_text())
    torch.set_num_threads(plan["threads"])
    parsed = {tier["name"]: parse_run([folder / f"{tier['name']}.yaml"]) for tier in plan["bulk"]["tiers"]}
    tiers = {name: open_tier(*one, lambda _: None) for name, one in parsed.items()}
    made = next(iter(parsed.values()))[1]()
    return part_writer(folder, plan, tiers, made.embed, made.bulk)
