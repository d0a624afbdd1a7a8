"""The journal below a shelf: its lines, its damage, a disk that fails; the shelf's values; the lock."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import pickle
import shutil
import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import support

from tinyauthstore import LockedError, StorageError, journal
from tinyauthstore.journal import VERSION, Journal, Lock, Shelf, line, payload, read_journal

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")

CHANGES = [[["users", [name], {"name": name}]] for name in ("ada", "grace", "\N{SNOWMAN}")]
"""Three transactions of one change each."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal-000007"


@pytest.fixture
def written(path: Path) -> Iterator[Journal]:
    """A journal of generation 7 with ``CHANGES``, still open."""
    with closing(Journal.create(os.fspath(path), 7, sync=False)) as made:
        for transaction in CHANGES:
            made.append(transaction)
        yield made


def users(path: Path) -> list[str]:
    """The keys of the users in the journal."""
    return [key for (key,) in read_journal(os.fspath(path), 7).changes.get("users", {})]


def ends(data: bytes) -> list[int]:
    """Where the lines of a sound journal end."""
    return [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]


# --- lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, [], {"": "\0\n\x7f"}, "\ud800 \N{SNOWMAN}", [1, 2.5, True], float("inf")])
def test_a_line_is_ascii_and_reads_back_as_it_was(value: Any) -> None:
    data = line(value)
    assert data.isascii() and data.count(b"\n") == 1
    found = payload(data)
    assert found is not None and found[1] == len(data)
    assert json.loads(found[0]) == value


def test_a_line_says_its_checksum_and_its_length() -> None:
    assert line({"a": 1}) == b'561bacaf 7 {"a":1}\n'


def test_no_changed_byte_of_a_line_goes_unnoticed() -> None:
    data = line(CHANGES[0])
    for i in range(len(data)):
        for byte in range(256):
            changed = data[:i] + bytes([byte]) + data[i + 1 :]
            assert changed == data or payload(changed) is None, (i, byte)


def test_no_missing_end_of_a_line_goes_unnoticed() -> None:
    data = line(CHANGES[0])
    assert [end for end in range(len(data)) if payload(data[:end]) is not None] == []


# --- reading a journal ------------------------------------------------------------------------


def test_a_journal_reads_back_what_was_appended(written: Journal, path: Path) -> None:
    found = read_journal(os.fspath(path), 7)
    assert found.changes == {"users": {(key,): {"name": key} for key in ("ada", "grace", "\N{SNOWMAN}")}}
    assert (found.size, found.torn) == (path.stat().st_size, b"")


def test_the_last_change_of_a_key_counts(written: Journal, path: Path) -> None:
    written.append([["users", ["ada"], {"name": "Lovelace"}], ["users", ["grace"], None]])
    changes = read_journal(os.fspath(path), 7).changes["users"]
    assert (changes["ada",], changes["grace",]) == ({"name": "Lovelace"}, None)


def test_a_journal_that_is_not_there_says_nothing(path: Path) -> None:
    assert read_journal(os.fspath(path), 7) == ({}, 0, b"", VERSION)


def test_a_journal_cut_at_any_byte_keeps_every_whole_transaction_and_no_part(written: Journal, path: Path) -> None:
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = max((end for end in ends(data) if end <= cut), default=0)
        found = read_journal(os.fspath(path), 7)
        assert len(found.changes.get("users", {})) == max(ends(data)[:4].index(whole) if whole else 0, 0), cut
        assert (found.size, found.torn) == (whole, data[whole:cut]), cut


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_damaged_line_before_the_last_is_refused_wherever_it_is_damaged(
    written: Journal, path: Path, number: int
) -> None:
    data = path.read_bytes()
    begin, end = [0, *ends(data)][number : number + 2]
    for i in range(begin, end - 1):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(StorageError) as caught:
            read_journal(os.fspath(path), 7)
        assert caught.value.path == os.fspath(path)
        assert f"{path} is damaged at byte {begin}: {max(number - 1, 0)} transactions before" in str(caught.value)
        assert f"and {3 - number} lines after" in str(caught.value), i


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_line_that_lost_its_newline_is_refused_as_well(written: Journal, path: Path, number: int) -> None:
    data = path.read_bytes()
    end = ends(data)[number]
    path.write_bytes(data[: end - 1] + b"." + data[end:])
    with pytest.raises(StorageError, match=f"and {3 - number} lines after"):
        read_journal(os.fspath(path), 7)


@pytest.mark.parametrize("hole", [b"", b"\0" * 40, b"\n\n", b'00000000 3 "a"\n'], ids=repr)
def test_lines_after_a_hole_are_never_passed_over(written: Journal, path: Path, hole: bytes) -> None:
    data = path.read_bytes()
    begin, end = ends(data)[0:2]
    path.write_bytes(data[:begin] + hole + data[begin + 1 : end] + data[end:])
    with pytest.raises(StorageError, match="0 transactions before that and 2 lines after"):
        read_journal(os.fspath(path), 7)


