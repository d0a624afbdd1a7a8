"""The benchmarks measure, compare, judge and print what they claim to; no speed is tested."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import floors, svg
from benchmarks.__main__ import main
from benchmarks.groups import GROUPS, peers, writes
from benchmarks.measure import (
    Bar,
    Contender,
    Row,
    Sample,
    Section,
    Skipped,
    interleaved,
    latencies,
    looking_up,
    ns_in_window,
    ns_per_await,
    ns_per_call,
    race,
)
from benchmarks.report import WIDTH, WIDTHS, Report, bar_text, environment, number, quantity, summary, table
from benchmarks.workshop import Plan, Workshop, fill, fill_file, token, user_id
from tinyauthstore import MemoryAdapter, SQLiteAdapter

ROOT = Path(__file__).resolve().parent.parent

TINY = Plan(
    rounds=2,
    few_rounds=2,
    sessions=100,
    look_ups=20,
    writes=5,
    window=0.02,
    sizes=(50, 100),
    small_sizes=(50, 100),
    writers=(1, 2),
)


def measuring(*figures: float) -> Callable[[], Sample]:
    """What prepares a sample that returns these figures, one a round, over and over."""
    return lambda: itertools.cycle(figures).__next__


def skipping() -> Sample:
    raise Skipped("not today")


def section(*rows: Row, title: str = "Look-ups", floor: str = "bare", **more: Any) -> Section:
    return Section(title, floor, list(rows), **more)


def report(*sections: Section) -> Report:
    made = {
        "tinyauthstore": "1",
        "python": "CPython 3",
        "sqlite": "3",
        "journal_mode": "wal",
        "synchronous": "full",
    }
    made |= {"system": "Linux", "cpus": 2, "cpu": "a <fast> one", "filesystem": "ext4", "load": 0.5}  # type: ignore
    plan = {"rounds": 3, "few_rounds": 2, "look_ups": 500, "writes": 40}
    return Report({**made, "sessions": 10_000, "users": 2_000, "plan": plan}, list(sections))


SOME = report(
    section(
        Row("bare", [9_000.0, 9_100.0, 9_200.0], ours=False),
        Row("kept", [3_600.0, 3_640.0, 3_680.0], [0.40, 0.40, 0.41], Bar(0.5)),
        Row("not kept", [18_000.0, 18_000.0, 18_000.0], [2.0, 1.98, 1.96], Bar(1.35)),
        Row("elsewhere", note="skipped: not installed", bar=Bar(10, at_least=True), ours=False),
    )
)


# --- measuring --------------------------------------------------------------------------------


def test_a_ratio_is_that_of_two_neighbours_and_the_median_is_of_ratios() -> None:
    made = race(
        "",
        [Contender("floor", measuring(10, 20, 40)), Contender("other", measuring(20, 20, 20))],
        rounds=3,
        warm_up=False,
    )
    assert made.rows[1].ratios == [2.0, 1.0, 0.5]
    made = race(
        "",
        [Contender("floor", measuring(1, 4, 10)), Contender("other", measuring(3, 4, 5))],
        rounds=3,
        warm_up=False,
    )
    assert made.rows[1].ratio == 1.0  # of 3, 1, 0.5
    assert (made.rows[0].figure, made.rows[1].figure) == (4, 4)


def test_the_floor_is_measured_anew_right_before_each_contender() -> None:
    order: list[str] = []

    def noting(name: str) -> Contender:
        return Contender(name, lambda: lambda: float(order.append(name) or 1))  # type: ignore[func-returns-value]

    race("", [noting("floor"), noting("a"), noting("b")], rounds=2)
    assert order == ["floor", "a", "floor", "b"] * 3  # the first round warms up


def test_the_round_that_warms_up_does_not_count() -> None:
    assert interleaved([measuring(999, 1, 2)(), measuring(888, 3, 4)()], 2) == [[1, 2], [3, 4]]


def test_a_contender_that_cannot_run_says_why_and_stops_no_other() -> None:
    made = race(
        "",
        [
            Contender("floor", measuring(2)),
            Contender("gone", skipping, Bar(1)),
            Contender("here", measuring(4)),
        ],
        rounds=2,
    )
    _, gone, here = made.rows
    assert (gone.note, gone.figures, gone.passed) == ("skipped: not today", [], None)
    assert here.ratios == [2.0, 2.0]


def test_without_its_floor_a_row_has_a_time_and_no_ratio() -> None:
    made = race("", [Contender("floor", skipping), Contender("here", measuring(4), Bar(1))], rounds=2)
    assert (made.rows[1].figures, made.rows[1].ratio, made.rows[1].passed) == ([4, 4], None, None)


def test_a_look_up_that_answers_wrongly_is_no_figure() -> None:
    with pytest.raises(AssertionError, match="missed what is there"):
        looking_up({"a": 1}.get, ["a", "b"])
    with pytest.raises(AssertionError, match="found what is not there"):
        looking_up({"a": 1}.get, ["b", "a"], found=False)
    assert looking_up({"a": 1}.get, ["a"])() > 0


def test_the_garbage_collector_rests_while_time_is_taken_and_no_longer() -> None:
    seen = []
    assert gc.isenabled()
    ns_per_call(lambda _: seen.append(gc.isenabled()), [1, 2])
    assert (seen, gc.isenabled()) == ([False, False], True)
    with pytest.raises(ZeroDivisionError):
        ns_per_call(lambda item: 1 // item, [0])
    assert gc.isenabled()


def test_what_happens_before_a_call_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0]

    def passing(nanoseconds: int) -> None:
        clock[0] += nanoseconds

    monkeypatch.setattr("benchmarks.measure.perf_counter_ns", lambda: clock[0])
    assert latencies(passing, [10, 20, 30], before=lambda: passing(1_000)) == [10, 20, 30]
    assert ns_per_call(passing, [10, 20, 30]) == 20
    assert ns_in_window(passing, [10, 20, 30], seconds=100e-9) == 20
    assert clock[0] == 3_060 + 60 + 120  # the window ends after the pass in which its time was up


def test_what_is_awaited_is_timed_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0]

    async def passing(nanoseconds: int) -> None:
        clock[0] += nanoseconds

    monkeypatch.setattr("benchmarks.measure.perf_counter_ns", lambda: clock[0])
    assert asyncio.run(ns_per_await(passing, [10, 20, 30])) == 20


@pytest.mark.parametrize(
    ("bar", "figures", "ratios", "passed"),
    [
        (Bar(0.5), [1.0], [0.5], True),
        (Bar(0.5), [1.0], [0.51], False),
        (Bar(0.5), [1.0] * 3, [0.1, 0.4, 9.0], True),  # the median
        (Bar(10, at_least=True), [1.0], [10.0], True),
        (Bar(10, at_least=True), [1.0], [9.9], False),
        (Bar(50_000, "time"), [50_000.0], [99.0], True),
        (Bar(50_000, "time"), [50_001.0], [0.1], False),
        (None, [1.0], [1.0], None),
    ],
)
def test_a_bar_judges_the_median(
    bar: Bar | None, figures: list[float], ratios: list[float], passed: bool | None
) -> None:
    assert Row("row", figures, ratios, bar).passed is passed


# --- printing ---------------------------------------------------------------------------------


def test_the_table_has_the_ratio_first_the_time_second_and_a_verdict() -> None:
    assert list(table(SOME.sections[0])) == [
        "Look-ups",
        "                                     ratio    time        spread       bar",
        "  bare                               floor 9.10 us    9.00..9.20",
        "  kept                                0.40 3.64 us    0.40..0.41    <= 0.5 pass",
        "  not kept                            1.98 18.0 us    1.96..2.00   <= 1.35 MISS",
        "  elsewhere                          skipped: not installed",
    ]


def test_the_table_names_a_floor_that_is_no_row_of_its() -> None:
    lines = list(table(section(Row("8 readers", [4.0], [2.0]), floor="as many bare connections")))
    assert "to as many bare connections" in lines[1]


def test_a_table_fits_a_terminal() -> None:
    widest = Row("x" * 34, [999_499_999.0] * 2, [0.9994, 99.94], Bar(500_000, "time"))
    assert max(map(len, table(section(Row("bare", [1.0, 2.0]), widest)))) <= WIDTH <= 80


@pytest.mark.parametrize(
    ("value", "printed"),
    [(0.0042, "0.004"), (0.4, "0.40"), (9.99, "9.99"), (12.34, "12.3"), (123.4, "123"), (12345, "12,345")],
)
def test_numbers_have_the_digits_that_mean_something(value: float, printed: str) -> None:
    assert number(value) == printed


@pytest.mark.parametrize(
    ("value", "unit", "printed"),
    [
        (27, "ns", "27.0 ns"),
        (9_120, "ns", "9.12 us"),
        (1_500_000, "ns", "1.50 ms"),
        (2e9, "ns", "2.00 s"),
        (131, "bytes", "131 B"),
        (4_200, "bytes", "4.20 kB"),
    ],
)
def test_quantities_have_a_unit_that_fits(value: float, unit: str, printed: str) -> None:
    assert quantity(value, unit) == printed


@pytest.mark.parametrize(
    ("bar", "printed"),
    [(Bar(0.5), "<= 0.5"), (Bar(10, at_least=True), ">= 10"), (Bar(5e5, "time"), "<= 500 us")],
)
def test_bars_are_printed_as_people_write_them(bar: Bar, printed: str) -> None:
    assert bar_text(bar) == printed


def test_the_summary_counts_the_bars_and_names_those_that_were_missed() -> None:
    first, *missed = summary(SOME)
    assert first == "Bars: 1 of 2 met, missed:"
    assert missed == ["  1.98 where <= 1.35 was wanted: not kept (Look-ups)"]


def test_the_environment_is_asked_of_a_real_store(tmp_path: Path) -> None:
    found = environment(tmp_path, TINY)
    assert (found["journal_mode"], found["synchronous"], found["sessions"]) == ("wal", "full", 100)
    assert found["python"].endswith(".".join(map(str, sys.version_info[:3])))
    assert str(tmp_path) not in json.dumps(found)


def test_json_holds_every_figure_and_reads_back_the_same() -> None:
    text = SOME.to_json()
    assert Report.from_json(text) == SOME
    row = json.loads(text)["sections"][0]["rows"][2]
    assert (row["figures"], row["figure"], row["ratio"], row["passed"]) == (
        [18_000.0] * 3,
        18_000.0,
        1.98,
        False,
    )


# --- drawing ----------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"

DRAWN = report(
    section(
        Row(floors.BARE_JOIN, [9_000.0], ours=False),
        Row("dict & <others>", [90.0], [0.01], ours=False),
        Row("kept", [3_600.0], [0.4]),
        Row("gone", note="skipped: not installed"),
        chart="ratios",
    ),
    section(
        Row("ours", [3_600.0]),
        Row(floors.BARE_JOIN, [9_000.0], [2.5]),
        Row("a peer", [90_000.0], [25.0]),
        chart="ratios",
    ),
    *(
        section(
            Row("", [base], size=1_000),
            Row("", [base * 2], [2.0], size=1_000_000),
            chart="sizes",
            label=label,
        )
        for label, base in (("cold", 12_000.0), ("warm", 3_000.0), ("lukewarm", 3_001.0), ("tepid", 3_002.0))
    ),
)


@pytest.fixture
def drawing() -> ElementTree.Element:
    """The drawing of DRAWN, which is well-formed XML."""
    return ElementTree.fromstring(svg.drawing(DRAWN))


def words(drawing: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The texts of a drawing, by what they say."""
    return {element.text or "": element for element in drawing.iter(f"{SVG}text")}


