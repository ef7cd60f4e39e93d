"""The house is in order: its tables agree, its arrows hold, stub and docstrings say what the functions take."""

import ast
import inspect
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import fusedcam
import fusedcam.forward
import fusedcam.torch
import fusedcam.torch.metrics
import reference
from fusedcam import _cpu
from fusedcam.torch import formulas

ROOT = Path(__file__).resolve().parent.parent
CSRC, PYTHON = ROOT / "csrc", ROOT / "python" / "fusedcam"
SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".cpp", ".hpp", ".cu", ".cuh"))
MODULES = sorted(PYTHON.rglob("*.py"))


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Tables


def test_methods_agree():
    rules = (CSRC / "rules.hpp").read_text()
    listed = re.search(r"using All =\s+std::tuple<(.*?)>;", rules, re.DOTALL)[1]
    structs = dict(re.findall(r'struct (\w+) : \w+ \{\s*static constexpr std::string_view name = "([\w+]+)";', rules))
    assert len(structs) == len(re.findall(r"^struct \w+ : ", rules, re.MULTILINE))
    in_all = [structs[name.strip()] for name in listed.split(",")]
    assert in_all == [*fusedcam.METHODS] == [*reference.METHODS] == [*formulas.METHODS]
    assert len(set(structs.values())) == len(structs)
    assert sorted(in_all) == sorted(structs.values())
    assert all(name == method.name for name, method in fusedcam.METHODS.items())


def test_the_page_of_methods_has_them_all():
    page = (ROOT / "docs/methods.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|", page, re.MULTILINE)
    assert rows == [(m.name, m.class_name, m.formula, m.assumes, m.paper) for m in fusedcam.METHODS.values()]


def test_cmake_lists_every_source():
    text = re.sub(r"#.*", "", (ROOT / "CMakeLists.txt").read_text())
    targets = re.findall(r"(?:add_library|add_native_module|set)\((.*?)\)", text, re.DOTALL)
    listed = [name for target in targets for name in re.findall(r"csrc/\S+\.(?:cpp|cu)\b", target)]
    assert sorted(listed) == [short(path) for path in SOURCES if path.suffix in (".cpp", ".cu")]
    assert {*re.findall(r"csrc/\S+\.(?:cpp|cu)\b", text)} >= {*listed}


# Arrows


def arrows(language: str) -> dict[str, set[str]]:
    """What each part may use, by CONTRIBUTING.md: what its arrows point to, and further along them."""
    section = re.search(
        r"^## Arrows$.*?^( {4}.*?)^\S", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE
    )
    direct: dict[str, set[str]] = {}
    current = ""
    for line in section[1].splitlines():
        line = line.replace(" and its own helpers", "").strip()
        if line.startswith(("csrc ", "python ")):
            current, line = line.split(maxsplit=1)
        if line and current == language:
            ends = [{name.strip() for name in end.split(",")} for end in line.split("->")]
            for tails, heads in pairwise(ends):
                for tail in tails:
                    direct.setdefault(tail, set()).update(heads)
    assert direct
    reach: dict[str, set[str]] = {}

    def follow(name: str) -> set[str]:
        if name not in reach:
            reach[name] = set()
            reach[name] = direct.get(name, set()).union(*map(follow, direct.get(name, set())))
        return reach[name]

    return {name: follow(name) for name in [*direct, *set().union(*direct.values())]}


