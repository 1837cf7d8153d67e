"""install_sc2.sh against a small server with a small archive: asking, fetching, resuming, refusing, checking."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import io
import os
import pty
import re
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.skirmish.maps import MAPS as REGISTERED

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "install_sc2.sh"
BINARY = "Versions/Base75689/SC2_x64"
MAPS = re.search(r"^maps=\((.*?)\)", re.sub("#.*", "", SCRIPT.read_text()), re.MULTILINE | re.DOTALL).group(1).split()
TOOLS = (
    "awk basename bash cat chmod cp cut date df dirname env find flock mkdir mv readlink rm sed sha256sum stat tr uname"
)
pytestmark = [
    pytest.mark.skipif(shutil.which("unzip") is None, reason="there is no unzip"),
    pytest.mark.skipif(os.uname().machine != "x86_64" or os.uname().sysname != "Linux", reason="the game's platform"),
]


def packed(files: dict[str, bytes]) -> bytes:
    """A zip archive of ``files``."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return archive.getvalue()


GAME_FILES = {
    f"StarCraftII/{BINARY}": b"#!/bin/sh\n",
    "StarCraftII/SC2Data/data.000": b"".join(hashlib.sha256(bytes([i])).digest() for i in range(200)) * 40,
    "StarCraftII/Maps/Melee/Simple64.SC2Map": b"a map",
}
GAME, ALL_MAPS = packed(GAME_FILES), packed({f"{name}.SC2Map": name.encode() for name in MAPS})