def test_the_drawing_has_a_bar_for_each_measured_row_against_the_bare_select(
    drawing: ElementTree.Element,
) -> None:
    assert len(list(drawing.iter(f"{SVG}rect"))) == 4
    said = words(drawing)
    assert "dict & <others>" in said and "gone" not in said
    assert "10.0  (90.0 us)" in said  # the peer: 25 times ours, which is 1 / 2.5 of the bare SELECT
    assert "0.40  (3.60 us)" in said


def test_bars_start_at_one_and_go_left_where_a_row_is_faster(drawing: ElementTree.Element) -> None:
    one = float(words(drawing)["1"].get("x", ""))
    spans = [(float(r.get("x", "")), float(r.get("width", ""))) for r in drawing.iter(f"{SVG}rect")]
    fastest, *_, slowest = spans
    assert sum(fastest) == pytest.approx(one, abs=0.2) and slowest[0] == pytest.approx(one, abs=0.2)
    assert fastest[0] < one < sum(slowest)


def test_the_drawing_has_a_line_for_each_series_and_no_name_covers_another(
    drawing: ElementTree.Element,
) -> None:
    assert len(list(drawing.iter(f"{SVG}polyline"))) == 4
    heights = sorted(
        float(words(drawing)[label].get("y", "")) for label in ("cold", "warm", "lukewarm", "tepid")
    )
    assert min(b - a for a, b in itertools.pairwise(heights)) >= svg.LINE


