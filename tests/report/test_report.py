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
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metadist_cli.report import ExampleTask, Results, headline, partition_png, render
from metadist_cli.report.canvas import apart
from metadist_cli.report.comparison import tables
from metadist_cli.report.heatmap import _bins

ROOT = Path(__file__).parents[2]
EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)> \x1b[31m $\\frac{1}{$ \u202e \u65e5\u672c\u8a9e'


def stat(mean, ci95, n=600, median=None, non_finite=0, less=None, over_rows=None, **metrics):
    """A figure; less: (mean, ci95) of its difference to the main model's."""
    median = mean if median is None else median
    over_rows = mean if over_rows is None else over_rows
    difference = None if less is None else stat(*less, n=n)
    found = {"mean": mean, "ci95": ci95, "median": median, "non_finite": non_finite, "n": n, "over_rows": over_rows}
    return found | {"difference": difference, "metrics": metrics}


def per_step(*means):
    return [{"step": i, "mean": m, "ci95": 0.01} for i, m in enumerate(means)]


def example_metrics(**changes):
    baseline = {"learner": "supervised", "round": 3}
    baseline |= {"before": stat(0.7, 0.02, less=(-0.261, 0.02)), "after": stat(0.78, 0.01, less=(-0.181, 0.01))}
    return {
        "format": 1,
        "name": "quickstart",
        "task": "new",
        "metric": "accuracy",
        "headline": changes.get("metric", "accuracy"),
        "learner": "maml, second order",
        "model": "mlp 64-128-10",
        "round": 3,
        "global": "0123456789abcdef" * 4,
        "seed": 7,
        "device": "cpu",
        "task_text": "local: 20 support rows, the rest query",
        "interval": {"over": {}, "enough": True},
        "episodes": 600,
        "steps": 2,
        "transductive": False,
        "before": stat(0.201, 0.004, less=(-0.76, 0.005)),
        "after": stat(0.961, 0.004),
        "untrained": stat(0.45, 0.02, less=(-0.511, 0.02)),
        "per_step": per_step(0.201, 0.8, 0.961),
        "untrained_per_step": per_step(0.1, 0.3, 0.45),
        "baselines": {"fedavg": {**baseline, "per_step": per_step(0.7, 0.75, 0.78)}},
        "per_node": [
            {"node": i, "name": f"node-{i:03d}", "episodes": 200, "before": 0.2, "after": 0.9 + i / 50, "methods": None}
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
    return ExampleTask(
        "image", rng.random((2, 8, 8)), np.array([0, 1]), rng.random((5, 8, 8)), y, 1 - y, wrong, classes
    )


def curve_task():
    x = np.linspace(-5, 5, 50)[:, None]
    return ExampleTask("curve", x[::10], np.sin(x[::10]), x, np.sin(x), np.zeros(50), np.sin(x)[:, 0] + 0.5, ())


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
    return render("quickstart", Results(example_metrics(**changes), example_rounds(), example_shards(), image_task()))


@pytest.fixture(scope="module")
def files():
    return example()


def test_the_page_holds_the_figures_the_settings_and_every_picture(files):
    page = Page(files["report.html"])
    for said in ("96.1 ± 0.4", "20.1 ± 0.4", "45.0 ± 2.0", "78.0 ± 1.0", "maml, second order", "0123456789abcdef" * 4):
        assert said in page.text
    rows = page.text.split("vs. maml ")[1]
    assert rows.startswith(
        "maml maml, second order 96.1 ± 0.4 - - maml, not adapted the global model, unchanged 20.1 ± 0.4"
    )
    for row in ("20.1 ± 0.4 -76.0 ± 0.5 worse", "fedavg supervised 78.0 ± 1.0 -18.1 ± 1.0 worse"):
        assert row in rows
    assert "untrained a random start, adapted as the main model is 45.0 ± 2.0 -51.1 ± 2.0 worse" in rows
    assert "After adaptation 4 of 5 queries are correct (0 before)." in page.text
    assert "mean 92.0% and standard deviation 2.0% over nodes, range 90.0% to 94.0%" in page.text
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
        (stat(0.959, 0.004, less=(-0.002, 0.001)), "Better than fedavg (95.9 ± 0.4%).", "-0.2 ± 0.1 worse"),
        (
            stat(0.9, 0.004, less=(-0.061, 0.061)),
            "No significant difference from fedavg (90.0 ± 0.4%).",
            "not significant",
        ),
        (stat(0.963, 0.004, less=(0.002, 0.001)), "Worse than fedavg (96.3 ± 0.4%).", "+0.2 ± 0.1 better"),
        (stat(0.5, None, n=1, less=(-0.461, None)), "No verdict against fedavg (50.0% (no interval)).", "no verdict"),
    ],
)
def test_better_is_said_only_where_the_paired_difference_leaves_zero_out(other, said, row):
    """However far or near the figures are."""
    baselines = {"fedavg": {"learner": "supervised", "round": 3, "before": None, "after": other, "per_step": []}}
    metrics = example_metrics(baselines=baselines, untrained=None, before=None)
    sentence = headline(metrics)
    assert said in sentence
    assert [w for w in ("Better", "No significant", "Worse", "No verdict") if w in sentence] == [
        said.split(" than")[0].split(" ag")[0].split(" diff")[0]
    ]
    page = Page(render("t", Results(metrics, [], example_shards(), None))["report.html"])
    assert f"fedavg supervised {said.split('(', 1)[1].split('%')[0]}" in page.text
    assert f" {row} " in page.text.split("Adaptation to")[0].split("fedavg supervised")[1]


def test_the_validation_curve_is_drawn_and_the_choice_of_the_round_is_told():
    main = {"by": "validation", "newest": 5, "stopped": True, "metric": "accuracy", "best": 0.91, "best_round": 3}
    fedavg = {"by": "newest", "newest": 3, "stopped": False, "metric": None, "best": None, "best_round": None}
    rounds = [{**line, "validation": 0.9} if line["run"] == "main" else line for line in example_rounds()]

    def page(selection: dict[str, dict]) -> tuple[str, int]:
        metrics = example_metrics(selection=selection)
        found = render("t", Results(metrics, rounds, example_shards(), None))
        return Page(found["report.html"]).text, Image.open(io.BytesIO(found["rounds.png"])).height

    text, height = page({"main": main, "fedavg": fedavg})
    choice = "round 3 of 5, the best on validation tasks (validation accuracy at best 91.0%); training stopped early"
    assert text.count(choice) == 2
    assert f"maml: {choice}." in text
    assert "fedavg: round" not in text
    without, lower = page({"main": fedavg, "fedavg": fedavg})
    assert "validation accuracy" not in without
    assert height > lower
    text, _ = page({"main": main | {"by": "newest", "best_round": 2, "stopped": False}, "fedavg": fedavg})
    assert "round 3 of 5, the newest (validation accuracy at best 91.0% in round 2)." in text


def test_a_baseline_that_was_trained_for_more_or_fewer_rounds_is_told():
    for count, told in ((3, "3 rounds, 1 nodes"), (1200, "3 rounds, 1 nodes; fedavg 1,200 rounds")):
        metrics = example_metrics()
        metrics["baselines"]["fedavg"]["round"] = count
        shown = Page(render("t", Results(metrics, [], example_shards(), None))["report.html"]).text
        assert f"Training {told} Seed" in shown


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (stat(0.95, 0.01, less=(-0.011, 0.01)), "Adaptation improves it: 95.0 ± 1.0% before."),
        (stat(0.2, 0.01, less=(-0.761, 0.9)), "Adaptation makes no significant difference: 20.0 ± 1.0% before."),
        (stat(0.972, 0.01, less=(0.011, 0.01)), "Adaptation makes it worse: 97.2 ± 1.0% before."),
    ],
)
def test_the_headline_is_honest_about_what_adapting_changes(before, said):
    assert said in headline(example_metrics(before=before))


