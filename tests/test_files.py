"""Laws of files: nobody's files are touched, no link is followed, one command writes at a time, and a kill leaves no lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ebm.files import atomic, check_outputs, draft_of, hold, holding, read_json, sweep, write_text
from tests.fake_plugins import environment

HOLDER = """
import sys, time
from pathlib import Path
from ebm.files import atomic, hold
what, path = sys.argv[1], Path(sys.argv[2])
if what == "hold":
    hold(path)
else:
    draft = atomic(path)
    draft.__enter__().write_text("half")
print("there", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other():
    """Starts another process that holds a folder, or is in the middle of writing a file."""
    started = []

    def start(what: str, path: Path) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLDER, what, str(path)]
        process = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_draft_or_an_output_that_is_a_link_is_replaced_and_its_target_stays(tmp_path):
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("x.txt", ".x.txt.draft"):
        (folder / name).symlink_to(theirs)
    write_text(folder / "x.txt", "new")
    assert (theirs.read_text(), (folder / "x.txt").read_text()) == ("mine", "new")
    assert not (folder / "x.txt").is_symlink()
    os.link(theirs, folder / ".x.txt.draft")  # a second name of the same file
    write_text(folder / "x.txt", "newer")
    assert (theirs.read_text(), (folder / "x.txt").read_text()) == ("mine", "newer")
    assert [path.name for path in folder.iterdir()] == ["x.txt"]


def test_what_a_killed_process_left_is_written_anew_and_swept(tmp_path, other):
    process = other("write", tmp_path / "x.txt")
    with pytest.raises(BlockingIOError, match=r"x\.txt is being written by another command"):
        write_text(tmp_path / "x.txt", "ours")
    sweep(tmp_path)
    assert draft_of(tmp_path / "x.txt").read_text() == "half"  # it is in work
    process.send_signal(signal.SIGKILL)
    process.wait()
    write_text(tmp_path / "x.txt", "ours")
    assert (tmp_path / "x.txt").read_text() == "ours"
    other("write", tmp_path / "y.txt").kill()
    (tmp_path / "notes.draft").write_text("mine")
    (tmp_path / ".link.draft").symlink_to(tmp_path / "x.txt")
    for _ in range(500):  # until the killed process is gone
        sweep(tmp_path)
        if not draft_of(tmp_path / "y.txt").exists():
            break
        threading.Event().wait(0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".link.draft", "notes.draft", "x.txt"]


def test_a_folder_is_held_by_one_and_a_kill_lets_it_go(tmp_path, other):
    process = other("hold", tmp_path)
    with holding(), pytest.raises(BlockingIOError, match="another command is writing to"):
        hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with holding():
        hold(tmp_path)
        with holding():
            hold(tmp_path)  # within the same command
        assert blocked(tmp_path)
    assert not blocked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def blocked(folder: Path) -> bool:
    """Tells whether another thread is kept out of a folder."""
    found = []

    def ask() -> None:
        with holding():
            try:
                hold(folder)
            except BlockingIOError:
                found.append(folder)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return bool(found)


def test_a_child_that_outlives_its_parent_holds_nothing(tmp_path):
    """Workers that load data are forked, and a lock is inherited with its file descriptor."""
    reading, writing = os.pipe()
    if not (parent := os.fork()):
        hold(tmp_path)
        if not os.fork():
            os.read(reading, 1)  # until the test is over
            os._exit(0)
        os._exit(0)
    os.waitpid(parent, 0)
    try:
        assert not blocked(tmp_path)
    finally:
        os.write(writing, b"x")


def test_outputs_never_replace_an_input_or_a_folder(tmp_path):
    photo, clip = tmp_path / "a.png", tmp_path / "clip"
    photo.write_bytes(b"x")
    clip.mkdir()
    (clip / "0.png").write_bytes(b"x")
    check_outputs(tmp_path / "new.png", photo=photo, clip=clip)
    for out, reason in (
        (photo, "is the photo itself"),
        (clip / ".." / "a.png", "is the photo itself"),
        (clip / "0.png", "is a file of the clip"),
        (clip, "is a folder"),
    ):
        with pytest.raises(ValueError, match=reason):
            check_outputs(tmp_path / "new.png", out, photo=photo, clip=clip)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        check_outputs(tmp_path / "nowhere" / "x.png")


def test_a_damaged_json_file_is_named(tmp_path):
    for content in ("{", "", "[" * 100_000):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match=r"x\.json is damaged"):
            read_json(tmp_path / "x.json")


def test_a_failure_leaves_the_old_file_and_no_lock(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), atomic(tmp_path / "x.txt") as draft:
            draft.write_text("half")
            raise ZeroDivisionError
    assert (tmp_path / "x.txt").read_text() == "old"
