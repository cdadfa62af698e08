"""Decision packs from somebody who means harm: each is refused by name, here and by the command (D11)."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tallystick import Gateway, Ledger
from tallystick.recorders.gateway.errors import BadPack
from tallystick.recorders.gateway.pack import MEMBERS_BYTES_MAX, PACK_BYTES_MAX, read_pack
from tallystick.recorders.gateway.packing import collect
from tallystick.recorders.gateway.policy import STARTER_POLICY

Members = dict[str, bytes]
REQUEST = {
    "schema_version": "decision_request.v0",
    "subject": {"type": "agent", "id": "bot"},
    "action": {"type": "support.refund", "intent": "a mug"},
    "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
}
END = struct.Struct("<4s4H2LH")


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """The members of a sound pack."""
    with Ledger.open(tmp_path_factory.mktemp("pack") / "a.tally") as ledger:
        record = Gateway(ledger, STARTER_POLICY).decide(REQUEST)
        data = collect(ledger, record.decision_id).to_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: Members, compression: int = zipfile.ZIP_STORED, **attributes: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            archive.writestr(info, data)
    return buffer.getvalue()


def renamed(name: str) -> Callable[[Members], bytes]:
    return lambda members: zipped(
        {(name if one == "head.txt" else one): data for one, data in members.items()}
    )


def duplicated(members: Members) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        for name in ("head.txt", *members):
            archive.writestr(name, members[name])
    return buffer.getvalue()


def overlapping(members: Members) -> bytes:
    """Each entry of the directory points at the data of the largest member."""
    data = bytearray(zipped(members))
    places = [i for i in range(len(data)) if data.startswith(b"PK\x01\x02", i)]
    for place in places:
        data[place + 42 : place + 46] = struct.pack("<L", 0)
    return bytes(data)


def with_sizes(size: int) -> Callable[[Members], bytes]:
    """Every size in the directory is this one."""

    def make(members: Members) -> bytes:
        data = bytearray(zipped(members))
        for place in [i for i in range(len(data)) if data.startswith(b"PK\x01\x02", i)]:
            data[place + 20 : place + 28] = struct.pack("<2L", size, size)
        return bytes(data)

    return make


def with_64_bit_sizes(members: Members) -> bytes:
    """Sizes in the extra field of the 64-bit form (APPNOTE 4.5.3)."""
    extra = struct.pack("<2H3Q", 1, 24, 1 << 62, 1 << 62, 1 << 62)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.extra = extra
            archive.writestr(info, data)
    return with_sizes_at(buffer.getvalue())


def with_sizes_at(data: bytes) -> bytes:
    changed = bytearray(data)
    for place in [i for i in range(len(data)) if data.startswith(b"PK\x01\x02", i)]:
        changed[place + 20 : place + 28] = b"\xff" * 8
        changed[place + 42 : place + 46] = b"\xff" * 4
    return bytes(changed)


def nested(members: Members) -> bytes:
    """A zip file in a zip file in a zip file."""
    inner = zipped({"events.jsonl": b"0" * (60 << 20)}, zipfile.ZIP_DEFLATED)
    return zipped({**members, "events.jsonl": zipped({"events.jsonl": inner}, zipfile.ZIP_DEFLATED)})


def bomb(member: str) -> Callable[[Members], bytes]:
    large = MEMBERS_BYTES_MAX[member] + 1
    return lambda members: zipped({**members, member: b" " * large}, zipfile.ZIP_DEFLATED)


def truncated(share: float) -> Callable[[Members], bytes]:
    return lambda members: (data := zipped(members))[: int(len(data) * share)]


def end_changed(**values: int) -> Callable[[Members], bytes]:
    """Other numbers at the end of the directory."""

    def make(members: Members) -> bytes:
        data = zipped(members)
        fields = list(END.unpack(data[-END.size :]))
        for name, value in values.items():
            fields[("tag", "disk", "start", "here", "entries", "size", "offset", "comment").index(name)] = (
                value
            )
        return data[: -END.size] + END.pack(*fields)

    return make


HOSTILE: dict[str, Callable[[Members], bytes]] = {
    "slip": renamed("../head.txt"),
    "slip_far": renamed("../../../../tmp/head.txt"),
    "slip_windows": renamed("..\\head.txt"),
    "absolute": renamed("/etc/head.txt"),
    "drive": renamed("C:\\head.txt"),
    "folder": renamed("head.txt/"),
    "nul": lambda members: renamed("head.txt_.exe")(members).replace(b"head.txt_.exe", b"head.txt\0.exe"),
    "long_name": renamed("h" * 60_000),
    "dots": renamed("./head.txt"),
    "letters": renamed("HEAD.TXT"),
    "lookalike": renamed("he\u0430d.txt"),
    "duplicate": duplicated,
    "many": lambda members: zipped({**members, **{f"f{n}": b"" for n in range(70_000 - 6)}}),
    "overlapping": overlapping,
    "sizes_too_small": with_sizes(1),
    "sizes_too_large": with_sizes(0x7FFFFFFF),
    "sizes_of_64_bits": with_64_bit_sizes,
    "nested": nested,
    "bomb_of_events": bomb("events.jsonl"),
    "bomb_of_a_record": bomb("record.json"),
    "bomb_of_a_policy": bomb("policy.yaml"),
    "bzip2": lambda members: zipped(members, zipfile.ZIP_BZIP2),
    "lzma": lambda members: zipped(members, zipfile.ZIP_LZMA),
    "encrypted": lambda members: zipped(members).replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
    "cut_in_the_middle": truncated(0.5),
    "cut_at_the_end": truncated(0.999),
    "empty": lambda members: b"",
    "no_members": lambda members: zipped({}),
    "entries_that_are_not_there": end_changed(entries=3, here=3),
    "directory_elsewhere": end_changed(offset=0),
    "comment": lambda members: zipped(members)[:-2] + b"\x05\x00hello",
    "script_in_front": lambda members: b"#!/bin/sh\nexit\n" + zipped(members),
    "zip_in_front": lambda members: zipped({"a": b"b"}) + zipped(members),
    "deep_json": lambda members: zipped({**members, "record.json": b"[" * 2_000_000}),
    "digits": lambda members: zipped({**members, "request.json": b'{"a":' + b"9" * 4_000_000 + b"}"}),
    "lines": lambda members: zipped({**members, "events.jsonl": b"\n" * 200_000}),
    "a_yaml_bomb": lambda members: zipped(
        {**members, "policy.yaml": b"a: &a [x]\n" + b"".join(b"b%d: *a\n" % n for n in range(9))}
    ),
}  # fmt: skip
#: What is read, and found to be wrong.
FOUND = {"a_yaml_bomb"}
#: What a reader of zip files takes as it stands, the data being sound: nothing is written by a pack's names.
HARMLESS: dict[str, Callable[[Members], bytes]] = {
    "symlinks": lambda members: zipped(members, external_attr=0o120777 << 16, create_system=3),
    "setuid": lambda members: zipped(members, external_attr=0o104755 << 16, create_system=3),
}


def command(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`tally replay` on it, in a process of its own with bounded memory."""
    return subprocess.run(
        [sys.executable, "-m", "tallystick", "replay", *arguments, path.name],
        check=False,
        cwd=path.parent,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("make", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_pack_is_refused_by_name(
    members: Members, make: Callable[[Members], bytes], request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    data = make(members)
    if name in FOUND:
        read_pack(data)
        return
    with pytest.raises(BadPack) as raised:
        read_pack(data, "case.zip")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("make", HARMLESS.values(), ids=list(HARMLESS))
def test_what_a_name_is_marked_as_does_not_count(members: Members, make: Callable[[Members], bytes]) -> None:
    assert read_pack(make(members)).record.verdict


@pytest.mark.parametrize("make", HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.slow
def test_the_command_says_so_in_a_line(
    members: Members, make: Callable[[Members], bytes], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    path = tmp_path / "case.zip"
    path.write_bytes(make(members))
    done = command(path)
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if name in FOUND else 2), done.stderr
    if name not in FOUND:
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["case.zip"], "nothing is unpacked"


def test_a_pack_that_is_larger_than_any_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "case.zip"
    with path.open("wb") as file:
        file.truncate(PACK_BYTES_MAX * 100)
    done = command(path)
    assert done.returncode == 2
    assert "more than the" in done.stderr


def test_a_pack_stays_small_in_memory(members: Members, tmp_path: Path) -> None:
    """As much as a pack may hold takes less than 150 MiB."""
    line = members["events.jsonl"].splitlines()[1]
    count = MEMBERS_BYTES_MAX["events.jsonl"] // (len(line) + 1)
    path = tmp_path / "case.zip"
    path.write_bytes(zipped({**members, "events.jsonl": b"\n".join([line] * count)}, zipfile.ZIP_DEFLATED))
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from memory_peak import peak_kib;"
        "from tallystick.cli import main; status = main(['replay', sys.argv[2]]); print(status, peak_kib())"
    )
    support = Path(__file__).parents[1] / "support"
    done = subprocess.run(
        [sys.executable, "-c", script, str(support), str(path)],
        check=True, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    status, peak = map(int, done.stdout.split()[-2:])
    assert status in (1, 2)
    assert peak < 150 * 1024, f"{peak / 1024:.0f} MiB"