def test_an_error_counts_the_other_way_and_diverged_tasks_are_told():
    diverged = stat(None, None, median=2.9, non_finite=4, less=(None, None))
    before = stat(3.9, 0.2, less=(3.48, 0.2))
    sinusoid = {"metric": "mse", "before": before, "after": stat(0.42, 0.04, median=0.29), "untrained": diverged}
    metrics = example_metrics(**sinusoid, node_spread=None, baselines={})
    sentence = headline(metrics)
    assert "a mean squared error of 0.420 ± 0.040 (median 0.290; 0 of 600 tasks not finite)" in sentence
    assert "Adaptation improves it: 3.90 ± 0.20 before." in sentence
    assert "No verdict against untrained (4 of 600 tasks not finite)." in sentence
    page = Page(render("sinusoid", Results(metrics, [], example_shards(), curve_task()))["report.html"])
    assert "the global model, unchanged 3.90 ± 0.20 median 3.90; 0 of 600 not finite +3.48 ± 0.20 worse" in page.text
    assert "as the main model is not finite median 2.90; 4 of 600 not finite - no verdict" in page.text
    assert "0.250 after adaptation" in page.text, "a prediction that is 0.5 off has a squared error of 0.25"
    lost = headline(example_metrics(metric="mse", before=None, after=diverged, baselines={}, untrained=None))
    assert "a median squared error of 2.90 (4 of 600 tasks not finite, so no mean)" in lost


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
        html = render(EVIL, Results(metrics, rounds, shards, task))["report.html"]
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
        "f = t.render('quickstart', t.Results(*given))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print(json.dumps({k: hashlib.sha256(v).hexdigest() for k, v in f.items()}))\n"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "report")])
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
    render("t", Results(metrics, example_rounds(), shards, None))
    assert (metrics, shards) == kept
    assert dict(matplotlib.rcParams) == before


