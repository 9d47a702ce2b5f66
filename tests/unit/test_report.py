"""The report: rows, sentences, verdicts, and what is written."""

import builtins
import copy
import html
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import altair
import pytest
import report_records
from altair.utils.schemapi import validate_jsonschema
from jsonschema import ValidationError
from rich.console import Console

from ngram_copy import report, score
from ngram_copy.report import charts, learned, markdown, page, plots, sentences, style
from ngram_copy.report.labels import family, full_label, number, percent
from ngram_copy.report.markdown import CELL_HEADINGS, LEARNED_HEADINGS, cell_table
from ngram_copy.report.summary import summarise
from ngram_copy.report.verdict import judge
from ngram_copy.results import ResultsError, Writer, read


@pytest.fixture(scope="module")
def records():
    return report_records.make()


@pytest.fixture(scope="module")
def summary(records):
    return summarise(records)


@pytest.fixture(scope="module")
def written(records, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return report.write(records, out, verdicts=report_records.VERDICTS)


@pytest.fixture(scope="module")
def learned_records():
    return report_records.make_learned()


@pytest.fixture(scope="module")
def both(records, learned_records):
    return summarise([*records, *learned_records])


@pytest.fixture(scope="module")
def drawn(both):
    return {chart.key: chart for chart in charts.build(both)}


def kept(records, **engine):
    """The accuracy records of an engine."""
    return [r for r in records if r["kind"] == "accuracy" and engine.items() <= r["case"]["engine"].items()]


# --- rows -----------------------------------------------------------------------------------------------


def test_a_cell_carries_what_its_record_says(records, summary):
    record = kept(records, name="prefix", kept=8)[0]
    cell = next(cell for cell in summary.cells if cell.case_id == record["case_id"])
    result = record["result"]
    assert (cell.task, cell.engine, cell.family) == ("copy D=2 uniform", "prefix-8", "prefix")
    assert (cell.strings.correct, cell.strings.total) == (result["strings"]["correct"], result["strings"]["total"])
    assert (cell.strings.low, cell.strings.high) == (result["strings"]["low"], result["strings"]["high"])
    assert cell.recalled == tuple(result["bits_recalled"][key] for key in ("mean", "low", "high"))
    assert cell.share == result["bits_recalled"]["mean"] / result["state_bits"]
    assert cell.bound == result["string_bound"]


def test_rows_do_not_depend_on_the_order_of_records(records, summary):
    backwards = summarise(records[::-1])
    assert (backwards.cells, backwards.repeats) == (summary.cells, summary.repeats)
    assert list(backwards.engines.items()) == list(summary.engines.items())
    assert set(summary.engines) == {cell.engine for cell in summary.cells}


def test_lengths_and_slots_are_in_numeric_order(summary):
    engines = list(dict.fromkeys(cell.engine for cell in summary.cells))
    assert engines.index("bounded-64") < engines.index("bounded-256") < engines.index("bounded-1024")
    lengths = [cell.length for cell in summary.cells if cell.task == "text_copy" and cell.engine == "ngram-2"]
    assert lengths == sorted(lengths)


def test_labels_say_what_distinguishes_where_a_suite_has_no_names(records):
    unnamed = copy.deepcopy(records)
    for record in unnamed:
        del record["case"]["label"]
    assert {cell.engine for cell in summarise(unnamed).cells} == {
        *("ngram n=2", "ngram n=3", "ngram n=4", "ngram n=6"),
        *("bounded n=4 slots=64", "bounded n=4 slots=256", "bounded n=4 slots=1024", "prefix kept=8", "prefix kept=20"),
    }


def test_one_name_for_two_engines_is_not_used(records):
    ambiguous = copy.deepcopy(kept(records, name="prefix"))
    for record in ambiguous:
        record["case"]["label"] = "mine"
    assert {cell.engine for cell in summarise(ambiguous).cells} == {"prefix kept=8", "prefix kept=20"}


def test_times_are_no_part_of_the_environment(summary, records):
    assert summary.environment == {key: [str(value)] for key, value in report_records.ENVIRONMENT.items()}
    assert summary.seconds == pytest.approx(sum(record["environment"]["seconds"] for record in records))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.5, "0.5"), (99.94, "99.9"), (1234.5, "1,234"), (1.3e-10, "1.3e-10"), (-3.21, "-3.21")],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0%"), (1, "100%"), (0.9999, ">99.9%"), (0.0001, "<0.1%"), (0.123, "12.3%"), (0.2, "20%"), (1.004, "100.4%")],
)
def test_percent_never_rounds_to_all_or_nothing(value, text):
    assert percent(value) == text


# --- bad input ------------------------------------------------------------------------------------------


def test_no_records():
    with pytest.raises(ValueError, match="nothing to report: there are no records"):
        summarise([])


def test_another_schema(records):
    with pytest.raises(ValueError, match="record 2 is of schema 'other/9'; this report reads 'ngram-copy/1'"):
        summarise([records[0], {**records[1], "schema": "other/9"}])


