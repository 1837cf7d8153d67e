"""What a MongoDB keeps of a run, in Sacred's collections, written so that nothing is ever there twice.

A curve is one document for each ``CURVE_POINTS`` points. Beside Sacred's lists it has ``n``, their length, and
``check``, a checksum of its points. New points are added on the condition that both are still what the writer
believes: whoever believes wrongly (an answer was lost, somebody else was faster, the run was set back) changes
nothing and looks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import gridfs
import pymongo
from bson import ObjectId
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from core.config import MASK, ConfigError, masked
from tracking.journal import Series

WAIT_MS = 3000
"""How long a database may take to be found."""
CURVE_POINTS = 100_000
"""Points of one document: about 5 MB of the 16 that a document may have."""
_ANSWER_MS = 10_000
_DUPLICATE = 11000


class MovedError(Exception):
    """The database is not as it was believed to be: look again."""


@dataclass(frozen=True)
class Curve:
    """Identifies the document with points ``number * CURVE_POINTS`` and following of a metric."""

    metric: str
    number: int = 0

    @property
    def name(self) -> str:
        """The name under which it is shown; documents after the first say which they are."""
        return self.metric if not self.number else f"{self.metric}#{self.number + 1}"


@dataclass
class Extent:
    """How far a curve's document goes: the number of its points and their checksum."""

    n: int = 0
    check: int = 0

    def add(self, step: int, value: float) -> None:
        """Counts one more point."""
        self.n, self.check = self.n + 1, zlib.crc32(struct.pack("<qd", step, value), self.check)