def test_importing_the_report_does_not_import_matplotlib():
    code = "import sys, metadist_cli.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_any_number_of_rounds(count):
    files = render("t", Results(example_metrics(), example_rounds(count), example_shards(), None))
    assert ("rounds.png" in files) == (count > 0)
    assert "task.png" not in files


@pytest.mark.parametrize("nodes", [0, 1, 2, 41, 500])
@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_any_number_of_new_nodes_and_missing_figures(nodes, metric):
    spread = np.random.default_rng(1).lognormal(-2, 3, nodes) % 1
    per_node = [
        {
            "node": i,
            "name": f"n{i}",
            "episodes": 1,
            "before": None,
            "after": None if i == 2 else float(v),
            "methods": None,
        }
        | {"methods": None}
        for i, v in enumerate(spread)
    ]
    bare = {"per_node": per_node, "node_spread": None, "before": None, "untrained": None, "baselines": {}}
    bare = example_metrics(metric=metric, **bare)
    files = render("t", Results(bare, [], example_shards(), None))
    assert ("nodes.png" in files) == (nodes > 1)
    assert "fedavg" not in Page(files["report.html"]).text


def test_many_nodes_and_classes_are_binned():
    rng = np.random.default_rng(0)
    owned = rng.integers(0, 4800, 100_000).tolist()
    nodes = [
        {"node": i, "name": f"n{i}", "role": "test" if i > 99_000 else "train", "rows": 20, "classes": [[c, 20]]}
        for i, c in enumerate(owned)
    ]
    files = render("t", Results(example_metrics(), [], {"classes": ["c"] * 4800, "nodes": nodes, "rows": {}}, None))
    image = Image.open(io.BytesIO(files["partition.png"]))
    assert max(image.size) < 2000
    assert len(files["report.html"]) < 1_000_000
    assert "100,000 nodes hold 20 rows each (median 20), of 1 classes out of 4,800" in Page(files["report.html"]).text


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
            Image.open(io.BytesIO(render("t", Results(example_metrics(), [], example_shards(), task))["task.png"]))
        )
        return int((pixels[..., :3] == (0xD5, 0x5E, 0x00)).all(-1).sum())

    task = image_task()
    assert red(task) > 100
    assert red(task._replace(after=task.query_y)) == 0


def test_a_task_without_a_picture_becomes_a_table():
    files = render("t", Results(example_metrics(), [], example_shards(), image_task()._replace(kind="vector")))
    assert "task.png" not in files
    assert (
        "Query Truth Before adaptation After adaptation 1 zero one zero 2 one zero one 3 zero one one"
        in Page(files["report.html"]).text
    )


def test_a_task_without_queries_can_be_drawn():
    none = np.zeros(0, dtype=np.int64)
    task = image_task()._replace(query_x=np.zeros((0, 8, 8)), query_y=none, before=None, after=none)
    assert "task.png" in render("t", Results(example_metrics(), [], example_shards(), task))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 0.2))
def test_labels_keep_their_order_and_distance_inside_the_axes(wanted, gap):
    placed = np.array(apart(wanted, gap))
    order = np.argsort(wanted, kind="stable")
    if len(wanted) > 1:
        assert np.diff(placed[order]).min() >= min(gap, 1 / (len(wanted) - 1)) - 1e-9
    assert all(-1e-9 <= p <= 1 + 1e-9 for p in placed)


def test_labels_with_room_stay_where_they_are():
    assert apart([0.9, 0.1, 0.5], 0.1) == pytest.approx([0.9, 0.1, 0.5])


