"""The report of the theory: rows, the law, the frontier, tables, claims."""

import copy
import html
import io
import math

import numpy as np
import pytest
import report_records
from rich.console import Console

from ngram_copy import report, score, theory
from ngram_copy.report import charts, laws, markdown, memory, page
from ngram_copy.report.labels import family
from ngram_copy.report.summary import summarise
from ngram_copy.report.verdict import judge


@pytest.fixture(scope="module")
def records():
    return report_records.make_theory()


@pytest.fixture(scope="module")
def summary(records):
    return summarise(records)


def of(records, statistic, **case):
    return [
        r for r in records
        if r["kind"] == "statistic" and r["case"]["statistic"] == statistic and case.items() <= r["case"].items()
    ]  # fmt: skip


def rows_of(panel, mark):
    """The rows of the layers with a mark, by panel."""
    layers = [layer.to_dict() for layer in panel.layers]
    found = [
        layer
        for layer in layers
        if (layer["mark"] if isinstance(layer["mark"], str) else layer["mark"]["type"]) == mark
    ]
    return [row for layer in found for row in panel.data[layer["data"]["name"]]]


# --- rows -----------------------------------------------------------------------------------------------


def test_each_record_is_a_row(records, summary):
    assert len(summary.half_lengths) == len(of(records, "half-length"))
    assert len(summary.agreements) == len(of(records, "agreement"))
    assert len(summary.censuses) == len(of(records, "census"))
    assert len(summary.precisions) == len(of(records, "precision"))
    assert summary.repeats == []


def test_a_half_length_carries_what_its_record_says(records, summary):
    (record,) = of(records, "half-length", n=4, task=report_records.uniform(26))
    row = next(row for row in summary.half_lengths if row.case_id == record["case_id"])
    result = record["result"]
    assert (row.series, row.heads, row.parameters, row.cut_bits) == (
        "D=26", 4, result["parameters"], result["cut_bits"],
    )  # fmt: skip
    assert (row.half.value, row.half.low, row.half.high) == tuple(result["half"].values())
    assert row.formula == result["formula"]
    assert row.transformer.count == f"{result['transformer']['correct']}/{result['transformer']['strings']}"


def test_rows_do_not_depend_on_the_order_of_records(records, summary):
    backwards = summarise(records[::-1])
    for kind in ("half_lengths", "agreements", "censuses", "precisions"):
        assert getattr(backwards, kind) == getattr(summary, kind)


def test_a_length_that_was_not_reached_is_none(records):
    record = copy.deepcopy(of(records, "half-length")[0])
    record["result"] |= {"half": None, "one_percent": {"value": None, "low": None, "high": None}, "cut_bits": None}
    (row,) = summarise([record]).half_lengths
    assert (row.half, row.one_percent) == (None, None)
    assert "–" in markdown.render(summarise([record]), [], [], "again")
    chart = laws.law(summarise([record]))
    assert [panel.title for panel in chart.panels] == [laws.BY_HEADS, "by bits of the parameters"]


def test_a_statistic_that_the_report_does_not_know_is_left_out(records):
    record = copy.deepcopy(of(records, "census")[0])
    record["case"]["statistic"] = "another"
    assert summarise([record]).censuses == []


@pytest.mark.parametrize(
    ("statistic", "field"),
    [("half-length", "cut_bits"), ("agreement", "rule_strings"), ("census", "rows"), ("precision", "limit")],
)
def test_a_field_that_is_missing_is_named(records, statistic, field):
    record = copy.deepcopy(of(records, statistic)[0])
    del record["result"][field]
    with pytest.raises(ValueError, match=f"record {record['case_id']} of kind 'statistic' lacks the field '{field}'"):
        summarise([record])


# --- the law --------------------------------------------------------------------------------------------


def test_the_law_has_three_panels(summary):
    chart = laws.law(summary)
    assert [panel.title for panel in chart.panels] == ["by heads", "by bits of the parameters", "by bits at the cut"]
    assert list(chart.series) == ["D=2", "D=4", "D=26", "D=64", "text_copy"]


