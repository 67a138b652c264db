"""Each hint about a config, followed to the letter, leads to a config that loads, or to a better message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metadist_cli.config import Config, load
from metadist_cli.core.errors import Problem

WRONG = Path(__file__).parent / "wrong_configs"
Edit = tuple[str, str, str]  # (words of the hint, what they are about in the file or the override, what to write there)

NAME = "use 1 to 64 lowercase letters, digits, - and _, starting with a letter or digit"
LINES = "write `key: value` lines, such as `seed: 0`"
BEST = "task: {kind: local}\npartition: {nodes: 8}\n"
RUN = "Name of the run and its folder: lowercase letters, digits, - and _."
COLON = "check the line above for a missing colon, indent the keys of a section equally, and put text that contains"
# For each wrong config the ways out that its hints name; in each way all the edits are made.
WAYS: dict[str, list[list[Edit]]] = {
    "alias": [
        [
            ("remove it and write out the value wherever it is used", "&t ", ""),
            ("write out the value here", "{model: *t}", "{model: {name: mlp}}"),
        ]
    ],
    "cross-early-stopping": [[("add `validation: 1` to `new` in `task`", "test: 10", "test: 10, validation: 1")]],
    "cross-best-round": [
        [
            (
                "add `early_stopping: {patience: null}` to `train`",
                "finetune:",
                "train: {early_stopping: {patience: null}}\nfinetune:",
            ),
            ("add `validation: 0.1` to `new` in `task`", "test: 0.2", "test: 0.2, validation: 0.1"),
        ]
    ],
    "early-stopping-key": [
        [
            ("did you mean `patience`?", "patence", "patience"),
            ("What rounds are evaluated on", "on: test", "on: validation"),
            ("did you mean `best`?", "newest", "best"),
        ]
    ],
    "baseline-key": [
        [
            ("did you mean `inner_steps`?", "inner_stepss", "inner_steps"),
            ("(keys: pooled, model, learner, train, aggregate)", "data: {name: digits}", "pooled: false"),
        ]
    ],
    "baseline-name": [[(NAME, "Fed Avg", "fed-avg")]],
    "control-character": [[("delete this character", "\x1b", ""), ("", "[31m", "")]],
    "cross-all-held-out": [
        [("raise `partition.nodes`", "nodes: 8", "nodes: 9")],
        [("hold out fewer nodes", "test: 8", "test: 7")],
    ],
    "cross-baseline-main": [[("choose another name", "main:", "other:")]],
    "cross-baseline-query": [
        [("use at least 1", "query: 0", "query: 1")],
        [("learners that train without a query set: reptile", "name: maml", "name: reptile")],
        [("supervised", "name: maml", "name: supervised")],
    ],
    "cross-baseline": [
        [("remove one of them", ", local_epochs: 1", "")],
        [("set it to null", "local_steps: 1", "local_steps: null")],
    ],
    "cross-batch": [[("remove it", "train: {batch: 16}", "train: {}")]],
    "cross-empty-query": [[("use at least 1", "query: 0", "query: 1")]],
    "cross-episodic-epochs": [
        [("use `local_steps`", "local_epochs", "local_steps")],
        [("`kind: local` for the task", "{kind: episodic, way: 5}", "{kind: local}")],
    ],
    "cross-finetune-support": [
        [("use `shot` instead", "support: 5", "shot: 5"), ("for example `query: 15`", "query: rest", "query: 15")]
    ],
    "cross-finetune-way": [
        [("remove it", "way: 5, shot: 1", "")],
        [("use `support` and `query`", "way: 5, shot: 1", "support: 5, query: 1")],
    ],
    "cross-fractions": [
        [("use fractions that add up to at most 1", "query: 0.5", "query: 0.3")],
        [("`query: rest`", "query: 0.5", "query: rest")],
    ],
    "cross-local-classes": [
        [("use `from: nodes`", "from: classes", "from: nodes")],
        [("`kind: episodic` for the task", "kind: local", "kind: episodic")],
    ],
    "cross-no-nodes": [[("such as `nodes: 8`", "alpha: 0.3", "nodes: 8")]],
    "cross-nodes-per-round": [
        [("use `all`", "nodes_per_round: 8", "nodes_per_round: all")],
        [("at most 7", "nodes_per_round: 8", "nodes_per_round: 7")],
    ],
    "cross-relabel": [
        [("remove it", "  relabel: true\n", "")],
        [("use `kind: local` for the task", "kind: episodic", "kind: local")],
    ],
    "cross-schedule": [
        [
            ("add `schedule: linear`", "over: 5", "over: 5, schedule: linear"),
            ("`schedule: cosine`", "{end: 0.1}", "{end: 0.1, schedule: cosine}"),
        ],
        [("or remove it", ", over: 5", ""), ("or remove it", "{end: 0.1}", "{}")],
    ],
    "cross-two-lengths": [
        [("remove one of them", "  local_steps: 5\n", "")],
        [("set it to null", "local_epochs: 1", "local_epochs: null")],
    ],
    "device": [[("Device to compute on; auto: cuda if available, otherwise cpu.", "gpu", "cpu")]],
    "duplicate-key": [[("keep one of the two", "seed: 1\n", "")]],
    "duplicate-keys-two": [[("keep one of the two", "seed: 1\n", ""), ("keep one of the two", "  kind: local\n", "")]],
    "empty": [[("add at least the sections `task` and `partition`", "# nothing but a comment", BEST)]],
    "enum": [[("did you mean `reset`?", "resett", "reset")]],
    "escaped-control": [[("remove this escape sequence", r"\e", ""), ("", "[31m", "")]],
    "infinite": [[("use a number below 1e308", "1e999", "1e307")]],
    "leading-zero": [[("remove the zero", "017", "17")]],
    "list-at-top": [[(LINES, "- ", "")]],
    "long-line": [[("no keys except name", "LINE", "data: {name: digits}")]],
    "memory": [[("Memory limit for a block's working set", "2 gigs", "2GiB")]],
    "merge-key": [[("write out the keys here", "<<: {nodes: 8}", "nodes: 8")]],
    "missing-by": [[("such as drawer", "natural}", "natural, by: drawer}")]],
    "missing-kind": [[("add `kind:` with episodic", "{way", "{kind: episodic, way")]],
    "missing-task": [[("for example `task: {kind: episodic}`", "partition", "task: {kind: episodic}\npartition")]],
    "not-a-number": [[("use a number below 1e308", ".nan", "0.1")]],
    "number-as-key": [[("put the key in quotes", "1:", '"1":')]],
    "override-and-file": [[("averaged in an outer step", "meta_batch: 0", "meta_batch: 1"), ("Rounds", "-1", "1")]],
    "override-cross": [
        [("remove one of them", "local_steps: 5", "")],
        [("set it to null", "local_epochs=2", "local_epochs=null")],
    ],
    "override-empty-key": [[("for example train.rounds=20", "train..rounds=5", "train.rounds=20")]],
    "override-into-value": [[("set it as a whole: `seed=VALUE`", "seed.value=5", "seed=5")]],
    "override-key": [[("did you mean `rounds`?", "runds", "rounds")]],
    "override-nested": [[("did you mean `inner_lr`?", "iner_lr", "inner_lr")]],
    "override-no-value": [[("for example train.rounds=20", "train.rounds", "train.rounds=20")]],
    "override-other-learner": [[("`first_order` is a key of `name: maml`", "=supervised", "=maml")]],
    "override-section": [[("did you mean `learner`?", "lerner", "learner")]],
    "override-syntax": [[("close it, and separate the values with commas", "[64, 64", "[64, 64]")]],
    "override-type": [[("Rounds of local training", "ten", "10")]],
    "range-fraction": [[("Support rows per node, or a fraction of them", "1.5", "0.5")]],
    "range-negative": [[("Seed of all randomness.", "-1", "1")]],
    "range-nodes-per-round": [[("Nodes per round: all, a number", "0}", "all}")]],
    "range-zero": [[("Classes per task.", "way: 0", "way: 1"), ("Number of nodes", "nodes: 0", "nodes: 1")]],
    "replaced-decay": [[("write `schedule: linear` in its place", "decay_steps: 50", "schedule: linear")]],
    "run-name": [[(RUN, "My Run", "my-run")]],
    "section-as-list": [[("Rounds and local training.", "- rounds", "rounds")]],
    "section-as-text": [
        [
            ("write `learner: {name: reptile}`", "learner: reptile", "learner: {name: reptile}"),
            ("Rounds and local training.", "train: 10", "train: {rounds: 10}"),
        ]
    ],
    "section-null": [
        [("write `baselines: {}`", "baselines:", "baselines: {}")],
        [("or leave it out", "baselines:", "")],
    ],
    "syntax-bracket": [[("close it", "[64, 64}", "[64, 64]}")]],
    "syntax-colon": [[(COLON, "task: kind: local", "task:\n  kind: local\npartition: {nodes: 8}")]],
    "syntax-escape": [[("use single quotes, which keep backslashes as they are", r'"C:\path"', r"'C:\path'")]],
    "syntax-indent": [[("indent it like the other keys of its section", "\n support", "\n  support")]],
    "syntax-merge-conflict": [
        [
            ("keep one side and delete the conflict markers", "<<<<<<< HEAD\n", ""),
            ("", "=======\ntask: {kind: episodic}\n>>>>>>> other\n", ""),
        ]
    ],
    "syntax-no-colon": [[(COLON, "seed 5", "seed: 5")]],
    "syntax-percent": [[("put text that starts with this character in quotes", "%5", "'%5'")]],
    "syntax-quote": [[("close it", "'digits", "'digits'")]],
    "syntax-tab": [[("indent with spaces", "\t", "  ")]],
    "tag": [[("remove it; to make a value text, put it in quotes", "!!python/object/apply:os.system ['true']", "1")]],
    "text-at-top": [[(LINES, "quickstart", "seed: 0")]],
    "too-deep": [[("check the brackets on this line", "LINE", BEST)]],
    "too-many-digits": [[("use a smaller number", "9" * 60, "9")]],
    "too-many-values": [[("check that this is a metadist config", "LINE", "")]],
    "two-documents": [[("keep one document per file", "---\nseed: 1\n", "")]],
    "type-class-names": [[("put it in quotes to make it text", "[0, 1]", "['0', '1']")]],
    "type-fraction": [[("Rounds of local training", "2.5", "2")]],
    "type-list-item": [[("Units per hidden layer; [] gives a linear model.", "[64, big]", "[]")]],
    "type-null": [[("Seed of all randomness.", "seed:", "seed: 1")]],
    "type-quoted-number": [
        [
            ("write 10, without quotes or separators", '"10"', "10"),
            ("write 1000, without quotes or separators", "1_000", "1000"),
        ]
    ],
    "type-switch": [[("write true or false", "off", "false"), ("write true or false", "yes", "true")]],
    "type-text": [[("Rounds of local training", "ten", "10")]],
    "unknown-key-at-top": [[("did you mean `learner`?", "leaner", "learner")]],
    "unknown-key-elsewhere": [
        [
            ("`rounds` belongs in `train`", "rounds: 20\n", "train: {rounds: 20, OUTER}\n"),
            ("`lr` belongs in `train.outer`", "lr: 0.1\n", ""),
            ("", "OUTER", "outer: {lr: 0.1}"),
        ]
    ],
    "unknown-key": [[("did you mean `inner_steps`?", "iner_steps", "inner_steps")]],
    "unknown-keys-many": [
        [
            ("did you mean `way`?", "ways", "way"),
            ("did you mean `shot`?", "shots", "shot"),
            ("`alpha` is a key of `name: dirichlet`", "{nodes: 8, alpha", "{name: dirichlet, nodes: 8, alpha"),
            ("did you mean `local_epochs`?", "epochs", "local_epochs"),
        ]
    ],
    "unknown-name-number": [[("one of: mlp, conv4", "name: 4", "name: conv4")]],
    "unknown-name": [[("did you mean `maml`?", "mamll", "maml")]],
    "unknown-task-kind": [[("did you mean `episodic`?", "episode}", "episodic}")]],
    "value-mark": [[("what separates the columns", "/}", '";"}')]],
    "wide-letters": [[(NAME, "'日本語'", "other")]],
}
BYTES = {"bad-bytes": "latin-1", "utf-16": "utf-16"}  # "save the file as UTF-8"
# What the hint leads to is another mistake of the file, and a message that says which.
THEN = {
    "syntax-escape": r"unknown model `C:\path`",
    "syntax-indent": "`nodes` is missing",
    "syntax-merge-conflict": "`nodes` is missing",
    "syntax-no-colon": "`nodes` is missing",
    "syntax-percent": "`seed` must be",
    "syntax-tab": "`nodes` is missing",
    "text-at-top": "`task` is missing",
    "unknown-keys-many": "has no epochs",
}


def refused(file: Path, overrides: list[str]) -> Problem:
    with pytest.raises(Problem) as caught:
        load(file, overrides)
    return caught.value


def read(file: Path, overrides: list[str]) -> Config | Problem:
    try:
        return load(file, overrides)
    except Problem as problem:
        return problem


def test_every_wrong_config_has_its_way_out() -> None:
    named = {*WAYS, *BYTES, "file name with spaces"}
    assert named == {path.stem for path in WRONG.glob("*.yaml")}


@pytest.mark.parametrize(
    ("case", "edits"), [(case, edits) for case, ways in WAYS.items() for edits in ways], ids=lambda one: str(one)[:40]
)
def test_a_hint_followed_leads_to_a_config_or_to_a_better_message(case: str, edits: list[Edit], tmp_path: Path) -> None:
    text = (WRONG / f"{case}.yaml").read_text()
    overrides = re.findall(r"^# override: (.*)$", text, re.MULTILINE)
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    before = refused(file, overrides)
    hints = " ".join(problem.hint for problem in before.all)
    for said, old, new in edits:
        assert said in hints
        longest = max(text.splitlines(), key=len)
        old = longest if old == "LINE" else old
        assert old in text
        text = text.replace(old, new)
        overrides = [override.replace(old, new) for override in overrides]
    file.write_text(text)
    after = read(file, overrides)
    if isinstance(after, Problem):
        assert case in THEN, str(after)
        assert THEN[case] in after.message
        assert after.message != before.message
        assert after.hint


@pytest.mark.parametrize("case", BYTES)
def test_a_file_saved_as_utf_8_is_read(case: str, tmp_path: Path) -> None:
    raw = (WRONG / f"{case}.yaml").read_bytes()
    file = tmp_path / "mine.yaml"
    file.write_bytes(raw)
    assert "save the file as UTF-8" in refused(file, []).hint
    file.write_text(raw.decode(BYTES[case]))
    after = read(file, [])
    assert isinstance(after, Config) or "UTF-8" not in after.hint


def test_a_name_for_the_run_may_be_given_instead(tmp_path: Path) -> None:
    file = tmp_path / "file name with spaces.yaml"
    file.write_text((WRONG / file.name).read_text())
    assert RUN in refused(file, []).hint
    assert isinstance(load(file, name="file-name"), Config)


def test_two_configs_at_once_are_named_one_at_a_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(BEST)
    problem = refused(tmp_path / "a.yaml", [str(tmp_path / "b.yaml")])
    assert "name one config at a time" in problem.hint
    assert load(tmp_path / "b.yaml").name == "b"
