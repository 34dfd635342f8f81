"""The architecture, enforced: who may import whom, and where each optional package lives."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mnvision

PACKAGE = Path(mnvision.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

# From the lowest layer to the highest: a module imports from its own layer or from those below it.
LAYERS = [
    {"errors", "wording", "types", "annotations", "files", "cache", "ops"},
    {"download"},
    {"backbones"},
    {
        "models",
        "data",
        "metrics",
        "visualize",
        "class_pictures",
        "class_figures",
        "place_figures",
        "embedding_figures",
        "pair_pictures",
        "faiss_search",
        "report_parts",
        "report_plans",
        "charts",
        "page",
        "figures",
        "printed",
        "paper",
        "paper_tasks",
        "profiler",
        "schema",
        "schema_commands",
        "schema_data",
        "schema_tasks",
        "value_types",
        "overrides",
        "config",
        "paths",
        "console",
        "hardware",
    },
    {
        "checkpoint",
        "callbacks",
        "steering",
        "inference",
        "index",
        "report",
        "outputs",
        "counts",
        "sweep",
        "results",
        "side_by_side",
    },
    {"teacher_cache"},
    {"module", "recall", "detection", "classification", "embedding", "attributes", "geolocation"},
    {"kinds", "objectives"},
    {"build", "measuring"},
    {"run", "predicting", "searching", "costs", "tables", "sharding"},
    {"cli"},
]
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}
STRANGERS = [{"models", "data"}, {"metrics", "data"}, {"models", "metrics"}]
HOMES = {
    "lightning": {"module", "callbacks", "steering", "data.base_datamodule", "build", "measuring", "run"},
    "hydra": {"config", "cli", "overrides"},
    "omegaconf": {"config", "cli", "overrides"},
    "albumentations": {"data.transforms"},
    "pycocotools": {"metrics.reference"},
    "faster_coco_eval": {"metrics.reference"},
    "h5py": {"backbones.weights"},
    "s2cell": {"ops.s2"},
    "scipy": {"data.stanford_dogs"},
    "simplejpeg": {"ops.fast_jpeg"},
    "timm": {"backbones.timm_adapter"},
    "matplotlib": {"figures", "class_figures", "embedding_figures", "place_figures"},
    "faiss": {"faiss_search"},
    "onnx": set(),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_downwards(path):
    name = module_name(path)
    if not name:
        return  # the package's own __init__ hands out names lazily
    own = name.split(".")[0]
    assert own in LAYER_OF, f"{own} has no layer yet: add it to LAYERS and to docs/architecture.md"
    for imported in imports_of(path):
        parts = imported.split(".")
        if parts[0] != "mnvision" or len(parts) < 2 or parts[1] not in LAYER_OF or parts[1] == own:
            continue
        assert LAYER_OF[parts[1]] <= LAYER_OF[own], f"{name} imports upwards: {imported}"
        assert {own, parts[1]} not in STRANGERS, f"{name} and {imported} meet in mnvision.types only"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_each_optional_package_has_one_home(path):
    name = module_name(path)
    for imported in imports_of(path):
        package = imported.split(".")[0]
        if package in HOMES:
            assert name in HOMES[package], f"{name} imports {package}, which belongs in {HOMES[package]}"


def test_no_script_hides_a_module_of_python():
    """Python puts a script's folder before its own modules; torch imports ``profile``."""
    scripts = {path.stem for path in (PACKAGE.parent / "tools").glob("*.py")}
    assert "train" in scripts
    assert scripts.isdisjoint(sys.stdlib_module_names)


def test_folders_are_shallow():
    assert all(len(path.relative_to(PACKAGE).parts) <= 2 for path in FILES)


def test_the_package_imports_without_torch():
    code = "import sys, mnvision, mnvision.cli; assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_exist():
    for name in mnvision.__all__:
        assert getattr(mnvision, name) is not None
    with pytest.raises(AttributeError, match="creat_model"):
        _ = mnvision.creat_model