def test_points_and_formulas_of_the_law_stand_where_the_records_say(records, summary):
    heads, bits, cut = laws.law(summary).panels
    (record,) = of(records, "half-length", n=8, task=report_records.uniform(4))
    result = record["result"]
    for panel, x in ((heads, 8), (bits, 32 * result["parameters"]), (cut, result["cut_bits"])):
        here = [row for row in rows_of(panel, "point") if row["series"] == "D=4" and row["x"] == x]
        errors = {"1/2", "1%"} if panel is not cut else {"1/2"}
        assert {row["error"] for row in here if "error" in row} == errors
        (half,) = [row for row in here if row.get("error") == "1/2"]
        assert [half[key] for key in ("y", "low", "high")] == list(result["half"].values())
    for panel, x in ((heads, 8), (bits, 32 * result["parameters"])):
        lines = [row["y"] for row in rows_of(panel, "line") if row["series"] == "D=4" and row["x"] == x]
        assert sorted(lines) == sorted(result["formula"].values())


def test_beside_bits_at_the_cut_stands_what_the_bound_allows(summary):
    cut = laws.law(summary).panels[2]
    lines = rows_of(cut, "line")
    assert {row["series"] for row in lines} == {"D=2", "D=4", "D=26", "D=64"}
    for row in lines:
        assert row["y"] == theory.max_copy_length(row["x"], int(row["series"][2:]))
    shown = rows_of(cut, "point")
    assert min(row["x"] for row in lines) == min(row["x"] for row in shown)
    assert max(row["x"] for row in lines) == pytest.approx(max(row["x"] for row in shown))


def test_the_caption_claims_no_more_than_the_theory(summary):
    note = laws.law(summary).note
    assert "different resources" in note
    assert "bit for bit of memory the machine that keeps the first tokens copies longer" in note
    assert "nothing is claimed of other transformers" in note
    assert "below Dⁿ = 1000 exact counts" in note


def test_the_sentence_has_the_slopes_beside_half_of_log_d(summary):
    text = laws.law(summary).sentence
    for series, slope in laws.slopes_of(summary.half_lengths).items():
        assert slope.expected == math.log2(int(series[2:])) / 2
        assert (
            f"{slope.value:.3f} ({slope.low:.3f} to {slope.high:.3f}) beside {slope.expected:.3f} at {series}" in text
        )


def test_trained_transformers_stand_by_the_heads_of_their_first_layer(summary):
    models = laws.trained_heads(summary.cells)
    assert [(model.heads, model.seed) for model in models] == [(h, s) for h in range(1, 7) for s in (0, 1)]
    for model in models:
        measured = [cell for cell in summary.cells if (cell.engine, cell.seed) == (model.engine, model.seed)]
        half = [cell.length for cell in measured if cell.strings.value >= 0.5]
        assert model.longest == max(half, default=0)
        assert (model.series, model.measured) == ("D=2", 32)
    crosses = [row for row in rows_of(laws.law(summary).panels[0], "point") if "error" not in row]
    assert {(row["x"], row["y"], row["seed"]) for row in crosses} == {
        (model.heads, model.longest, model.seed) for model in models if model.longest
    }
    assert (
        "Trained transformers at D=2, longest L by heads and seed: 1: 4, none; 2: 8, 4;" in laws.law(summary).sentence
    )


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        ({"mixer": "attention", "attention": {"n_heads": 3}}, 3),
        ({"layers": [{"mixer": "attention", "n_heads": 5}, {"mixer": "attention", "n_heads": 1}]}, 5),
        ({"mixer": "gru", "gru": {"width": 8}}, None),
    ],
)
def test_heads_of_the_first_layer(model, heads):
    assert laws.first_heads({"name": "trained", "model": model}) == heads
    assert laws.first_heads({"name": "ngram", "n": 3}) is None


def test_a_model_of_one_length_is_no_point_of_the_law(records):
    one = [r for r in records if r["kind"] != "accuracy" or r["case"]["length"] in {4, 64}]
    assert laws.trained_heads(summarise(one).cells) == []


