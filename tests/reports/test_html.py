"""The report's page: complete in itself, formulas and figures drawn, the notebook left as it was."""

import copy
import json
import re

import nbformat.v4 as nb
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from helpers.reports.execute import FormulaError
from helpers.reports.html import PLOTLY, offline_html, write_html

MARKDOWN = r"""# A lesson

Inline $u_t > \theta$, and on its own line:

$$u_t = \beta u_{t-1} + \sum_{i=1}^{n} w_i s_i \quad\text{where}\quad \beta \in [0, 1)$$

\begin{align} E &= r \cdot T \cdot 0.9 \\ F &= \frac{E}{4.6} \end{align}

| symbol | meaning |
|---|---|
| $\mathbf{W} \in \mathbb{R}^{n \times m}$ | weights |
| $\mathrm{softmax}(QK^\top/\sqrt{d})$ | attention |

It costs 3 \$ or `$HOME`.
"""
# What a lesson's formulas may hold.
FORMULAS = [
    r"\hat{y}, \tilde{x}, \bar{x}, \overline{x}, \dot{u}",
    r"\underbrace{a+b}_{c}",
    r"\begin{cases} 1 & u > \theta \\ 0 & \text{else} \end{cases}",
    r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
    r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}",
    r"\left[ \frac{a}{b} \right], \lfloor x \rfloor, \lVert x \rVert_2",
    r"\mathcal{L} = -\sum_k y_k \log p_k, \quad \nabla_\theta \mathcal{L}",
    r"\operatorname{softmax}(x)_i, \max_i x_i, \operatorname{arg\,min}_x f(x)",
    r"a \le b \ge c \ne d \approx e \propto f \odot g \otimes h \ldots \partial \infty \pm \to",
    r"\alpha \beta \gamma \delta \epsilon \varepsilon \lambda \mu \sigma \tau \phi \Theta \Delta",
    r"4.6\,\mathrm{pJ}\;10^{-3}\,\%",
    r"\Theta(u - \theta), \; \mathbb{1}[x > 0], \; \boldsymbol{x}, \; \mathsf{T}",
]


def figure(frames=True):
    made = go.Figure(go.Scatter(y=[1, 2]))
    if frames:
        made.frames = [go.Frame(name=str(k), data=[go.Scatter(y=[k, 2])]) for k in range(3)]
        made.layout.sliders = [{"steps": [{"method": "animate", "args": [[str(k)]]} for k in range(3)], "active": 1}]
    return nb.new_output("display_data", data={PLOTLY: json.loads(made.to_json()), "text/plain": "Figure"})


def notebook_with(*outputs, markdown=MARKDOWN):
    cells = [nb.new_markdown_cell(markdown)]
    cells += [nb.new_code_cell("show()", outputs=[output], execution_count=1) for output in outputs]
    return nb.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})


TABLE = nb.new_output("display_data", data={"text/html": "<table><tr><td>7.25</td></tr></table>", "text/plain": "t"})


@pytest.fixture(scope="module")
def page():
    return offline_html(notebook_with(figure(), TABLE, figure(frames=False)))


@pytest.fixture(scope="module")
def body(page):
    """The page without plotly.js, whose text is not ours."""
    return page.replace(get_plotlyjs(), "")


def test_nothing_is_fetched(body):
    assert not re.findall(r"""<(?:script|link|img|iframe)[^>]*\s(?:src|href)\s*=\s*["']?(?!data:|#)""", body)
    assert not re.findall(r"""@import|url\(\s*["']?(?:https?:)?//""", body)
    assert not re.findall(r"require\s*\(\s*\[|require\.config|mathjax", body, re.IGNORECASE)


def test_plotly_is_there_once_for_two_figures(page):
    assert page.count(get_plotlyjs()) == 1 and page.count("Plotly.newPlot") > 1


def test_a_page_without_figures_does_without_plotly():
    page = offline_html(notebook_with(TABLE))
    assert get_plotlyjs() not in page and len(page) < 1_000_000


def test_figures_have_a_place_each_with_slider_and_frames(body):
    assert 'id="figure-1"' in body and 'id="figure-2"' in body and 'id="figure-3"' not in body
    assert "Plotly.addFrames" in body and '"sliders"' in body


def test_frames_do_not_play_by_themselves(body):
    # Playing leaves the slider at its end; only a move of the reader's may animate.
    assert "Plotly.animate" not in body


def test_table_is_kept(body):
    assert "<td>7.25</td>" in body


def test_formulas_are_mathml(body):
    displays = re.findall(r'<math[^>]*display="(\w+)"', body)
    assert displays == ["inline", "block", "block", "inline", "inline"]


def test_no_raw_formula_is_left(body):
    text = re.sub(r"<(script|style).*?</\1>", "", body, flags=re.DOTALL)
    # A price and a shell's variable are no formulas.
    assert sorted(re.findall(r"\S*\$\S*", re.sub("<[^>]+>", " ", text))) == ["$", "$HOME"]
    assert "\\begin" not in text and "\\frac" not in text


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_latex_command_is_left_in_mathml(formula):
    page = offline_html(notebook_with(markdown=f"${formula}$"))
    (math,) = re.findall(r"<math.*?</math>", page, re.DOTALL)
    assert not re.findall(r"\\[A-Za-z]+", re.sub(r"<[^>]*>", " ", math))


def test_formula_that_cannot_be_converted_is_an_error():
    with pytest.raises(FormulaError, match="left"):
        offline_html(notebook_with(markdown=r"$\left( x$"))


def test_command_that_nobody_knows_is_an_error():
    with pytest.raises(FormulaError, match="nosuchthing"):
        offline_html(notebook_with(markdown=r"$\nosuchthing x$"))


def test_notebook_is_left_as_it_was():
    notebook = notebook_with(figure(), TABLE)
    before = copy.deepcopy(notebook)
    offline_html(notebook)
    assert notebook == before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_theme_is_the_readers(theme):
    page = offline_html(notebook_with(TABLE), theme)
    assert f"color-scheme: {theme}" in page and f'data-jp-theme-light="{str(theme == "light").lower()}"' in page


def test_what_only_a_kernel_shows_is_left_out():
    panel = nb.new_output("display_data", data={"application/vnd.holoviews_exec.v0+json": "", "text/html": "<b>LIVE"})
    assert "LIVE" not in offline_html(notebook_with(panel))


def test_page_is_written_as_utf8(tmp_path):
    write_html(notebook_with(markdown="Größe 7 µJ"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_bytes()
    assert "Größe 7 µJ".encode() in page and b'charset="utf-8"' in page.lower()


def test_folded_text_stays_folded():
    page = offline_html(notebook_with(markdown="<details><summary>Hint</summary>\n\nhidden $x$\n\n</details>"))
    inside = page.split("<details>")[1].split("</details>")[0]
    assert "hidden" in inside and "<math" in inside
