"""Building C++ kernels: once, with the compiler's first error, and a sentence for what lacks."""

import sys
from pathlib import Path

import pytest

from tiny_llm_lab.doctor import Finding
from tiny_llm_lab.kernels import BuildError, extension, load_extension

SOURCE = """
#include <nanobind/nanobind.h>
#include "answer.h"
NB_MODULE(kernels, m) {
  m.def("answer", [] { return answer(); });
}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with one C++ function, `answer`."""
    cpp = tmp_path / "smallest" / "cpp"
    cpp.mkdir(parents=True)
    (cpp.parent / "__init__.py").touch()
    (cpp / "module.cpp").write_text(SOURCE)
    (cpp / "answer.h").write_text("inline int answer() { return 41; }\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    return "smallest"


def forget() -> None:
    """Begin as a new process does."""
    extension._results.clear()
    for cached in (extension._compiler, extension._environment):
        cached.cache_clear()
    for name in [name for name in sys.modules if name.startswith("smallest")]:
        del sys.modules[name]


def cpp_of(tmp_path: Path) -> Path:
    return tmp_path / "smallest" / "cpp"


def test_built_once_and_again_after_a_change(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_extension(package).answer() == 41
    forget()
    with monkeypatch.context() as patched:
        patched.setattr(extension, "_compile", lambda *_: pytest.fail("nothing has changed"))
        assert load_extension(package).answer() == 41
    (cpp_of(tmp_path) / "answer.h").write_text("inline int answer() { return 42; }\n")
    forget()
    assert load_extension(package).answer() == 42


def test_the_first_error_with_file_line_and_source(package: str, tmp_path: Path) -> None:
    path = cpp_of(tmp_path) / "module.cpp"
    path.write_text(SOURCE.replace("answer();", "anwser();"))
    with pytest.raises(BuildError) as caught:
        load_extension(package)
    message, source = str(caught.value).splitlines()
    assert message.startswith(f"{path}:5: error: ") and "anwser" in message
    assert source == '    m.def("answer", [] { return anwser(); });'
    assert (caught.value.path, caught.value.line) == (path, 5)


def test_an_error_in_a_header_is_shown_where_it_comes_from(tmp_path: Path) -> None:
    source = tmp_path / "kernel.cpp"
    source.write_text("\nsum(1, 2);\n")
    output = (
        "/usr/include/numbers.h: In instantiation of 'sum(int)':\n"
        f"{source}:2:4:   required from here\n"
        "/usr/include/numbers.h:77:1: error: no such sum\n"
    )
    error = extension.first_error(output, tmp_path)
    assert str(error) == f"{source}:2: error: no such sum\n    sum(1, 2);"


def test_what_is_not_an_error_of_the_compiler_is_quoted() -> None:
    error = extension.first_error("ld: no room\n" * 100, Path("cpp"))
    assert str(error).startswith("The C++ kernels do not build:\nld: no room\n")
    assert str(error).count("\n") == 8


def test_a_failed_build_is_not_tried_again(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cpp_of(tmp_path) / "module.cpp").write_text("#error not yet\n")
    with pytest.raises(BuildError, match="not yet"):
        load_extension(package)
    monkeypatch.setattr(extension, "_build", lambda _: pytest.fail("built again"))
    with pytest.raises(BuildError, match="not yet"):
        load_extension(package)


def test_no_compiler(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match=r"need a C\+\+ compiler, and there is none: run `"):
        load_extension(package)
    forget()
    monkeypatch.setenv("CXX", "g++-0")
    with pytest.raises(BuildError, match="that CXX names, 'g\\+\\+-0', is not found"):
        load_extension(package)


def test_mlx_and_nanobind_that_do_not_fit(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding("nanobind", "internals v16 (nanobind), v22 (MLX) differ", "run this")
    monkeypatch.setattr(extension, "check_nanobind", lambda: finding)
    (cpp_of(tmp_path) / "answer.h").write_text("inline int answer() { return 43; }\n")
    with pytest.raises(BuildError, match="MLX and nanobind do not fit together: internals v16"):
        load_extension(package)


def test_no_sources(package: str, tmp_path: Path) -> None:
    (cpp_of(tmp_path) / "module.cpp").unlink()
    with pytest.raises(BuildError, match=r"There are no C\+\+ sources"):
        load_extension(package)
    with pytest.raises(BuildError, match="There is no package named 'not_there'"):
        load_extension("not_there")


def test_a_module_that_does_not_load(package: str, tmp_path: Path) -> None:
    (cpp_of(tmp_path) / "answer.h").write_text("int answer();\n")
    with pytest.raises(BuildError, match=r"do not load: .*answer"):
        load_extension(package)