@pytest.mark.parametrize("field", ["strings", "state_bits", "bits_recalled"])
def test_a_field_that_is_missing_is_named(records, field):
    record = copy.deepcopy(records[0])
    del record["result"][field]
    with pytest.raises(ValueError, match=f"record {record['case_id']} of kind 'accuracy' lacks the field '{field}'"):
        summarise([record])


@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_without_the_extra_one_line_says_what_to_install(records, tmp_path, monkeypatch, package):
    load = builtins.__import__

    def refuse(name, *rest, **more):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return load(name, *rest, **more)

    for name in [
        name for name in sys.modules if name.startswith(("ngram_copy.report.charts", "ngram_copy.report.page"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("charts", "page"):
        monkeypatch.delattr(report, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=rf"a report needs {package}: pip install 'ngram-copy\[bench\]'"):
        report.write(records[:1], tmp_path)
    assert not list(tmp_path.iterdir())


# --- sentences ------------------------------------------------------------------------------------------


def test_bits_none_above(summary):
    cells = [cell for cell in summary.cells if cell.recalled]
    text = sentences.bits(cells)
    best = max(cell.share for cell in cells if cell.family == "bounded")
    assert text.startswith(f"None of {len(cells)} cells recalls more bits than its state holds")
    assert f"{percent(best)} (bounded)" in text


def test_bits_one_above(records):
    broken = copy.deepcopy(kept(records, name="prefix", kept=8))[:10]
    broken[3]["result"]["bits_recalled"] = {"mean": 99.0, "sd": 1, "total": 1000, "low": 98.0, "high": 100.0}
    text = sentences.bits(summarise(broken).cells)
    assert text.startswith("1 of 10 cells recall more bits than their state holds")
    assert "prefix-8 on copy D=2 uniform at L = 100 (99 of 8 bits)" in text


def test_strings_names_the_longest_length_with_half_of_them(records):
    def set_correct(record, correct):
        record["result"]["strings"]["correct"] = correct

    some = copy.deepcopy(kept(records, name="ngram", n=4)[:5] + kept(records, name="prefix", kept=8)[:5])
    for record in some:
        set_correct(record, 0)
    assert "no ngram at any length and no prefix at any length" in sentences.strings(summarise(some).cells)
    for record in some[:3]:
        set_correct(record, 500)
    assert "ngram-4 up to L = 50 (50 bits of state)" in sentences.strings(summarise(some).cells)
    set_correct(some[4], 501)
    assert "ngram-4 up to L = 300, the longest measured" in sentences.strings(summarise(some).cells)


def test_repeats_names_the_largest_gap(records):
    rows = summarise(records).repeats
    text = sentences.repeats(rows)
    row = max(rows, key=lambda row: abs(row.windows.value - (row.union if row.exact is None else row.exact)))
    assert (
        f"within {row.length:,} tokens of {row.task} some {row.n}-gram repeats in {percent(row.windows.value)}" in text
    )
    uniform = [row for row in rows if row.exact is not None]
    assert "text_copy" in text
    assert "the exact formula" in sentences.repeats(uniform)


def test_tables_tells_the_direction(records):
    tables = copy.deepcopy([r for r in kept(records, name="bounded") if r["case"]["length"] == 300][:3])
    assert "the share of tokens right rises from" in sentences.tables(summarise(tables).cells)
    for record in tables:
        record["result"]["tokens"]["correct"] = record["case"]["engine"]["slots"] == 64
    text = sentences.tables(summarise(tables).cells)
    assert "from 64 to 1,024 slots the load falls from" in text
    assert "the share of tokens right falls from <0.1% to 0%" in text
    for record in tables:
        record["result"]["tokens"]["correct"] = 0
    assert "the share of tokens right stays at 0%" in sentences.tables(summarise(tables).cells)


# --- verdicts -------------------------------------------------------------------------------------------


def test_verdicts_hold():
    assert [verdict.word for verdict in judge(report_records.VERDICTS)] == ["holds"] * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"above_bound": {"cells": 3, "p_value": 1e-7, "per_engine": {"x": 1e-7}}},
            ["FAILS", "holds", "holds", "holds"],
        ),
        ({"bits_above_state": {"cells": 3, "p_value": 1e-7}}, ["holds", "FAILS", "holds", "holds"]),
        ({"copier_rule": {"strings": 10, "disagreements": 1}}, ["holds", "holds", "FAILS", "holds"]),
        ({"prefix_fits": {"cells": 2, "min_p": 1e-9, "rows": []}}, ["holds", "holds", "holds", "FAILS"]),
        ({"copier_rule": {"strings": 0, "disagreements": 0}}, ["holds", "holds", "not tested", "holds"]),
    ],
)
def test_verdicts_fail_and_are_left_open(change, words):
    assert [verdict.word for verdict in judge({**report_records.VERDICTS, **change})] == words


def test_without_tests_nothing_is_claimed():
    assert {verdict.word for verdict in judge(None)} == {"not tested"}


# --- charts ---------------------------------------------------------------------------------------------


