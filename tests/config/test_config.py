"""Loading configs: every error in a file or an override is reported at once, with its position.

wrong_configs/*.yaml are broken on purpose; the .txt beside each holds the whole message. A first line
`# override: a.b=value` is an override. Rewrite the messages with METADIST_GOLDEN=write, then read the diff.
"""

import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from golden import golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metadist_cli import config as module
from metadist_cli.config import (
    ABSENT,
    Config,
    build,
    difference,
    fingerprint,
    json_schema,
    load,
    sections,
    size,
    to_yaml,
    variants,
)
from metadist_cli.config.registry_sections import options, registries
from metadist_cli.config.strict_yaml import MAX_BYTES
from metadist_cli.config.strict_yaml import load as load_yaml
from metadist_cli.core.errors import CONFIG, Problem

WRONG = Path(__file__).parent / "wrong_configs"
MINIMAL = "task: {kind: episodic}\npartition: {nodes: 8}\n"
LOCAL = "task: {kind: local}\npartition: {nodes: 8}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, *overrides: str, name: str | None = None) -> Config:
    Path("x.yaml").write_text(text)
    return load("x.yaml", overrides, name)


def refused(text: str, *overrides: str) -> Problem:
    with pytest.raises(Problem) as caught:
        read(text, *overrides)
    assert {problem.code for problem in caught.value.all} == {CONFIG}
    return caught.value


# Wrong configs


def test_every_message_has_its_config():
    assert {path.stem for path in WRONG.glob("*.txt")} == {path.stem for path in WRONG.glob("*.yaml")}


@pytest.mark.parametrize("path", sorted(WRONG.glob("*.yaml")), ids=lambda path: path.stem)
def test_wrong_config(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(WRONG)
    overrides = re.findall(r"^# override: (.*)$", path.read_text(errors="replace"), re.MULTILINE)
    with pytest.raises(Problem) as caught:
        load(path.name, overrides)
    text = f"{caught.value}\n"
    assert text == golden(path.with_suffix(".txt"), text)
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 120
    for problem in caught.value.all:
        assert problem.code == CONFIG
        assert problem.hint
        assert re.match(rf"{re.escape(path.name)}:\d+:\d+$|override ", problem.where)
        assert problem.snippet.splitlines()[-1].count("^") >= 1
        assert "Input should" not in str(problem)


def test_a_file_that_is_too_large_is_refused_unread(here: Path):
    assert "262,144" in refused(MINIMAL + "#" * MAX_BYTES).message


def test_yaml_schema_and_override_errors_are_reported_together(here: Path):
    text = "seed: -1\ntask: {kind: episodic, wya: 5}\npartition: {nodes: 8}\nlearner:\n  name: mamll\n"
    problem = refused(text, "train.rounds=ten", "seed.x=1", "nonsense")
    assert [p.where for p in problem.all] == [
        "override seed.x=1",
        "override nonsense",
        "x.yaml:1:7",
        "x.yaml:2:24",
        "x.yaml:5:9",
        "override train.rounds=ten",
    ]


def test_a_key_named_like_its_learner_is_still_found(here: Path):
    problem = refused(MINIMAL + "learner: {name: maml, maml: {a: 1}, inner_lr: x}\n")
    assert [p.message.split(" must")[0] for p in problem.all] == ['unknown key `maml` in learner "maml"', "`inner_lr`"]


# Finding the file


def test_a_shipped_config_is_found_by_name(here: Path, monkeypatch: pytest.MonkeyPatch):
    shelf = here / "shelf"
    shelf.mkdir()
    (shelf / "quickstart.yaml").write_text(MINIMAL)
    monkeypatch.setattr(module, "shipped", lambda: {"quickstart": shelf / "quickstart.yaml"})
    assert load("quickstart").name == "quickstart"
    with pytest.raises(Problem, match="config file not found") as caught:
        load("quickstrat")
    assert "did you mean `quickstart`?" in caught.value.hint
    assert caught.value.code == CONFIG


def test_every_shipped_config_loads():
    for name in module.shipped():
        assert load(name).name


def test_a_missing_file_suggests_its_neighbours(here: Path):
    read(MINIMAL)
    with pytest.raises(Problem) as caught:
        load(here / "y.yaml")
    assert f"did you mean `{here / 'x.yaml'}`?" in caught.value.hint


def test_a_name_without_a_near_match_gets_a_short_list(here: Path):
    with pytest.raises(Problem) as caught:
        load("qqqq")
    assert "quickstart" in caught.value.hint
    assert "metadist help config" in caught.value.hint
    assert "scenes/hospitals" not in caught.value.hint


def test_keys_that_are_named_include_name_where_it_is_one(here: Path):
    assert "(keys: name, steps," in refused(MINIMAL + "finetune: {stepz: 1}\n").hint
    table = "data: {name: table, path: a, target: b, qqqq: 1}\n"
    assert "kind" in refused(MINIMAL + table).hint
    assert "name" not in refused(MINIMAL + table).hint


def test_a_run_directory_is_a_config(here: Path):
    config = read(MINIMAL, "seed=7")
    run = here / "runs" / "first"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(config))
    assert load(run) == config
    with pytest.raises(Problem, match="not a run"):
        load(here / "runs")


