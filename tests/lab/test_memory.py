"""Keeping freed memory: asked of glibc once, an error nowhere."""

import sys

import pytest

from helpers.lab import memory


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("it called the C library"))
    memory.keep_freed_memory.__wrapped__()


def test_a_linux_without_glibc_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed_memory.__wrapped__()


def test_it_is_asked_once(monkeypatch):
    memory.keep_freed_memory()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("it was asked again"))
    memory.keep_freed_memory()