def test_all_four_charts_are_drawn(summary):
    assert [(chart.key, type(chart)) for chart in charts.build(summary)] == [
        (key, plots.Chart) for key in ("bits", "strings", "repeats", "tables")
    ]


def test_charts_are_valid_specifications(drawn):
    schema = altair.load_schema()
    for chart in drawn.values():
        for spec in [plots.paper_spec(chart), *(plots.page_spec(chart, panel) for panel in chart.panels)]:
            validate_jsonschema(spec, schema)
            with pytest.raises(ValidationError):
                validate_jsonschema({**spec, "layer": [{"mark": "blot"}]}, schema)


def test_a_chart_without_data_says_which_records_it_needs(records):
    text = [r for r in records if r["kind"] == "accuracy" and r["case"]["task"]["name"] == "text_copy"]
    ngram_only = [r for r in text if r["case"]["engine"]["name"] == "ngram"]
    by_key = {chart.key: chart for chart in charts.build(summarise(ngram_only))}
    assert "source is known" in by_key["bits"].reason
    assert "statistic records" in by_key["repeats"].reason
    assert "engine 'bounded'" in by_key["tables"].reason
    assert isinstance(by_key["strings"], plots.Chart)


def test_every_series_has_its_own_colour_and_kinds_their_own_shape(summary):
    styles = style.engine_styles(summary.cells)
    assert len({style.colour for style in styles.values()}) == len(styles)
    shapes = {cell.family: styles[cell.engine].shape for cell in summary.cells}
    assert len(set(shapes.values())) == len(shapes)


def test_configurations_are_in_the_order_of_their_numbers(summary):
    styles = style.engine_styles(summary.cells[::-1])
    assert [engine for engine in styles if engine.startswith("bounded")] == [
        "bounded-64",
        "bounded-256",
        "bounded-1024",
    ]


def test_the_diagonal_is_explained(summary):
    assert "The diagonal is the law" in charts.bits(summary).note


def test_negative_bits_are_drawn_at_the_edge_and_said(records):
    some = copy.deepcopy(kept(records, name="prefix", kept=8)[:5])
    assert "lower edge" not in charts.bits(summarise(some)).note
    some[2]["result"]["bits_recalled"] = {"mean": -40.0, "sd": 1, "total": 1000, "low": -41.0, "high": -39.0}
    chart = charts.bits(summarise(some))
    assert "1 at the lower edge recalls less than 1 bit" in chart.note
    drawn = [row for rows in chart.panels[0].data.values() for row in rows if "recalled" in row]
    assert min(row["y"] for row in drawn) == 1
    assert [row["recalled"] for row in drawn if row["y"] == 1] == ["-40 (95%: -41 to -39)"]


def test_the_bound_line_passes_through_the_bounds_of_the_cells(summary):
    cells = [cell for cell in summary.cells if cell.task == "copy D=2 uniform" and cell.engine == "prefix-8"]
    line = {row["x"]: row["y"] for row in charts._bound_line(cells)}
    for cell in cells:
        assert line[cell.length] == pytest.approx(cell.bound)
    assert line[15] == pytest.approx(2.0 ** (8 - 15))


def test_a_bound_that_is_one_everywhere_has_no_line(summary):
    assert charts._bound_line([cell for cell in summary.cells if cell.family == "ngram"]) == []


def test_points_say_their_seed(summary):
    for chart in charts.build(summary):
        for panel in chart.panels:
            points = next(layer.to_dict() for layer in panel.layers if layer.mark.type == "point")
            assert "seed" in [tip.get("title") for tip in points["encoding"]["tooltip"]]


def test_kinds_of_tables_of_one_size_stand_beside_each_other(records):
    assert charts._dodges([(64, "a"), (64, "b"), (64, "c"), (64, "b"), (256, "a")]) == [-9, 0, 9, 0, 0]
    many = charts._dodges([(size, kind) for size in range(10) for kind in "abcd"])
    assert max(many) - min(many) <= 20
    tables = copy.deepcopy(kept(records, name="bounded"))
    chart = charts.tables(summarise(tables))
    assert all("xOffset" not in layer.to_dict()["mark"] for panel in chart.panels for layer in panel.layers)
    others = copy.deepcopy([r for r in tables if r["case"]["engine"]["slots"] == 256])
    for record in others:
        record["case"]["engine"]["eviction"] = "overwrite"
        record["case"]["label"] += "-overwrite"
        record["case_id"] = record["case_id"][::-1]
    chart = charts.tables(summarise(tables + others))
    moved = {(row["x"], row["dodge"]) for panel in chart.panels for rows in panel.data.values() for row in rows
             if "dodge" in row}  # fmt: skip
    assert moved == {(64, 0), (256, -4.5), (256, 4.5), (1024, 0)}
    assert sum("xOffset" in layer.to_dict()["mark"] for layer in chart.panels[0].layers) == 2


