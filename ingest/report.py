"""The report of an evaluation: one self-contained HTML file with the figures and with pictures of the worst queries."""

import base64
from html import escape

from encoder_service.images import png
from encoder_service.sheet import draw_sheet
from gallery import GallerySpec
from ingest.evaluate import Answered, Evaluation, picture

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 3rem auto; padding: 0 1.5rem; color: #1c1c22 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
table { border-collapse: collapse } td, th { padding: .3rem 1.2rem .3rem 0; text-align: left; font-weight: normal }
td:last-child { text-align: right; font-variant-numeric: tabular-nums } tr + tr { border-top: 1px solid #e3e3e8 }
img { max-width: 100%; display: block; margin: 1rem 0 } p { color: #55555f }
"""

_NAMES = {
    "precision_at_1": "precision@1",
    "precision_at_5": "precision@5",
    "map_at_5": "mean average precision at 5",
    "recall_at_5": "recall@5 of the index against exact search",
}


def html(spec: GallerySpec, evaluation: Evaluation) -> str:
    """Return the report as an HTML page."""
    figures = evaluation.as_dict()
    by_label = figures["precision_at_5_by_label"]
    assert isinstance(by_label, dict)
    rows = {name: f"{figures[key]:.4f}" for key, name in _NAMES.items()}
    labels = {label: f"{value:.4f}" for label, value in by_label.items()}
    title = f"Gallery {escape(spec.name)} v{spec.version}"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>
<h1>{title}</h1>
<p>{figures["query_count"]:,} queries against {figures["gallery_count"]:,} images, encoder {escape(spec.encoder)}.
The precisions come from exact search, so they measure the encoder. The recall measures the index.</p>
{_table(rows)}
<h2>precision@5 by label</h2>
{_table(labels)}
<h2>The worst queries</h2>
{"".join(map(_figure, evaluation.worst()))}
</html>
"""


def _table(rows: dict[str, str]) -> str:
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{value}</td></tr>" for name, value in rows.items())
    return f"<table>{cells}</table>"


def _figure(answer: Answered) -> str:
    name = f"{answer.query.key} is {answer.query.label}"
    image = png(draw_sheet(picture(answer.query), name, answer.hits))
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