def test_the_drawing_needs_nothing_from_elsewhere_and_knows_dark_pages() -> None:
    text = svg.drawing(DRAWN)
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"https?://\S+?(?=\")|@import|@font-face|url\(|href", text) == [
        "http://www.w3.org/2000/svg"
    ]


def test_a_chart_without_figures_says_so() -> None:
    assert svg.drawing(report()).count("Not measured in this run.") == 2


# --- what is measured -------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    """A workshop with very little in it."""
    with Workshop(TINY, tmp_path) as shop:
        yield shop


def test_a_file_filled_with_sql_is_what_the_store_itself_would_have_made(tmp_path: Path) -> None:
    fill_file(tmp_path / "auth", 100)
    with (
        SQLiteAdapter(tmp_path / "auth", purge_interval=None) as file,
        MemoryAdapter(purge_interval=None) as made,
    ):
        fill(made, 100)
        assert file.check() == []
        for number in range(20):
            assert file.get_user(user_id(number)) == made.get_user(user_id(number)) is not None
            assert file.list_accounts(user_id(number)) == made.list_accounts(user_id(number)) != []
        for number in (0, 99, 100, 109, 110):
            ours, theirs = (store.get_session_and_user(token(number)) for store in (file, made))
            assert (ours is None) is (theirs is None) is (number >= 100)
            if ours is not None and theirs is not None:
                assert (ours.user, ours.session.expires) == (theirs.user, theirs.session.expires)