def test_closed_forms_meet_the_tables_only_where_they_hold(summary):
    cells = [cell for cell in summary.cells if cell.family == "bounded" and cell.task == "copy D=26 uniform"]
    labels = {cell.case_id: f"L={cell.length}" for cell in cells}
    lines = charts._closed_forms(cells, labels, "load")
    for cell in cells:
        d = cell.diagnostics
        close = [r for r in lines if (r["series"], r["x"]) == (f"L={cell.length}", cell.engine_options["slots"])]
        assert close[0]["y"] == pytest.approx(d["occupied"] / d["slots"], abs=1e-3)
    text = [cell for cell in summary.cells if cell.family == "bounded" and cell.task == "text_copy"]
    assert charts._closed_forms(text, {cell.case_id: "x" for cell in text}, "load") == []


def test_unverified_tables_see_no_collision(records):
    tables = copy.deepcopy([r for r in kept(records, name="bounded") if r["case"]["length"] == 300])
    lines = {}
    for key_bits in (0, 1, 8, 24):
        for record in tables:
            slots = record["case"]["engine"]["slots"]
            record["case"]["engine"]["key_bits"] = key_bits
            record["result"]["state_bits"] = float(slots * (1 + key_bits + 5))
        cells = [cell for cell in summarise(tables).cells if cell.task == "copy D=26 uniform"]
        found = charts._closed_forms(cells, {cell.case_id: "x" for cell in cells}, "collisions")
        lines[key_bits] = [row["y"] for row in found]
    assert set(lines[0]) == {0.0}
    assert lines[1] == pytest.approx([y / 2 for y in lines[24]])  # 4 tokens of 5 bits fit: keys are whole
    assert lines[8] == pytest.approx([y * 255 / 256 for y in lines[24]])


# --- what is written ------------------------------------------------------------------------------------


def test_files(written):
    assert set(written) == {
        *("index.html", "report.md"),
        *(f"charts/{key}.{kind}" for key in ("bits", "strings", "repeats", "tables") for kind in ("svg", "pdf")),
    }
    assert not list(written["index.html"].parent.rglob(".*"))
    assert written["charts/bits.pdf"].read_bytes().startswith(b"%PDF-")
    assert "impossible" in written["charts/bits.svg"].read_text("utf-8")


class References(HTMLParser):
    """What a page loads by its tags, and where it links."""

    def __init__(self):
        super().__init__()
        self.loads, self.links = [], []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in {"src", "srcset", "href", "xlink:href", "data", "poster"} and not value.startswith("data:"):
                (self.links if tag == "a" else self.loads).append(value)


def test_the_page_loads_nothing_from_elsewhere(written):
    page = written["index.html"].read_text("utf-8")
    parser = References()
    parser.feed(page)
    assert parser.loads == []
    assert {link for link in parser.links if not link.startswith("#")} == {
        f"charts/{key}.{kind}" for key in ("bits", "strings", "repeats", "tables") for kind in ("svg", "pdf")
    }
    assert not re.findall(r"@import|url\(", page[: page.index("<script")])
    assert page.count("window.vegaEmbed") == 1
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', page, re.DOTALL)[1])
    assert not [row for spec in specs.values() for row in [spec.get("data", {})] if "url" in row]


def test_the_page_shows_every_cell(written, summary):
    page = written["index.html"].read_text("utf-8")
    assert all(row.case_id in page and row.data_hash[7:19] in page for row in [*summary.cells, *summary.repeats])
    assert "ngram-copy run symbolic" in page


def test_markdown_has_the_sentences_and_every_cell(written, summary):
    text = written["report.md"].read_text("utf-8")
    assert sentences.strings(summary.cells) in text
    assert sum(line.startswith("| copy D=26 uniform | ngram-4 |") for line in text.splitlines()) == 5
    assert "![Whole strings against length](charts/strings.svg)" in text
    assert all(cell.case_id in text for cell in summary.cells)


def test_what_a_record_says_cannot_break_the_page(records, tmp_path):
    record = copy.deepcopy(records[0])
    record["case"]["label"] = "</script><b>|`x`"
    page = report.write([record], tmp_path)["index.html"].read_text("utf-8")
    assert "</script><b>" not in page
    assert "&lt;/script&gt;&lt;b&gt;|`x`" in page


def test_errors_and_unknown_kinds(records, tmp_path):
    failed = {
        **records[0],
        "kind": "error",
        "case_id": "f" * 16,
        "result": {"error": "MemoryError", "message": "no room"},
    }
    timing = {**records[1], "kind": "timing", "result": {}}
    files = report.write([records[2], failed, timing], tmp_path)
    for name in ("index.html", "report.md"):
        text = files[name].read_text("utf-8")
        assert "MemoryError: no room" in text
        assert "f" * 16 in text
        assert "not tested" in text


def test_a_file_that_cannot_be_written_leaves_the_old_one(records, written, tmp_path, monkeypatch):
    files = report.write(records[:1], tmp_path)
    before = files["report.md"].read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        report.write(records[:2], tmp_path)
    assert Path(caught.value.filename).is_relative_to(tmp_path)
    assert files["report.md"].read_bytes() == before
    assert not list(tmp_path.rglob(".*"))