@pytest.mark.parametrize("file", ["", "a\0b", "x" * 5000, "/dev/null", "no/such/folder/x.yaml"])
def test_a_path_that_cannot_be_read_is_a_problem(here: Path, file: str):
    with pytest.raises(Problem) as caught:
        load(file)
    assert caught.value.code == CONFIG


# What is read


def test_defaults(here: Path):
    config = read(MINIMAL)
    assert (config.name, config.seed, config.data.name, config.model.name) == ("x", 0, "digits", "mlp")
    assert (config.learner.name, config.partition.name, config.aggregate.name) == ("maml", "iid", "mean")
    resolved = config.resolved()
    assert resolved["task"]["new"] == {"from": "classes", "test": None, "validation": 0}
    assert resolved["train"]["outer"].items() >= {"name": "adam", "lr": 1e-3}.items()
    assert resolved["aggregate"]["server"].items() >= {"name": "sgd", "lr": 1.0}.items()
    assert (config.train.local_steps, config.train.local_epochs) == (10, None)
    assert read(LOCAL).resolved()["task"] == {
        "kind": "local",
        "support": 0.2,
        "query": "rest",
        "new": {"from": "nodes", "test": 1, "validation": 0},
    }


def test_a_section_without_a_name_is_the_default_entry(here: Path):
    config = read(MINIMAL + "learner: {inner_lr: 0.4}\naggregate: {server: {lr: 0.5}}\ntrain: {outer: {name: sgd}}\n")
    assert config.learner.name == "maml"
    assert config.resolved()["aggregate"]["server"]["lr"] == 0.5
    assert config.train.outer.name == "sgd"


def test_epochs_take_the_place_of_steps(here: Path):
    config = read(LOCAL, "train.local_epochs=2")
    assert (config.train.local_steps, config.train.local_epochs) == (None, 2)
    again = read(to_yaml(config))
    assert again == config


def test_overrides_are_read_like_the_file(here: Path):
    config = read(
        MINIMAL,
        "train.outer={name: sgd, lr: 1e-2}",
        "partition.name=dirichlet",
        "partition.alpha=0.3",
        "finetune.task.shot=5",
        "baselines.fedavg.learner.name=supervised",
        "train.rounds=0x10",
        "task.new.test=[a=b, 'no']",
        "finetune.round=",
    )
    assert config.resolved()["train"]["outer"]["lr"] == 0.01
    assert (config.partition.name, config.partition.nodes, config.finetune.task.shot) == ("dirichlet", 8, 5)
    assert (config.train.rounds, config.task.new.test, config.finetune.round) == (16, ["a=b", "no"], None)
    assert variants(config)["fedavg"].learner.name == "supervised"


def test_a_later_override_wins_and_is_the_one_that_errors_show(here: Path):
    assert read(MINIMAL, "seed=1", "seed=2").seed == 2
    assert refused(MINIMAL, "train.rounds=1", "train={rounds: -5}").where == "override train={rounds: -5}"


def test_an_override_replaces_a_section_and_its_positions(here: Path):
    problem = refused("task: {kind: local}\npartition: {nodes: }\n", "partition={name: by_class}")
    assert problem.where == "override partition={name: by_class}"


def test_an_override_fills_an_empty_section(here: Path):
    assert read(MINIMAL + "train:\n", "train.rounds=5").train.rounds == 5
    assert read(MINIMAL + "finetune: {task: }\n", "finetune.task.shot=5").finetune.task.shot == 5