def test_the_floor_selects_the_fields_of_the_session_and_its_user(shop: Workshop) -> None:
    with floors.opened(shop.filled("SQLite file", 100)) as connection:
        row = floors.select(connection, floors.JOIN)((floors.digest(7),))
    found = shop.store("SQLite file").get_session_and_user(token(7))
    assert found is not None
    session, user = found
    assert row[0] == row[3] == session.user_id
    assert row[1:3] == tuple(map(floors.microseconds, (session.expires, session.created_at)))  # type: ignore[arg-type]
    assert row[4:7] == (user.email, user.name, user.image)


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_the_floor_is_as_durable_as_the_store(durability: Any, tmp_path: Path) -> None:
    path = tmp_path / "auth"
    with (
        closing(SQLiteAdapter(path, durability=durability)) as store,
        floors.opened(path, durability) as bare,
    ):
        for pragma in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "temp_store"):
            (theirs,) = bare.execute(f"PRAGMA {pragma}").fetchone()
            (ours,) = store._connection.execute(f"PRAGMA {pragma}").fetchone()  # type: ignore[union-attr]
            assert (pragma, theirs) == (pragma, ours)


def test_the_bare_insert_is_committed_when_it_returns(shop: Workshop) -> None:
    path = shop.copy("SQLite file", 100)
    with floors.opened(path) as writer, floors.opened(path) as reader:
        (row,) = floors.new_sessions(100, 1)
        floors.insert(writer)(row)
        assert floors.select(reader, floors.SESSION)(row[:1]) == row[1:]