# --- terminal -------------------------------------------------------------------------------------------


def printed(records, width=100, **options):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(report.table(records, **options))
    return console.file.getvalue()


def test_the_table_fits_100_columns_and_has_every_length(records):
    text = printed(records, verdicts=report_records.VERDICTS)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    cells = [r for r in records if r["kind"] == "accuracy" and r["case"]["label"] == "bounded-1024"]
    one_task = [r for r in cells if r["case"]["task"] == cells[0]["case"]["task"]]
    shares = [
        f"{r['case']['length']}:{percent(r['result']['strings']['correct'] / r['result']['strings']['total'])[:-1]}"
        for r in sorted(one_task, key=lambda r: r["case"]["length"])
    ]
    line = next(line for line in text.splitlines() if line.split()[:1] == ["bounded-1024"])
    best = max(r["result"]["bits_recalled"]["mean"] for r in one_task)
    assert line.split()[1:] == [*shares, "14,336", number(best)]
    assert text.count("✓ holds") == 4


def test_the_title_of_a_narrow_table_is_one_line(records):
    titles = printed([record for record in records if record["kind"] == "statistic"][:1]).splitlines()
    assert "Windows in which some n-gram repeats, in %" in titles


def test_seeds_are_counted_together(records):
    one = kept(records, name="ngram", n=2)[:1]
    other = copy.deepcopy(one)
    other[0]["case"]["seed"] = 7
    one[0]["result"]["strings"].update(correct=1000)
    other[0]["result"]["strings"].update(correct=500)
    assert f"{one[0]['case']['length']}:75 " in printed([*other, *one])


def test_unknown_bits_are_a_dash(records):
    text = printed([r for r in kept(records, name="ngram", n=2) if r["case"]["task"]["name"] == "text_copy"])
    assert [line.split()[-1] for line in text.splitlines() if line.split()[:1] == ["ngram-2"]] == ["–"]


# --- learned models -------------------------------------------------------------------------------------


def named(records, label, seed=None):
    """The accuracy records of a learned engine."""
    return [
        r for r in records
        if r["kind"] == "accuracy" and r["case"]["label"] == label and seed in {None, r["case"]["seed"]}
    ]  # fmt: skip


def without_labels(records):
    stripped = copy.deepcopy(records)
    for record in stripped:
        del record["case"]["label"]
    return stripped


def test_records_of_training_can_be_read_back(learned_records, tmp_path):
    with Writer(tmp_path / "records.jsonl") as writer:
        for record in learned_records:
            writer.write(record)
    assert read(tmp_path) == json.loads(json.dumps(learned_records))
    torn = copy.deepcopy(learned_records[0])
    del torn["result"]["examples_to_solve"]
    with Writer(tmp_path / "torn.jsonl") as writer:
        writer.write(torn)
    with pytest.raises(ResultsError, match=r"a record of kind 'training' lacks result\.examples_to_solve"):
        read(tmp_path / "torn.jsonl")
    with pytest.raises(ValueError, match="of kind 'training' lacks the field 'examples_to_solve'"):
        summarise([torn])


def test_a_learned_cell_carries_what_its_record_says(learned_records, both):
    record = named(learned_records, "gru-short", 0)[3]
    cell = next(cell for cell in both.cells if cell.case_id == record["case_id"])
    assert (cell.engine, cell.family, cell.learned, cell.trained) == ("gru-short", "gru", True, (1, 6))
    assert [row.state_bits for row in cell.quantised] == [32 * bits for bits in (1, 2, 3, 4, 5, 6, 8)]
    assert cell.kept.state_bits == cell.size == 64
    assert cell.share == pytest.approx(record["result"]["bits_recalled"]["mean"] / 64)
    assert cell.verdict == score.row_verdicts(learned_records)[record["case_id"]]
    assert cell.errors == record["result"]["errors"]


def test_a_training_carries_what_its_record_says(learned_records, both):
    record = next(r for r in learned_records if r["kind"] == "training" and r["case"]["label"] == "rope")
    training = next(row for row in both.trainings if row.case_id == record["case_id"])
    result = record["result"]
    assert (training.engine, training.family, training.seed) == ("rope", "attention", 0)
    assert (training.lr, training.tried, training.steps) == (0.008, (0.004, 0.008), 1500)
    assert training.evaluations == tuple((seen, k, n) for _, seen, k, n in result["evaluations"])
    seen = [seen for seen, _ in training.losses]
    assert seen == pytest.approx([step * 64 for step, _ in result["losses"]])
    assert (training.to_solve, training.seconds) == ("41,000", 58.0)
    unsolved = [row for row in both.trainings if row.examples_to_solve is None]
    assert {row.to_solve for row in unsolved} == {"> 96,000"}


