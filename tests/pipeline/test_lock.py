"""Two runs on one run directory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trackrec.pipeline.lock import LOCK, OWNER, ForeignFilesError, RunLockedError, check_owned, locked

HOLD = """
import sys, time
from pathlib import Path
from trackrec.pipeline.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_refused_and_told_whose_it_is(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with (
        pytest.raises(RunLockedError, match=rf"is in use by process {holder.pid} on .*choose another run_dir"),
        locked(tmp_path),
    ):
        pass


def test_a_killed_run_leaves_nothing_locked(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / OWNER).exists()  # it had no time to tidy up
    with locked(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / OWNER).exists()


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path):
            raise KeyError("broken")

    with pytest.raises(KeyError):
        fail()
    with locked(tmp_path):
        assert (tmp_path / LOCK).exists()


def test_what_no_run_made_is_left_alone(tmp_path: Path) -> None:
    """A folder of somebody's logs that is called like a stage; a stage, a damaged one and an empty folder are free."""
    for name, file in (("ctr", "manifest.json"), ("round-1/sample", "config.yaml"), ("data", "log.csv")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).write_text("")
    (tmp_path / "teacher").mkdir()
    check_owned(tmp_path, ["ctr", "round-1/sample", "teacher", "texts"])
    with pytest.raises(ForeignFilesError, match=r"data is not of trackrec, and the stage data would replace it"):
        check_owned(tmp_path, ["ctr", "data"])
    (tmp_path / "texts").write_text("a file")
    with pytest.raises(ForeignFilesError, match="the stage texts"):
        check_owned(tmp_path, ["texts"])
