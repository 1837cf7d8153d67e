"""From run folder to database: all of it, once, whatever happens on the way."""

from __future__ import annotations

import itertools
import json
import threading

import gridfs
import pymongo
import pytest
from pymongo.errors import AutoReconnect, BulkWriteError

from core.config import ConfigError
from toy_tracking import NOW, Run
from tracking import entry, journal, shipping
from tracking.folder import RunFolder
from tracking.journal import JournalError, series
from tracking.mongo import Archive, parse_address, read_curves
from tracking.shipping import OutOfTimeError, Shipment, points_of

secantus = pytest.importorskip("secantus", reason="SecantusDB, the embedded database server, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("mongo"))
    with secantus.SecantusDBServer(storage_path=path, replica_set_name=None, cache_size="128M") as server:
        yield pymongo.MongoClient(server.uri)


@pytest.fixture
def archive(client):
    return Archive(client[f"d{next(_NUMBERS)}"], "here")


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def same(curves, others):
    """Also where NaN stands in both."""
    return repr(curves) == repr(others)


def stored(archive, run_id=1):
    """The curves of the database, whose documents are sound and are those that the entry refers to."""
    found = list(archive.metrics.find({"run_id": run_id}))
    for each in found:
        assert len(each["steps"]) == len(each["values"]) == len(each["timestamps"]) == each["n"]
    refs = {ref["name"]: ref["id"] for ref in archive.runs.find_one({"_id": run_id})["info"]["metrics"]}
    assert refs == {each["name"]: str(each["_id"]) for each in found if each["n"]}
    return read_curves(archive.database, run_id)


def broken(*_, **__):
    raise AutoReconnect("connection closed")


def test_everything_arrives_and_nothing_arrives_twice(run, archive):
    run.log(1, 2, 3)
    artifact = run.folder.path / "notes.txt"
    artifact.write_text("notes")
    run.files.artifact_event("notes.txt", str(artifact))
    run.files.heartbeat_event(info={"summary": {"a": 1}, "t_env": 3}, captured_out="", beat_time=NOW, result=None)
    run.end()
    shipment = Shipment(run.folder, archive)
    assert shipment.send()
    assert (shipment.sent.points, shipment.sent.files) == (6, 2)
    assert same(stored(archive), series(run.folder.journal))
    found = archive.runs.find_one()
    assert (found["_id"], found["status"], found["result"], found["config"]) == (
        1,
        "COMPLETED",
        0.5,
        {"lr": 1, "seed": 1},
    )
    assert (found["host"], found["start_time"], found["stop_time"]) == ({"hostname": "h"}, NOW, NOW)
    assert (found["captured_out"], found["info"]["t_env"], found["info"]["label"]) == ("hello\n", 3, "x")
    fs = gridfs.GridFS(archive.database)
    ((name, source),) = found["experiment"]["sources"]
    assert (name, fs.get(source).read()) == ("source.py", b"x = 1\n")
    assert [(each["name"], fs.get(each["file_id"]).read()) for each in found["artifacts"]] == [("notes.txt", b"notes")]
    again = Shipment(run.folder, archive)
    assert again.send()
    assert (again.sent.points, again.sent.files) == (0, 0)
    assert archive.runs.find_one() == found
    assert archive.runs.count_documents({}) == 1


def test_points_follow_with_the_times_at_which_they_were_measured(run, archive, monkeypatch):
    shipment = Shipment(run.folder, archive)
    moments = ["2030-01-01T00:00:01.250000", "2030-01-02T00:00:00.000000"]
    for number, moment in enumerate(moments):
        monkeypatch.setattr(journal, "_moment", lambda *_, moment=moment: moment)
        run.log(number)
        assert shipment.send()
    assert same(stored(archive), series(run.folder.journal))
    found = [
        moment.isoformat(timespec="microseconds") for moment in archive.metrics.find_one({"name": "x"})["timestamps"]
    ]
    assert found == moments


def test_a_run_that_never_started_has_nothing_to_send(tmp_path, archive):
    folder = RunFolder.create({"name": "a", "seed": 1, "results_dir": str(tmp_path)}, "x")
    assert not Shipment(folder, archive).send()
    assert archive.runs.count_documents({}) == 0


@pytest.mark.parametrize("fresh", [True, False], ids=["new process", "same process"])
@pytest.mark.parametrize(("again", "factor"), [((3, 4, 5), 1), ((3, 4, 5), 3), ((3, 4, 5, 6, 7, 8), 3), ((), 1)])
def test_a_journal_that_was_set_back_takes_the_curves_with_it(run, archive, again, factor, fresh):
    run.log(1, 2)
    cursor = run.journal.sync()
    run.log(3, 4, 5, 6)
    run.log(6, late=1.0)
    shipment = Shipment(run.folder, archive)
    shipment.send()
    before = archive.metrics.find_one({"name": "x"})
    assert "late" in stored(archive)
    run.journal.rewind(cursor)
    for step in again:
        run.log(step, x=step / 2 * factor)
    shipment = Shipment(run.folder, archive) if fresh else shipment
    shipment.send(look=True)
    assert same(stored(archive), series(run.folder.journal))
    after = archive.metrics.find_one({"name": "x"})
    assert after["_id"] == before["_id"]
    assert after["timestamps"][:2] == before["timestamps"][:2]


def test_a_journal_that_is_suddenly_shorter_is_noticed(run, archive):
    run.log(1)
    cursor = run.journal.sync()
    run.log(2, 3)
    shipment = Shipment(run.folder, archive)
    shipment.send()
    run.journal.rewind(cursor)
    shipment.send()
    assert same(stored(archive), series(run.folder.journal))


@pytest.mark.parametrize("method", ["bulk_write", "update_one", "find_one", "insert_one", "create_index"])
@pytest.mark.parametrize("arrives", [True, False], ids=["answer lost", "request lost"])
def test_what_is_lost_on_the_way_is_sent_again_once(run, archive, monkeypatch, method, arrives):
    real = getattr(pymongo.collection.Collection, method)
    faults = []

    def faulty(*args, **kwargs):
        fails = next(fault)
        result = real(*args, **kwargs) if arrives or not fails else None
        if fails:
            faults.append(1)
            raise AutoReconnect("connection closed")
        return result

    monkeypatch.setattr(shipping, "CURVE_POINTS", 4)
    shipment = Shipment(run.folder, archive)
    monkeypatch.setattr(pymongo.collection.Collection, method, faulty)
    for attempt in range(6):
        fault = itertools.chain([False] * attempt, [True], itertools.repeat(False))
        run.log(attempt)
        for _ in range(2):
            try:
                shipment.send()
            except AutoReconnect:
                continue
    assert faults
    shipment.send()
    assert same(stored(archive), series(run.folder.journal))
    again = Shipment(run.folder, archive)
    again.send()
    assert again.sent.points == 0
    assert archive.runs.count_documents({}) == 1


def test_what_the_server_forgets_is_noticed_when_asked(run, archive):
    run.log(1, 2, 3)
    shipment = Shipment(run.folder, archive)
    shipment.send()
    lost = {"$pop": {"steps": 1, "values": 1, "timestamps": 1}, "$set": {"n": 2, "check": 7}}
    archive.metrics.update_one({"name": "x"}, lost)
    archive.metrics.delete_one({"name": "y"})
    shipment.send()
    assert len(read_curves(archive.database, 1)["x"]) == 2  # an unasked pass looks at what it changes only
    shipment.send(look=True)
    assert same(stored(archive), series(run.folder.journal))


def test_a_deleted_entry_comes_back_and_notes_stay(run, archive):
    run.log(1)
    shipment = Shipment(run.folder, archive)
    shipment.send()
    archive.runs.update_one({"_id": 1}, {"$set": {"omniboard": {"tags": ["good"]}}})
    run.log(2)
    shipment.send()
    assert archive.runs.find_one()["omniboard"] == {"tags": ["good"]}
    archive.runs.delete_one({"_id": 1})
    archive.runs.insert_one({"_id": 1, "meta": {"uid": "another run took the number"}})
    archive.metrics.delete_many({})
    shipment.send()
    assert same(stored(archive, 2), series(run.folder.journal))
    assert archive.runs.find_one({"_id": 1})["meta"]["uid"] != run.folder.record["uid"]


def test_two_at_once_send_one_run_once(run, archive):
    """As when ``sync`` meets a live run; every pass finds what the other one has changed."""
    shipments = [Shipment(run.folder, Archive(archive.database, "here")) for _ in range(2)]
    errors = []

    def ship(shipment):
        try:
            for _ in range(15):
                shipment.send()
        except Exception as error:  # noqa: BLE001  (the thread's end must not hide it)
            errors.append(error)

    threads = [threading.Thread(target=ship, args=(shipment,)) for shipment in shipments]
    for thread in threads:
        thread.start()
    for step in range(200):
        run.log(step)
    for thread in threads:
        thread.join()
    assert not errors
    shipments[0].send()
    assert same(stored(archive), series(run.folder.journal))
    assert archive.runs.count_documents({}) == 1


def test_a_run_entered_twice_in_the_same_moment_has_one_number(run, archive, monkeypatch):
    other = Shipment(run.folder, Archive(archive.database, "here"))
    look = archive.runs.find_one

    def too_early(query, *args, **kwargs):
        found = look(query, *args, **kwargs)
        if "meta.uid" in query and other.run_id is None:
            other.send()
        return found

    monkeypatch.setattr(archive.runs, "find_one", too_early)
    shipment = Shipment(run.folder, archive)
    shipment.send()
    assert (shipment.run_id, other.run_id) == (1, 1)
    assert archive.runs.count_documents({}) == 1


def test_numbers_count_on_beside_other_peoples_names(tmp_path, archive):
    archive.runs.insert_many([{"_id": 7}, {"_id": "by hand"}, {"_id": 2}])
    for seed, number in ((1, 8), (2, 9)):
        shipment = Shipment(Run(tmp_path, seed).folder, archive)
        shipment.send()
        assert shipment.run_id == number
    assert archive.database["fs.files"].count_documents({"filename": "source.py"}) == 1


def test_curves_too_long_for_a_document_continue_in_others(run, archive, monkeypatch):
    monkeypatch.setattr(shipping, "CURVE_POINTS", 4)
    shipment = Shipment(run.folder, archive)
    cursors = {}
    for step in range(11):
        cursors[step] = run.journal.sync()
        run.log(step)
        shipment.send()
    assert sorted(each["name"] for each in archive.metrics.find()) == ["x", "x#2", "x#3", "y", "y#2", "y#3"]
    assert same(stored(archive), series(run.folder.journal))
    for back in (9, 8, 5, 4, 0):
        run.journal.rewind(cursors[back])
        shipment.send(look=True)
        assert same(stored(archive), series(run.folder.journal))


def test_memory_does_not_grow_with_what_is_unsent(run, archive, monkeypatch):
    monkeypatch.setattr(journal, "_BATCH_BYTES", 4096)
    for step in range(1000):
        run.log(step)
    sizes = []
    real = archive.extend

    def extend(run_id, uid, points):
        sizes.append(sum(len(new.steps) for _, new in points.values()))
        return real(run_id, uid, points)

    monkeypatch.setattr(archive, "extend", extend)
    Shipment(run.folder, archive).send()
    assert sum(sizes) == 2000
    assert max(sizes) < 150


def test_one_refused_metric_does_not_hold_up_the_others(run, archive, monkeypatch, capsys):
    real = archive.metrics.bulk_write

    def refuse_x(updates, **kwargs):
        names = [update._doc["$set"]["name"] for update in updates]
        result = real([update for update, name in zip(updates, names, strict=True) if name != "x"], **kwargs)
        if "x" not in names:
            return result
        error = {"index": names.index("x"), "code": 17419, "errmsg": "too large"}
        raise BulkWriteError(result.bulk_api_result | {"writeErrors": [error]})

    monkeypatch.setattr(archive.metrics, "bulk_write", refuse_x)
    monkeypatch.setattr(Archive, "metrics", archive.metrics, raising=False)
    shipment = Shipment(run.folder, archive)
    for step in (1, 2):
        run.log(step)
        shipment.send()
    assert [step for step, _ in read_curves(archive.database, 1)["y"]] == [1, 2]
    assert capsys.readouterr().out.count("refuses the metric 'x'") == 1
    assert shipment.missing() == (2, 4)


def test_only_the_end_of_long_output_and_of_long_traces_is_stored(run, archive):
    run.folder.console.write_text("é" * 1_500_000 + "end")
    run.files.failed_event(NOW, ["first\n", "x" * 300_000, "ValueError: no\n"])
    Shipment(run.folder, archive).send()
    found = archive.runs.find_one()
    assert found["captured_out"].endswith("é" * 100 + "end")
    assert entry.CAPTURED_BYTES - 2 <= len(found["captured_out"].encode()) <= entry.CAPTURED_BYTES
    assert found["fail_trace"][-1] == "ValueError: no\n"
    assert sum(map(len, found["fail_trace"])) == entry.TRACE_BYTES


def test_long_output_is_not_sent_at_every_beat(run, archive, monkeypatch):
    clock, saved = [0.0], []
    monkeypatch.setattr(shipping.time, "monotonic", lambda: clock[0])
    real = archive.save
    monkeypatch.setattr(archive, "save", lambda run_id, entry, gone: (saved.append(entry), real(run_id, entry, gone)))
    shipment = Shipment(run.folder, archive)

    def sent(seconds, text, look=False):
        clock[0] += seconds
        with run.folder.console.open("a") as file:
            file.write(text)
        shipment.send(look)
        return "captured_out" in saved[-1]

    assert [sent(10, ""), sent(10, ""), sent(10, "more\n"), sent(10, "more\n")] == [True, False, True, True]
    assert [sent(10, "x" * 1_000_000), sent(10, "y"), sent(10, ""), sent(11, "z")] == [True, False, False, True]
    assert [sent(10, "last"), sent(1, "", look=True)] == [False, True]
    assert archive.runs.find_one()["captured_out"].endswith("yzlast")


def test_an_artifact_given_again_replaces_the_first_and_a_missing_one_is_left_out(run, archive):
    path = run.folder.path / "notes.yaml"
    shipment = Shipment(run.folder, archive)
    for text in ("a: 1", "a: 2"):
        path.write_text(text)
        run.files.artifact_event("notes.yaml", str(path))
        shipment.send()
    (artifact,) = archive.runs.find_one()["artifacts"]
    assert archive.fs.get(artifact["file_id"]).read() == b"a: 2"
    assert archive.fs.get(artifact["file_id"]).content_type == "text/yaml"
    assert archive.database["fs.files"].count_documents({"filename": "artifact://runs/1/notes.yaml"}) == 1
    (run.folder.sacred / "1" / "notes.yaml").unlink()
    shipment.send()
    assert archive.runs.find_one()["artifacts"] == []


def test_a_resumed_run_has_no_end_any_more(run, archive):
    run.files.failed_event(NOW, ["no\n"])
    Shipment(run.folder, archive).send()
    assert archive.runs.find_one()["status"] == "FAILED"
    file = run.folder.sacred / "1" / "run.json"
    text = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("stop_time", "fail_trace")}
    file.write_text(json.dumps(text | {"status": "RUNNING"}))
    Shipment(run.folder, archive).send()
    found = archive.runs.find_one()
    assert found["status"] == "RUNNING"
    assert found["stop_time"] is None
    assert "fail_trace" not in found


