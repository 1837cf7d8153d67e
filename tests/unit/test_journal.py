"""The journal: nothing lost, nothing torn, nothing twice."""

from __future__ import annotations

import datetime
import json
import math
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from tracking import journal as module
from tracking.journal import Journal, JournalError, Position, read, series, timed, times


def record(t_env, **values):
    return {"kind": "train", "t_env": t_env, "values": values}


def write(path, *records):
    journal = Journal(path)
    for item in records:
        journal.write(item)
    journal.close()


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = [record(0, loss=0.5), {"kind": "test", "t_env": 10, "values": {"test_return_mean": -3}}]
    write(path, *records)
    assert list(read(path)) == records


def test_a_line_is_strict_json_with_the_checksum_of_what_precedes_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, record(7, a=math.nan, b=math.inf, c=-math.inf))
    line = path.read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    fields = json.loads(line, parse_constant=refuse)
    body = '{"kind":"train","t_env":7,"values":{"a":"NaN","b":"Infinity","c":"-Infinity"}'
    assert line == body + f',"crc":"{zlib.crc32(body.encode()):08x}"}}\n'
    assert fields["crc"] == f"{zlib.crc32(body.encode()):08x}"
    values = next(read(path))["values"]
    assert math.isnan(values["a"])
    assert (values["b"], values["c"]) == (math.inf, -math.inf)


def test_a_record_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.write(record(1, x=1.0))
    assert list(read(journal.path)) == [record(1, x=1.0)]
    assert journal.cursor == journal.path.stat().st_size


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_opening_removes_a_torn_last_line(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    write(path, record(0, x=1.0), record(1, x=2.0))
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read(path)) == [record(0, x=1.0)]  # also while nobody has repaired it
    write(path, record(1, x=3.0))
    assert list(read(path)) == [record(0, x=1.0), record(1, x=3.0)]


def test_a_torn_line_longer_than_a_block_and_a_torn_only_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, record(0, x=1.0))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"' + b"x" * 200_000)
    write(path)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])
    write(path)
    assert path.read_bytes() == b""


def test_a_damaged_line_is_refused_with_its_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, record(0, x=1.0), record(1, x=2.0), record(2, x=3.0))
    path.write_text(path.read_text().replace('"x":2.0', '"x":9.0'))
    with pytest.raises(JournalError, match="line 2"):
        list(read(path))


def test_rewinding_continues_one_unbroken_curve(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.write(record(0, x=1.0))
    cursor = journal.sync()
    journal.write(record(1, x=2.0))
    journal.close()
    journal = Journal(path)
    journal.rewind(cursor)
    journal.write(record(1, x=2.0))
    journal.write(record(2, x=3.0))
    assert series(path) == {"x": [(0, 1.0), (1, 2.0), (2, 3.0)]}
    journal.rewind(0)
    assert path.read_bytes() == b""


def test_rewinding_to_another_journals_checkpoint_is_refused(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.write(record(0, x=1.0))
    for cursor in (journal.cursor + 1, journal.cursor - 1, -1):
        with pytest.raises(JournalError, match="does not belong"):
            journal.rewind(cursor)
    assert list(read(journal.path)) == [record(0, x=1.0)]


def test_series_by_kind(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, record(0, x=1.0), {"kind": "perf", "t_env": 0, "values": {"speed": 10.0}}, record(5, x=2.0))
    assert series(path, kinds=("train",)) == {"x": [(0, 1.0), (5, 2.0)]}
    assert series(path, kinds=("perf",)) == {"speed": [(0, 10.0)]}


def moments(path, at=Position()):  # noqa: B008  (it cannot be changed)
    return [moment for moment, _ in timed(path, at)[0]]


def test_every_line_has_its_time(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    days = [datetime.datetime(2030, 1, day) for day in (1, 2, 3, 4)]
    journal = Journal(path)
    cursors = []
    for day, moment in enumerate(days[:3]):
        monkeypatch.setattr(module, "_moment", lambda *_, moment=moment: moment.isoformat(timespec="microseconds"))
        cursors.append(journal.sync())
        journal.write(record(day, x=1.0))
    assert moments(path) == days[:3]
    journal.rewind(cursors[1])
    journal.close()
    monkeypatch.setattr(module, "_moment", lambda *_: days[3].isoformat(timespec="microseconds"))
    write(path, record(9, x=1.0))
    assert moments(path) == [days[0], days[3]]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: b"", lambda data: data + data, lambda data: b"?" * len(data)]
)
def test_times_that_are_damaged_are_replaced_and_stay_beside_their_lines(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    write(path, record(0, x=1.0), record(1, x=2.0))
    first = moments(path)[0]
    times(path).write_bytes(damage(times(path).read_bytes()))
    assert [record["t_env"] for _, record in timed(path, Position())[0]] == [0, 1]
    write(path, record(2, x=3.0))
    found = moments(path)
    assert len(found) == 3
    assert found[0] == first or abs(found[0] - first) < datetime.timedelta(minutes=1)
    assert len(times(path).read_bytes()) == 3 * 27
    times(path).unlink()
    assert len(moments(path)) == 3


def test_a_journal_is_read_piece_by_piece_while_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_BYTES", 100)
    path = tmp_path / "metrics.jsonl"
    records = [record(i, **{f"metric{j}": 1.0 for j in range(i % 7)}) for i in range(50)]
    write(path, *records[:40])
    at, found, pieces = Position(), [], 0
    while (piece := timed(path, at)) and piece[0]:
        found += [each for _, each in piece[0]]
        at, pieces = piece[1], pieces + 1
    assert found == records[:40]
    assert pieces > 10
    with path.open("ab") as file:
        file.write(b'{"kind":"tr')
    assert timed(path, at) == ([], at)
    write(path, *records[40:])
    assert timed(path, at)[0][0][1] == records[40]
    with pytest.raises(JournalError, match="line 41"):
        timed(path, Position(at.byte + 1, at.line))


@pytest.mark.parametrize("fits", [0, 27, 40])
def test_of_a_record_that_the_disk_does_not_take_nothing_is_left(tmp_path, monkeypatch, fits):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.write(record(0, x=1.0))
    space = [fits]

    def nearly_full(file, data):
        taken = data[: space[0]]
        space[0] -= file.write(taken)
        if len(taken) < len(data):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_append", nearly_full)
        with pytest.raises(OSError, match="No space"):
            journal.write(record(1, x=2.0))
    journal.write(record(2, x=3.0))
    assert list(read(path)) == [record(0, x=1.0), record(2, x=3.0)]
    assert len(moments(path)) == 2


def test_killed_while_writing(tmp_path):
    """Everything that was said to be written is there, and a new process goes on after it."""
    path = tmp_path / "metrics.jsonl"
    code = f"""
import itertools, sys
sys.path.insert(0, {str(Path(module.__file__).parents[1])!r})
from tracking.journal import Journal
journal = Journal({str(path)!r})
for i in itertools.count(sum(1 for _ in open({str(path)!r}))):
    journal.write({{"kind": "train", "t_env": i, "values": {{f"m{{j}}": 1.0 for j in range(40)}}}})
    print(i, flush=True)
"""
    rng, said = random.Random(7), -1
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].splitlines(keepends=True)
        said = max([said, *(int(line) for line in rest if line.endswith("\n"))])
        steps = [each["t_env"] for each in read(path)]
        assert steps == list(range(len(steps)))
        assert len(steps) > said
    assert len(moments(path)) == len(timed(path, Position())[0])