def test_the_kind_of_a_model_is_its_mixer():
    assert family({"name": "trained", "model": {"mixer": "gru"}}) == "gru"
    assert family({"name": "trained", "model": {"pattern": "MMMA", "preset": "tiny"}}) == "MMMA"
    layers = [{"mixer": "mamba"}, {"mixer": "attention"}, {"mixer": "mamba"}]
    assert family({"name": "trained", "model": {"layers": layers}}) == "mamba+attention"
    assert family({"name": "trained", "model": {"preset": "tiny"}}) == "trained"
    assert family({"name": "trained", "model": {"build": "some/file.py:build"}}) == "file"
    assert family({"name": "module", "build": "file.py:build", "seed": 0}) == "file"
    assert family({"name": "huggingface", "path": "some/path"}) == "huggingface"
    assert family({"name": "text_copy", "path": "some/path"}) == "text_copy"


def test_nested_options_read_as_calls():
    task = {"name": "copy", "vocab_size": 26}
    options = {
        "name": "trained",
        "model": {"mixer": "gru", "gru": {"width": 64}},
        "training": {"task": task, "lengths": [1, 32]},
    }
    assert full_label(options) == (
        "trained(model(gru(width=64), mixer='gru'), training(lengths=[1, 32], task=copy(vocab_size=26)))"
    )


def test_labels_of_models_are_short_without_the_names_of_a_suite(learned_records):
    summary = summarise(without_labels(learned_records))
    assert {"attention rope", "gru lengths=1,6", "mamba"} < set(summary.engines)
    assert {label.split()[0] for label in summary.engines} == {"attention", "gru", "mamba"}
    assert len(summary.engines) == 5
    assert max(map(len, summary.engines)) <= 40


def test_learned_engines_come_after_symbolic_ones(both):
    kinds = [cell.learned for cell in both.cells if cell.task == "copy D=26 uniform"]
    assert kinds == sorted(kinds)
    assert list(both.engines)[-5:] == ["hard-alibi", "rope", "gru", "gru-short", "mamba"]
    styles = style.engine_styles(both.cells)
    assert {label for label, style in styles.items() if style.edge} == set(list(both.engines)[-5:])


def test_more_kinds_than_colours_stay_apart():
    styles = style.shaded_styles({f"kind {place}": f"kind {place}" for place in range(20)})
    assert len({(style.colour, style.shape) for style in styles.values()}) == 20


def test_outcomes_are_one_a_seed(both):
    rows = [row for row in learned.outcomes(both) if row.cells[0].engine == "gru-short"]
    assert [row.cells[0].seed for row in rows] == [0, 1, 2]
    for row in rows:
        assert row.longest == 4
        assert row.verdicts == "copies 4, not generalised 8, state-limited 16–256"
        assert row.training.seed == row.cells[0].seed
        assert row.best.recalled[1] == max(cell.recalled[1] for cell in row.cells)
    shown = learned.outcome_row(rows[0])
    assert len(shown) == len(learned.OUTCOME_HEADINGS)
    assert shown[4:9] == ["4", "≥ 56.8", "≤ 64", "88.8%", "16"]


def test_an_open_verdict_has_a_question_mark(learned_records):
    some = copy.deepcopy(named(learned_records, "hard-alibi", 0))
    for record in some:
        record["result"]["strings"] = report_records.counted(200, 200)
    explained = " ".join(learned.OPEN.split()[:6])
    assert explained not in " ".join(printed(some).split())
    for record in some:
        if record["case"]["length"] == 64:
            record["result"]["strings"] = report_records.counted(191, 200)
    (row,) = learned.outcomes(summarise(some))
    assert row.verdicts == "copies 4–32, copies? 64, copies 128–256"
    assert row.longest == 256
    assert explained in " ".join(printed(some).split())


def test_models_without_known_bits_or_training(learned_records):
    some = copy.deepcopy(named(learned_records, "gru", 1)[:2])
    for record in some:
        record["result"] |= {"bits_recalled": None, "quantised": None, "h_min": None, "string_bound": None}
        del record["result"]["errors"]
        record["case"]["engine"] = {"name": "trained", "model": {"mixer": "gru"}}
    summary = summarise(some)
    (row,) = learned.outcomes(summary)
    assert row.training is None
    assert learned.outcome_row(row)[2:] == ["", "1", "none", "–", "–", "–", "–", "fails 4–8"]
    assert [type(chart).__name__ for chart in charts.build(summary)] == ["Missing", "Chart", "Missing", "Missing"]
    assert "fails 4–8" in printed(some)


def test_a_model_that_reads_text_has_no_tokens(records):
    (record,) = copy.deepcopy(
        [r for r in kept(records, name="ngram", n=2) if r["case"]["task"]["name"] == "text_copy"][:1]
    )
    record["case"] |= {"engine": {"name": "huggingface", "path": "some/path"}, "label": "path"}
    record["result"]["tokens"] = None
    summary = summarise([record])
    (cell,) = summary.cells
    assert (cell.tokens, cell.learned, cell.trained) == (None, True, None)
    headings, (row,), _ = cell_table(summary.cells)
    assert dict(zip(headings, row, strict=True))["tokens"] == "–"
    assert charts.strings(summary).panels[0].title == "text_copy: learned"
    printed([record])


