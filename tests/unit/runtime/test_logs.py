import logging
import sys
from pathlib import Path

import pytest

from diptych.runtime import logs
from diptych.runtime.errors import DiptychError


@pytest.fixture
def restored_logging():
    """Restores the process-wide logging settings and excepthook that a job sets."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # they would be closed
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, sys.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(False)


def test_another_installed_diptych_is_one_line_in_the_log(tmp_path, restored_logging):
    log = tmp_path / "logs" / "job.log"
    with pytest.raises(DiptychError, match="uninstall the other diptych") as error:
        logs.start(str(log), str(tmp_path / "workflow" / "scripts" / "rule.py"))
    sys.excepthook(error.type, error.value, error.tb)
    assert "Traceback" not in log.read_text()
    assert len(log.read_text().splitlines()) == 1
    assert "ERROR diptych is imported from" in log.read_text()


def test_ctrl_c_in_a_job_is_one_line(tmp_path, restored_logging):
    log = tmp_path / "logs" / "job.log"
    script = Path(logs.__file__).parents[2] / "scripts" / "rule.py"
    logs.start(str(log), str(script))
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert len(log.read_text().splitlines()) == 1
    assert "ERROR interrupted; a training goes on from its last checkpoint" in log.read_text()


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, restored_logging, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(DiptychError, match="cannot be written") as error:
        logs.start(str(tmp_path / "file" / "job.log"), str(tmp_path / "workflow" / "scripts" / "rule.py"))
    sys.excepthook(error.type, error.value, error.tb)
    assert len(capsys.readouterr().err.splitlines()) == 1
