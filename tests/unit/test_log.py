"""What is logged is one JSON object a line, and no variable of a failed function, which may be a secret."""

import json

import pytest
import structlog

from rollbackd.system import log


def test_a_module_s_logger_that_was_made_before_logs_were_set_up_follows_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    early = log.get("web")
    log.configure(readable=False)
    try:
        token = "hunter" + "2"
        raise ValueError(f"a failure of {len(token)} characters")
    except ValueError:
        early.exception("request failed", path="/x")
    finally:
        structlog.reset_defaults()
    said = json.loads(capsys.readouterr().err)
    assert (said["part"], said["event"], said["path"]) == ("web", "request failed", "/x")
    assert "a failure of 7 characters" in said["exception"]
    assert "hunter2" not in json.dumps(said)