class Server(http.server.ThreadingHTTPServer):
    """Serves two files, and can be told to break off after some bytes, to stop there, and to know nothing of ranges."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/SC2.4.10.zip": GAME, "/maps.zip": ALL_MAPS}
        self.asked: list[tuple[str, int]] = []
        self.cuts: list[int] = []
        self.ranges, self.holds, self.released = True, False, threading.Event()

    def starts(self, name: str) -> list[int]:
        """From which byte on the file was asked for, each time."""
        return [start for path, start in self.asked if path == f"/{name}"]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *words: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[self.path])))
        self.end_headers()

    def do_GET(self) -> None:
        if self.path not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[self.path]
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted.group(1)) if wanted and self.server.ranges else 0
        self.server.asked.append((self.path, start))
        self.send_response(206 if wanted and self.server.ranges else 200)
        if wanted and self.server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        most = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start : start + most])
        self.wfile.flush()
        if self.server.holds:
            self.server.released.wait(60)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


class Installer:
    """The script with an empty home, a stand-in for sleep, and both archives on the server."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.dest, self.programs = folder, folder / "the game", folder / "bin"
        self.programs.mkdir()
        self.program("sleep", "exit 0")
        port = server.server_address[1]
        kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        self.env = kept | {
            "HOME": str(folder / "home"),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "SC2PATH": "",
            "COFACTOR_VENV": str(folder / "none"),
            "COFACTOR_SC2_URL": f"http://127.0.0.1:{port}/SC2.4.10.zip",
            "COFACTOR_MAPS_URL": f"http://127.0.0.1:{port}/maps.zip",
            "COFACTOR_MAPS_SHA256": hashlib.sha256(ALL_MAPS).hexdigest(),
        }
        self.words = [str(SCRIPT), "--dest", str(self.dest), "--sha256", hashlib.sha256(GAME).hexdigest()]

    def program(self, name: str, body: str) -> None:
        """A stand-in for a program, found first."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.words, *words],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def installed(self) -> bool:
        names = {path.stem for path in (self.dest / "Maps" / "SMAC_Maps").glob("*.SC2Map")}
        here = os.access(self.dest / BINARY, os.X_OK) and names == set(MAPS)
        return here and all(
            (self.dest / Path(*Path(name).parts[1:])).read_bytes() == x for name, x in GAME_FILES.items()
        )

    def archive(self) -> Path:
        """Where the download lies until it is unpacked."""
        return self.dest / ".cofactor" / "SC2.4.10.zip"


@pytest.fixture
def installer(tmp_path: Path, server: Server) -> Installer:
    return Installer(tmp_path, server)


# --- the licence ------------------------------------------------------------------------------------------------------


def test_nothing_happens_unless_the_licence_is_accepted(installer: Installer, server: Server):
    done = installer.run()
    assert done.returncode == 1 and "AI_AND_MACHINE_LEARNING_LICENSE" in done.stderr
    assert "--accept-licence" in done.stderr
    assert not server.asked and not installer.dest.exists()


@pytest.mark.parametrize(("answer", "installs"), [("yes", True), ("no", False), ("y", False), ("", False)])
def test_asks_on_a_terminal(installer: Installer, server: Server, answer: str, installs: bool):
    ours, theirs = pty.openpty()
    started = subprocess.Popen(installer.words, env=installer.env, stdin=theirs, stderr=subprocess.PIPE, text=True)
    os.write(ours, f"{answer}\n".encode())
    said = started.communicate(timeout=60)[1]
    os.close(ours)
    os.close(theirs)
    assert "Do you accept it?" in said
    assert installer.installed() is installs and bool(server.asked) is installs
    assert started.returncode == (0 if installs else 1)


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_installs_once(installer: Installer, server: Server):
    first = installer.run("--accept-licence")
    assert first.returncode == 0, first.stderr
    assert installer.installed()
    assert sorted(path.name for path in installer.dest.iterdir()) == ["Maps", "SC2Data", "Versions"]
    assert f"export SC2PATH={str(installer.dest).replace(' ', chr(92) + ' ')}" in first.stdout
    second = installer.run()
    assert second.returncode == 0 and second.stdout == first.stdout
    assert server.starts("SC2.4.10.zip") == [0] and server.starts("maps.zip") == [0]


@pytest.mark.parametrize("client", ["curl", "wget"])
def test_a_download_that_breaks_off_goes_on_where_it_was(installer: Installer, server: Server, client: str):
    if shutil.which(client) is None:
        pytest.skip(f"there is no {client}")
    for name in (*TOOLS.split(), "unzip", client):
        (installer.programs / name).symlink_to(str(shutil.which(name)))
    installer.env["PATH"] = str(installer.programs)
    server.cuts = [100_000, 50_000, 1]
    done = installer.run("--accept-licence")
    assert done.returncode == 0, done.stderr
    assert installer.installed()
    assert server.starts("SC2.4.10.zip") == [0, 100_000, 150_000, 150_001]


def test_a_killed_installation_goes_on_where_it_was(installer: Installer, server: Server):
    server.cuts, server.holds = [100_000], True
    started = subprocess.Popen(
        [*installer.words, "--accept-licence"],
        env=installer.env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 20
    while not (installer.archive().exists() and installer.archive().stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    arrived = installer.archive().stat().st_size
    assert 0 < arrived <= 100_000
    server.holds = False
    server.released.set()
    assert installer.run("--accept-licence").returncode == 0
    assert installer.installed() and server.starts("SC2.4.10.zip") == [0, arrived]


def test_a_server_without_ranges_starts_anew(installer: Installer, server: Server):
    server.ranges, server.cuts = False, [100_000]
    done = installer.run("--accept-licence")
    assert done.returncode == 0, done.stderr
    assert installer.installed()


def test_an_archive_that_is_complete_is_not_fetched_again(installer: Installer, server: Server):
    installer.archive().parent.mkdir(parents=True)
    installer.archive().write_bytes(GAME)
    assert installer.run("--accept-licence").returncode == 0
    assert installer.installed() and not server.starts("SC2.4.10.zip")


def test_gives_up_where_nothing_arrives(installer: Installer, server: Server):
    server.cuts = [100_000, *[0] * 20]
    done = installer.run("--accept-licence")
    assert done.returncode == 1 and "start again to go on" in done.stderr
    assert installer.archive().stat().st_size == 100_000
    assert server.starts("SC2.4.10.zip") == [0, *[100_000] * 4]


def test_an_absent_archive_is_an_error(installer: Installer, server: Server):
    server.files = {"/maps.zip": ALL_MAPS}
    done = installer.run("--accept-licence")
    assert done.returncode == 1 and "404" in done.stderr
    assert not (installer.dest / "Versions").exists()


def test_takes_an_archive_that_is_here(installer: Installer, server: Server, tmp_path: Path):
    archive = tmp_path / "downloaded before.zip"
    archive.write_bytes(GAME)
    assert installer.run("--accept-licence", f"--archive={archive}").returncode == 0
    assert installer.installed() and archive.exists() and not server.starts("SC2.4.10.zip")


# --- refusing ---------------------------------------------------------------------------------------------------------


def test_a_wrong_checksum_is_refused_and_the_file_removed(installer: Installer, server: Server):
    server.files["/SC2.4.10.zip"] = GAME[:-1] + b"?"
    done = installer.run("--accept-licence")
    assert done.returncode == 1
    for content in (GAME, server.files["/SC2.4.10.zip"]):
        assert hashlib.sha256(content).hexdigest() in done.stderr
    assert not installer.archive().exists() and not (installer.dest / "Versions").exists()
    server.files["/SC2.4.10.zip"] = GAME
    assert installer.run("--accept-licence").returncode == 0 and installer.installed()


def test_the_published_checksum_holds_unless_another_is_given(installer: Installer, tmp_path: Path):
    archive = tmp_path / "mine.zip"
    archive.write_bytes(GAME)
    installer.words = installer.words[:3]
    done = installer.run("--accept-licence", "--archive", str(archive))
    assert done.returncode == 1 and "1052f249f30a242bf5e17cc3315324919f9689307ca6dbcdb30bb41ea3004884" in done.stderr
    assert archive.exists()


def test_a_full_disk_is_seen_before_the_download(installer: Installer, server: Server):
    installer.program("df", "echo header; echo disk 1000 900 100 90% /")
    done = installer.run("--accept-licence")
    assert done.returncode == 1 and "--dest" in done.stderr
    assert re.search(r"needs \d\.\d GB more, and its disk has 0\.0 GB left", done.stderr)
    assert not server.asked


def test_room_is_needed_for_what_is_in_the_archive(installer: Installer, tmp_path: Path):
    archive = tmp_path / "here.zip"
    archive.write_bytes(GAME)
    content = sum(map(len, GAME_FILES.values())) // 1024
    installer.program("df", f"echo header; echo disk 1 1 {content - 1} 90% /")
    assert "Make room" in installer.run("--accept-licence", "--archive", str(archive)).stderr
    installer.program("df", f"echo header; echo disk 1 1 {content + 1} 90% /")
    assert installer.run("--accept-licence", "--archive", str(archive)).returncode == 0


def test_a_folder_of_something_else_is_left_alone(installer: Installer):
    installer.dest.mkdir()
    (installer.dest / "letters.txt").write_text("x")
    done = installer.run("--accept-licence")
    assert done.returncode == 1 and "letters.txt" in done.stderr
    assert [path.name for path in installer.dest.iterdir()] == ["letters.txt"]


def test_two_at_once_do_not_mix(installer: Installer, server: Server):
    lock = installer.dest / ".cofactor" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = installer.run("--accept-licence")
    assert done.returncode == 1 and "another ./install_sc2.sh is at work" in done.stderr
    assert not server.asked
    assert installer.run("--accept-licence").returncode == 0 and installer.installed()


@pytest.mark.parametrize("words", [["--all"], ["--dest"], ["--sha256", "12"], ["--archive", "not there.zip"]])
def test_other_words_are_refused(installer: Installer, server: Server, words: list[str]):
    done = installer.run(*words)
    assert done.returncode == 2 and "--accept-licence" in done.stderr
    assert not server.asked


# --- unpacking --------------------------------------------------------------------------------------------------------


def test_an_unpacking_that_was_cut_short_is_done_anew(installer: Installer, server: Server):
    real = shutil.which("unzip")
    installer.program("unzip", f'case $1 in -Zt) exec {real} "$@" ;; esac\nmkdir -p "$5/StarCraftII/SC2Data"; exit 50')
    broken = installer.run("--accept-licence")
    assert broken.returncode == 1 and "unzip failed" in broken.stderr
    assert not (installer.dest / "Versions").exists() and not (installer.dest / "SC2Data").exists()
    (installer.programs / "unzip").unlink()
    assert installer.run("--accept-licence").returncode == 0
    assert installer.installed() and server.starts("SC2.4.10.zip") == [0]


def test_other_versions_and_own_maps_stay(installer: Installer):
    other = installer.dest / "Versions" / "Base69232" / "SC2_x64"
    mine = installer.dest / "Maps" / "SMAC_Maps" / "3m.SC2Map"
    for path in (other, mine):
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    assert installer.run("--accept-licence").returncode == 0
    assert other.read_text() == mine.read_text() == "mine"
    assert os.access(installer.dest / BINARY, os.X_OK)


@pytest.mark.skipif(shutil.which("zip") is None, reason="there is no zip")
@pytest.mark.parametrize(("password", "status"), [("iagreetotheeula", 0), ("another", 1)])
def test_the_password_opens_the_archive(installer: Installer, tmp_path: Path, password: str, status: int):
    for name, content in GAME_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(content)
    archive = tmp_path / "closed.zip"
    subprocess.run(["zip", "-qr", "-P", password, archive, "StarCraftII"], cwd=tmp_path, check=True)
    installer.words = [*installer.words[:3], "--sha256", hashlib.sha256(archive.read_bytes()).hexdigest().upper()]
    assert installer.run("--accept-licence", "--archive", str(archive)).returncode == status
    assert installer.installed() is (status == 0)


# --- the check --------------------------------------------------------------------------------------------------------


def test_the_check_names_what_is_missing(installer: Installer, server: Server):
    binary = installer.dest / BINARY
    binary.parent.mkdir(parents=True)
    binary.touch()
    done = installer.run("--check")
    assert done.returncode == 1, done.stderr
    missing = [line.split()[1] for line in done.stdout.splitlines() if line.strip().startswith("missing")]
    assert missing == ["permission", "SMAC", "Python"]
    assert not server.asked and not (installer.dest / ".cofactor").exists()
    binary.parent.rename(installer.dest / "Versions" / "Base69232")
    assert "(found: Base69232)" in installer.run("--check").stdout


@pytest.mark.parametrize(
    ("body", "says", "status"),
    [
        ("exit 0", "here     Python package smac", 0),
        ('case "$2" in *find_spec*) exit 0 ;; *) exit 1 ;; esac', "is another project of that name", 1),
        ("exit 1", "Remedy: ./run.sh install sc2", 1),
    ],
    ids=["smac", "the wrong smac", "no smac"],
)
def test_the_check_knows_the_wrong_smac(installer: Installer, tmp_path: Path, body: str, says: str, status: int):
    assert installer.run("--accept-licence").returncode == 0
    (tmp_path / "none" / "bin").mkdir(parents=True)
    (tmp_path / "none" / "bin" / "python").write_text(f"#!/bin/sh\n{body}\n")
    (tmp_path / "none" / "bin" / "python").chmod(0o755)
    done = installer.run("--check")
    assert says in done.stdout and done.returncode == status


def test_maps_alone_need_no_licence(installer: Installer, server: Server):
    assert installer.run("--accept-licence").returncode == 0
    (installer.dest / "Maps" / "SMAC_Maps" / "corridor.SC2Map").unlink()
    assert "SMAC_Maps: corridor." in installer.run("--check").stdout
    assert installer.run().returncode == 0
    assert installer.installed() and server.starts("SC2.4.10.zip") == [0]


def test_a_missing_permission_is_given(installer: Installer):
    assert installer.run("--accept-licence").returncode == 0
    (installer.dest / BINARY).chmod(0o644)
    assert installer.run().returncode == 0
    assert installer.installed()


def test_the_maps_are_those_that_are_registered():
    assert set(MAPS) == {name for name in REGISTERED if not name.endswith("_myopic")} | {"32x32_flat"}