def includes(path: Path) -> list[tuple[str, bool]]:
    """The included names, and whether they stand in quotes."""
    found = re.findall(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', path.read_text(), re.MULTILINE)
    assert len(found) == len(re.findall(r"#\s*include", path.read_text()))
    return [(quoted or system, bool(quoted)) for quoted, system in found]


# What tests put in place of CUDA's own headers and of the OpenMP runtime.
STAND_INS = {"emulator.hpp": "csrc/cuda/intrinsics.cuh", "std_threads.hpp": "csrc/cpu/threads.cpp"}


def part(path: Path) -> str:
    """Of csrc: a folder's name, or a file's without its ending."""
    inside = path.relative_to(CSRC)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem.removesuffix("_cam").removesuffix("_backward")


def test_csrc_has_the_parts_of_the_arrows():
    allowed = arrows("csrc")
    assert {part(path) for path in SOURCES} == {*allowed}
    assert not any(name in reach for name, reach in allowed.items()), "a circle"
    assert "bind" not in set().union(*allowed.values())
    assert not {"cpu", "cuda"} & set().union(*allowed.values())


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_includes_follow_the_arrows(path):
    own = part(path)
    for name, quoted in includes(path):
        if name in STAND_INS:
            assert short(path) == STAND_INS[name]
        elif quoted:
            included = (path.parent / name).resolve()
            assert included.is_file(), name
            assert part(included) in arrows("csrc")[own] | {own}, name
            assert own == "bind" or included.name != "dlpack.hpp"
        else:
            assert not (path.parent / name).exists(), f"{name} belongs in quotes"
            assert not re.match(r"torch|ATen|c10|THC?|caffe2", name), "nothing in csrc knows torch"
            assert own == "cuda" or not re.match(r"cuda|cooperative", name), "only cuda knows CUDA"
            if own != "bind":
                assert not re.match(r"Python\.h|pybind11|numpy|dlpack", name), "only bind knows Python and DLPack"


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, str | None, ast.AST]]:
    """Every imported module in full, the name taken from it, and the statement, however deep it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, node
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                yield module, alias.name, node
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "__import__"):
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield (package if name.value.startswith(".") else "") + name.value, None, node


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(PYTHON.parent).parts[:-1])


def used_parts(path: Path) -> set[str]:
    """Of fusedcam: the modules that a module imports; a public name counts as the module it comes from."""
    used = set()
    for module, name, _ in imports(ast.parse(path.read_text()), package_of(path)):
        head, *inner = module.split(".")
        if head != "fusedcam":
            continue
        if not inner:
            inner = [fusedcam._HOME.get(name, f".{name}")[1:]]
        used.add(inner[0])
    return used


def python_part(path: Path) -> str:
    inside = path.relative_to(PYTHON)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


PEERS = ("pytorch_grad_cam", "torchcam", "captum")
HANDED_OUT = {"functional", "methods", "_native", "compat"}
FRONT = {
    "__init__": HANDED_OUT | {"_imports", "torch"},
    "__main__": {"cli"},
}  # as CONTRIBUTING.md says below
UPWARD = {"_frameworks": {"torch"}}


def test_python_has_the_parts_of_the_arrows():
    allowed = arrows("python")
    assert {python_part(path) for path in MODULES} | {"_cpu", "_cuda", "_build"} == {*allowed} | {*FRONT}
    assert not any(name in reach for name, reach in allowed.items()), "a circle"
    assert {home[1:] for home in fusedcam._HOME.values()} == HANDED_OUT


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_imports_follow_the_arrows(path):
    own = python_part(path)
    used = used_parts(path) - UPWARD.get(own, set())
    assert used <= FRONT.get(own, arrows("python").get(own, set()) | {own})
    assert not {"_cpu", "_cuda"} & used or own == "_native", "_native is the only importer of the native modules"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_frameworks_are_imported_where_they_belong(path):
    """torch in torch/ and compat/ alone, be it for types or in a function; PIL where a picture is read."""
    tree = ast.parse(path.read_text())
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for module, _, statement in imports(tree, package_of(path)):
        package = module.partition(".")[0]
        assert package != "torch" or python_part(path) in ("torch", "compat")
        assert (
            package not in ("PIL", "jax", "tensorflow", "matplotlib", "cv2", "scipy", "sklearn", *PEERS)
            or statement in late
        ), module
        if module.startswith("fusedcam.torch") and python_part(path) == "cli":
            assert statement in late, "`fusedcam info` does not wait for torch"


# Signatures

Parameters = list[tuple[str, inspect._ParameterKind, object]]


def stub_parameters(function: ast.FunctionDef) -> Parameters:
    """Name, kind and default of each."""
    spec, kinds = function.args, inspect.Parameter
    assert not spec.vararg
    assert not spec.kwarg
    plain = [(argument.arg, kinds.POSITIONAL_ONLY) for argument in spec.posonlyargs]
    plain += [(argument.arg, kinds.POSITIONAL_OR_KEYWORD) for argument in spec.args]
    missing = [None] * (len(plain) - len(spec.defaults))
    plain_defaults = [*missing, *spec.defaults]
    listed = [(*each, default) for each, default in zip(plain, plain_defaults, strict=True)]
    listed += [
        (argument.arg, kinds.KEYWORD_ONLY, default)
        for argument, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    ]
    return [
        (name, kind, kinds.empty if default is None else ast.literal_eval(default)) for name, kind, default in listed
    ]


def native_parameters(function: object) -> Parameters:
    """By the signature in the function's docstring; pybind11 leaves none that `inspect` could read."""
    if function.__text_signature__:
        return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]
    first = function.__doc__.splitlines()[0]
    assert first.startswith(f"{function.__name__}("), "its docstring begins with no signature"
    parameters = stub_parameters(ast.parse(f"def {first}: ...").body[0])
    # Parameters that were given no names can be passed by position alone, whatever pybind11 calls them.
    unnamed = re.compile(r"arg\d+").fullmatch
    return [(name, inspect.Parameter.POSITIONAL_ONLY if unnamed(name) else kind, d) for name, kind, d in parameters]