# --- slopes ---------------------------------------------------------------------------------------------


def test_a_slope_is_that_of_a_line_and_its_interval_covers_it():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        points = []
        for n in range(24, 44, 2):
            length = 2.0 ** (0.5 * n + 0.7 + 0.01 * rng.normal())
            wide = 2.0 ** (0.01 * 1.959963984540054)
            points.append((n, n + length, n + length / wide, n + length * wide))
        slope = score.half_length_slope(points, 2)
        covered += slope.low <= 0.5 <= slope.high
        assert slope.value == pytest.approx(0.5, abs=0.004)
    assert 180 <= covered <= 199


def test_wide_intervals_weigh_little():
    exact = [(n, n + 2.0**n, n + 2.0**n / 1.01, n + 2.0**n * 1.01) for n in (10, 11, 12)]
    astray = (13, 13 + 2.0**9, 13 + 2.0**5, 13 + 2.0**13)
    assert score.half_length_slope([*exact, astray], 4).value == pytest.approx(1, abs=0.01)


def test_short_strings_are_uncertain_by_a_token():
    def slope(off):
        exact = [(n, n + 2.0 ** (n / 2), n + 2.0 ** (n / 2), n + 2.0 ** (n / 2)) for n in (12, 16, 20, 24)]
        n, value, *_ = exact[0]
        return score.half_length_slope([(n, value - off, value - off, value - off), *exact[1:]], 2)

    assert slope(0).value == pytest.approx(0.5)
    assert slope(1).low < 0.5 < slope(1).value
    assert slope(8).value - 0.5 < 0.001  # and weigh little
    steep = [(n, n + 2.0 ** (0.55 * n), n + 2.0 ** (0.55 * n), n + 2.0 ** (0.55 * n)) for n in (12, 16, 20, 24)]
    assert score.half_length_slope(steep, 2).low > 0.5


def test_one_length_has_no_slope():
    assert score.half_length_slope([(3, 100.0, 90.0, 110.0)], 26) is None


# --- the frontier ---------------------------------------------------------------------------------------


def test_the_frontier_is_drawn_where_machines_of_declared_bits_are(records, summary):
    chart = memory.frontier(summary)
    (panel,) = chart.panels
    assert panel.title == "copy D=2 uniform, L = 64"
    without = [
        r for r in records
        if r["kind"] == "statistic" or not {"delay-line", "bottleneck"} & {family(r["case"]["engine"])}
    ]  # fmt: skip
    assert memory.frontier(summarise(without)) is None


def test_the_law_of_the_frontier_ends_at_the_bits_of_a_string(summary):
    (panel,) = memory.frontier(summary).panels
    line = rows_of(panel, "area")
    assert [row["y"] for row in line] == [min(row["x"], 64) for row in line]
    assert len(line) == 3
    assert line[1]["x"] == 64


def test_every_state_is_a_point_of_its_kind(records, summary):
    chart = memory.frontier(summary)
    points = rows_of(chart.panels[0], "point")
    here = [r for r in records if r["kind"] == "accuracy" and r["case"]["length"] == 64]
    assert sorted(row["x"] for row in points) == sorted(r["result"]["state_bits"] for r in here)
    assert set(chart.series) == {
        *("prefix", "delay-line", "learned b-bit machine"),
        *(f"bounded, {eviction}, {keys}" for eviction in ("keep first", "overwrite")
          for keys in ("unverified", "8-bit keys")),
    }  # fmt: skip
    assert chart.series["learned b-bit machine"].edge


def test_rounded_states_of_a_trained_model_are_its_points(records):
    made = report_records.learned_cell("gru-short", 64, 0, np.random.default_rng(0))
    made["case"]["task"] = report_records.uniform(2)
    made["result"]["h_min"] = 64.0
    chart = memory.frontier(summarise([*records, made]))
    mine = [row for row in rows_of(chart.panels[0], "point") if row["series"] == "gru-short"]
    assert [(row["x"], row["y"]) for row in mine] == [
        (row["state_bits"], max(1.0, row["bits_recalled"]["mean"])) for row in made["result"]["quantised"]
    ]