def test_what_the_message_advises_keeps_what_it_promises(written: Journal, path: Path) -> None:
    data = path.read_bytes()
    begin, end = ends(data)[1:3]
    path.write_bytes(data[:begin] + b"#" + data[begin + 1 :])
    with pytest.raises(StorageError, match=rf"truncate -s {begin}`.*deleting the damaged line"):
        users(path)
    os.truncate(path, begin)
    assert users(path) == ["ada"]
    path.write_bytes(data[:begin] + data[end:])
    assert users(path) == ["ada", "\N{SNOWMAN}"]


def test_a_journal_that_is_garbage_from_its_first_byte_is_refused(path: Path) -> None:
    path.write_bytes(b"\0" * 500)
    with pytest.raises(StorageError, match="damaged at byte 0"):
        read_journal(os.fspath(path), 7)


def test_a_journal_of_a_newer_version_is_refused_with_both_numbers(path: Path) -> None:
    path.write_bytes(line({"tinyauthstore": "journal", "version": 3, "generation": 7}))
    with pytest.raises(StorageError, match=r"newer tinyauthstore \(format 3, this one knows 2\); upgrade"):
        read_journal(os.fspath(path), 7)


NONSENSE = {
    "another generation": {"tinyauthstore": "journal", "version": 2, "generation": 8},
    "another magic": {"tinyauthstore": "shelf", "version": 2, "generation": 7},
    "no version that ever was": {"tinyauthstore": "journal", "version": 0, "generation": 7},
    "no header": [],
    "a number": 7,
}


@pytest.mark.parametrize("header", NONSENSE.values(), ids=NONSENSE)
def test_a_journal_with_another_header_is_refused(path: Path, header: Any) -> None:
    path.write_bytes(line(header) + line(CHANGES[0]))
    with pytest.raises(StorageError, match="cannot be read as a journal of ours"):
        read_journal(os.fspath(path), 7)


@pytest.mark.parametrize("transaction", [7, [7], [["users"]], [["users", 7, None]], [["users", [[]], {}]]], ids=repr)
def test_a_sound_line_of_nonsense_is_refused(written: Journal, path: Path, transaction: Any) -> None:
    written.append(transaction)
    with pytest.raises(StorageError, match="cannot be read as a journal of ours"):
        read_journal(os.fspath(path), 7)


def test_a_line_too_deep_to_be_read_is_refused(written: Journal, path: Path) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    with path.open("ab") as file:
        file.write(b"%08x %d %b\n" % (journal.zlib.crc32(deep), len(deep), deep))
    with pytest.raises(StorageError, match="cannot be read as a journal of ours"):
        read_journal(os.fspath(path), 7)


# --- writing, and a disk that fails -----------------------------------------------------------

Patch = pytest.MonkeyPatch


def broken(call: str, code: int, monkeypatch: Patch) -> None:
    """Let a function of ``os`` fail with that error."""

    def fail(*arguments: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)


def nearly_full(room: int, monkeypatch: Patch) -> None:
    """A disk that takes ``room`` more bytes."""
    left, write = [room], os.write

    def write_some(file: int, data: Any) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(file, bytes(data)[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", write_some)


def test_a_disk_that_takes_a_line_in_pieces_gets_all_of_it(
    written: Journal, path: Path, monkeypatch: Patch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:1]))
    written.append([["users", ["joan"], {}]])
    assert users(path) == ["ada", "grace", "\N{SNOWMAN}", "joan"]


def test_a_disk_that_fills_up_inside_a_line_keeps_no_part_of_it(
    written: Journal, path: Path, monkeypatch: Patch
) -> None:
    before = path.read_bytes()
    for room in range(len(line(CHANGES[0]))):
        with monkeypatch.context() as full:
            nearly_full(room, full)
            with pytest.raises(StorageError, match="could not grow, and nothing was changed.*No space") as caught:
                written.append(CHANGES[0])
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.path == os.fspath(path)
        assert path.read_bytes() == before
    written.append([["users", ["joan"], {}]])
    assert users(path)[-1] == "joan"


def test_an_interrupt_inside_a_line_leaves_no_part_of_it(
    written: Journal, path: Path, monkeypatch: Patch
) -> None:
    before, write = path.read_bytes(), os.write

    def interrupted(file: int, data: Any) -> int:
        write(file, bytes(data)[:10])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "write", interrupted)
        written.append(CHANGES[0])
    assert path.read_bytes() == before
    written.append(CHANGES[0])