STUB = ast.parse((PYTHON / "_cpu.pyi").read_text())
STUB_FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}


def test_stub_has_the_native_names():
    variables = {node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign)}
    native = {name for name in dir(_cpu) if not re.fullmatch("__.*__", name)} | {"__version__"}
    assert {*STUB_FUNCTIONS} | variables == native
    assert all(callable(getattr(_cpu, name)) == (name in STUB_FUNCTIONS) for name in native)


@pytest.mark.parametrize("name", STUB_FUNCTIONS)
def test_stub_has_the_native_signatures(name):
    stub, native = stub_parameters(STUB_FUNCTIONS[name]), native_parameters(getattr(_cpu, name))
    assert [each[1:] for each in stub] == [each[1:] for each in native]
    for (own, *_), (other, *_) in zip(stub, native, strict=True):
        assert own == other or re.fullmatch(r"arg\d+", other)


def documented(doc: str) -> list[str]:
    """The arguments in the docstring's section Args."""
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(doc), re.DOTALL | re.MULTILINE)
    if not section:
        return []
    names = re.findall(r"^ {4}(\w[^:\n]*):", section[1], re.MULTILINE)
    return [name.strip() for line in names for name in line.split(",")]


PUBLIC = {name: getattr(fusedcam, name) for name in fusedcam.__all__ if callable(getattr(fusedcam, name))}
DOCUMENTED = {name: (function, function.__doc__) for name, function in PUBLIC.items() if name != "info"} | {
    "GradCAM": (fusedcam.torch.GradCAM, fusedcam.torch.GradCAM.__doc__),
    "GradCAM.__call__": (fusedcam.torch.GradCAM.__call__, fusedcam.torch.GradCAM.__call__.__doc__),
    "noisy_moments": (fusedcam.torch.noisy_moments, fusedcam.torch.noisy_moments.__doc__),
    "FullGrad.gradients": (fusedcam.torch.FullGrad.gradients, fusedcam.torch.FullGrad.gradients.__doc__),
    **{
        name: (getattr(fusedcam.forward, name), getattr(fusedcam.forward, name).__doc__)
        for name in fusedcam.forward.__all__
    },
}
DOCUMENTED |= {
    name: (function, function.__doc__)
    for name, function in vars(fusedcam.torch.metrics).items()
    if name in fusedcam.torch.metrics.__all__ and inspect.isfunction(function)
}
DOCUMENTED |= {
    name: (value, value.__doc__) for name, value in vars(fusedcam.forward).items() if name.endswith("_weights")
}
for _class in vars(fusedcam.torch).values():
    if isinstance(_class, type) and _class.__name__ in fusedcam.torch.__all__ and "." not in _class.__qualname__:
        if "Args:" in (_class.__doc__ or ""):
            DOCUMENTED[_class.__name__] = (_class, _class.__doc__)
        if "Args:" in (getattr(_class.__call__, "__doc__", None) or ""):
            DOCUMENTED[f"{_class.__name__}.__call__"] = (_class.__call__, _class.__call__.__doc__)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstring_names_the_arguments(name):
    function, doc = DOCUMENTED[name]
    parameters = inspect.signature(function).parameters.values()
    # What is passed through is told of beside what it goes with.
    expected = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    passed = [each.name for each in parameters if each.name not in expected]
    named, expected = [name for name in documented(doc) if name not in passed], [n for n in expected if n != "self"]
    if isinstance(function, type):  # what is its base class's it may leave to that
        base = {*inspect.signature(fusedcam.torch.Explainer).parameters}
        assert {*expected} <= {*named} | base
        assert {*named} <= {*expected} | base
        return
    assert named == expected


def test_info_takes_no_arguments():
    assert not inspect.signature(fusedcam.info).parameters
    assert [*fusedcam.info()] == [*fusedcam._native.Info.__annotations__]


# Files


@pytest.mark.parametrize("path", [*SOURCES, *MODULES, PYTHON / "_cpu.pyi"], ids=short)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """The texts that git tracks, by name."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = {}
    for name in filter(None, names.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content:
            texts[name] = content.decode()
    return texts


def test_the_version_stands_in_one_place(tracked):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    alone = re.compile(rf"(?<![\w.]){re.escape(version)}(?![\w.])")
    found = {name for name, text in tracked.items() if alone.search(text)}
    # Of other packages' versions and of what was measured this is no statement.
    found = {name for name in found if name != "constraints.txt" and not name.startswith("bench/results/")}
    assert found == {"pyproject.toml", "CHANGELOG.md"}


def test_no_paths_of_one_machine(tracked):
    private = re.compile(r"(?<![\w.])/(?:home|work|Users|root|mnt)/\w+")
    found = [(name, match[0]) for name, text in tracked.items() for match in private.finditer(text)]
    assert not found
