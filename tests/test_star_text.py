"""Text of STAR files: values do not change in a round trip, RELION's rules hold, and starfile reads plain files equally."""

import pandas as pd
import pytest
import starfile
from hypothesis import given
from hypothesis import strategies as st

from hetacumn.common.errors import HetacumnError
from hetacumn.io.star_text import read_blocks, split_values, write_blocks

CHARACTERS = st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from(" \t#'\";_")
VALUES = st.text(CHARACTERS, max_size=8) | st.sampled_from(
    ["nan", "-nan", "007", "data_1/m.mrc", "loop_", "1e-9", "<NA>", "O'Neill"]
)


def table_of(path, name="particles") -> dict[str, list[str]]:
    return next(block.table for block in read_blocks(path) if block.name == name).to_dict("list")


def write(path, text: str):
    path.write_text(text)
    return path


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6))
def test_every_value_that_can_be_written_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("star") / "a.star"
    table = pd.DataFrame(rows, columns=["rlnMicrographName", "rlnImageName"], dtype="str")
    try:
        write_blocks(path, {"optics": table[::-1], "particles": table})
    except HetacumnError as error:  # white space and both kinds of quotes
        assert "both kinds of quotes" in str(error) and any("'" in value and '"' in value for row in rows for value in row)
        assert not path.exists()
        return
    assert table_of(path) == table.to_dict("list") and table_of(path, "optics") == table[::-1].to_dict("list")


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2), min_size=2, max_size=5))
def test_starfile_reads_the_same_numbers(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("star") / "a.star"
    table = pd.DataFrame(rows, columns=["a", "b"])
    write_blocks(path, {"x": table})
    ours = read_blocks(path)[0].table.astype(float)
    pd.testing.assert_frame_equal(ours, starfile.read(path).astype(float), check_exact=False, rtol=1e-12)
    pd.testing.assert_frame_equal(ours, table, check_exact=False, rtol=1e-6, atol=1e-6)
    small = (table.abs() < 1e-3) & (table != 0)
    assert ((ours - table).abs()[small] <= 1e-6 * table.abs()[small]).where(small, True).all(axis=None)


@pytest.mark.parametrize("line, values", [
    ("1 2.50  a#b #c 5", ["1", "2.50", "a#b"]),
    ("'a b' \"c 'd' e\" O'Neill", ["a b", "c 'd' e", "O'Neill"]),
    ("\"\" '' x", ["", "", "x"]),
    ("'open 2", ["'open", "2"]),
    ("a\u00a0b \u00e9", ["a\u00a0b", "\u00e9"]),
])  # fmt: skip
def test_a_line_is_divided_by_the_rules_of_relion(line, values):
    assert split_values(line) == values


LOOP = "data_particles\n{}loop_\n{}_a #1\n_b #2\n{}1 x\n{}2 y\n{}"


@pytest.mark.parametrize("places", [
    ("", "", "", "", ""),
    ("\n# free\n", "\n", "\n \n", "\n", "\n"),
    ("", "# labels\n\n", "# rows\n", "# row 2\n\t\n", "# version 30001\n"),
])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_blank_lines_comments_and_line_ends_do_not_matter(tmp_path, places, end):
    path = tmp_path / "a.star"
    path.write_bytes(b"\xef\xbb\xbf" + LOOP.format(*places).replace("\n", end).encode())
    assert table_of(path) == {"a": ["1", "2"], "b": ["x", "y"]}


def test_rows_that_begin_with_data_or_with_an_underscore_belong_to_their_table(tmp_path):
    path = write(tmp_path / "a.star", "data_a\nloop_\n_x\n_y\n_run/m 1\ndata_2/m 2\nloop_ 3\n\ndata_b\n_k  v\n_l\n")
    assert table_of(path, "a") == {"x": ["_run/m", "data_2/m", "loop_"], "y": ["1", "2", "3"]}
    assert table_of(path, "b") == {"k": ["v"], "l": [""]}


def test_a_comment_in_another_encoding_is_skipped_and_a_name_refused(tmp_path):
    path = tmp_path / "a.star"
    path.write_bytes(b"# 6 \xc5\n" + LOOP.format(*5 * [""]).encode())
    assert table_of(path)["b"] == ["x", "y"]
    path.write_bytes(LOOP.format(*5 * [""]).encode().replace(b"2 y", b"2 \xfc"))
    with pytest.raises(HetacumnError, match="a.star: line 6: byte 0xfc is not UTF-8; expected"):
        read_blocks(path)


@pytest.mark.parametrize("text, message", [
    ("hello\n", "not a STAR file: line 1 is 'hello'; expected data_"),
    (LOOP.format("", "", "", "", "3\n"), "row 3 of data_particles: 1 values; expected 2, one for each label"),
    (LOOP.format("", "", "", "", "3 z 4\n"), "row 3 of data_particles: 3 values; expected 2"),
    (LOOP.format("", "", "", "", "").replace("_b", "_a"), "data_particles: two columns a; expected each label once"),
    (LOOP.format("", "_c\n", "", "", "").replace("loop_", ""), "data_particles: '1 x'; expected loop_, or a label"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS, not a STAR file; expected the data"),
])  # fmt: skip
def test_damaged_files_are_refused_with_the_row(tmp_path, text, message):
    with pytest.raises(HetacumnError, match=message):
        read_blocks(write(tmp_path / "a.star", text))


def test_equal_columns_of_one_label_are_read_once(tmp_path):
    path = write(tmp_path / "a.star", "data_a\nloop_\n_x\n_y\n_x\n1 2 1\n3 4 3\n")
    assert table_of(path, "a") == {"x": ["1", "3"], "y": ["2", "4"]}
