"""Failures as results: one backend's must not cost the times of the others."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bridge.base.log import logger

Row = dict[str, Any]


def result_or_failure(measure: Callable[..., Row], *args: Any) -> Row:
    """What a measurement returns; where it raises, the reason under "failed"."""
    try:
        return measure(*args)
    except Exception as error:  # of any kind: it becomes the result
        logger.info("a measurement failed", exc_info=True)
        return {"failed": first_line(error)}
    finally:
        if torch.cuda.is_available():  # the memory of what failed counts for no other backend
            gc.collect()
            torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """An error in one line, with paths relative to the current folder."""
    lines = [line.strip() for line in str(error).replace(f"{Path.cwd()}{os.sep}", "").splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