def test_a_conflict_is_reported_once_however_many_baselines_share_it(here: Path):
    baselines = "baselines: {a: {learner: {name: reptile}}, b: {learner: {name: supervised}}}\n"
    problem = refused("task: {kind: local}\n" + baselines)
    assert [p.message for p in problem.all] == ['`nodes` is missing in partition "iid"']


def test_name_comes_from_the_file_unless_given(here: Path):
    assert read(MINIMAL + "name: abc\n").name == "abc"
    assert read(MINIMAL + "name: abc\n", name="other").name == "other"
    with pytest.raises(Problem, match="`name` must be"):
        read(MINIMAL, name='../"x')


def test_every_key_is_described():
    missing = [f"{place}.{key}" for place, key, node in _keys(json_schema()) if not node.get("description")]
    assert missing == []


def test_json_schema_needs_no_name_but_a_task():
    assert json_schema()["required"] == ["task"]


def test_size_of_memory():
    assert [size(text) for text in ("1KiB", "512MiB", "2 GiB")] == [1024, 512 * 1024**2, 2 * 1024**3]
    for text in ("2GB", "0GiB", "-1GiB", "2", "", "1.5GiB", "2GiB\n"):
        with pytest.raises(ValueError, match="such as"):
            size(text)


# Using a config


def test_build_passes_the_options_to_the_builder(here: Path):
    def learner(model: str, loss: str, *, inner_lr: float, inner_steps: int, first_order: bool):
        return model, loss, inner_lr, inner_steps, first_order

    config = read(MINIMAL + "learner: {inner_lr: 0.5, inner_steps: 3, first_order: true}\n")
    assert build(config.learner, {"maml": learner}, "model", "loss") == ("model", "loss", 0.5, 3, True)


def test_common_keys_stay_out_of_the_builders(here: Path):
    config = read(MINIMAL)
    assert callable(build(config.partition, registries()["partitioner"]))
    assert build(config.aggregate, registries()["aggregator"])


def test_variants_replace_whole_sections(here: Path):
    text = LOCAL + "train: {rounds: 7, local_steps: 3}\nbaselines:\n  a: {learner: {name: reptile}}\n"
    config = read(text + "  b: {train: {local_steps: 4}}\n")
    a, b = variants(config)["a"], variants(config)["b"]
    assert (a.learner.name, a.train, a.baselines) == ("reptile", config.train, {})
    assert (b.learner, b.train.local_steps, b.train.rounds) == (config.learner, 4, 10)
    assert config.resolved()["baselines"]["a"].keys() == {"learner"}


def test_sections_fingerprint_and_difference(here: Path):
    one, other = read(MINIMAL), read(MINIMAL, "train.rounds=99", "seed=1", "learner.name=reptile")
    picked = [sections(c, ["seed", "train"], without=["train.rounds"]) for c in (one, other)]
    assert difference(*picked) == [("seed", 0, 1)]
    assert "rounds" in one.resolved()["train"]
    assert fingerprint(picked[0]) != fingerprint(picked[1])
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert difference({"a": {"b": None}}, {"a": {}}) == [("a.b", None, ABSENT)]
    found = {key: (a, b) for key, a, b in difference(one.resolved(), other.resolved())}
    assert found["train.rounds"] == (10, 99)
    assert found["learner.name"] == ("maml", "reptile")
    assert found["learner.first_order"] == (False, ABSENT)