@pytest.mark.parametrize("operation", writes.OPERATIONS.values(), ids=writes.OPERATIONS)
def test_each_measured_write_writes(operation: Any, shop: Workshop) -> None:
    with SQLiteAdapter(shop.copy("SQLite file", 100), **writes.WRITING) as store:
        call, items = operation(store, 100, 5)
        connection = store._connection
        assert connection is not None
        for item in items:
            before = connection.total_changes
            assert call(item)
            assert connection.total_changes > before
    assert len(items) == 5


def test_peers_that_are_not_installed_are_skipped(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sqlalchemy", "django", "diskcache", "fastapi_users"):
        monkeypatch.setitem(sys.modules, module, None)
    rows = [row for section in peers.sections(shop) for row in section.rows[-len(peers.PEERS) :]]
    assert {row.note for row in rows} == {"skipped: not installed"}
    assert len(rows) == 8


# --- the command line -------------------------------------------------------------------------


def test_one_group_runs_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, drawn = tmp_path / "figures.json", tmp_path / "drawn.svg"
    assert main(["--only", "lookups", "async", "--json", str(figures), "--svg", str(drawn)], TINY) == 0
    printed = capsys.readouterr()
    assert printed.err == ""  # no progress line in a pipe
    assert re.search(r"^  SQLite file, warm +\d+\.\d+ +[\d.]+ \w+ .* <= 0\.5 (pass|MISS)$", printed.out, re.M)
    assert [line for line in printed.out.splitlines() if len(line) > WIDTH or not line.isascii()] == []
    made = Report.from_json(figures.read_text())
    assert {section.group for section in made.sections} == {"lookups", "async"}
    assert all(len(row.figures) >= 2 or row.note.startswith("skipped") for row in made.rows)
    assert "dict" in words(ElementTree.fromstring(drawn.read_text()))


@pytest.mark.soak
@pytest.mark.parametrize("group", GROUPS)
def test_every_group_runs_and_every_line_fits(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", group], TINY) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > WIDTH or not line.isascii()] == []
    measured = itertools.takewhile(lambda line: "Bars:" not in line, lines)
    rows = [row for row in measured if row[:2] == "  " and "skipped" not in row]
    end = WIDTHS["what"] + 1 + WIDTHS["ratio"]  # where the ratios end, unless a name is too long
    assert rows and [row for row in rows if row[end - 1] == " " or row[end] != " "] == []


def test_an_earlier_run_is_shown_again_and_a_miss_fails_only_when_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = tmp_path / "figures.json"
    earlier.write_text(SOME.to_json())
    assert main(["--from", str(earlier)]) == 0
    printed = capsys.readouterr().out
    assert "\n".join(table(SOME.sections[0])) in printed and "Bars: 1 of 2 met" in printed
    assert main(["--from", str(earlier), "--strict"]) == 1


def test_a_file_that_could_not_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "async", "--json", str(tmp_path / "nowhere" / "figures.json")], TINY)
    printed = capsys.readouterr()
    assert (printed.out, "not a file in a directory that exists" in printed.err) == ("", True)


def test_an_unknown_group_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "everything"], TINY)
    message = capsys.readouterr().err
    assert "'everything'" in message and all(group in message for group in GROUPS)


def test_an_unknown_option_is_refused_as_a_user_meets_it() -> None:
    command = [sys.executable, "-W", "error", "-m", "benchmarks", "--fast"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1] == "python -m benchmarks: error: unrecognized arguments: --fast"
