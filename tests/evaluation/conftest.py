import linear_case
import pytest


@pytest.fixture(scope="module")
def model():
    return linear_case.linear_model()