@pytest.mark.parametrize("sync", [True, False])
def test_only_a_syncing_journal_waits_for_the_disk_and_after_it_wrote(
    path: Path, monkeypatch: Patch, sync: bool
) -> None:
    with closing(Journal.create(os.fspath(path), 7, sync=sync)) as made:
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(path.stat().st_size))
        made.append(CHANGES[0])
        assert synced == [path.stat().st_size] * sync


def test_after_a_sync_that_failed_nothing_is_written_any_more(path: Path, monkeypatch: Patch) -> None:
    with closing(Journal.create(os.fspath(path), 7, sync=True)) as made:
        made.append(CHANGES[0])
        before = path.read_bytes()
        with monkeypatch.context() as bad:
            broken("fsync", errno.EIO, bad)
            with pytest.raises(StorageError, match="could not be synced.*until the store is opened again"):
                made.append(CHANGES[1])
        with pytest.raises(StorageError, match="could not be synced.*until the store is opened again"):
            made.append(CHANGES[2])
        assert path.read_bytes() == before


def test_after_a_line_that_could_not_be_taken_back_nothing_is_written_any_more(
    written: Journal, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as bad:
        nearly_full(5, bad)
        broken("ftruncate", errno.EIO, bad)
        with pytest.raises(StorageError, match="could not be cut back"):
            written.append(CHANGES[0])
    with pytest.raises(StorageError, match="could not be cut back.*until the store is opened again"):
        written.append(CHANGES[0])


# --- a shelf's values -------------------------------------------------------------------------

each_backend = pytest.mark.parametrize("backend", support.DBM_BACKENDS)


@each_backend
@pytest.mark.parametrize("piece", [1, 7, 500, sys.maxsize])
def test_a_shelf_keeps_values_of_any_length_in_pieces_of_any_length(
    tmp_path: Path, backend: str, piece: int, monkeypatch: Patch
) -> None:
    monkeypatch.setitem(journal.PIECE, backend, piece)
    values: dict[str, Any] = {f"users/{i:06d}": ["\N{SNOWMAN}" * i] for i in range(40)}
    with closing(Shelf(os.fspath(tmp_path), backend, "n")) as shelf:
        shelf.update(values)
    with closing(Shelf(os.fspath(tmp_path), backend, "r")) as shelf:
        assert {key: shelf[key] for key in values} == values
        if piece == sys.maxsize:
            assert dict(shelf) == values


def test_a_shelf_misses_a_piece(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(journal.PIECE, "dumb", 10)
    for missing in (1, 3):
        with closing(Shelf(os.fspath(tmp_path), "dumb", "n")) as shelf:
            shelf["users"] = "x" * 20
            del shelf[f"users+{missing}"]
            with pytest.raises(ValueError, match="users is damaged"):
                shelf["users"]


def test_a_shelf_notices_more_than_a_line(tmp_path: Path) -> None:
    with closing(Shelf(os.fspath(tmp_path), "dumb", "n")) as shelf:
        shelf.dict[b"users"] = line([1]) + line([2])
        with pytest.raises(ValueError, match="users is damaged"):
            shelf["users"]


def test_a_shelf_reads_no_pickle(tmp_path: Path) -> None:
    with closing(Shelf(os.fspath(tmp_path), "dumb", "n")) as shelf:
        shelf.dict[b"users"] = pickle.dumps({"a": 1})
        with pytest.raises(ValueError, match="users is damaged"):
            shelf["users"]


# --- the lock ---------------------------------------------------------------------------------

TAKE = """
import sys
from tinyauthstore.journal import Lock
lock = Lock(sys.argv[1])
print("taken", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def lock_path(tmp_path: Path) -> str:
    return os.fspath(tmp_path / "lock")


def refusal(lock_path: str) -> str:
    """What another process is told that wants the lock; ``""`` if it got it."""
    script = "import sys; from tinyauthstore.journal import Lock; Lock(sys.argv[1])"
    with support.start_python(script, lock_path) as process:
        complaints = process.communicate(timeout=support.PATIENCE)[1]
    return complaints.strip().rpartition("\n")[2]


def test_a_lock_is_refused_to_another_process_and_the_holder_named(lock_path: str) -> None:
    lock = Lock(lock_path)
    assert f"LockedError: {os.path.dirname(lock_path)} is open in process {os.getpid()};" in refusal(lock_path)
    lock.release()
    assert refusal(lock_path) == ""


def test_a_lock_is_refused_to_its_own_process(lock_path: str) -> None:
    lock = Lock(lock_path)
    with pytest.raises(LockedError, match="is open in this very process; .*cannot be read") as caught:
        Lock(lock_path)
    assert caught.value.path == os.path.dirname(lock_path)
    lock.release()
    Lock(lock_path).release()


def test_a_second_release_lets_go_of_nobody_elses_lock(lock_path: str) -> None:
    first = Lock(lock_path)
    first.release()
    second = Lock(lock_path)
    first.release()
    with pytest.raises(LockedError):
        Lock(lock_path)
    second.release()


def test_a_lock_dies_with_its_killed_holder(lock_path: str) -> None:
    with support.start_python(TAKE, lock_path) as process:
        assert process.stdout is not None and process.stdout.readline() == "taken\n"
        with pytest.raises(LockedError, match=f"process {process.pid};"):
            Lock(lock_path)
        process.kill()
    Lock(lock_path).release()


def test_reading_the_lock_file_does_not_drop_the_lock(lock_path: str, tmp_path: Path) -> None:
    lock = Lock(lock_path)
    shutil.copy(lock_path, tmp_path / "backup")
    assert (tmp_path / "backup").read_text() == f"{os.getpid()}\n"
    assert "LockedError" in refusal(lock_path)
    lock.release()


@needs_fork
@support.apart
def test_a_lock_does_not_outlive_its_holder_in_a_forked_child(tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "lock")
    told, tell = os.pipe()
    running = support.Gate()

    def work_on() -> None:
        os.write(tell, b"%d" % os.getpid())
        running.open()
        signal.pause()

    def hold_and_fork() -> None:
        held = Lock(path)
        support.fork(work_on)
        running.wait()
        os.kill(os.getpid(), signal.SIGKILL)
        held.release()

    assert support.exit_code(support.fork(hold_and_fork)) == -signal.SIGKILL
    orphan = int(os.read(told, 20))
    try:
        os.kill(orphan, 0)  # it is there
        Lock(path).release()
    finally:
        os.kill(orphan, signal.SIGKILL)


@needs_fork
@support.apart
def test_a_forked_childs_copy_of_a_lock_lets_go_of_nothing(tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "lock")
    lock = Lock(path)

    def release_and_take() -> None:
        lock.release()
        with pytest.raises(LockedError, match=f"process {os.getppid()};"):
            Lock(path)

    assert support.exit_code(support.fork(release_and_take)) == 0
    assert "LockedError" in refusal(path)
    lock.release()


def test_a_full_disk_costs_the_holder_its_name_and_not_the_lock(lock_path: str, monkeypatch: Patch) -> None:
    with monkeypatch.context() as full:
        nearly_full(0, full)
        lock = Lock(lock_path)
    assert "is open in another process;" in refusal(lock_path)
    lock.release()


def test_a_file_system_without_locks_is_an_error_of_its_own(lock_path: str, monkeypatch: Patch) -> None:
    def unsupported(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(journal.fcntl, "flock", unsupported)
    with pytest.raises(OSError, match="No locks available"):
        Lock(lock_path)


@pytest.fixture
def on_windows(monkeypatch: Patch) -> Callable[[], Any]:
    """Loads ``journal`` as Windows would, with an ``msvcrt`` that locks a byte of a file."""
    locked: dict[tuple[int, int], int] = {}

    def locking(file: int, mode: int, size: int) -> None:
        byte = (os.fstat(file).st_ino, os.lseek(file, 0, os.SEEK_CUR))
        if (mode, size) != (2, 1) or locked.setdefault(byte, file) != file:
            raise OSError(errno.EACCES, "Permission denied")

    def load() -> Any:
        with monkeypatch.context() as windows:
            windows.setattr(sys, "platform", "win32")
            windows.setitem(sys.modules, "fcntl", None)
            windows.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=locking))
            windows.delattr(os, "register_at_fork", raising=False)
            spec = importlib.util.spec_from_file_location("tinyauthstore.journal_on_windows", journal.__file__)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return module

    load.locked = locked  # type: ignore[attr-defined]
    return load


def test_on_windows_a_byte_is_locked_that_nobody_reads(
    lock_path: str, on_windows: Any, monkeypatch: Patch
) -> None:
    module = on_windows()
    monkeypatch.setattr(sys, "platform", "win32")
    lock = module.Lock(lock_path)
    ((_, byte),) = on_windows.locked
    assert byte > len(Path(lock_path).read_text()) == len(f"{os.getpid()}\n")
    with pytest.raises(LockedError, match="this very process"):
        module.Lock(lock_path)
    on_windows.locked.clear()  # the system does that when the descriptor is closed
    lock.release()
    module.Lock(lock_path).release()


def test_on_windows_directories_are_not_synced(tmp_path: Path, on_windows: Any, monkeypatch: Patch) -> None:
    module = on_windows()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "open", None)
    assert module.sync_directory(os.fspath(tmp_path)) is None
