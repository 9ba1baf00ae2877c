"""Reports as self-contained HTML pages: an evaluation with its worst queries, and groups of duplicates."""

import base64
from collections.abc import Sequence
from html import escape

from encoder_service.images import png
from encoder_service.sheet import draw_sheet
from gallery import Gallery, GallerySpec
from gallery.plurals import counted
from ingest.duplicates import Group
from ingest.evaluate import Answered, Evaluation, picture

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 3rem auto; padding: 0 1.5rem; color: #1c1c22 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
table { border-collapse: collapse } td, th { padding: .3rem 1.2rem .3rem 0; text-align: left; font-weight: normal }
td:last-child { text-align: right; font-variant-numeric: tabular-nums } tr + tr { border-top: 1px solid #e3e3e8 }
img { max-width: 100%; display: block; margin: 1rem 0 } p { color: #55555f }
section { display: flex; flex-wrap: wrap; gap: 1.5rem; padding: 1.5rem 0; border-top: 1px solid #e3e3e8 }
figure { margin: 0; width: 8rem } figure img { width: 8rem; height: 8rem; object-fit: contain; background: #ececec;
margin: 0 0 .4rem } figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; color: #55555f }
"""

_NAMES = {
    "precision_at_1": "precision@1",
    "precision_at_5": "precision@5",
    "map_at_5": "mean average precision at 5",
    "index_recall_at_5": "recall@5 of the index against exact search",
}


def html(spec: GallerySpec, evaluation: Evaluation) -> str:
    """Return the report of an evaluation as an HTML page."""
    figures = evaluation.as_dict()
    by_label = figures["precision_at_5_by_label"]
    assert isinstance(by_label, dict)
    rows = {name: f"{figures[key]:.4f}" for key, name in _NAMES.items()}
    labels = {label: f"{value:.4f}" for label, value in by_label.items()}
    title = f"Gallery {escape(spec.name)} v{spec.version}"
    return _page(
        title,
        f"""<p>{counted(len(evaluation.answered), "query")} against {counted(evaluation.gallery_count, "image")},
encoder {escape(spec.encoder)}. The precisions come from exact search, so they measure the encoder. The recall measures
the index.</p>
{_table(rows)}
<h2>precision@5 by label</h2>
{_table(labels)}
<h2>The worst queries</h2>
{"".join(map(_figure, evaluation.worst))}""",
    )


def duplicates_html(gallery: Gallery, within: float, groups: Sequence[Group], limit: int) -> str:
    """Return groups of duplicates as an HTML page with the images' thumbnails.

    Args:
        gallery: The gallery, which has the thumbnails.
        within: Largest distance to the first image of a group.
        groups: All groups, the largest first.
        limit: Number of groups to show.
    """
    spec = gallery.spec
    shown = f" The largest {limit:,} are shown." if len(groups) > limit else ""
    return _page(
        f"Duplicates in gallery {escape(spec.name)} v{spec.version}",
        f"""<p>{sum(map(len, groups)):,} of {gallery.count():,} images are in {counted(len(groups), "group")}.{shown}
Each image is at most {within:.3f} away from the first one of its group. Below it are its key, its label and this
distance.</p>
{"".join(_group(gallery, group) for group in groups[:limit])}""",
    )


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>
<h1>{title}</h1>
{body}
</html>
"""


def _group(gallery: Gallery, group: Group) -> str:
    figures = []
    for image, entry in zip(group, gallery.get([image.key for image in group]), strict=True):
        picture = _image("", entry.thumbnail_png) if entry and entry.thumbnail_png else ""
        label = f"<br>{escape(entry.label)}" if entry and entry.label else ""
        figures.append(
            f"<figure>{picture}<figcaption>{escape(image.key)}{label}<br>{image.distance:.3f}</figcaption></figure>"
        )
    return f"<section>{''.join(figures)}</section>\n"


def _table(rows: dict[str, str]) -> str:
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{value}</td></tr>" for name, value in rows.items())
    return f"<table>{cells}</table>"


def _figure(answer: Answered) -> str:
    name = f"{answer.query.key} is {answer.query.label}"
    return _image(name, png(draw_sheet(picture(answer.query), name, answer.hits)))


def _image(alternative: str, content_png: bytes) -> str:
    content = base64.b64encode(content_png).decode()
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{content}">'
