"""Hostfiles: what is read, and that everything else is refused in one line."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcode.launch.hostfile import Host, check_slots, parse_hostfile, read_hostfile
from pcode.utils.errors import UserError


def test_hosts_in_order_with_comments_and_blank_lines() -> None:
    text = "# cluster\n\nnode-1.example.org slots=4\r\n  10.0.0.2\tslots=16 # big\nalone"
    assert parse_hostfile(text, "hosts") == (
        Host("node-1.example.org", 4),
        Host("10.0.0.2", 16),
        Host("alone", 1),
    )


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("a slots=4 max_slots=4\nb max-slots=9 slots=2", [("a", 4), ("b", 2)]),
        ("a slots = 4\nb slots= 2 max_slots =3", [("a", 4), ("b", 2)]),
        ("a cpu=4\nb count=2 // two", [("a", 4), ("b", 2)]),
        ("a\na\nb\nA", [("a", 3), ("b", 1)]),  # a node file of PBS
        ("a slots=2\na slots=3", [("a", 5)]),
        ("a:4\n10.0.0.2:2", [("a", 4), ("10.0.0.2", 2)]),
        ("fd00:0::2 slots=2\n::1", [("fd00::2", 2), ("localhost", 1)]),
        ("fd00::9:3", [("fd00::9:3", 1)]),
        ("[fd00:0::2]\n[fd00::2]:2\n[::1]:3", [("fd00::2", 3), ("localhost", 3)]),
        ("me@[fd00::2]:2 port=65535", [("fd00::2", 2, "port=65535 username=me")]),
        ("a slots=" + "0" * 99 + "4", [("a", 4)]),
        ("me@a slots=4", [("a", 4, "username=me")]),
        ("me@fd00::2\nfd00::2", [("fd00::2", 2, "username=me")]),
        ("a port=22 username=me", [("a", 1, "port=22 username=me")]),
        ("\ufeffa slots=2", [("a", 2)]),
    ],
)
def test_hosts_as_open_mpi_takes_them(
    tmp_path: Path, text: str, hosts: list[tuple[str, int]]
) -> None:
    (tmp_path / "hosts").write_text(text, encoding="utf-8")
    assert read_hostfile(str(tmp_path / "hosts")) == tuple(Host(*host) for host in hosts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a slots=2 slots=2", "line 1: 'a slots=2 slots=2': slots is given twice"),
        ("a:2 cpu=2", "line 1: 'a:2 cpu=2': slots is given twice"),
        ("me@a username=me", "line 1: 'me@a username=me': username is given twice"),
        ("me@a\nyou@A", "line 2: A has another user or port than in a line before"),
        ("a slots=4 max_slots=3", "line 1: max_slots=3 is less than slots=4"),
        ("a max_slots=0", "line 1: max_slots='0': expected a whole number"),
        ("a port=x", "line 1: port='x': expected a whole number"),
        ("a slots=0", "line 1: slots='0': expected a whole number"),
        ("a slots=-1", "slots='-1'"),
        ("a slots=two", "slots='two'"),
        ("a slots=1.5", "slots='1.5'"),
        ("a slots=", "slots=''"),
        ("a slots", "'slots': expected `HOST slots=N`"),
        ("a gpus=4", "'gpus=4': expected `HOST slots=N`"),
        ("a = 4", "'a=4' is not a host name"),
        ("a 4", "'4': expected `HOST slots=N`"),
        ("a SLOTS=4", "'SLOTS=4': expected `HOST slots=N`"),
        ("a\nb:", "line 2: slots='': expected a whole number"),
        ("a:b", "slots='b': expected a whole number"),
        ("a:1:2", "'a:1:2' is not a host name"),
        ("[node-1] slots=4", "'[node-1]' is not a host name"),
        ("[a:b]:2", "'a:b' is not a host name"),
        ("[fd00::2]:", "slots='': expected a whole number"),
        ("[fd00::2]2", "'[fd00::2]2' is not a host name"),
        ("a port=65536", "port=65536: expected one of at most 65535"),
        ("a slots=" + "0" * 5000 + "1", "000...': expected a whole number"),
        ("fe80::1%eth0", "'fe80::1%eth0' is not a host name"),
        ("@a slots=4", "username='': expected a name"),
        ("-x@a slots=4", "username='-x': expected a name"),
        ("me@ slots=4", "'' is not a host name"),
        ("slots=4", "'slots=4' is not a host name"),
        ("-x slots=4", "'-x' is not a host name"),
        ("a,b slots=4", "'a,b' is not a host name"),
        ("", "no hosts in it"),
        ("# nothing\n", "no hosts in it"),
    ],
)
def test_malformed_lines_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_hostfile(text, "hosts")
    assert message in str(error.value)
    assert str(error.value).startswith("--hostfile hosts")


@given(st.text() | st.text(st.sampled_from("ab1 =#@/\n\t:slots"), max_size=40))
def test_any_text_gives_hosts_or_one_line(text: str) -> None:
    hosts: tuple[Host, ...] = ()
    message = "one line"
    try:
        hosts = parse_hostfile(text, "hosts")
        assert hosts
    except UserError as error:
        message = str(error)
    assert all(host.slots >= 1 and host.name for host in hosts)
    assert len(message.splitlines()) == 1


def test_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("a slots=2\n")
    assert read_hostfile(str(path)) == (Host("a", 2),)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00slots=2")
    for path, message in [
        (str(tmp_path / "none"), "No such file"),
        (str(tmp_path), "Is a directory"),
        (str(binary), "not a text file (UTF-8)"),
        ("a\0b", "not the name of a file"),
    ]:
        with pytest.raises(UserError, match="--hostfile") as error:
            read_hostfile(path)
        assert message in str(error.value)


def test_too_few_slots_are_refused_with_the_numbers() -> None:
    hosts = (Host("a", 4), Host("b", 3))
    check_slots(hosts, 7)
    with pytest.raises(UserError, match="--n_mpi_process 8: the hostfile has 7 slots on 2 hosts"):
        check_slots(hosts, 8)
    check_slots(hosts, 3, 2)
    with pytest.raises(UserError, match=r"--n_sub_process 2: .* 7 slots .* for 8 processes"):
        check_slots(hosts, 4, 2)


def test_this_machine_is_known_by_its_names() -> None:
    own = socket.gethostname()
    for name in ("localhost", "LOCALHOST", own, own.upper(), "127.0.0.1", "127.0.1.1"):
        assert Host(name, 1).is_this_machine()
    # 192.0.2.0/24 and .invalid are reserved: nobody's.
    for name in ("192.0.2.254", "elsewhere.invalid", f"{own}2", "300.1.1.1"):
        assert not Host(name, 1).is_this_machine()