@dataclass
class Points:
    """Points that a curve's document does not have yet."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    timestamps: list[datetime] = field(default_factory=list)

    def add(self, step: int, value: float, moment: datetime) -> None:
        """One more."""
        self.steps.append(step)
        self.values.append(value)
        self.timestamps.append(moment)


class Archive:
    """The collections of one database."""

    def __init__(self, database: Any, address: str) -> None:
        """``address`` is how messages call the server."""
        self.database, self.address = database, address
        self.runs, self.metrics, self.fs = database.runs, database.metrics, gridfs.GridFS(database)

    @classmethod
    def connect(cls, url: str, db_name: str) -> Archive:
        """The database at an address, whether or not somebody answers there.

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
            return cls(client[db_name], address)
        except (PyMongoError, ValueError) as error:  # mongodb+srv:// looks its servers up here
            raise ConfigError([f"mongo_url: {masked(str(error))}"]) from None

    @property
    def name(self) -> str:
        """The database's."""
        return str(self.database.name)

    def close(self) -> None:
        """Ends the connection."""
        self.database.client.close()

    # --- entries

    def enter(self, entry: Mapping[str, Any]) -> int:
        """The number of the run with this entry's ``meta.uid``; the next free one where it has none yet."""
        with contextlib.suppress(OperationFailure):  # without the right to do so it only gets slower
            self.metrics.create_index([("run_id", 1), ("name", 1)])
            self.runs.create_index([("meta.uid", 1)], unique=True, sparse=True)
        for _ in range(1000):
            found = self.runs.find_one({"meta.uid": entry["meta"]["uid"]}, {"_id": 1})
            if found is not None:
                return int(found["_id"])
            newest = self.runs.find_one({"_id": {"$gte": 0}}, {"_id": 1}, sort=[("_id", pymongo.DESCENDING)])
            with contextlib.suppress(DuplicateKeyError):  # another run took the number, or another process entered us
                self.runs.insert_one({**entry, "_id": newest["_id"] + 1 if newest else 1})
        raise OperationFailure("no free run number found in 1000 attempts")

    def save(self, run_id: int, entry: Mapping[str, Any], gone: Iterable[str] = ()) -> None:
        """Sets the fields of ``entry``, removes those in ``gone`` and leaves others, as notes and tags, alone.

        Raises:
            MovedError: that number is not this run's any more.
        """
        update = {"$set": dict(entry)} | ({"$unset": dict.fromkeys(gone, "")} if gone else {})
        if not self.runs.update_one({"_id": run_id, "meta.uid": entry["meta"]["uid"]}, update).matched_count:
            raise MovedError("the run's entry is gone")

    # --- curves

    def extents(self, run_id: int) -> dict[ObjectId, Extent]:
        """How far the curves of a run go."""
        found = self.metrics.find({"run_id": run_id}, {"n": 1, "check": 1})
        return {each["_id"]: Extent(each.get("n", -1), each.get("check", 0)) for each in found}

    def extend(self, run_id: int, uid: str, points: Mapping[Curve, tuple[Extent, Points]]) -> dict[Curve, str]:
        """Adds points to curves that go as far as the given extents; moves these on.

        Returns:
            The curves that the database refuses, and why.

        Raises:
            MovedError: a curve goes elsewhere; some of the points may have been added.
        """
        updates, reached = [], {}
        for curve, (known, new) in points.items():
            after = reached[curve] = Extent(known.n, known.check)
            for step, value in zip(new.steps, new.values, strict=True):
                after.add(step, value)
            key = {"_id": curve_id(uid, run_id, curve), "n": known.n, "check": known.check}
            push = {name: {"$each": each} for name, each in vars(new).items()}
            facts = {"run_id": run_id, "name": curve.name, "n": after.n, "check": after.check}
            updates.append(pymongo.UpdateOne(key, {"$push": push, "$set": facts}, upsert=not known.n))
        refused = self._write(updates, list(points))
        for curve, (known, _) in points.items():
            if curve not in refused:
                known.n, known.check = reached[curve].n, reached[curve].check
        return refused

    def _write(self, updates: list[Any], curves: list[Curve]) -> dict[Curve, str]:
        refused: dict[Curve, str] = {}
        try:
            result = self.metrics.bulk_write(updates, ordered=False)
            written = result.matched_count + result.upserted_count
        except BulkWriteError as error:
            failed = [each for each in error.details["writeErrors"] if each["code"] != _DUPLICATE]
            refused = {curves[each["index"]]: str(each["errmsg"]) for each in failed}
            written = error.details["nMatched"] + error.details["nUpserted"] + len(refused)
        if written < len(updates):
            raise MovedError("curves are not as they were left")
        return refused

    def shorten(self, _id: ObjectId, stored: Extent, wanted: Extent) -> Extent:
        """Cuts a curve back: to its first ``wanted.n`` points where these are the wanted ones, else to none.

        Returns:
            How far it goes now.

        Raises:
            MovedError: it did not go as far as ``stored``.
        """
        kept = Extent()
        if 0 < wanted.n < stored.n:
            first = {"$slice": wanted.n}
            found = self.metrics.find_one({"_id": _id}, {"steps": first, "values": first}) or Points().__dict__
            for step, value in zip(found["steps"], found["values"], strict=True):
                kept.add(step, value)
        kept = kept if kept == wanted else Extent()
        cut = {name: {"$each": [], "$slice": kept.n} for name in vars(Points())}
        key = {"_id": _id} | vars(stored)
        if not self.metrics.update_one(key, {"$push": cut, "$set": vars(kept)}).matched_count:
            raise MovedError("a curve is not as it was left")
        return kept

    def forget(self, curves: Iterable[ObjectId]) -> None:
        """Removes curves."""
        self.metrics.delete_many({"_id": {"$in": list(curves)}})

    # --- files

    def find(self, name: str, md5: str) -> ObjectId | None:
        """The stored file with this name and contents."""
        found = self.fs.find_one({"filename": name, "metadata.md5": md5})
        return None if found is None else found._id

    def put(self, path: Path, name: str, md5: str, content_type: str) -> ObjectId:
        """Stores a file."""
        with open(path, "rb") as file:
            return self.fs.put(file, filename=name, metadata={"md5": md5}, content_type=content_type)

    def drop_older(self, name: str, kept: ObjectId) -> None:
        """Removes other contents that were stored under a name before the file ``kept``."""
        latest: Any = self.fs.get(kept)
        for file in self.fs.find({"filename": name, "uploadDate": {"$lt": latest.upload_date}}):
            if (file.metadata or {}).get("md5") != latest.metadata["md5"]:
                self.fs.delete(file._id)


def curve_id(uid: str, run_id: int, curve: Curve) -> ObjectId:
    """The number of a curve's document: always the same, so that two writers cannot make two of it."""
    text = f"{uid}/{run_id}/{curve.number}/{curve.metric}"
    return ObjectId(hashlib.sha256(text.encode()).digest()[:12])


def read_curves(database: Any, run_id: int) -> Series:
    """The curves of a run, those of several documents in one piece: what ``journal.series`` is for a journal."""
    curves: Series = {}
    found = {each["name"]: each for each in database.metrics.find({"run_id": run_id})}
    for name in found:
        base, _, number = name.rpartition("#")
        if base in found and number.isdecimal():
            continue
        following = (f"{name}#{i}" for i in range(2, len(found) + 1))
        for part in [name, *(each for each in following if each in found)]:
            points = zip(found[part]["steps"], found[part]["values"], strict=True)
            curves.setdefault(name, []).extend(points)
    return curves


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
