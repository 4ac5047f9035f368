"""The notebook runs from start to end, and its pictures are drawn."""

import nbformat
import pytest
from nbclient import NotebookClient

import helpers


@pytest.mark.smoke
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_the_tour_runs_from_start_to_end() -> None:
    notebook = nbformat.read(helpers.REPOSITORY / 'experiments' / 'tour.ipynb', as_version=4)
    assert not any(cell.get('outputs') for cell in notebook.cells), 'commit it without outputs'
    NotebookClient(notebook, timeout=600, kernel_name='python3', resources={'metadata': {'path': '/'}}).execute(
        env=helpers.environment()
    )
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 3
    assert 'the same answers, by the same routes' in outputs[-1]['text']
