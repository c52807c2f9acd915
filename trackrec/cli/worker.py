"""One of several processes of a stage; `trackrec.pipeline.processes` starts it.

``python -m trackrec.cli.worker STAGE WORK_DIR RESULT_DIR PARENT_PID`` runs the body of the stage and writes what it
says, or its error, to ``RESULT_DIR/<number>.json``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from trackrec.llm.training.devices import LOCAL_RANK
from trackrec.pipeline.processes import RESULT
from trackrec.runtime.lightning_import import import_lightning
from trackrec.runtime.parent import exit_with_parent


def main(stage: str, work: Path, folder: Path, parent: int) -> int:
    """Run the stage's body; returns the exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    exit_with_parent(parent)
    rank = int(os.environ[LOCAL_RANK])
    import_lightning()
    from trackrec.cli.app import run_stage_body
    from trackrec.runtime.errors import TrackRecError

    made: dict[str, Any]
    try:
        notes, peak = run_stage_body(stage, work, loud=rank == 0)
        made, status = {"notes": notes, "peak_memory": peak}, 0
    except (KeyboardInterrupt, SystemExit):
        return 130
    except Exception as error:
        known = isinstance(error, TrackRecError)
        text = str(error) if known else traceback.format_exc()
        full = error.errno if isinstance(error, OSError) else None
        if full:
            text = os.strerror(full)
        where = str(getattr(error, "filename", None) or "") or None
        made = {"time": time.time(), "known": known, "text": text, "errno": full, "filename": where}
        status = 1
    (folder / RESULT.format(rank)).write_text(json.dumps(made))
    # Not sys.exit: what waits for a lost process at the end would wait for ever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