def test_a_state_above_the_law_is_counted(records):
    assert "none of 23 states recalls more than the law allows" in memory.frontier(summarise(records)).sentence
    some = copy.deepcopy(records)
    broken = next(r for r in some if r["case"]["label"] == "delay-line-1")
    broken["result"]["bits_recalled"].update(mean=70.0, low=68.0, high=72.0)
    assert "1 of 23 states recall more than the law allows" in memory.frontier(summarise(some)).sentence


def test_each_task_has_the_length_at_which_most_engines_meet(records):
    short = copy.deepcopy([r for r in records if r["case"]["label"] in {"delay-line-1", "prefix-4", "prefix-16"}])
    for record in short:
        record["case"]["length"] = 8
    other = copy.deepcopy(short)
    for record in other:
        record["case"]["task"] = report_records.uniform(4)
    chart = memory.frontier(summarise([*other, *records, *short]))
    assert [panel.title for panel in chart.panels] == ["copy D=2 uniform, L = 64", "copy D=4 uniform, L = 8"]


def test_transformers_of_the_law_are_not_on_the_frontier(records, summary):
    assert not [series for series in memory.frontier(summary).series if series.startswith("heads")]
    some = copy.deepcopy(records)
    cells = [r for r in some if r["kind"] == "accuracy" and r["case"]["label"].startswith("heads-6")]
    for record in cells:
        record["case"]["length"] *= 2
    assert not [series for series in memory.frontier(summarise(some)).series if series.startswith("heads")]
    without = [r for r in some if r["kind"] == "accuracy"]
    assert "heads-6-d2" in memory.frontier(summarise(without)).series


def test_a_bottleneck_is_a_kind_of_its_own():
    assert family({"name": "trained", "model": {"bottleneck": 32, "mixer": "gru"}}) == "bottleneck"


# --- claims ---------------------------------------------------------------------------------------------

CLAIMS = {
    "agreement": "The constructed transformer is the n-gram copier.",
    "census": "No engine copies more strings than it has states at the cut.",
    "half-length": "The longest copy, L½, follows the formula.",
}


def claim(records, statistic):
    (found,) = [v for v in judge(score.verdicts(records)) if v.claim == CLAIMS[statistic]]
    return found


def test_all_claims_hold(records):
    found = judge(score.verdicts(records))
    assert [v.word for v in found if v.claim in CLAIMS.values()] == ["holds"] * 3


def test_the_evidence_is_the_sum_of_the_counts(records):
    results = [r["result"] for r in of(records, "agreement")]
    positions = sum(r["positions"] + r["swapped"]["positions"] for r in results)
    text = claim(records, "agreement").evidence
    assert f"0 disagreements on {positions:,} determined positions" in text
    assert f"of {sum(r['rule_strings'] for r in results):,} whole copies" in text


@pytest.mark.parametrize("change", [{"disagreements": 1}, {"rule_disagreements": 1},
                                    {"swapped": {"positions": 5, "disagreements": 1}}])  # fmt: skip
def test_one_disagreement_refutes(records, change):
    some = copy.deepcopy(of(records, "agreement"))
    some[3]["result"] |= change
    assert claim(some, "agreement").word == "FAILS"


@pytest.mark.parametrize("counted", ["copied", "free"])
def test_one_string_more_than_states_refutes(records, counted):
    some = copy.deepcopy(of(records, "census"))
    row = some[0]["result"]["rows"][4]
    row[counted] = row["states"] + 1
    found = claim(some, "census")
    assert found.word == "FAILS"
    assert f"is {(row['states'] + 1) / row['states']:.4g}" in found.evidence
    assert f"L = {row['length']}" in found.evidence


