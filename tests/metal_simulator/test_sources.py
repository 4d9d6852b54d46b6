"""Reading `.metal` files with their headers, and finding a text's lines again."""

import re

import pytest

from metal_simulator import read_source
from metal_simulator.sources import lines_by_file, locate, split_sections


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "kernel.metal").write_text(
        '// A kernel.\n#include "outer.h"\n#include "mlx/utils.h"\n\nout[0] = twice(inp[0]);\n'
    )
    (tmp_path / "outer.h").write_text(
        '#pragma once\n#include "inner.h"\ninline float twice(float x) { return add(x, x); }\n'
    )
    (tmp_path / "inner.h").write_text("inline float add(float a, float b) { return a + b; }\n")
    return tmp_path


def test_a_body_and_the_headers_that_it_includes(folder):
    header, source = read_source(folder / "kernel.metal")
    assert header.index("float add") < header.index("float twice")
    assert '#include "mlx/utils.h"' in header
    assert '#include "outer.h"' not in header + source
    assert "out[0] = twice(inp[0]);" in source


def test_lines_keep_their_file_and_number(folder):
    header, source = read_source(folder / "kernel.metal")
    files = lines_by_file(header + "\n" + source)
    for name in ("outer.h", "inner.h", "kernel.metal"):
        original = (folder / name).read_text().split("\n")
        for number, line in enumerate(files[name]):
            if line and not line.startswith("#include"):
                assert original[number] == line
    text = header + "\n" + source
    number = next(i for i, line in enumerate(text.split("\n"), 1) if "float twice" in line)
    assert locate(text, number) == ("outer.h", 3)
    number = next(i for i, line in enumerate(text.split("\n"), 1) if "out[0]" in line)
    assert locate(text, number) == ("kernel.metal", 5)


def test_a_header_included_twice_is_there_once(folder):
    (folder / "kernel.metal").write_text('#include "inner.h"\n#include "outer.h"\nout[0] = 1;\n')
    header, _ = read_source(folder / "kernel.metal")
    assert header.count("float add") == 1


def test_a_missing_file_or_header_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"no\.metal"):
        read_source(folder / "no.metal")
    (folder / "outer.h").write_text('#include "lost.h"\n')
    with pytest.raises(FileNotFoundError, match=r"lost\.h, which outer\.h includes"):
        read_source(folder / "kernel.metal")


def test_an_include_inside_the_body_is_refused(folder):
    (folder / "kernel.metal").write_text('out[0] = 1;\n#include "inner.h"\n')
    with pytest.raises(ValueError, match=re.escape("kernel.metal:2: an #include stands inside")):
        read_source(folder / "kernel.metal")


def test_sections_begin_at_line_1_of_their_files():
    text = '#line 1 "a"\nA1\nA2\n#line 3 "b"\nB3\n#line 5 "b"\nB5\n#line 2 "a"\nA2 again'
    assert split_sections(text) == [
        ("a", "A1\nA2"),
        ("b", "\n\nB3\n\nB5"),
        ("a", "\nA2 again"),
    ]