@settings(deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=3))
def test_bins_are_few_in_order_and_never_empty_or_shared(sizes):
    bins, starts = _bins(sizes)
    assert len(bins) == sum(sizes)
    assert sorted(set(bins.tolist())) == list(range(bins[-1] + 1))
    assert (np.diff(bins) >= 0).all()
    assert [bins[begin] for begin in np.cumsum([0, *sizes[:-1]])] == starts
    assert bins[-1] + 1 == sum(sizes) if sum(sizes) <= 80 else bins[-1] + 1 <= 82


# Further scores, and every node


def scored(mean, less=None):
    """A figure with an AUC that one task of four lacks, and a calibration error that only all rows together have."""
    auc = stat(0.81, 0.02, n=3, less=less and (-0.05, 0.01), over_rows=0.79) | {"undefined": 1}
    lone = stat(None, None, n=0, over_rows=0.031) | {"undefined": 4, "median": None}
    if less:
        lone["difference"] = stat(None, None, n=0) | {"over_rows": 0.002}
    return stat(mean, 0.01, n=4, less=less, auc=auc, calibration_error=lone)


def scored_metrics(nodes=3):
    less = (-0.1, 0.02)
    main = {"before": scored(0.7, less), "after": scored(0.8)}
    pooled = {"learner": "supervised, pooled rows", "round": 3, "per_step": per_step(0.7, 0.82)}
    pooled |= {"before": scored(0.6, less), "after": scored(0.82, (0.02, 0.01))}
    node = {"auc": 0.77, "calibration_error": None}
    methods = {
        name: {when: stat(0.8, None, n=1, less=less) | {"metrics": node} for when in ("before", "after")}
        for name in ("main", "central", "untrained")
    }
    methods["main"]["after"]["difference"] = None
    per_node = [
        {"node": i, "name": f"node-{i}", "episodes": 1, "before": 0.7, "after": 0.8}
        | {"methods": methods if nodes <= 12 else None}
        for i in range(nodes)
    ]
    return example_metrics(**main, untrained=scored(0.4, less), baselines={"central": pooled}, per_node=per_node)


def test_further_scores_stand_beside_the_first():
    page = Page(render("t", Results(scored_metrics(), [], example_shards(), None))["report.html"])
    by_task, together = page.text.split("Other metrics: ")[1:3]
    assert "Undefined: auc in 1, calibration_error in 4 of 4 tasks." in by_task
    assert "Method auc ↑ maml 0.810 ± 0.020 maml, not adapted 0.810 ± 0.020 -0.050 ± 0.010" in by_task
    assert "calibration_error ↓" not in by_task
    assert "Method auc ↑ calibration_error ↓ maml 0.790 0.031 maml, not adapted" in together
    assert "central supervised, pooled rows 82.0 ± 1.0 +2.0 ± 1.0 better" in page.text, "where another wins, it is said"
    assert "Worse than central (82.0 ± 1.0%)." in page.text
    assert "where rows may not leave their nodes, it could not be run" in page.text
    assert "pooled" not in Page(example()["report.html"]).text


def test_every_node_has_its_row_where_there_are_few():
    page = Page(render("t", Results(scored_metrics(), [], example_shards(), None))["report.html"])
    nodes = page.text.split("New nodes ")[1].split("Adaptation to new tasks")[0]
    assert "Node maml maml, not adapted central central, not adapted untrained" in nodes
    assert "node-2 1 task 80.0 80.0 -10.0 ± 2.0" in nodes
    assert "Node auc ↑ calibration_error ↓ node-0 0.770 - node-1" in nodes
    for count in (1, 13):
        other = Page(render("t", Results(scored_metrics(count), [], example_shards(), None))["report.html"])
        assert "New nodes" not in other.text


def test_the_console_shows_the_same_figures_in_80_columns(capsys):
    from metadist_cli.core.console import Console
    from metadist_cli.report import narrow

    metrics, names = scored_metrics(13), ("macro_f1", "log_loss", "brier", "balanced_accuracy")
    for method in (metrics, metrics["baselines"]["central"]):
        for stat in (method["before"], method["after"]):
            stat["metrics"] |= dict.fromkeys(names, stat["metrics"]["auc"])
    metrics["untrained"]["metrics"] |= dict.fromkeys(names, metrics["untrained"]["metrics"]["auc"])
    for table in narrow(metrics):
        Console().table(table.title, table.heads, table.rows)
    said = capsys.readouterr().out.splitlines()
    titles = [line for line in said if line.endswith(".")]
    assert max(len(line) for line in said if line not in titles) <= 80
    assert "central               82.0 ± 1.0   +2.0 ± 1.0  better" in said
    page = Page(render("t", Results(metrics, [], example_shards(), None))["report.html"]).text
    for line in said:
        for cell in line.split("  "):
            assert cell.strip() in page


