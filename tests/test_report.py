"""The report: what it says, that it may be believed, and that a page from untrusted names is harmless."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metadist_cli.report import Examples, headline, partition_png, render
from metadist_cli.report.charts import apart
from metadist_cli.report.pictures import _bins

ROOT = Path(__file__).parents[1]
EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)> \x1b[31m $\\frac{1}{$ \u202e \u65e5\u672c\u8a9e'


def stat(mean, ci95, n=600, median=None, non_finite=0):
    return {"mean": mean, "ci95": ci95, "median": mean if median is None else median, "non_finite": non_finite, "n": n}


def per_step(*means):
    return [{"step": i, "mean": m, "ci95": 0.01} for i, m in enumerate(means)]


def example_metrics(**changes):
    baseline = {"learner": "supervised", "round": 3, "before": stat(0.7, 0.02), "after": stat(0.78, 0.01)}
    return {
        "format": 1,
        "name": "quickstart",
        "task": "new",
        "metric": "accuracy",
        "learner": "maml, second order",
        "model": "mlp 64-128-10",
        "round": 3,
        "global": "0123456789abcdef" * 4,
        "seed": 7,
        "device": "cpu",
        "task_text": "local: 20 support rows, the rest query",
        "episodes": 600,
        "steps": 2,
        "transductive": False,
        "before": stat(0.201, 0.004),
        "after": stat(0.961, 0.004),
        "scratch": stat(0.45, 0.02),
        "per_step": per_step(0.201, 0.8, 0.961),
        "scratch_per_step": per_step(0.1, 0.3, 0.45),
        "baselines": {"fedavg": {**baseline, "per_step": per_step(0.7, 0.75, 0.78)}},
        "per_node": [
            {"node": i, "name": f"node-{i:03d}", "episodes": 200, "before": 0.2, "after": 0.9 + i / 50}
            for i in range(3)
        ],
        "node_spread": {"mean": 0.92, "sd": 0.02, "min": 0.9, "max": 0.94},
        "seconds": {"adapt": 1.5},
        **changes,
    }


def example_rounds(count=3):
    return [
        {"run": run, "round": r, "nodes": 8, "loss": 2 / r, "accuracy": 1 - 1 / (r + 1)}
        for r in range(1, count + 1)
        for run in ("main", "fedavg")
    ]


def example_shards(held=((30, 0), (0, 30), (5, 25))):
    roles = ("train", "validation", "test")
    return {
        "classes": ["zero", "one"],
        "nodes": [
            {
                "node": i,
                "name": f"node-{i:03d}",
                "role": roles[i % 3],
                "rows": sum(rows),
                "classes": [[c, n] for c, n in enumerate(rows) if n],
            }
            for i, rows in enumerate(held)
        ],
        "rows": {},
    }


def image_task(classes=("zero", "one")):
    rng = np.random.default_rng(0)
    y, wrong = np.array([0, 1, 0, 1, 1]), np.array([0, 1, 1, 1, 1])
    return Examples("image", rng.random((2, 8, 8)), np.array([0, 1]), rng.random((5, 8, 8)), y, 1 - y, wrong, classes)


def curve_task():
    x = np.linspace(-5, 5, 50)[:, None]
    return Examples("curve", x[::10], np.sin(x[::10]), x, np.sin(x), np.zeros(50), np.sin(x)[:, 0] + 0.5, ())


class Page(HTMLParser):
    """Tags with their attributes, and the text, as a browser would read them."""

    def __init__(self, html: bytes):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(html.decode())
        self.text = " ".join(" ".join(self.words).replace("\xa0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def example(**changes):
    return render("quickstart", example_metrics(**changes), example_rounds(), example_shards(), image_task())


@pytest.fixture(scope="module")
def files():
    return example()


def test_the_page_holds_the_figures_the_settings_and_every_picture(files):
    page = Page(files["report.html"])
    for said in ("96.1 ± 0.4", "20.1 ± 0.4", "45.0 ± 2.0", "78.0 ± 1.0", "maml, second order", "0123456789abcdef" * 4):
        assert said in page.text
    assert "Of 5 queries 4 are right after adapting; before adapting 0." in page.text
    assert "mean 92.0%, standard deviation 2.0% over nodes, from 90.0% to 94.0%" in page.text
    shown = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert {base64.b64decode(s.removeprefix("data:image/png;base64,")) for s in shown} == {
        data for name, data in files.items() if name.endswith(".png")
    }
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")


def test_the_page_needs_nothing_from_elsewhere(files):
    html = files["report.html"].decode()
    page = Page(files["report.html"])
    assert not {"script", "link", "iframe", "object", "a"} & {tag for tag, _ in page.tags}
    for sign in ("http://", "https://", "url(", "@import", "javascript:"):
        assert sign not in html
    assert all(attrs["src"].startswith("data:") for _, attrs in page.tags if "src" in attrs)


def test_the_pictures_are_pngs_that_tell_neither_time_nor_software(files):
    assert set(files) == {"report.html", "adaptation.png", "nodes.png", "rounds.png", "partition.png", "task.png"}
    for name, data in files.items():
        if name.endswith(".png"):
            image = Image.open(io.BytesIO(data))
            assert image.format == "PNG"
            assert image.width > 400
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 2, f"{name} is blank"
            assert set(chunks(data)) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


def chunks(png: bytes) -> list[bytes]:
    at, found = 8, []
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        found.append(kind)
        at += length + 12
    return found


@pytest.mark.parametrize(
    ("other", "said", "row"),
    [
        (stat(0.953, 0.003), "Better than fedavg (95.3 ± 0.3%).", "worse"),
        (stat(0.954, 0.004), "Within the intervals of fedavg (95.4 ± 0.4%).", "within the intervals"),
        (stat(0.97, 0.004), "Worse than fedavg (97.0 ± 0.4%).", "better"),
        (stat(0.5, 0.0, n=1), "Not judged against fedavg (50.0% (no interval)).", "not judged"),
    ],
)
def test_better_is_said_only_where_the_intervals_do_not_overlap(other, said, row):
    baselines = {"fedavg": {"learner": "supervised", "round": 3, "before": None, "after": other, "per_step": []}}
    metrics = example_metrics(baselines=baselines, scratch=None, before=None)
    sentence = headline(metrics)
    assert said in sentence
    assert [w for w in ("Better", "Within", "Worse", "Not judged") if w in sentence] == [
        said.split(" than")[0].split(" ag")[0].split(" the")[0]
    ]
    page = Page(render("t", metrics, [], example_shards(), None)["report.html"])
    assert f"fedavg supervised – {said.split('(', 1)[1].split('%')[0]}" in page.text
    assert f" {row} " in page.text.split("Adaptation to")[0].split("fedavg supervised")[1]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (stat(0.2, 0.01), "Adapting makes it better: before, it has 20.0 ± 1.0%."),
        (stat(0.955, 0.01), "Adapting changes it within the intervals: before, it has 95.5 ± 1.0%."),
        (stat(0.99, 0.001), "Adapting makes it worse: before, it has 99.0 ± 0.1%."),
    ],
)
def test_the_headline_is_honest_about_what_adapting_changes(before, said):
    assert said in headline(example_metrics(before=before))


def test_an_error_counts_the_other_way_and_diverged_tasks_are_told():
    diverged = stat(None, None, median=2.9, non_finite=4)
    sinusoid = {"metric": "mse", "before": stat(3.9, 0.2), "after": stat(0.42, 0.04, median=0.29), "scratch": diverged}
    metrics = example_metrics(**sinusoid, node_spread=None, baselines={})
    sentence = headline(metrics)
    assert "a mean squared error of 0.420 ± 0.040 (median 0.290; 0 of 600 tasks not finite)" in sentence
    assert "Adapting makes it better: before, it has 3.90 ± 0.20." in sentence
    assert "Not judged against random start (4 of 600 tasks not finite)." in sentence
    page = Page(render("sinusoid", metrics, [], example_shards(), curve_task())["report.html"])
    assert "random start same adaptation, no training 0.100 ± 0.010 not finite 2.90 4 of 600 not judged" in page.text
    assert "after adapting 0.250" in page.text, "a prediction that is 0.5 off has a squared error of 0.25"
    lost = headline(example_metrics(metric="mse", before=None, after=diverged, baselines={}, scratch=None))
    assert "a median squared error of 2.90 (4 of 600 tasks not finite, hence no mean)" in lost


def test_names_are_shown_and_not_obeyed():
    metrics = example_metrics(name=EVIL, learner=EVIL, model=EVIL, task_text=EVIL, device=EVIL)
    metrics["baselines"] = {EVIL: metrics["baselines"]["fedavg"]}
    for node in metrics["per_node"]:
        node["name"] = EVIL
    rounds, shards = (
        [{**r, "run": EVIL if r["run"] == "fedavg" else "main"} for r in example_rounds()],
        example_shards(),
    )
    shards["classes"] = [EVIL, "one"]
    for node in shards["nodes"]:
        node["name"] = EVIL
    images = image_task((EVIL, "one"))
    vectors = images._replace(kind="vector")
    for task in (images, vectors):
        html = render(EVIL, metrics, rounds, shards, task)["report.html"]
        page = Page(html)
        assert "script" not in {tag for tag, _ in page.tags}
        assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
        assert all(attrs["src"].startswith("data:") for _, attrs in page.tags if "src" in attrs)
        assert not {c for c in html.decode() if not c.isprintable()} - {"\n", "\xa0"}
        assert "<script>alert(1)</script>" in page.text
        assert "\\x1b[31m" in page.text


def test_equal_figures_give_equal_bytes_in_any_process_and_with_any_settings(files, tmp_path):
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nfont.size: 30\nsavefig.bbox: tight\n")
    (tmp_path / "render.py").write_text(
        "import hashlib, json, sys, test_report as t\n"
        "def turned(x): return {k: turned(x[k]) for k in reversed(x)} if isinstance(x, dict) else x\n"
        "given = turned(t.example_metrics()), t.example_rounds(), t.example_shards(), t.image_task()\n"
        "f = t.render('quickstart', *given)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print(json.dumps({k: hashlib.sha256(v).hexdigest() for k, v in f.items()}))\n"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {
        "PYTHONPATH": paths,
        "PYTHONHASHSEED": "77",
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "TZ": "Asia/Tokyo",
    }
    done = subprocess.run(
        [sys.executable, tmp_path / "render.py"], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_rendering_changes_neither_its_input_nor_the_settings_of_matplotlib():
    import matplotlib

    before, metrics, shards = dict(matplotlib.rcParams), example_metrics(), example_shards()
    kept = copy.deepcopy((metrics, shards))
    render("t", metrics, example_rounds(), shards, None)
    assert (metrics, shards) == kept
    assert dict(matplotlib.rcParams) == before


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, metadist_cli.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_any_number_of_rounds(count):
    files = render("t", example_metrics(), example_rounds(count), example_shards(), None)
    assert ("rounds.png" in files) == (count > 0)
    assert "task.png" not in files


@pytest.mark.parametrize("nodes", [0, 1, 2, 41, 500])
@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_any_number_of_new_nodes_and_missing_figures(nodes, metric):
    spread = np.random.default_rng(1).lognormal(-2, 3, nodes) % 1
    per_node = [
        {"node": i, "name": f"n{i}", "episodes": 1, "before": None, "after": None if i == 2 else float(v)}
        for i, v in enumerate(spread)
    ]
    bare = example_metrics(metric=metric, per_node=per_node, node_spread=None, before=None, scratch=None, baselines={})
    files = render("t", bare, [], example_shards(), None)
    assert ("nodes.png" in files) == (nodes > 1)
    assert "fedavg" not in Page(files["report.html"]).text


def test_many_nodes_and_classes_are_binned():
    rng = np.random.default_rng(0)
    owned = rng.integers(0, 4800, 100_000).tolist()
    nodes = [
        {"node": i, "name": f"n{i}", "role": "test" if i > 99_000 else "train", "rows": 20, "classes": [[c, 20]]}
        for i, c in enumerate(owned)
    ]
    files = render("t", example_metrics(), [], {"classes": ["c"] * 4800, "nodes": nodes, "rows": {}}, None)
    image = Image.open(io.BytesIO(files["partition.png"]))
    assert max(image.size) < 2000
    assert len(files["report.html"]) < 1_000_000
    assert (
        "100,000 nodes hold 20 rows (median 20) of 1 classes each, out of 4,800 classes"
        in Page(files["report.html"]).text
    )


@pytest.mark.parametrize(("held", "sign"), [(((9, 0), (0, 9)), 1), (((0, 9), (9, 0)), -1)])
def test_the_heat_map_shows_who_has_what(held, sign):
    shards = example_shards(held)
    for node in shards["nodes"]:
        node["role"] = "train"
    pixels = np.asarray(Image.open(io.BytesIO(partition_png(shards))).convert("RGB"))
    y, x = np.nonzero((pixels == (0x06, 0x21, 0x3F)).all(-1))
    assert np.sign(np.corrcoef(x, y)[0, 1]) == sign
    assert len(x) > 0.05 * pixels[..., 0].size


def test_a_wrong_prediction_is_framed():
    def red(task):
        pixels = np.asarray(
            Image.open(io.BytesIO(render("t", example_metrics(), [], example_shards(), task)["task.png"]))
        )
        return int((pixels[..., :3] == (0xD5, 0x5E, 0x00)).all(-1).sum())

    task = image_task()
    assert red(task) > 100
    assert red(task._replace(after=task.query_y)) == 0


def test_a_task_without_a_picture_becomes_a_table():
    files = render("t", example_metrics(), [], example_shards(), image_task()._replace(kind="vector"))
    assert "task.png" not in files
    assert (
        "Query Truth Before adapting After adapting 1 zero one zero 2 one zero one 3 zero one one"
        in Page(files["report.html"]).text
    )


def test_a_task_without_queries_can_be_drawn():
    none = np.zeros(0, dtype=np.int64)
    task = image_task()._replace(query_x=np.zeros((0, 8, 8)), query_y=none, before=None, after=none)
    assert "task.png" in render("t", example_metrics(), [], example_shards(), task)


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 0.2))
def test_labels_keep_their_order_and_distance_inside_the_axes(wanted, gap):
    placed = np.array(apart(wanted, gap))
    order = np.argsort(wanted, kind="stable")
    if len(wanted) > 1:
        assert np.diff(placed[order]).min() >= min(gap, 1 / (len(wanted) - 1)) - 1e-9
    assert all(-1e-9 <= p <= 1 + 1e-9 for p in placed)


def test_labels_with_room_stay_where_they_are():
    assert apart([0.9, 0.1, 0.5], 0.1) == pytest.approx([0.9, 0.1, 0.5])


@given(st.lists(st.integers(1, 500), min_size=1, max_size=3))
def test_bins_are_few_in_order_and_never_empty_or_shared(sizes):
    bins, starts = _bins(sizes)
    assert len(bins) == sum(sizes)
    assert sorted(set(bins.tolist())) == list(range(bins[-1] + 1))
    assert (np.diff(bins) >= 0).all()
    assert [bins[begin] for begin in np.cumsum([0, *sizes[:-1]])] == starts
    assert bins[-1] + 1 == sum(sizes) if sum(sizes) <= 60 else bins[-1] + 1 <= 62