def test_only_what_is_limited_by_its_state_is_evidence(learned_records):
    limited = summarise(named(learned_records, "gru-short"))
    assert learned.sentence(limited).startswith("21 rows of 3 models: copies 3, state-limited 15, not generalised 3.")
    assert "Nearest to the law comes gru-short" in learned.sentence(limited)
    others = learned.sentence(summarise(named(learned_records, "rope")))
    assert "state-limited 0" in others
    assert "no failure here is evidence for the theorem" in others


def test_the_law_is_held_against_quantised_states(learned_records):
    some = copy.deepcopy(named(learned_records, "gru-short", 0))
    cells = summarise(some).cells
    assert sentences.bits(cells).startswith("None of 7 cells recalls more bits than its state holds")
    assert "(learned ones: of the smallest quantised state that keeps 99% of them)" in sentences.bits(cells)
    row = some[3]["result"]["quantised"][0]
    row["bits_recalled"] |= {"mean": 40.0, "low": 39.0, "high": 41.0}
    assert sentences.bits(summarise(some).cells).startswith("1 of 7 cells recall more bits than their state holds")


def test_sentences_name_each_learned_engine(both):
    text = sentences.strings(both.cells)
    assert text.startswith("On copy D=2 uniform, at least half")
    assert "Learned engines copy at least 95% of the strings on copy D=26 uniform, by seed: hard-alibi" in text
    assert "hard-alibi (trained on L ≤ 32) to L = 64; rope (trained on L ≤ 32) to L = 16 to 32" in text
    assert "gru (trained on L ≤ 32) to L = 4 or at no length" in text
    text = learned.training(both.trainings)
    assert "hard-alibi after 17,000 (median of 3 seeds)" in text
    assert "rope after 37,000 to 41,000 (2 of 3 seeds)" in text
    assert "gru not within 96,000" in text


@pytest.mark.parametrize(
    ("lengths", "text"), [((1, 32), "L ≤ 32"), ((8, 32), "L = 8 to 32"), ((1, 1), "L = 1"), (None, "")]
)
def test_trained_lengths_in_words(lengths, text):
    assert learned.trained_on(lengths) == text


def test_charts_of_learned_models_come_where_there_are_some(drawn, summary):
    assert list(drawn) == ["bits", "strings", "training", "errors", "repeats", "tables"]
    assert charts.training(summary) is charts.errors(summary) is None


def layers(panel):
    return [layer.to_dict() for layer in panel.layers]


def rows_of(panel, layer):
    return panel.data[layer["data"]["name"]]


def test_the_chart_of_bits_has_both_kinds_and_the_quantised_states(drawn):
    chart = drawn["bits"]
    assert {"ngram-2", "prefix-8", "hard-alibi", "gru-short"} <= set(chart.series)
    (panel,) = chart.panels
    points = next(rows_of(panel, layer) for layer in layers(panel) if layer["mark"]["type"] == "point")
    by_engine = {row["engine"]: row for row in points}
    assert by_engine["gru-short"]["x"] == 64
    lines = next(rows_of(panel, layer) for layer in layers(panel) if layer["encoding"].get("x2"))
    ends = {(row["x"], row["end"]) for row in lines if row["engine"] == "gru-short"}
    assert ends == {(64, 1024)}
    assert "floating-point" in chart.note


def test_learned_engines_stand_beside_the_best_of_each_kind(both, drawn):
    chart = drawn["strings"]
    titles = [panel.title for panel in chart.panels]
    panel = chart.panels[titles.index("copy D=26 uniform: trained on L ≤ 32")]
    points = next(rows_of(panel, layer) for layer in layers(panel) if layer["mark"]["type"] == "point")
    assert {row["engine"] for row in points} == {
        *("hard-alibi", "rope", "gru", "mamba", "bounded-1024", "ngram-6", "prefix-20")
    }
    assert {row["dodge"] for row in points if row["engine"] == "rope"} == {-4, 0, 4}
    line = next(rows_of(panel, layer) for layer in layers(panel) if layer["mark"].get("strokeWidth") == 1.6)
    of_rope = {row["x"]: row["y"] for row in line if row["series"] == "rope"}
    shares = sorted(cell.strings.value for cell in both.cells if cell.engine == "rope" and cell.length == 32)
    assert of_rope[32] == shares[1]
    shade = next(layer for layer in layers(panel) if layer["mark"]["type"] == "rect")
    assert rows_of(panel, shade) == [{"x": 3.2, "end": 32}]
    assert "copy D=26 uniform: trained on L ≤ 6" in titles


def test_few_engines_share_a_panel_with_learned_ones(records, learned_records):
    few = kept(records, name="prefix") + named(learned_records, "rope")
    titles = [panel.title for panel in charts.strings(summarise(few)).panels if "D=26 uniform" in panel.title]
    assert titles == ["copy D=26 uniform: trained on L ≤ 32"]


