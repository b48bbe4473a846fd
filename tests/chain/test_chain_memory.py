"""Proven pairs of increments are remembered until one of their files is touched."""

from __future__ import annotations

import os

import pytest

from ckptctl.chain import ProvenPairs, VerifiedCheckpoints, find_chains, scan_directory
from tests.chain.real import write_full, write_increment


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    room = tmp_path / "ckpt"
    room.mkdir()
    write_full(room, 100)
    write_increment(room, 120, rows=1)
    write_increment(room, 140)
    return room


def look(directory):
    scan = scan_directory(str(directory))
    return find_chains(scan, proven_nested=ProvenPairs(scan))


def test_a_pair_is_remembered(directory):
    chains = look(directory)
    chain = chains.chains[0]
    (pair,) = chains.nested_pairs(chain.base)
    assert chain.nested is None
    chains.proven_nested.add(pair)
    again = look(directory).chains[0]
    assert again.nested is True
    assert [look(directory).status(i) for i in again.increments] == ["superseded", "ok"]


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_until_a_file_is_touched(directory, suffix):
    chains = look(directory)
    (pair,) = chains.nested_pairs(chains.chains[0].base)
    chains.proven_nested.add(pair)
    file = f"{pair[1]}{suffix}"
    later = os.stat(file).st_mtime_ns + 1
    os.utime(file, ns=(later, later))
    assert look(directory).chains[0].nested is None


def test_a_cache_that_cannot_be_written_is_none(directory, tmp_path):
    (tmp_path / "cache").touch()
    chains = look(directory)
    (pair,) = chains.nested_pairs(chains.chains[0].base)
    chains.proven_nested.add(pair)
    assert pair in chains.proven_nested  # for as long as this one looks at it
    assert pair not in look(directory).proven_nested


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001", None])
def test_a_verified_full_is_remembered_until_it_is_touched(directory, suffix):
    def full():
        return scan_directory(str(directory)).fulls[0]

    assert full() not in VerifiedCheckpoints()
    VerifiedCheckpoints().add(full())
    assert full() in VerifiedCheckpoints()
    assert "model.ckpt-100" not in VerifiedCheckpoints()
    if suffix is not None:
        os.utime(directory / f"model.ckpt-100{suffix}", (1, 1))
    assert (full() in VerifiedCheckpoints()) == (suffix is None)


def test_without_a_place_to_remember_nothing_fails(directory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    full = scan_directory(str(directory)).fulls[0]
    VerifiedCheckpoints().add(full)
    assert full not in VerifiedCheckpoints()


@pytest.mark.parametrize("cache", ["", "cache"])
def test_without_a_home_nothing_is_kept_where_we_stand(directory, monkeypatch, tmp_path, cache):
    """As for a user that no password file knows: `~` stays `~`."""
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    chains = look(directory)
    (pair,) = chains.nested_pairs(chains.chains[0].base)
    chains.proven_nested.add(pair)
    assert look(directory).chains[0].nested is None
    assert sorted(tmp_path.rglob("*")) == before