def test_configs_do_not_change(here: Path):
    config = read(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


# Every config that the schema allows, and every neighbour of one that it does not


def _node(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def _keys(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for place, section in {"Config": schema, **schema["$defs"]}.items():
        for key, node in section.get("properties", {}).items():
            yield place, key, node


def valid(schema: dict[str, Any], node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a JSON Schema allows."""
    node = _node(schema, node)
    parts = node.get("anyOf") or node.get("oneOf") or [{"const": value} for value in node.get("enum", [])]
    if parts:
        return st.one_of([valid(schema, part) for part in parts])
    if "const" in node:
        return st.just(node["const"])
    kind = node["type"]
    if kind == "object" and "patternProperties" in node:
        below = next(iter(node["patternProperties"].values()))
        return st.dictionaries(st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,8}\Z"), valid(schema, below), max_size=2)
    if kind == "object":
        fields = {key: valid(schema, below) for key, below in node["properties"].items()}
        need = {key: fields.pop(key) for key in node.get("required", [])}
        return st.fixed_dictionaries(need, optional=fields)
    if kind == "array":
        least = node.get("minItems", 0)
        return st.lists(valid(schema, node["items"]), min_size=least, max_size=max(least, 3))
    if kind == "string":
        sizes = node.get("minLength", 0), min(8, node.get("maxLength", 8))
        printable = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn")), min_size=sizes[0], max_size=sizes[1])
        if "pattern" in node and "examples" not in node:
            return st.from_regex(re.compile(node["pattern"], re.ASCII)).filter(str.isprintable)
        return st.sampled_from(node["examples"]) if "examples" in node else printable
    if kind == "integer":
        return st.integers(node.get("minimum", -9), node.get("maximum", 10**18 - 1))
    if kind == "number":
        low, high = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
        return st.floats(
            node.get("minimum", low),
            node.get("maximum", high),
            exclude_min=low is not None,
            exclude_max=high is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    return {"boolean": st.booleans(), "null": st.none()}[kind]


def configs() -> st.SearchStrategy[dict[str, Any]]:
    return valid(json_schema(), json_schema()).map(lambda tree: {"name": "x", **tree})


SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(st.deferred(configs))
def test_yaml_of_a_config_loads_back_to_an_equal_config(tree: dict[str, Any]):
    config = Config.model_validate(tree)
    text = to_yaml(config)
    assert Config.model_validate(load_yaml(text, "x.yaml")[0]) == config
    assert yaml.safe_load(text) == config.resolved() == json.loads(json.dumps(config.resolved()))


@SLOW
@given(st.deferred(configs))
def test_every_resolved_value_can_be_given_as_an_override(here_once: None, tree: dict[str, Any]):
    config = read(json.dumps(_consistent(tree), ensure_ascii=False))
    overrides = [f"{key}={json.dumps(v, ensure_ascii=False)}" for key, v, _ in difference(config.resolved(), {})]
    assert read(MINIMAL, *overrides) == config


def _consistent(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree without the keys that can conflict with others."""
    tree = copy.deepcopy(tree)
    tree.setdefault("partition", {}).update(nodes=8, relabel=False, clip=None)
    tree["task"].pop("query", None)
    tree.pop("seeds", None)
    tree["task"]["new"] = {"from": "nodes", "test": 3}
    for key in ("task", "metrics", "headline", "round"):
        tree.get("finetune", {}).pop(key, None)
    for section in (tree, *tree.get("baselines", {}).values()):
        for key in ("local_epochs", "nodes_per_round", "batch", "personal", "early_stopping"):
            (section.get("train") or {}).pop(key, None)
        for steps in ((section.get("train") or {}).get("outer"), (section.get("aggregate") or {}).get("server")):
            for key in ("over", "end", "schedule"):
                (steps or {}).pop(key, None)
    return tree


@SLOW
@given(st.deferred(configs), st.data())
def test_any_mutation_is_a_config_or_a_problem_with_a_position(
    here_once: None, tree: dict[str, Any], data: st.DataObject
):
    tree = copy.deepcopy(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        _mutate(tree, data)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    try:
        read(text)
    except Problem as problem:
        faults = problem.all
    else:
        return
    assert all(re.match(r"x\.yaml:\d+:\d+$", fault.where) or "not shown" in fault.message for fault in faults), text
    assert all(fault.code == CONFIG for fault in faults)


def _mutate(tree: dict[str, Any], data: st.DataObject) -> None:
    """Put a strange value at a random key, under its own or a strange name."""
    section = tree
    while (below := [v for v in section.values() if isinstance(v, dict) and v]) and data.draw(st.booleans()):
        section = data.draw(st.sampled_from(below))
    strange = st.sampled_from(
        ["maml", "x", "off", "10", -1, 0, 1.5, 10**17, None, True, [], [1], {}, {"name": 5}, {"maml": 1}]
    )
    key = data.draw(st.sampled_from([*section, "name", "maml", "int", "list[str]", "[key]", "rounds"]))
    section[key] = data.draw(strange)


@pytest.fixture(scope="module")
def here_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("configs"))
    yield
    os.chdir(before)


def test_options_are_the_keyword_only_parameters():
    def builder(a: int, *, b: "int" = 1, **_: int):
        return a, b

    assert list(options(builder)) == ["b"]
