"""Notebooks as they are saved and committed: what can be seen without a kernel stays, what cannot goes.

`lean` works on every save (the hook is installed beside Jupyter with this project) and on what `course notebooks` commits.
"""

import re

VOLATILE = "volatile"
"""Tag of a cell whose output differs from run to run (times, machine): it is committed without it."""
_DEAD = ("application/vnd.holoviews_load.v0+json", "application/vnd.holoviews_exec.v0+json",
         "application/vnd.jupyter.widget-view+json")
_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")


def lean(notebook: dict) -> dict:
    """Drop in place what only a live kernel could show; doing it again changes nothing.

    An explorer keeps its Plotly figure, a quiz its folded text; Panel's scripts, widgets' ids, progress bars and run
    times go. Execution counts stay: after a clean run they read 1…n.

    Args:
        notebook: a notebook as a dict (nbformat 4), also as nbformat's NotebookNode.
    """
    for cell in notebook["cells"]:
        for key in ("papermill", "execution", "ExecuteTime"):
            cell["metadata"].pop(key, None)
        if not cell["metadata"].get("tags", ["…"]):
            cell["metadata"].pop("tags")
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell.get("outputs", []) if _keep(output)]
    for key in ("papermill", "widgets"):
        notebook["metadata"].pop(key, None)
    return notebook


def _keep(output: dict) -> bool:
    if output["output_type"] not in ("display_data", "execute_result"):
        return True
    data, metadata = output["data"], output.get("metadata", {})
    dead = [key for key in _DEAD if key in data]
    for key in dead:
        data.pop(key)
        metadata.pop(key, None)
    if not dead:
        return bool(data)
    if not ({"application/vnd.plotly.v1+json", "application/vnd.spikes.quiz+json"} & set(data)):
        return False  # Panel's scripts, a progress bar, a widget with nothing to show in its stead
    if "application/vnd.plotly.v1+json" in data:
        data.pop("text/html", None)
        data.pop("application/javascript", None)
    return True


def publish(notebook: dict) -> dict:
    """`lean`, and in place nothing that differs from run to run or machine to machine: what `course notebooks` commits.

    Streams to stderr and outputs of cells tagged `volatile` go, what was printed in several messages becomes one, object
    addresses are cut, the injected parameters cell is dropped, metadata is reduced to the kernel's and the language's name.
    """
    notebook["cells"] = [
        cell for cell in notebook["cells"] if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    lean(notebook)
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        if VOLATILE in cell["metadata"].get("tags", []):
            cell["outputs"] = []
        cell["outputs"] = _joined([output for output in cell["outputs"] if output.get("name") != "stderr"])
        for output in cell["outputs"]:
            if "text/plain" in output.get("data", {}):
                output["data"]["text/plain"] = _ADDRESS.sub("", "".join(output["data"]["text/plain"]))
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _joined(outputs: list[dict]) -> list[dict]:
    """Printed text that stands in a row as one output: where a kernel cuts it depends on how busy the machine is."""
    kept = []
    for output in outputs:
        if output["output_type"] == "stream" and kept and kept[-1]["output_type"] == "stream":
            kept[-1]["text"] = "".join(kept[-1]["text"]) + "".join(output["text"])
        else:
            kept.append(output)
    return kept


def before_save(model: dict, **_other) -> None:
    """Jupyter's pre-save hook: `lean` for notebooks. A file that is no notebook, or a broken one, is saved as it is."""
    try:
        if model["type"] == "notebook" and model["content"]["nbformat"] == 4:
            lean(model["content"])
    except (KeyError, TypeError, AttributeError):
        return
