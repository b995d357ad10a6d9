"""The rules of the house: floors, thin modules, one set of versions, one set of commands."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import ROOT
from helpers.lab import ledger
from helpers.lab.measures import percent

MODULES = sorted((ROOT / "helpers").rglob("*.py"))
FLOORS = [
    "data",
    "lab",
    "models",
    "neurons",
    "ttfs",
    "statten",
    "respike",
    "prompts",
    "quantization",
    "hardware",
    "capstone",
    "reports",
]
CHAPTERS = FLOORS[3:-1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, with the names taken from packages of ours."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_package_imports_only_from_lower_floors(path):
    parts = path.relative_to(ROOT / "helpers").parts
    if len(parts) == 1:
        return
    floor = FLOORS.index(parts[0])
    for module in imports(path):
        pieces = module.split(".")
        if pieces[0] == "helpers" and len(pieces) > 1 and pieces[1] in FLOORS:
            assert FLOORS.index(pieces[1]) <= floor, f"{name(path)} imports {module} from a higher floor"
            # `reports` knows notebooks by path and manifest, never a chapter's code.
            assert not (parts[0] == "reports" and pieces[1] in CHAPTERS), f"{name(path)} imports {module}"


@pytest.mark.parametrize("path", [p for p in MODULES if not p.name.endswith("figures.py")], ids=name)
def test_method_modules_do_not_draw(path):
    if path.relative_to(ROOT / "helpers").parts[0] in ("data", "models", *CHAPTERS):
        drawing = {m for m in imports(path) if m.split(".")[0] in ("plotly", "panel", "ipywidgets")}
        assert not drawing, f"{name(path)} imports {drawing}: drawing lives in figures.py"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_read_in_one_sitting(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = sum(
        node.body[0].end_lineno - node.body[0].lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)
    )
    lines = len(path.read_text(encoding="utf-8").splitlines()) - docs
    assert lines <= 270, f"{name(path)} has {lines} lines without docstrings"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_whatever_is_public_is_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name(path)}: {node.name} has no docstring"


def test_every_requirement_is_pinned_within_its_bounds():
    requirements = [
        *PROJECT["dependencies"],
        *(r for extra in PROJECT["optional-dependencies"].values() for r in extra),
    ]
    for requirement in map(Requirement, requirements):
        pin = PINS.get(canonicalize_name(requirement.name))
        assert pin, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pin), f"constraints.txt has {requirement.name} {pin}"


def closure(requirements, seen):
    """Names of everything installed that these requirements bring, markers evaluated.

    What torch brings on Linux with CUDA is pinned exactly by torch itself, so it is not followed there.
    """
    for requirement in map(Requirement, requirements):
        key = canonicalize_name(requirement.name)
        environments = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
        if key in seen or (requirement.marker and not any(requirement.marker.evaluate(e) for e in environments)):
            continue
        try:
            found = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        seen[key] = found.version.split("+")[0]
        if key != "torch":
            closure(found.requires or [], seen)
    return seen


def test_what_is_installed_is_what_is_pinned():
    requirements = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    installed = closure(requirements, {})
    assert len(installed) > 100
    assert {key: (version, PINS.get(key)) for key, version in installed.items() if PINS.get(key) != version} == {}


def test_environment_yml_installs_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, ours = environment["dependencies"]
    assert pip == "pip" and ours == {"pip": ["-c constraints.txt", "-e .[test]"]}
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python.split("=")[1])


def test_every_make_target_is_a_verb_of_course():
    from helpers.reports.cli import main

    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert set(targets) - {"clean"} <= set(main.commands)


def test_nothing_names_a_registry_or_a_path_of_a_machine():
    # Written in pieces, so that this file does not hold what it looks for.
    traces = ["/" + "opt/", "/" + "root/", "/" + "work/", "pypi" + ".org/simple", "files.python" + "hosted"]
    kinds = ("*.py", "*.md", "*.toml", "*.txt", "*.yml", "*.json", "*.cff", "*.ipynb")
    texts = [
        path
        for folder in ("helpers", "course", "jupyter", "notebooks")
        for kind in kinds
        for path in (ROOT / folder).rglob(kind)
    ]
    texts += [path for kind in kinds for path in ROOT.glob(kind)] + [ROOT / "Makefile", ROOT / ".ci/run"]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert not [trace for trace in traces if trace in text], name(path)


def test_readme_is_whole():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z]+@", text)
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_readme_quotes_the_recorded_figures():
    values = ledger.recorded("01_neurons/01_spiking_neurons", "full")["values"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    quoted = {"direct": 3, "rate": 4}  # T = 8 and T = 16 of 1, 2, 4, 8, 16, 32
    shares = [[seed[at] for seed in values[f"accuracy_{code}"]] for code, at in quoted.items()]
    for share in [*shares, values["ann_accuracy"]]:
        assert percent(share) in text


def test_the_code_is_tidy():
    run = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
