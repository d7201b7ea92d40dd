"""No file imports another that imports it, directly or by others, wherever in it the import is."""

from graphlib import TopologicalSorter

import pytest


def test_no_file_imports_itself_by_others() -> None:
    # import-linter's contracts compare the files of a folder with each other, not with the folder.
    grimp = pytest.importorskip("grimp", reason="import-linter is not installed")
    graph = grimp.build_graph("pcode", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 100
    TopologicalSorter(imports).prepare()  # raises CycleError, which holds the circle
