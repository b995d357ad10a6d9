"""The `course` command. Every make target is one of its verbs, so that Windows and conda users have the same ones."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click

from helpers import ROOT


class Refused(click.ClickException):
    """One line to the reader, exit status 2."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spikes-to-silicon")
def main() -> None:
    """From Spikes to Silicon: a notebook course in energy-efficient AI."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that cannot show ✓ shows ?
    if not (ROOT / "notebooks").is_dir():
        raise Refused(f"there is no notebooks/ folder in {ROOT}: install the course from its clone with `pip install -e .`.")


def _python(*arguments: str, **settings: str) -> None:
    """Run a Python module in the clone and leave with its exit status."""
    # Programs that call programs find the environment's own first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, **settings}
    try:
        sys.exit(subprocess.call([sys.executable, *arguments], cwd=ROOT, env=environment))
    except KeyboardInterrupt:
        sys.exit(130)


def _values(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise Refused(f"{pair!r} is no parameter: write NAME=VALUE, such as timesteps=4.")
    return dict(pair.split("=", 1) for pair in pairs)


@main.command("list")
@click.argument("lesson", required=False)
def list_(lesson: str | None) -> None:
    """The lessons: name, minutes, title. With LESSON, its parameters: default, meaning, what is allowed."""
    from helpers.lab import ledger

    if lesson:
        from helpers.lab import parameters as grammar

        try:
            known = grammar.declared(grammar.lesson_name(lesson))
        except grammar.ParameterError as error:
            raise Refused(str(error)) from None
        for parameter in known.values():
            click.echo(f"  {parameter.name}={parameter.default}")
            click.echo(f"      {parameter.help}; {parameter.allowed}")
        return
    chapter = ""
    for lesson in ledger.lessons().values():
        if lesson.chapter != chapter:
            chapter = lesson.chapter
            click.echo(click.style(chapter, bold=True))
        click.echo(f"  {lesson.name:<42} {lesson.minutes:>3} min  {lesson.title}")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def lab(options: tuple[str, ...]) -> None:
    """Open JupyterLab on the first notebook; OPTIONS go to Jupyter."""
    start = "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"
    _python("-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", start, *options, PANEL_INLINE="true")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def test(options: tuple[str, ...]) -> None:
    """Run the whole suite; OPTIONS go to pytest."""
    _python("-m", "pytest", "-n", "2", *options, OMP_NUM_THREADS="1")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def check(options: tuple[str, ...]) -> None:
    """Run the part of the suite that answers in under two minutes; OPTIONS go to pytest."""
    _python("-m", "pytest", "-n", "2", "-m", "not browser and not slow", *options, OMP_NUM_THREADS="1")


@main.command()
@click.argument("lesson")
@click.argument("parameters", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--record", is_flag=True, help="Run on all seeds of the lesson's claims and write course/results/.")
@click.option("--scheduler", metavar="ADDRESS", help="With --record: a dask scheduler instead of a local cluster.")
@click.option("--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
def report(lesson: str, parameters: tuple[str, ...], record: bool, scheduler: str | None, theme: str) -> None:
    """Run LESSON with checked parameters and write an HTML report that opens anywhere."""
    from helpers.lab import parameters as grammar

    values = _values(parameters)
    try:
        # Claims and results know a lesson by this name alone, however its path was typed.
        lesson = grammar.lesson_name(lesson)
        grammar.check(lesson, values)
    except grammar.ParameterError as error:
        raise Refused(str(error)) from None
    from helpers.reports.execute import RunFailed
    from helpers.reports.execute import report as run

    # Whoever ends the run, it ends in one way: Ctrl-C, a closed terminal, a batch system's limit.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        if record:
            from helpers.reports.record import record as run_seeds

            command = " ".join(["course report", lesson, *parameters, "--record"])
            written = run_seeds(lesson, values, command, scheduler)
            click.echo(f"recorded in {written.relative_to(ROOT)}")
        else:
            folder = run(lesson, values, theme=theme)
            click.echo(f"report: {next(folder.glob('*.html')).relative_to(ROOT)}")
    except grammar.ParameterError as error:
        raise Refused(str(error)) from None
    except RunFailed as failure:
        raise click.ClickException(str(failure)) from None
    except KeyboardInterrupt:
        click.echo(f"stopped; what ran so far is in reports/{lesson}/, under a name that begins with a dot.", err=True)
        sys.exit(130)


@main.command()
@click.argument("lesson")
@click.option("--as", "name", metavar="NAME", help="File name of the copy, without .ipynb.")
def copy(lesson: str, name: str | None) -> None:
    """Put your own copy of LESSON into my/, which git ignores."""
    import shutil

    from helpers.lab import parameters as grammar

    try:
        source = grammar.lesson_path(lesson)
    except grammar.ParameterError as error:
        raise Refused(str(error)) from None
    target = ROOT / "my" / f"{grammar.lesson_name(lesson)}.ipynb"
    if name is not None:
        name = name.removesuffix(".ipynb")
        if not re.fullmatch(r"\w[\w. -]*", name):
            raise Refused(f"{name!r} is no file name: use letters, digits, spaces, dots, _ and -.")
        target = target.with_name(f"{name}.ipynb")
    if target.exists():
        raise Refused(f"{target.relative_to(ROOT)} is there already and yours: rename it, or choose another with --as NAME.")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    click.echo(f"yours: {target.relative_to(ROOT)}")


@main.command()
@click.argument("lessons", nargs=-1)
def notebooks(lessons: tuple[str, ...]) -> None:
    """Execute the committed notebooks (all, or LESSONS) and store small, stable outputs."""
    from helpers.lab import ledger
    from helpers.lab.parameters import ParameterError
    from helpers.reports.commit import commit
    from helpers.reports.execute import RunFailed

    for lesson in lessons or ledger.lessons():
        try:
            changed, size = commit(lesson)
        except (RunFailed, ParameterError) as failure:
            raise click.ClickException(str(failure)) from None
        click.echo(f"{lesson}: {'written' if changed else 'unchanged'}, {size / 1000:.0f} kB")


@main.command()
def subjects() -> None:
    """Train again what ships trained: every script of course/subjects/."""
    scripts = sorted((ROOT / "course" / "subjects").glob("*.py"))
    if not scripts:
        click.echo("nothing that ships is trained yet.")
    for script in scripts:
        click.echo(script.relative_to(ROOT))
        if status := subprocess.call([sys.executable, str(script)], cwd=ROOT):
            raise click.ClickException(f"{script.name} failed with exit status {status}.")


@main.command()
@click.argument("names", nargs=-1)
def bench(names: tuple[str, ...]) -> None:
    """Measure speed against peers and floors, as ratios within one run; NAMES choose benchmarks."""
    folder = ROOT / "tests" / "benchmarks"
    known = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    for name in names:
        if name not in known:
            raise Refused(f"there is no benchmark {name!r}: it must be one of {', '.join(known)}.")
    for name in names or known:
        status = subprocess.call([sys.executable, str(known[name])], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if status:
            sys.exit(status)


@main.command()
@click.argument("name", required=False)
def data(name: str | None) -> None:
    """Where each data set is found; with NAME, fetch a missing one."""
    from helpers.data import external
    from helpers.data.idx import DataError

    if name is not None and name not in external.CHECKSUMS:
        raise Refused(f"dataset is {name!r}, but it must be one of {', '.join(external.CHECKSUMS)}.")
    try:
        if name is not None and not external.complete(name):
            external.download(name)
    except DataError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{'digits':<14} embedded in scikit-learn")
    for known in external.CHECKSUMS:
        folder = external.find(known) if external.complete(known) else None
        click.echo(f"{known:<14} {folder or f'not here, or not all of it: `course data {known}` fetches it'}")


@main.command()
def doctor() -> None:
    """Check this machine and environment; each line says what to do."""
    from helpers.reports.doctor import examine

    lines = examine()
    for line in lines:
        click.echo(str(line))
    sys.exit(any(line.status == "fail" for line in lines))


if __name__ == "__main__":
    main()