@pytest.mark.parametrize(
    ("measured", "formula", "fits"),
    [(104.0, 100.0, True), (104.1, 100.0, False), (95.9, 100.0, False), (6.0, 5.0, True), (7.0, 5.0, False)],
)
def test_the_tolerance_is_a_token_and_three_percent(measured, formula, fits):
    assert score.half_length_fits(measured, formula) is fits


def test_a_length_far_from_the_formula_refutes_and_is_named(records):
    some = copy.deepcopy(of(records, "half-length"))
    record = next(r for r in some if r["case"]["n"] == 12 and r["case"]["task"] == report_records.uniform(4))
    record["result"]["half"]["value"] *= 1.1
    found = claim(some, "half-length")
    assert found.word == "FAILS"
    assert "furthest off: D = 4, n = 12" in found.evidence
    small = copy.deepcopy(of(records, "half-length"))
    small[0]["result"]["half"]["value"] += 3
    assert claim(small, "half-length").word == "FAILS"


def test_real_text_is_held_against_no_formula(records):
    text = [r for r in of(records, "half-length") if r["case"]["task"]["name"] == "text_copy"]
    assert [v for v in judge(score.verdicts(text)) if v.claim == CLAIMS["half-length"]] == []
    assert laws.slopes_of(summarise(text).half_lengths) == {}


def test_without_such_records_the_report_is_as_before():
    others = report_records.make()
    found = score.verdicts(others)
    assert not {"agreement", "census", "half_length"} & set(found)
    assert len(judge(found)) == 4
    summary = summarise(others)
    assert laws.tables(summary) == []
    assert [chart.key for chart in charts.build(summary)] == ["bits", "strings", "repeats", "tables"]


# --- what is written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [page, markdown])
def test_every_record_is_in_the_page(records, summary, form, monkeypatch):
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda *_, **__: "")  # takes seconds
    drawn = charts.build(summary)
    assert [chart.key for chart in drawn][:3] == ["bits", "frontier", "strings"]
    text = html.unescape(form.render(summary, drawn, judge(score.verdicts(records)), "again"))
    assert all(r["case_id"] in text for r in records if r["kind"] == "statistic")
    for table in laws.tables(summary):
        assert table.title in text
        assert {len(row) for row in table.rows} == {len(table.headings)}
        assert max(table.numbers) < len(table.headings)
    assert [table.key for table in laws.tables(summary)] == [
        "half-lengths", "slopes", "agreements", "censuses", "precisions",
    ]  # fmt: skip


def test_the_charts_are_written_for_a_paper(records, tmp_path):
    files = report.write(
        of(records, "half-length")[:6] + list(report_records.frontier(np.random.default_rng(3))), tmp_path
    )
    for key in ("law", "frontier"):
        assert "<svg" in files[f"charts/{key}.svg"].read_text("utf-8")[:200]
        assert files[f"charts/{key}.pdf"].read_bytes().startswith(b"%PDF-")


def test_a_census_says_where_most_of_the_states_are_copied(summary):
    (row,) = [row for row in summary.censuses if row.engine == "bounded"]
    shares = {length: copied / states for length, _, states, copied in row.rows}
    share, at = row.largest
    assert share == shares[at] == max(shares.values())
    table = next(table for table in laws.tables(summary) if table.key == "censuses")
    assert len(table.rows) == sum(len(row.rows) for row in summary.censuses)


def test_a_first_failure_is_told_with_its_counts(summary):
    table = next(table for table in laws.tables(summary) if table.key == "precisions")
    shown = {row[1]: row for row in table.rows}
    assert shown["bfloat16"][5:8] == ["360", "3 of 5,000", "72"]
    assert shown["float32"][5:8] == ["none", "–", "–"]


def test_the_terminal_fits_100_columns(records):
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(report.table(records, verdicts=score.verdicts(records)))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    (record,) = of(records, "half-length", n=5, task=report_records.uniform(64))
    half = record["result"]["half"]
    assert f"{half['value']:,} ({half['low']:,} to {half['high']:,})" in text
    assert "½·log2 D = 3.000" in text
    assert "100% at L = 1" in text