def test_intervals_say_what_they_are_over():
    """The interval over nodes leads, that over the tasks of these nodes stands beside it."""
    after = stat(0.824, 0.030) | {"ci95_tasks": 0.007}
    told = example_metrics(after=after, interval={"over": {"classes": 64, "nodes": 10}, "enough": True})
    said = headline(told)
    assert said.startswith(
        "On 600 new tasks of 10 nodes and 64 classes (local: 20 support rows, the rest query), maml "
    )
    assert "reaches 82.4 ± 3.0% accuracy after 2 adaptation steps (± 0.7% for these 10 nodes and 64 classes)." in said
    first = tables(told)[0]
    assert first.title.endswith("mean and 95% interval over 10 nodes and 64 classes (600 tasks).")
    assert "82.4 ± 3.0\n± 0.7% for these 10 nodes and 64 classes" in first.rows[0]


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"nodes": 1}, "1 node is too few for a claim about other nodes."),
        ({"nodes": 4, "classes": 60}, "4 nodes are too few for a claim about other nodes."),
        ({"classes": 3}, "3 classes are too few for a claim about other classes."),
    ],
)
def test_few_nodes_or_classes_warrant_no_claim_about_others(over: dict[str, int], words: str):
    after = stat(0.824, None) | {"ci95_tasks": 0.007}
    told = example_metrics(
        after=after, untrained=stat(0.4, None, less=(-0.4, None)), interval={"over": over, "enough": False}
    )
    said = headline(told)
    assert words in said
    assert "82.4% accuracy" in said
    assert "± 0.7% for th" in said
    assert "No verdict against untrained" in said
    assert tables(told)[0].note.startswith(words)


def test_a_constant_answer_that_is_not_beaten_is_said_first():
    """At 3% positives, accuracy praises what always says no; the headline has balanced accuracy then."""
    balanced = {"balanced_accuracy": stat(0.5, 0.01)}
    constant = {"text": "the most frequent class of the support", "chosen": None, "per_step": per_step(0.961)}
    constant["after"] = stat(0.961, 0.004, less=(-0.001, 0.002), balanced_accuracy=stat(0.5, 0.0, less=(0.0, 0.01)))
    changes = {"baselines": {}, "untrained": None, "before": None, "local": {"constant": constant}}
    told = example_metrics(after=stat(0.962, 0.004, **balanced), headline="balanced_accuracy", **changes)
    said = headline(told)
    assert said.startswith(
        "maml is no better than a constant answer by accuracy: 96.2 ± 0.4%, and 96.1 ± 0.4% for the most frequent class"
    )
    assert "maml reaches 50.0 ± 1.0% balanced accuracy" in said
    assert "No significant difference from constant (50.0 ± 0.0%)" in said
    constant["after"] = stat(0.7, 0.004, less=(-0.262, 0.002), balanced_accuracy=stat(0.5, 0.0, less=(-0.4, 0.01)))
    assert headline(told).startswith("On 600 new tasks")


def test_a_mean_that_few_tasks_make_is_said_to_be_so():
    told = example_metrics(metric="mse", before=None, after=stat(12.7e9, 1e9, median=0.9), baselines={}, untrained=None)
    assert headline(told).startswith("A few tasks dominate the mean: it is 1.41e+10 times the median")
    told = example_metrics(metric="mse", before=None, after=stat(2.0, 0.1, median=0.9), baselines={}, untrained=None)
    assert headline(told).startswith("On 600 new tasks")


def test_what_was_chosen_for_a_baseline_is_told():
    local = {"text": "the same model", "chosen": {"inner_lr": 0.3, "steps": 74}, "per_step": per_step(0.1, 0.7)}
    told = example_metrics(local={"local-only": {**local, "after": stat(0.7, 0.02, less=(-0.2, 0.02))}})
    assert "local-only\nthe same model; 74 steps of 0.3, chosen in the support" in [
        row[0] for row in tables(told)[0].rows
    ]
