"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, video and recorded MLLM outputs beside the repository; not part of it, for their licences."""
    data = REPOSITORY.parent / "shared" / "data"
    if not (data / "MANIFEST.json").is_file():
        pytest.skip("the real test data (../shared/data) is not beside this checkout")
    return data
