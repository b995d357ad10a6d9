"""`course doctor`: what a reader's machine has, and what to do about what it lacks."""

import importlib.metadata
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

_SIGNS = {"ok": "✓", "note": "·", "fail": "✗"}


@dataclass(frozen=True)
class Line:
    """One finding: status ok, note (works, could be better) or fail (a lesson will not run)."""

    status: str
    text: str

    def __str__(self) -> str:
        return f"{_SIGNS[self.status]} {self.text}"


def constraints() -> dict[str, str]:
    """The versions that a fresh install takes, by lower-case name, from constraints.txt."""
    pairs = (line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def examine() -> list[Line]:
    """All findings, in the order that a reader meets the parts."""
    checks = (_python, _versions, _kernel, _offline, _memory, _disk, _browser, *_DATA)
    return [_guarded(check) for check in checks]


def _guarded(check) -> Line:
    try:
        return check()
    except Exception as error:  # a doctor that falls ill itself still has to say of what
        return Line("fail", f"{check.__name__.strip('_')}: {type(error).__name__}: {error}; install again: `pip install -e .`.")


def _python() -> Line:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):
        return Line("fail", f"Python {version}: 3.11 or newer is needed; make the environment again with a newer one.")
    inside = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
    return Line("ok" if inside else "note", f"Python {version}" + ("" if inside else ", outside any virtual environment."))


def _versions() -> Line:
    wanted, missing, other = constraints(), [], []
    for line in importlib.metadata.requires("spikes-to-silicon") or []:
        if "extra ==" in line:
            continue
        name = line.split(">")[0].split("=")[0].split("<")[0].strip()
        try:
            have = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if have != wanted.get(name.lower()):
            other.append(f"{name} {have} (tested: {wanted.get(name.lower())})")
    if missing:
        return Line("fail", f"not installed: {', '.join(missing)}; run `pip install -c constraints.txt -e .` in the clone.")
    if other:
        return Line("note", f"other versions than the tested ones: {', '.join(other)}.")
    return Line("ok", "packages have the tested versions")


def _kernel() -> Line:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        folder = KernelSpecManager().get_kernel_spec("python3").resource_dir
    except NoSuchKernel:
        return Line("fail", "no kernel python3: run `python -m ipykernel install --sys-prefix`.")
    mine = Path(folder).resolve().is_relative_to(Path(sys.prefix).resolve())
    return Line("ok", "kernel python3 of this environment") if mine else Line(
        "note", "the kernel python3 is another environment's: run `python -m ipykernel install --sys-prefix`."
    )


def _offline() -> Line:
    hook = Path(sys.prefix) / "etc/jupyter/jupyter_server_config.json"
    if not hook.is_file() or "pre_save_hook" not in json.loads(hook.read_text()).get("FileContentsManager", {}):
        return Line("fail", "JupyterLab lacks the course's settings: run `pip install -e .` in the clone again.")
    return Line("ok", "sliders are live without a network, saved notebooks stay small")


def _memory() -> Line:
    try:
        gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return Line("note", "memory: unknown on this system; a lesson needs about 1 GB.")
    return Line("ok" if gigabytes > 3 else "note", f"memory {gigabytes:.0f} GB, {os.cpu_count()} cores (a lesson needs about 1 GB)")


def _disk() -> Line:
    free = shutil.disk_usage(ROOT).free / 2**30
    return Line("ok" if free > 1 else "note", f"disk: {free:.0f} GB free")


def _browser() -> Line:
    found = next((name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None)
    return Line("ok", f"browser tests: {found}") if found else Line("note", "browser tests will be skipped: no Chromium on the PATH.")


def _set(name: str) -> Line:
    from helpers.data.external import complete

    if complete(name):
        return Line("ok", f"{name} found")
    return Line("note", f"{name} not here (only the full profile wants it): `course data {name}` fetches it.")


def _mnist() -> Line:
    return _set("mnist")


def _fashion_mnist() -> Line:
    return _set("fashion_mnist")


_DATA = (_mnist, _fashion_mnist)
