"""Who has what, drawn and printed: the picture shows what is there, and the tables fit a terminal."""

from __future__ import annotations

import fcntl
import html
import io
import json
import os
import pty
import re
import struct
import sys
import termios
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runner import Lab, contents, environment, manifest

from metadist_cli.partition.heterogeneity import of_manifest
from metadist_cli.report.heatmap import _bins, _order, partition_png, partition_text

DARKEST = (0x06, 0x21, 0x3F)
_LEGEND = 135  # pixels of the scale of shades, above all else
EVIL = "<script>\x1b[31m $\\frac{1}{$ \u202e \u65e5\u672c\u8a9e"


def pixels(told: dict[str, Any]) -> np.ndarray:
    image = Image.open(io.BytesIO(partition_png(told)))
    assert max(image.size) < 2500
    assert image.size[0] <= 1500, "the report puts wider pictures on a line of their own"
    return np.asarray(image.convert("RGB")).astype(int)[_LEGEND:]


def is_of(image: np.ndarray, colour: tuple[int, int, int], off: int = 2) -> np.ndarray:
    return (np.abs(image - colour) <= off).all(-1)


# --------------------------------------------------------------------------------------------------- the picture


def test_shades_are_shares_and_not_sizes() -> None:
    """A small node and a large one that have the same shares look the same."""
    image = pixels(manifest([[10, 0], [0, 1000], [1000, 0], [0, 10]]))
    y, x = np.nonzero(is_of(image, DARKEST))
    top, left, high, wide = y.min(), x.min(), np.ptp(y) / 4, np.ptp(x) / 2
    seen = [[image[int(top + (row + 0.2) * high), int(left + (k + 0.2) * wide)] for k in (0, 1)] for row in range(4)]
    np.testing.assert_array_equal(is_of(np.array(seen), DARKEST), [[1, 0], [0, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(is_of(np.array(seen), (255, 255, 255)), [[0, 1], [1, 0], [0, 1], [1, 0]])


@pytest.mark.parametrize("nodes", [81, 1000, 20_000])
def test_nodes_alike_share_a_bin_so_that_skew_is_not_averaged_away(nodes: int) -> None:
    rng = np.random.default_rng(0)
    table = np.zeros((nodes, 10), dtype=int)
    table[np.arange(nodes), rng.integers(0, 10, nodes)] = rng.integers(5, 90, nodes)
    image = pixels(manifest(table))
    dark = is_of(image, DARKEST)
    columns = [np.flatnonzero(dark[:, x]).mean() for x in np.flatnonzero(dark.any(0)) if dark[:, x].sum() > 100]
    assert dark.mean() > 0.02
    assert np.corrcoef(np.arange(len(columns)), columns)[0, 1] > 0.95, "a diagonal of whole cells"


def test_mere_chance_looks_pale() -> None:
    rng = np.random.default_rng(0)
    image = pixels(manifest(rng.multinomial(60, [0.1] * 10, size=1000)))
    assert is_of(image, DARKEST).sum() == 0
    told = manifest(np.eye(10, dtype=int).repeat(100, axis=0))
    assert is_of(pixels(told), DARKEST).sum() > 0


def test_the_order_of_many_nodes() -> None:
    """By role, then the commonest class, then how common it is; up to 80 nodes stay as they are."""
    table = np.zeros((90, 4), dtype=int)
    table[:, 3] = 1
    table[5], table[6], table[7], table[80] = (9, 1, 0, 0), (8, 2, 0, 0), (0, 5, 5, 0), (7, 0, 0, 0)
    told = manifest(table, "t" * 80 + "s" * 10)
    order, roles, sizes = _order(of_manifest(told))
    assert order.tolist() == [5, 6, 7, *(i for i in range(80) if i not in (5, 6, 7)), 80, *range(81, 90)]
    assert (roles, sizes) == (["train", "test"], [80, 10])
    few = manifest(table[:80], "ts" * 40)
    assert _order(of_manifest(few))[0].tolist() == [*range(0, 80, 2), *range(1, 80, 2)]


@pytest.mark.parametrize(
    ("nodes", "kinds", "roles"),
    [(1, 1, "t"), (2, 1623, "ts"), (4, 2, "ttts"), (30, 10, ""), (41, 62, ""), (81, 81, ""), (3, 25, "tvs")],
)
def test_any_number_of_nodes_and_classes(nodes: int, kinds: int, roles: str) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 4, (nodes, kinds)) * rng.integers(1, 10_000, (nodes, 1))
    table[:, 0] = 1
    told = manifest(table, roles)
    for place, name in ((told["nodes"][0], "name"), (told["classes"], 0)):
        place[name] = EVIL
    assert partition_png(told) == partition_png(json.loads(json.dumps(told)))
    assert f"{nodes:,} nodes hold" in partition_text(told)


def test_what_the_words_say() -> None:
    text = partition_text(manifest([[2, 2, 0, 0], [1, 1, 2, 0], [0, 0, 0, 5]], "tts"))
    assert text.startswith("3 nodes hold 4 to 5 rows each (median 4), of 1 to 3 classes out of 4.")
    assert "class distribution has an entropy of 1.25 bits, at most 2.00" in text
    assert "from that of all training rows is 0.25 (0: identical, 1: disjoint)" in text
    bins = manifest([[5, 5], [5, 5]], bins=["to 1", "above 1"])
    for node in bins["nodes"]:
        node["bins"] = node["classes"]
    assert "target-range distribution has an entropy of 1.00 bits, at most 1.00" in partition_text(bins)


def test_many_nodes_are_drawn_quickly() -> None:
    """Prints the seconds; none decides."""
    rng = np.random.default_rng(0)
    told = manifest(rng.multinomial(30, rng.dirichlet([0.5] * 10, 100_000)))
    pixels(manifest([[1]]))  # matplotlib is imported by the first picture
    began = time.perf_counter()
    pixels(told)
    print(f"100,000 nodes of 10 classes: {time.perf_counter() - began:.1f} s")


def test_bins_of_parts() -> None:
    bins, starts = _bins([60, 20])
    assert bins.tolist() == list(range(80))
    bins, starts = _bins([900, 100])
    assert (starts, bins[-1]) == ([0, 72], 79)
    assert bins[899] < bins[900]


# ----------------------------------------------------------------------------------------------------- the tables


def on_a_terminal(*arguments: str, columns: int = 80) -> list[str]:
    """The lines of a command on a terminal of so many columns."""
    child, terminal = pty.fork()
    if not child:
        plain = environment(TERM="xterm", NO_COLOR="1", CI="0")
        os.execve(sys.executable, [sys.executable, "-m", "metadist_cli", *arguments], plain)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    said = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the child has left
            break
        if not piece:
            break
        said += piece
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said.decode()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()).replace("\r", "").splitlines()


CASES = {
    "4": ("data={name: digits}", "partition={name: iid, nodes: 4}", "task.new.test=1"),
    "30": (
        "data={name: digits}",
        "partition={name: dirichlet, nodes: 30, alpha: 0.5, rotate: 90}",
        "task.new.validation=2",
    ),
    "1000": ("data={name: synthetic, nodes: 1000, rows: 60}", "partition={name: natural, by: user}"),
}


@pytest.mark.parametrize("nodes", CASES)
def test_tables_fit_a_terminal(lab: Lab, nodes: str) -> None:
    lines = on_a_terminal(*lab.arguments("partition", "--dry-run", *CASES[nodes]))
    first = next(i for i, line in enumerate(lines) if line.startswith("node "))
    last = next(i for i, line in enumerate(lines) if line.startswith("if IID:"))
    assert max(map(len, lines[first : last + 1])) <= 80
    shown = [line.split() for line in lines[first + 2 : last] if re.match(r" +\d+  ", line)]
    assert [line[0] for line in shown] == [str(i) for i in range(min(12, int(nodes)))], "no line is folded"
    more = [line for line in lines if f"{int(nodes) - 12} more" in line]
    assert len(more) == (int(nodes) > 12)
    assert [line.split()[1] for line in lines if line.startswith("nodes ")] == [
        {"4": "3", "30": "26", "1000": "998"}[nodes]
    ]


def tables(said: str) -> str:
    """From the table of the nodes to the count of the rows."""
    return said[said.index("\nnode ") : said.index("duplicated")]


def test_a_dry_run_shows_what_the_real_one_does_and_writes_nothing(lab: Lab) -> None:
    settings = ("partition={name: dirichlet, nodes: 30, alpha: 0.3, relabel: true}",)
    planned = lab("partition", "--dry-run", *settings)
    told = json.loads(lab("partition", "--dry-run", "--json", *settings).out)
    assert not lab.runs.exists()
    made = lab("partition", *settings)
    assert tables(planned.out) == tables(made.out)
    before = contents(lab.folder)
    again = lab("partition", "--dry-run", *settings)
    assert tables(again.out) == tables(made.out), "from the manifest, once there is one"
    assert json.loads(lab("partition", "--dry-run", "--json", *settings).out)["per_node"] == told["per_node"]
    result = json.loads(lab("partition", "--json", *settings).out)
    log = {"runs/tiny/log.txt": b""}
    assert contents(lab.folder) | log == before | log
    assert result["skew"] == told["skew"]
    assert list(result["skew"]) == ["train", "test"]
    written = lab.shards()["nodes"]
    for node, figures in zip(written, told["per_node"], strict=True):
        assert {key: node[key] for key in ("node", "name", "role", "rows", "entropy", "distance")} | {
            "classes": len(node["classes"])
        } == figures
    assert "per_node" not in (lab.run() / "manifest.json").read_text()


def test_the_table_has_counts_where_classes_are_few(lab: Lab) -> None:
    said = lab(
        "partition", "--dry-run", "data={name: synthetic, nodes: 8, classes: 3, rows: 40}", "learner.name=maml"
    ).out
    head = said[said.index("\nnode ") :].splitlines()[1]
    assert head.split() == ["node", "name", "role", "rows", "0", "1", "2", "entropy", "distance"]
    counts = [line.split() for line in said.splitlines() if re.match(r" +\d  node-", line)]
    assert all(sum(map(int, line[4:7])) == int(line[3]) for line in counts)
    assert len(counts) == 8


def test_the_tables_of_a_run_are_in_the_log(lab: Lab) -> None:
    lab("partition")
    log = (lab.run() / "log.txt").read_text()
    assert "mean distance" in log
    assert "if IID: mean distance of a random assignment" in log


def test_the_report_shows_the_same_picture(lab: Lab) -> None:
    lab("run")
    assert (lab.run() / "finetune/new/partition.png").read_bytes() == (lab.run() / "shards/partition.png").read_bytes()
    text = partition_text(lab.shards())
    assert html.escape(text) in (lab.run() / "finetune/new/report.html").read_text()


def test_a_picture_that_is_missing_is_drawn_again(lab: Lab) -> None:
    lab("partition")
    picture = lab.run() / "shards/partition.png"
    drawn = picture.read_bytes()
    for again in ("partition", "run"):
        picture.unlink()
        assert "picture in" in lab(again).out
        assert picture.read_bytes() == drawn
