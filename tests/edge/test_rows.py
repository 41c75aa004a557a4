"""Data files: what is read, and what is refused with line and field."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitfrozen.errors import DataError
from splitfrozen_edge.data.records import parse_object
from splitfrozen_edge.data.rows import Source, read_rows, survey
from splitfrozen_edge.data.shapes import parse_fields

FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda s: s.strip())
LABEL = TEXT.map(str.strip).filter(lambda s: s != "-1")


def read(path: Path, task: str | None = None, fields: str = "") -> list[tuple[int, dict[str, Any]]]:
    source = Source(path, task, parse_fields([fields]) if fields else None)
    return [(row.line, dict(row.fields)) for row in read_rows(source)]


def complaint(path: Path, text: str | bytes, task: str | None = None) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        survey(Source(path, task))
    return str(caught.value)


@FILES
@given(rows=st.lists(st.tuples(TEXT, LABEL), min_size=1, max_size=8), gaps=st.booleans())
def test_jsonl_gives_back_what_was_written(
    tmp_path: Path, rows: list[tuple[str, str]], gaps: bool
) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    path = tmp_path / "data.jsonl"
    path.write_text(("\n\n" if gaps else "\n").join(lines), encoding="utf-8", newline="")
    step = 2 if gaps else 1
    expected = [
        (1 + step * i, {"text": text, "label": label}) for i, (text, label) in enumerate(rows)
    ]
    assert read(path) == expected


@FILES
@given(rows=st.lists(st.tuples(TEXT, LABEL), min_size=1, max_size=8))
def test_csv_gives_back_what_was_written_with_true_lines(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path / "data.csv"
    expected = []
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "label"])
        line = 2
        for text, label in rows:
            writer.writerow([text, label])
            expected.append((line, {"text": text, "label": label}))
            line += 1 + text.count("\n") + label.count("\n")
    assert read(path) == expected


@FILES
@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".csv", ".tsv"]))
def test_any_bytes_give_rows_or_a_complaint(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_bytes(data)
    try:
        assert survey(Source(path)).rows > 0
    except DataError as error:
        assert str(path) in str(error)


def test_a_quoted_line_break_does_not_shift_the_lines_below(tmp_path: Path) -> None:
    text = 'text,label\n"one\ntwo",a\n"x",b\n,c\n'
    assert complaint(tmp_path / "d.csv", text).endswith("d.csv:5: text: is empty")


def test_crlf_and_a_byte_order_mark_are_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_bytes(b"\xef\xbb\xbfsentence\tlabel\r\nfine\t1\r\n")
    assert read(path) == [(2, {"text": "fine", "label": "1"})]


def test_a_quote_in_tsv_is_a_quote(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text('sentence1\tsentence2\tlabel\n"so he said\tso" she\t2\n')
    assert read(path) == [(2, {"text": '"so he said', "text_pair": 'so" she', "label": "2"})]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": "a", "label": 1}, {"text": "a", "label": "1"}),
        ({"sentence": "a", "label": "x"}, {"text": "a", "label": "x"}),
        (
            {"premise": "a", "hypothesis": "b", "label": 0},
            {"text": "a", "text_pair": "b", "label": "0"},
        ),
        ({"text": " a "}, {"text": " a "}),
        ({"prompt": "", "completion": "b"}, {"prompt": "", "completion": "b"}),
        ({"question": "a", "answer": "b"}, {"prompt": "a", "completion": "b"}),
        ({"question": "a", "sentence": "b", "label": 1, "idx": 3},
         {"text": "a", "text_pair": "b", "label": "1"}),
    ],
)  # fmt: skip
def test_common_shapes_need_no_flags(
    tmp_path: Path, record: dict[str, Any], expected: dict[str, Any]
) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(record))
    assert read(path) == [(1, expected)]


def test_messages_keep_their_order(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": "yes"}]
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"messages": messages}))
    assert read(path) == [(1, {"messages": messages})]


def test_fields_name_the_columns_of_an_unusual_file(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("stars,review=1\n5,good\n")
    assert read(path, fields="label=stars,text=review=1") == [(2, {"text": "good", "label": "5"})]


def test_the_datasets_task_decides_how_labelled_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a", "label": 1}')
    assert read(path, "causal_lm") == [(1, {"text": "a"})]
    assert read(path, "inference") == [(1, {"text": "a"})]


@pytest.mark.parametrize("fields", ["text", "text=", "text=a,text=b", "label=a", "txt=a", "=a"])
def test_fields_that_make_no_row_are_refused(fields: str) -> None:
    with pytest.raises(DataError, match="--fields"):
        parse_fields([fields])


@pytest.mark.parametrize(
    ("suffix", "text", "where", "what"),
    [
        (".jsonl", '{"text": "a", "label": 1}\n{"text": 3, "label": 1}', ":2: text:", "a number"),
        (".jsonl", '{"text": "a", "label": 1}\n\n{"text": "a"}', ":3: label:", "missing"),
        (".jsonl", '{"text": "a", "label": 1.5}', ":1: label:", "whole number"),
        (".jsonl", '{"text": "a", "label": true}', ":1: label:", "true or false"),
        (".jsonl", '{"text": "a", "label": -1}', ":1: label:", "unlabelled"),
        (".jsonl", '{"text": "a", "label": null}', ":1: label:", "missing"),
        (".jsonl", '{"text": " \\t", "label": 1}', ":1: text:", "empty"),
        (".jsonl", '{"text": "\\ud800", "label": 1}', ":1: text:", "surrogate"),
        (".jsonl", '{"text": "a", "text": "b"}', ":1:", "repeats a key"),
        (".jsonl", '{"text": "a"}\n[1]', ":2:", "not a JSON object"),
        (".jsonl", '{"text": "a"', ":1:", "not JSON"),
        (".jsonl", "[" * 100_000, ":1:", "not JSON"),
        (".jsonl", '{"text": "a", "label": ' + "1" * 5000 + "}", ":1:", "not JSON"),
        (".jsonl", '{"title": "a"}', ":1:", "title"),
        (".jsonl", '{"text": "a", "label": 1}\n{"text": "a", "text_pair": "b", "label": 1}',
         ":2: text_pair:", "first row has none"),
        (".jsonl", '{"messages": []}', ":1: messages:", "not a list"),
        (".jsonl", '{"messages": [{"role": "user", "content": "a"}]}', ":1: messages:",
         "does not end with a message of the role assistant"),
        (".jsonl", '{"messages": [{"role": "user"}]}', ":1: messages[0]:", "role and content"),
        (".csv", "text,label\na,1\nb\n", ":3:", "1 columns; the header has 2"),
        (".csv", "text,text\na,1\n", ":1:", "twice"),
        (".csv", 'text,label\nok,1\n"a,1\n\n', ":3:", "not CSV"),
        (".csv", "text,label\n", "", "no rows"),
        (".csv", "", "", "no rows"),
        (".txt", "hello", "", ".jsonl, .csv or .tsv"),
    ],
)  # fmt: skip
def test_a_complaint_says_line_field_and_reason(
    tmp_path: Path, suffix: str, text: str, where: str, what: str
) -> None:
    path = tmp_path / f"d{suffix}"
    found = complaint(path, text)
    assert found.startswith(f"{path}{where}")
    assert what in found


def test_bytes_that_are_not_utf8_have_a_line(tmp_path: Path) -> None:
    found = complaint(tmp_path / "d.tsv", b"sentence\tlabel\nok\t1\nna\xefve\t0\n")
    assert found.endswith("d.tsv:3: byte 3 of the line is not UTF-8; save the file as UTF-8")


def test_many_complaints_come_together_up_to_a_limit(tmp_path: Path) -> None:
    rows = ['{"text": "a", "label": 1}'] + ['{"text": "", "label": 1}'] * 50
    found = complaint(tmp_path / "d.jsonl", "\n".join(rows))
    assert found.startswith("at least 20 rows cannot be used")
    assert found.count("text: is empty") == 20


def test_rows_that_a_task_cannot_use_are_refused(tmp_path: Path) -> None:
    found = complaint(tmp_path / "d.jsonl", '{"prompt": "a", "completion": "b"}', "classification")
    assert "task classification needs text and label" in found


@pytest.mark.parametrize(
    ("name", "rows", "labels"),
    [
        ("sst2/train.tsv", 6920, {"0", "1"}),
        ("sst2/dev.tsv", 872, {"0", "1"}),
        ("sst2/train_phrases.tsv", 67349, {"0", "1"}),
        ("mnli_subset/train.tsv", 8999, {"0", "1", "2"}),
        ("mnli_subset/dev.tsv", 1000, {"0", "1", "2"}),
        ("gsm8k/train.jsonl", 7473, set()),
        ("gsm8k/test.jsonl", 1319, set()),
    ],
)
def test_real_benchmark_files_are_read_without_flags(
    shared_data: Path, name: str, rows: int, labels: set[str]
) -> None:
    found = survey(Source(shared_data / name))
    assert (found.rows, set(found.labels)) == (rows, labels)
    task = "classification" if labels else "causal_lm"
    assert found.shape.task == task


def test_csv_written_by_the_standard_library_is_read(tmp_path: Path) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerows([["text", "label"], ['he said "no, never"', "a"]])
    (tmp_path / "d.csv").write_text(stream.getvalue(), newline="")
    assert read(tmp_path / "d.csv") == [(2, {"text": 'he said "no, never"', "label": "a"})]


def test_a_label_after_a_first_row_without_one_is_not_ignored(tmp_path: Path) -> None:
    text = '{"text": "a"}\n{"text": "b", "label": "x"}\n{"text": "c", "messages": []}\n'
    found = complaint(tmp_path / "d.jsonl", text)
    assert "d.jsonl:2: label: is here, but the first row has none" in found
    assert "d.jsonl:3: messages: is here" in found
    assert len(read(tmp_path / "d.jsonl", "causal_lm")) == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "abc\n', "the line ends inside a string"),
        ('{"text": "abc', "the line ends inside a string"),
        ('{"text": "a\tb"}', "Invalid control character at character 12"),
        ('{"text": 1', "the line ends too early"),
    ],
)
def test_a_line_that_is_not_json_says_why(line: str, reason: str) -> None:
    with pytest.raises(DataError, match=f"is not JSON: {reason}$"):
        parse_object(line)
