"""The journal: nothing lost, nothing torn, nothing twice."""

from __future__ import annotations

import json
import math
import zlib

import pytest

from tracking.journal import Journal, JournalError, read, series


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
