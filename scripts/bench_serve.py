"""`trackrec serve` against a plain FastAPI + torch server of the same net; each on one core, taking turns.

    python scripts/bench_serve.py --bundle export --store store.sqlite [--turns 3] [--seconds 5]

The plain server holds the users in memory, has neither token, metrics, log, store nor events, and computes the same
inputs with the same encoder; its net is a DIN of the same sizes with drawn weights, which costs as much. Its answer has
a response model, as a first version would. The client is `wrk` (Debian's package), on the other core.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PORTS = {"trackrec serve": 18080, "FastAPI + torch": 18081}


def main() -> None:
    """Run both servers and print a table for each number of candidates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--plain", type=int, default=0, help="For itself: run the plain server on this port.")
    args = parser.parse_args()
    if args.plain:
        plain_server(args.bundle, args.plain)
        return
    from trackrec.serving.bundle import open_bundle

    bundle = open_bundle(args.bundle)
    users = [state.user_id for state in bundle.users()][:200]
    with tempfile.TemporaryDirectory() as folder:
        processes = started(args, Path(folder))
        try:
            for candidates in (100, 1000):
                scripts = wrk_script(Path(folder), users, bundle.item_ids, candidates)
                print(
                    f"\n{candidates} candidates\n\n| server | clients | requests/s | p50 ms | p99 ms | CPU ms |"
                    "\n|---|---|---|---|---|---|"
                )
                for clients in (1, 8):
                    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in PORTS}
                    for _ in range(args.turns):
                        for name, port in PORTS.items():
                            before = cpu_s(processes[name].pid)
                            rate, p50, p99, requests = wrk(scripts, port, clients, args.seconds)
                            cpu_ms = (cpu_s(processes[name].pid) - before) / requests * 1000
                            found[name].append((rate, p50, p99, cpu_ms))
                    for name, runs in found.items():
                        rate, p50, p99, cpu_ms = (statistics.median(values) for values in zip(*runs, strict=True))
                        print(f"| {name} | {clients} | {rate:.0f} | {p50:.2f} | {p99:.2f} | {cpu_ms:.2f} |")
            for name, process in processes.items():
                print(f"{name}: {rss_mib(process.pid):.0f} MiB")
        finally:
            for process in processes.values():
                process.terminate()
                process.wait()


def started(args: argparse.Namespace, folder: Path) -> dict[str, subprocess.Popen[bytes]]:
    """Both servers, each pinned to core 0."""
    own = [sys.executable, "-m", "trackrec", "serve", "--bundle", str(args.bundle), "--store", str(args.store)]
    own += ["--events", str(folder / "events.sqlite"), "--queue", "10000", "--deadline_ms", "60000"]
    plain = [sys.executable, __file__, "--bundle", str(args.bundle), "--store", str(args.store), "--plain"]
    commands = {"trackrec serve": [*own, "--port"], "FastAPI + torch": plain}
    environment = {**os.environ, "TRACKREC_TOKEN": "t", "OMP_NUM_THREADS": "1"}
    processes = {}
    for name, port in PORTS.items():
        start = time.perf_counter()
        command = ["taskset", "-c", "0", *commands[name], str(port)]
        processes[name] = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while not answers(port):
            time.sleep(0.02)
        print(f"{name}: ready after {time.perf_counter() - start:.1f} s")
    return processes


def answers(port: int) -> bool:
    """Whether a server is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def wrk_script(folder: Path, users: list[str], items: list[str], candidates: int) -> Path:
    """Bodies of all users in turn, each with other items."""
    bodies = [
        json.dumps({"user_id": user, "item_ids": [items[(7 * n + 3 * i) % len(items)] for i in range(candidates)]})
        for n, user in enumerate(users)
    ]
    path = folder / f"{candidates}.lua"
    quoted = ",".join(json.dumps(body) for body in bodies)
    path.write_text(
        f"local bodies = {{{quoted}}}\nlocal n = 0\nwrk.method = 'POST'\n"
        "wrk.headers = {['Content-Type'] = 'application/json', Authorization = 'Bearer t'}\n"
        "request = function() n = n % #bodies + 1; return wrk.format(nil, '/v1/rank', nil, bodies[n]) end\n"
        "done = function(summary, latency) print('found', summary.requests / summary.duration * 1e6, "
        "latency:percentile(50) / 1000, latency:percentile(99) / 1000, summary.errors.status, summary.requests) end\n"
    )
    return path


def wrk(script: Path, port: int, clients: int, seconds: int) -> tuple[float, float, float, float]:
    """Requests a second, p50 and p99 in ms, number of requests."""
    words = ["taskset", "-c", "1", "wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
    said = subprocess.run([*words, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True).stdout
    rate, p50, p99, errors, requests = map(float, re.findall(r"^found\s+(.*)$", said, re.MULTILINE)[0].split())
    if errors:
        raise SystemExit(f"{errors:.0f} requests failed on port {port}")
    return rate, p50, p99, requests


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def plain_server(path: Path, port: int) -> None:
    """What a first version of a server looks like."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    from trackrec.ctr import DIN, FeatureSpec, MLPConnector
    from trackrec.serving.bundle import open_bundle
    from trackrec.serving.encoder import RequestEncoder

    torch.set_num_threads(1)
    bundle = open_bundle(path)
    encoder, users = RequestEncoder(bundle), {state.user_id: state for state in bundle.users()}
    net = bundle.nets[0]
    example = encoder.of_net(net, encoder.inputs(next(iter(users.values())), bundle.item_ids[:2]))
    sizes = bundle.info["vocabularies"]
    spec = FeatureSpec.of(
        {
            **{f"n_{name}": 2 + size for name, size in sizes.items()},
            "recent_len": bundle.recent_len,
            "n_dense": example["dense"].shape[1],
            "text_dim": 0 if bundle.text is None else bundle.text.dim,
            "text_use": "dense",
            "text_gaps": net.gaps,
        }
    )
    model = DIN(spec, None if bundle.text is None else MLPConnector(spec.text_dim)).eval()

    class Asked(BaseModel):
        user_id: str
        item_ids: list[str]

    class Item(BaseModel):
        item_id: str
        p: float

    app = FastAPI()

    @app.get("/readyz")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/rank", response_model=list[Item])
    async def rank(asked: Asked) -> Any:
        inputs = encoder.of_net(net, encoder.inputs(users[asked.user_id], asked.item_ids))
        with torch.inference_mode():
            p = model({name: torch.from_numpy(value.copy()) for name, value in inputs.items()}).sigmoid()
        order = torch.argsort(p, descending=True).tolist()
        return [{"item_id": asked.item_ids[place], "p": float(p[place])} for place in order]

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