def test_the_order_of_omniboards_columns_does_not_depend_on_when_a_run_is_sent(tmp_path, archive):
    early, late = Run(tmp_path, 1), Run(tmp_path, 2)
    Shipment(early.folder, archive).send()
    for run in (early, late):
        run.files.heartbeat_event(info={}, captured_out="", beat_time=NOW, result=None)
        run.end()
        Shipment(run.folder, archive).send()
    first, second = (list(found)[:10] for found in archive.runs.find(sort=[("_id", 1)]))
    assert first == second
    assert first[5:8] == ["start_time", "stop_time", "result"]


def test_time_that_is_over_and_files_that_are_damaged_are_told(run, archive):
    run.log(1)
    shipment = Shipment(run.folder, archive)
    shipment.deadline = 0.0
    with pytest.raises(OutOfTimeError):
        shipment.send()
    shipment.deadline = None
    run.folder.journal.write_text(run.folder.journal.read_text().replace("0.5", "0.7"))
    with pytest.raises(JournalError, match="line 1"):
        shipment.send()
    (run.folder.sacred / "1" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        shipment.send()


def test_points_are_counted_by_metric(run):
    run.log(1, 2)
    run.log(3, x=1.0)
    assert points_of(run.folder.journal) == {"x": 3, "y": 2}
    assert points_of(run.folder.path / "none") == {}


@pytest.mark.parametrize(
    ("url", "address", "name"),
    [
        ("mongodb://127.0.0.1:28102", "127.0.0.1:28102", "cofactor"),
        ("mongodb://me:pw@h1:1,h2:2/lab?authSource=admin", "h1:1,h2:2", "lab"),
        ("mongodb+srv://me:pw@cluster.example.net/lab?x=1", "cluster.example.net", "lab"),
    ],
)
def test_addresses(url, address, name):
    assert parse_address(url, "cofactor")[1:] == (name, address)


@pytest.mark.parametrize(
    "url", ["mongodb://", "mongodb://h:notaport", "http://h", "localhost:27017:sacred", "mongodb://me:***@h/db"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(ConfigError, match="mongo_url"):
        parse_address(url, "cofactor")
