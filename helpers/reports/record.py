"""Recorded multi-seed figures: one run of a lesson per seed, side by side on dask, into course/results/<lesson>.json."""

import datetime
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from helpers import ROOT
from helpers.lab import ledger, parameters
from helpers.lab.run import cores
from helpers.reports.execute import RunFailed, execute, machine, versions


def seeds_of(lesson: str, profile: str) -> list[int]:
    """The seeds that the lesson's claims of that profile are judged on; 0…4 (quick) or 0…2 (full) where none says.

    The same seeds serve every figure of the lesson, so all claims of a profile must name the same ones; a test holds that.
    """
    named = {claim.seeds for claim in ledger.claims().values() if claim.lesson == lesson and claim.profile == profile}
    return list(max(named, key=len)) if named else list(range(5 if profile == "quick" else 3))


def one_seed(done: str, values: dict, seed: int) -> dict:
    """Every figure of one seed's run of the notebook in the folder `done`.

    A seed that an interrupted recording had finished is read back, not run again.
    """
    from helpers.lab.claims import results

    kept = Path(done) / f"seed{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(Path(done) / "lesson.ipynb", Path(folder) / "run.ipynb", {**values, "seed": seed})
        figures = results(notebook)
    scratch = kept.with_suffix(".partial")
    scratch.write_text(json.dumps(figures), encoding="utf-8")
    os.replace(scratch, kept)
    return figures


def record(lesson: str, given: dict, command: str, scheduler: str | None = None) -> Path:
    """Run a lesson on its claims' seeds and write the recorded results of that profile; returns the file.

    Args:
        lesson: such as "01_neurons/01_spiking_neurons".
        given: parameters, `profile` among them; not `seed`.
        command: what the user typed, kept beside the figures.
        scheduler: address of a dask scheduler; None starts a local cluster: in the quick profile a worker of one thread
            for each core, in the full profile one worker with all of them.

    Raises:
        ParameterError: a bad parameter, or a seed given by hand.
        RunFailed: a seed's run failed, or the scheduler cannot be reached; finished seeds are kept and not run again
            next time, unless the lesson or its helpers have changed meanwhile.
    """
    from distributed import Client, KilledWorker, LocalCluster

    values = parameters.check(lesson, given)
    known = parameters.declared(lesson)
    if "seed" in values or "seed" not in known:
        raise parameters.ParameterError(f"--record runs {lesson} on the seeds of course/claims.toml: leave seed out.")
    profile = ({name: p.default for name, p in known.items()} | values).get("profile", "quick")
    seeds = seeds_of(lesson, profile)
    quick = profile == "quick"
    cluster = None
    if scheduler is None:
        cluster = LocalCluster(
            n_workers=min(cores(), len(seeds)) if quick else 1,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            silence_logs="ERROR",
            # dask would hand every worker one thread, and its notebooks' kernels inherit that.
            env={"OMP_NUM_THREADS": str(1 if quick else cores())},
        )
    try:
        with Client(scheduler or cluster) as client:
            done = _folder(lesson, values)
            jobs = [client.submit(one_seed, str(done), values, seed, pure=False) for seed in seeds]
            runs = client.gather(jobs)
    except (RunFailed, KilledWorker) as failure:
        raise RunFailed(f"{lesson}: {failure}; finished seeds are kept, the next --record goes on from there.") from None
    except (OSError, ValueError) as error:
        raise RunFailed(f"no scheduler at {scheduler!r} ({error}): start one with `dask scheduler`.") from None
    finally:
        if cluster is not None:
            cluster.close()
    return _write(lesson, profile, seeds, runs, values, command, done)


def _folder(lesson: str, values: dict) -> Path:
    """Where finished seeds wait for the others, with the lesson as it is now.

    Its name holds what the figures depend on: another text, another helper or another version starts anew.
    """
    source = parameters.lesson_path(lesson)
    sources = [source, ROOT / "constraints.txt", *sorted((ROOT / "helpers").rglob("*.py"))]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in sources:
        digest.update(path.read_bytes())
    done = ROOT / "reports" / lesson / f".record-{digest.hexdigest()[:16]}"
    done.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, done / "lesson.ipynb")
    return done


def _write(lesson: str, profile: str, seeds: list[int], runs: list[dict], values: dict, command: str, done: Path) -> Path:
    path = ledger.results_path(lesson)
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = [name for name in runs[0] if all(name in run for run in runs)]
    defaults = {name: p.default for name, p in parameters.declared(lesson).items() if name not in ("seed", "device")}
    parameters_used = {**defaults, **values}
    # Real sets stand beside each other; the quick profile has one entry.
    key = f"full {parameters_used['dataset']}" if profile == "full" and "dataset" in parameters_used else profile
    content[key] = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "parameters": parameters_used,
        "seeds": seeds,
        "values": {name: [run[name] for run in runs] for name in names},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text(_dumps(content), encoding="utf-8")
    os.replace(scratch, path)
    shutil.rmtree(done)
    return path


def _dumps(content: dict) -> str:
    """Indented, with every list of numbers on one line and figures cut to six digits."""

    def plain(value):
        if isinstance(value, float):
            return float(f"{value:.6g}")
        return [plain(entry) for entry in value] if isinstance(value, list) else value

    lines = ["{"]
    for profile, entry in content.items():
        lines.append(f' "{profile}": {{')
        heads = [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in entry.items() if k != "values"]
        rows = [f"   {json.dumps(name)}: {json.dumps(plain(value))}" for name, value in entry["values"].items()]
        lines += [*heads, '  "values": {', ",\n".join(rows), "  }", " },"]
    lines[-1] = " }"
    return "\n".join([*lines, "}"]) + "\n"
