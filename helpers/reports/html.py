"""One self-contained HTML file of an executed notebook: opens with no network, figures drawn, sliders moving.

nbconvert's own pages fetch scripts for formulas and draw Plotly figures as nothing. Here formulas become MathML, plotly.js is
in the file, once, and every figure a div of its own.
"""

import copy
import re
from pathlib import Path

import plotly.io as pio
from jinja2 import DictLoader, pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from plotly.offline import get_plotlyjs

from helpers.reports.clean import lean
from helpers.reports.execute import FormulaError

PLOTLY = "application/vnd.plotly.v1+json"
_TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- if resources.plotlyjs -%}<script>{{ resources.plotlyjs }}</script>{%- endif -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}{{ super() }}<style>
body { max-width: 62rem; margin: 0 auto; padding: 0 1rem; }
.jp-InputPrompt, .jp-OutputPrompt { display: none; }
:root { color-scheme: {{ resources.scheme }}; }
math { font-family: "Latin Modern Math", "STIX Two Math", "STIX Math", "Cambria Math", math; }
/* Where no good mathematical font is installed, browsers hardly lower a subscript. */
msub > :last-child, msubsup > :nth-child(2) { position: relative; top: 0.2em; }
</style>{%- endblock -%}"""


def _mathml(formula: str, display: str = "inline") -> str:
    try:
        shown = convert(formula, display=display)
    except Exception as error:  # latex2mathml has a class of its own for every mistake
        raise FormulaError(f"the formula {formula!r} cannot be turned into MathML ({type(error).__name__})") from None
    if unknown := re.search(r"\\[A-Za-z]+", shown):
        raise FormulaError(f"the formula {formula!r} holds {unknown[0]}, which latex2mathml does not know")
    return shown


class _MathML(IPythonRenderer):
    def inline_math(self, body):
        return _mathml(body)

    def block_math(self, body):
        return _mathml(body, "block")

    def multiline_math(self, text):
        return _mathml(text.strip().strip("$"), "block")

    def block_html(self, html):
        # nbconvert parses every fragment by itself and would close a <details> before what it folds away.
        return html

    def latex_environment(self, name, body):
        return _mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


class _OfflineHTML(HTMLExporter):
    @pass_context
    def markdown2html(self, context, source):
        renderer = _MathML(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path="",
            anchor_link_text="",
            exclude_anchor_links=True,
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def offline_html(notebook: dict, theme: str = "light") -> str:
    """The page, as text.

    Args:
        notebook: executed; it is not changed.
        theme: "light" or "dark".

    Raises:
        FormulaError: a formula that cannot be converted.
    """
    notebook = lean(copy.deepcopy(notebook))
    figures = 0
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            spec = output.get("data", {}).get(PLOTLY)
            if spec is None:
                continue
            figures += 1
            # auto_play would run through the frames on load and leave the slider at its end.
            output["data"] = {
                "text/html": pio.to_html(
                    dict(spec), include_plotlyjs=False, include_mathjax=False, full_html=False, auto_play=False,
                    validate=False, div_id=f"figure-{figures}", config={"responsive": True, "displaylogo": False},
                )
            }
    exporter = _OfflineHTML(
        extra_loaders=[DictLoader({"offline.html.j2": _TEMPLATE})],
        template_file="offline.html.j2",
        embed_images=True,
        theme=theme,
    )
    resources = {"plotlyjs": get_plotlyjs() if figures else "", "scheme": theme}
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def write_html(notebook: dict, path: Path, theme: str = "light") -> None:
    """`offline_html` to a file."""
    path.write_text(offline_html(notebook, theme), encoding="utf-8")