def test_unsolved_trainings_are_told_apart(drawn):
    chart = drawn["training"]
    assert [panel.title for panel in chart.panels] == [
        "loss",
        "whole strings of the longest trained length",
        "examples to solve",
    ]
    last = chart.panels[-1]
    unsolved = next(layer for layer in layers(last) if layer["mark"].get("shape") == "triangle-right")
    assert {row["series"] for row in rows_of(last, unsolved)} == {"gru", "mamba", "gru-short", "rope"}
    assert {row["text"] for row in rows_of(last, unsolved)} == {"> 96,000"}
    ticks = next(layer for layer in layers(last) if layer["mark"]["type"] == "tick")
    assert {row["series"]: row["x"] for row in rows_of(last, ticks)} == {
        "hard-alibi": 17_000, "rope": 41_000, "gru-short": 90_000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.002, 20, [0.01, 0.1, 1, 10]),
        (150, 2500, [200, 500, 1000, 2000]),
        (28_000, 52_000, [30_000, 40_000, 50_000]),
        (28_800, 32_500, [29_000, 30_000, 31_000, 32_000]),
    ],
)
def test_a_narrow_axis_has_ticks_too(low, high, ticks):
    assert plots.log_ticks(low, high) == ticks


def test_curves_are_thinned_to_means():
    points = [(float(x), float(x % 2)) for x in range(1000)]
    thin = charts._thinned(points, most=100)
    assert len(thin) == 100
    assert all(y == 0.5 for _, y in thin)
    assert charts._thinned(points[:50]) == points[:50]


def test_errors_add_up_to_the_failures_of_the_sample(both, drawn):
    chart = drawn["errors"]
    assert [panel.title for panel in chart.panels] == ["hard-alibi", "rope", "gru", "gru-short", "mamba"]
    for panel in chart.panels:
        (rows,) = panel.data.values()
        for length in {row["length"] for row in rows}:
            cells = [c for c in both.cells if c.engine == panel.title and c.length == length]
            failed = sum(sum(learned.classes(cell).values()) for cell in cells)
            assert len(cells) == 3  # a seed without a failure counts too
            assert max(row["end"] for row in rows if row["length"] == length) == pytest.approx(failed / 48)
    assert "hard-alibi: jump" in chart.sentence


@pytest.mark.parametrize("form", [page, markdown])
def test_the_page_has_the_rules_and_every_model(both, drawn, learned_records, form, monkeypatch):
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda *_, **__: "")  # takes seconds
    text = html.unescape(form.render(both, list(drawn.values()), judge(score.verdicts(learned_records)), "again"))
    assert learned.EVIDENCE in text
    assert all(rule in text for rule in learned.RULES.values())
    assert all(row.case_id in text for row in [*both.cells, *both.trainings])
    assert text.count("state-limited 16–256") == 3
    assert "105 cells with a known source and 735 quantised states of learned models" in text


def test_the_table_of_cells_has_verdicts(both):
    headings, rows, numbers = cell_table(both.cells)
    assert headings == LEARNED_HEADINGS
    assert {len(row) for row in rows} == {len(headings)}
    assert headings[6] == "verdict"
    assert 6 not in numbers


def test_without_learned_engines_nothing_is_said_of_them(written, summary):
    for name in ("index.html", "report.md"):
        text = written[name].read_text("utf-8")
        assert not [word for word in ("earned model", "verdict</th>", "quantised", "trained") if word in text]
    assert cell_table(summary.cells)[0] == CELL_HEADINGS


def test_trainings_alone_are_a_report(learned_records):
    trainings = summarise([record for record in learned_records if record["kind"] == "training"])
    drawn = charts.build(trainings)
    assert {chart.key: isinstance(chart, plots.Chart) for chart in drawn} == {
        "bits": False, "strings": False, "training": True, "repeats": False, "tables": False,
    }  # fmt: skip
    text = markdown.render(trainings, drawn, judge(None), "again")
    assert learned.TITLE in text
    assert all(row.case_id in text for row in trainings.trainings)
    assert "verdict by length" not in text


def test_a_training_that_failed_has_no_length(learned_records):
    failed = {**learned_records[0], "kind": "error", "result": {"error": "NanLoss", "message": "at step 7"}}
    text = markdown.render(summarise([failed, *learned_records[20:]]), [], judge(None), "again")
    assert "| copy D=26 uniform | hard-alibi | – | NanLoss: at step 7 |" in text
    assert "hard-alibi L=–: NanLoss" in printed([failed, *learned_records[20:]])


def test_the_table_of_the_terminal_has_each_model(records, learned_records):
    text = printed([*records, *learned_records])
    assert max(map(len, text.splitlines())) <= 100
    line = next(line for line in text.splitlines() if "gru-short / 0" in line)
    assert line.split("6", 1)[1].split()[:3] == ["4", "90k", "56.8–64"]
    assert ">96k" in text
    assert learned.EVIDENCE[:40] in text
    strings = next(line for line in text.splitlines() if line.split()[:1] == ["rope"])
    shares = [
        r["result"]["strings"]["correct"] / 2 for r in named(learned_records, "rope") if r["case"]["length"] == 32
    ]
    assert f"32:{min(shares):g}–{max(shares):g} " in strings
