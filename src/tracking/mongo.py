"""Sacred's MongoObserver, hardened: a database may be absent, die and come back; the run neither stops nor hangs.

What is changed, against sacred 0.8.7 with pymongo 4: a failed heartbeat does not switch the observer off; what could
not be sent is kept and sent later; a server that is absent at the start may come later; a resumed run continues its own
entry and its own curves; resources are really stored, and every source file only once; waiting is bounded.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pymongo
from bson import ObjectId, json_util
from bson.errors import InvalidDocument
from pymongo.errors import AutoReconnect, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri
from sacred.dependencies import get_digest
from sacred.observers import MongoObserver

from core.config import MASK, ConfigError, masked
from tracking.journal import Series
from tracking.observers import Curves, extend, merged, say, surviving
from tracking.plain import plain

CAPTURED_BYTES = 2_000_000
"""Captured output kept in the database: its end. All of it is in console.log."""
WAIT_MS = 3000
"""How long a database may take to be found."""
_ANSWER_MS = 10_000
_REST_SECONDS = (5.0, 60.0)
"""After a failure the database is left alone for the first time; the pause doubles up to the second."""


class HardenedMongoObserver(MongoObserver):
    """MongoObserver that changes its own entry first and then brings the database up to it, now or later."""

    journal: Path | str = "the run folder"
    address = "the database"
    run_entry: Any

    @classmethod
    def connect(cls, url: str, db_name: str, failure_dir: Path, journal: Path) -> HardenedMongoObserver:
        """An observer for a server that need not be there.

        Raises:
            ConfigError: the address is none.
        """
        url, db_name, address = parse_address(url, db_name)
        try:
            client: Any = pymongo.MongoClient(
                url,
                serverSelectionTimeoutMS=WAIT_MS,
                connectTimeoutMS=WAIT_MS,
                socketTimeoutMS=_ANSWER_MS,
                appname="cofactor",
            )
        except PyMongoError as error:  # mongodb+srv:// looks its servers up here
            raise ConfigError([f"mongo_url: {masked(str(error))}"]) from None
        observer = cls(client=client, db_name=db_name, failure_dir=str(failure_dir))
        observer.journal, observer.address = journal, address
        return observer

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Also called by ``create_from``, which tests use with an imitation of a database."""
        super().initialize(*args, **kwargs)
        self.lock, self.complaints = threading.RLock(), set[str]()
        self._entered = False
        self._earlier_out = ""
        self._sources: list[tuple[str, str, str]] = []
        self._pending: Curves = {}
        self._refused: set[str] = set()
        self._refs: dict[str, str] = {}
        self._checked: set[str] = set()
        self._restoring: Series | None = None
        self._files: list[Callable[[], None]] = []
        self._failures, self._failed_at = 0, 0.0

    # What Sacred reports: each event changes our own state only, then tries to bring the database up to it.

    @surviving
    def started_event(
        self,
        ex_info: dict[str, Any],
        command: str,
        host_info: dict[str, Any],
        start_time: datetime,
        config: dict[str, Any],
        meta_info: dict[str, Any],
        _id: Any,
    ) -> Any:
        """Begins an entry, or continues the one whose ``meta.uid`` is this run's."""
        base = Path(ex_info["base_dir"])
        self._sources = [(name, str(base / name), md5) for name, md5 in ex_info["sources"]]
        self.run_entry = plain(
            {
                "experiment": ex_info | {"sources": []},
                "format": self.VERSION,
                "command": command,
                "host": host_info,
                "start_time": start_time,
                "config": config,
                "meta": meta_info,
                "status": "RUNNING",
                "resources": [],
                "artifacts": [],
                "captured_out": "",
                "info": {},
                "heartbeat": start_time,
            }
        )
        self._contact()
        return self.run_entry.get("_id")

    @surviving
    def log_metrics(self, metrics_by_name: Mapping[str, Mapping[str, list[Any]]], **_: Any) -> None:
        """Takes points over; the heartbeat that follows sends them."""
        extend(self._pending, metrics_by_name)

    @surviving
    def heartbeat_event(self, info: dict[str, Any], captured_out: str, beat_time: datetime, result: Any) -> None:
        """Sends whatever is new."""
        output = _tail(self._earlier_out + captured_out)
        self.run_entry.update(info=plain(info), captured_out=output, heartbeat=beat_time, result=plain(result))
        self._contact()

    @surviving
    def completed_event(self, stop_time: datetime, result: Any) -> None:
        """The run is done."""
        self._finish(stop_time=stop_time, result=plain(result), status="COMPLETED")

    @surviving
    def interrupted_event(self, interrupt_time: datetime, status: str) -> None:
        """The run was stopped."""
        self._finish(stop_time=interrupt_time, status=status)

    @surviving
    def failed_event(self, fail_time: datetime, fail_trace: list[str]) -> None:
        """The run died of an exception."""
        self._finish(stop_time=fail_time, status="FAILED", fail_trace=fail_trace)

    @surviving
    def resource_event(self, filename: str) -> None:
        """A file that the run reads; stored once however many runs read it."""
        self._files.append(functools.partial(self._send_resource, filename))
        self._contact()

    @surviving
    def artifact_event(
        self, name: str, filename: str, metadata: dict[str, Any] | None = None, content_type: str | None = None
    ) -> None:
        """A file that the run made; given again under the same name it replaces the earlier one."""
        self._files.append(functools.partial(self._send_artifact, name, filename, metadata, content_type))
        self._contact()

    @surviving
    def restore(self, curves: Series) -> None:
        """Makes the stored curves equal to the journal's: nothing twice, nothing missing, one document per metric."""
        self._restoring = curves
        self._contact()

    # How the database is brought up to it.

    @property
    def run_id(self) -> Any:
        """The run's number in the database; None while it has none."""
        return self.run_entry.get("_id") if self.run_entry and self._entered else None

    def close(self) -> None:
        """Ends the connection."""
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()

    def _contact(self, last: bool = False) -> bool:
        """Sends all that is unsent; says whether it succeeded. After a failure the server is left alone for a while."""
        pause = min(_REST_SECONDS[0] * 2 ** (self._failures - 1), _REST_SECONDS[1]) if self._failures else 0.0
        pause = min(pause, _REST_SECONDS[0]) if last else pause
        if time.monotonic() - self._failed_at < pause:
            return False
        try:
            self._synchronise()
        except PyMongoError as error:
            self._missed(error)
            return False
        if self._failures:
            say(f"MongoDB at {self.address} answers again")
        self._failures = 0
        return True

    def _synchronise(self) -> None:
        if not self._entered:
            self._enter()
        if self._restoring is not None:
            self._send_restored(self._restoring)
            self._restoring = None
        self._send_metrics()
        while self._files:
            self._send_file(self._files[0])
            self._files.pop(0)
        self.save()

    def _missed(self, error: PyMongoError) -> None:
        if not self._failures:
            reason = re.split(r" \(configured|, Timeout:", masked(str(error)))[0][:200]
            say(
                f"MongoDB at {self.address} is not reachable: the run goes on, everything is kept in {self.journal} "
                f"({type(error).__name__}: {reason})"
            )
        self._failures += 1
        self._failed_at = time.monotonic()
        self._checked.clear()  # the last write may or may not have arrived: look before the next

    def _enter(self) -> None:
        """Finds this run in the database or gives it the next number."""
        with contextlib.suppress(OperationFailure):  # without the right to do so it only gets slower
            self.metrics.create_index([("run_id", 1), ("name", 1)])
            self.runs.create_index([("meta.uid", 1)])
        entry = self.run_entry
        found = self.runs.find_one({"meta.uid": entry["meta"]["uid"]}) if "uid" in entry["meta"] else None
        entry["experiment"]["sources"] = self._send_sources()
        if found is None:
            self._insert(entry)
        else:
            self._earlier_out = found.get("captured_out", "")
            for key in ("_id", "start_time", "artifacts", "resources"):
                entry[key] = found.get(key, entry.get(key))
            self._refs = {metric["name"]: metric["id"] for metric in found.get("info", {}).get("metrics", [])}
            if entry["status"] == "RUNNING":
                self.runs.update_one({"_id": entry["_id"]}, {"$unset": {"stop_time": "", "fail_trace": ""}})
        self._entered = True

    def _insert(self, entry: dict[str, Any]) -> None:
        """The next free number, also when many runs start at once."""
        entry.pop("_id", None)
        for _ in range(1000):
            newest = self.runs.find_one({}, {"_id": 1}, sort=[("_id", pymongo.DESCENDING)])
            number_ = newest["_id"] + 1 if newest else 1
            try:
                self.runs.insert_one(entry | {"_id": number_})
            except DuplicateKeyError:
                continue
            entry["_id"] = number_
            return
        raise OperationFailure("no free run number found in 1000 attempts")

    def save(self) -> None:
        """Writes the run's entry as it is now."""
        metrics = [{"name": name, "id": id_} for name, id_ in self._refs.items()]
        entry = {key: value for key, value in self.run_entry.items() if key != "_id"}
        entry["info"] = entry["info"] | {"metrics": metrics}
        self.runs.update_one({"_id": self.run_entry["_id"]}, {"$set": entry}, upsert=True)

    def _finish(self, **fields: Any) -> None:
        """Takes the last fields over; where the database does not get them, a file in ``failure_dir`` does."""
        self.run_entry.update(fields)
        path = Path(self.failure_dir) / "run.json"
        if self._contact(last=True):
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json_util.dumps(self.run_entry, indent=2))
            say(f"MongoDB at {self.address} did not get the end of this run: it is in {path} and {self.journal}")

    def _send_metrics(self) -> None:
        for name in list(self._pending):
            try:
                self._send_metric(name, self._pending[name])
            except AutoReconnect:
                raise
            except (PyMongoError, InvalidDocument, OverflowError) as error:
                say(f"warning: MongoDB refuses the metric '{name}' ({error}); it is kept in {self.journal}")
                self._refused.add(name)
            del self._pending[name]

    def _send_metric(self, name: str, points: dict[str, list[Any]]) -> None:
        if name in self._refused:
            return
        key = {"run_id": self.run_entry["_id"], "name": name}
        if name not in self._checked:
            points = self._unknown(key, points)
            self._checked.add(name)
        if points["steps"]:
            push = {field: {"$each": points[field]} for field in ("steps", "values", "timestamps")}
            upserted = self.metrics.update_one(key, {"$push": push}, upsert=True).upserted_id
            if upserted is not None:
                self._refs[name] = str(upserted)

    def _unknown(self, key: dict[str, Any], points: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """``points`` without those that the database has already, as far as it knows this metric."""
        found = self.metrics.find_one(key, {"values": 0, "timestamps": 0, "steps": {"$slice": -1}})
        if found is None:
            return points
        self._refs[key["name"]] = str(found["_id"])
        last = found["steps"][-1] if found["steps"] else -1
        fresh = [i for i, step in enumerate(points["steps"]) if step > last]
        return {field: [points[field][i] for i in fresh] for field in ("steps", "values", "timestamps")}

    def _send_restored(self, curves: Series) -> None:
        id_ = self.run_entry["_id"]
        stored = {curve["name"]: curve for curve in self.metrics.find({"run_id": id_})}
        for name in stored.keys() - curves.keys():
            self.metrics.delete_one({"_id": stored[name]["_id"]})
            self._refs.pop(name, None)
        for name, curve in merged(curves, stored).items():
            self._refs[name] = str(stored.get(name, {}).get("_id") or ObjectId())
            key = {"_id": ObjectId(self._refs[name])}
            self.metrics.update_one(key, {"$set": curve | {"run_id": id_, "name": name}}, upsert=True)
        self._checked = set(curves)

    def _send_file(self, send: Callable[[], None]) -> None:
        try:
            send()
        except OSError as error:  # the file is gone or unreadable; what the database says is a PyMongoError
            say(f"warning: not stored in MongoDB: {error}")

    def _send_artifact(
        self, name: str, filename: str, metadata: dict[str, Any] | None, content_type: str | None
    ) -> None:
        target = f"artifact://{self.runs.name}/{self.run_entry['_id']}/{name}"
        content_type = content_type or _mime(filename)
        with open(filename, "rb") as file:
            file_id = self.fs.put(file, filename=target, metadata=metadata, content_type=content_type)
        replaced = [artifact for artifact in self.run_entry["artifacts"] if artifact["name"] == name]
        kept = [artifact for artifact in self.run_entry["artifacts"] if artifact["name"] != name]
        self.run_entry["artifacts"] = [*kept, {"name": name, "file_id": file_id}]
        self.save()
        for artifact in replaced:
            self.fs.delete(artifact["file_id"])

    def _send_resource(self, filename: str) -> None:
        md5 = get_digest(filename)
        self._put_once(filename, md5)
        if [filename, md5] not in self.run_entry["resources"]:
            self.run_entry["resources"].append([filename, md5])

    def _send_sources(self) -> list[list[Any]]:
        return [[name, self._put_once(path, md5)] for name, path, md5 in self._sources]

    def _put_once(self, path: str, md5: str) -> Any:
        """The stored file with these contents; GridFS itself keeps no digest any more, so it is in the metadata."""
        found = self.fs.find_one({"filename": path, "metadata.md5": md5})
        if found is not None:
            return found._id
        with open(path, "rb") as file:
            return self.fs.put(file, filename=path, metadata={"md5": md5})


def parse_address(url: str, db_name: str) -> tuple[str, str, str]:
    """(URL, database, host without password) of ``mongodb://...`` or ``mongodb+srv://...``.

    A database named in the address has precedence over ``db_name``.

    Raises:
        ConfigError: the address cannot be read, or its password was masked when it was stored.
    """
    if f":{MASK}@" in url:
        raise ConfigError(["mongo_url: passwords are not kept; give the address again by -m or COFACTOR_MONGO_URL"])
    if url.startswith("mongodb+srv://"):  # reading such an address asks the name server
        host, _, named = url.partition("://")[2].rpartition("@")[2].partition("/")
        return url, named.partition("?")[0] or db_name, host
    try:
        parsed = parse_uri(url, warn=False)
    except (PyMongoError, ValueError) as error:
        raise ConfigError([f"mongo_url: {masked(str(error))}"]) from None
    address = ",".join(f"{host}:{port}" if port else str(host) for host, port in parsed["nodelist"])
    return url, parsed["database"] or db_name, address


def _tail(text: str) -> str:
    """The last ``CAPTURED_BYTES`` bytes of a text: a document may not exceed 16 MB."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= CAPTURED_BYTES else data[-CAPTURED_BYTES:].decode("utf-8", "ignore")


def _mime(filename: str) -> str:
    """The type by which Omniboard decides how to show an artifact."""
    types = {".yaml": "text/yaml", ".json": "application/json", ".jsonl": "text/plain", ".log": "text/plain"}
    types |= {".txt": "text/plain", ".png": "image/png", ".svg": "image/svg+xml", ".csv": "text/csv"}
    return types.get(Path(filename).suffix, "application/octet-stream")
