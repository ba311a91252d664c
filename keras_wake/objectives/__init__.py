"""What the student minimises besides distillation, by name or as an object."""

from keras_wake.objectives.objective import check_inputs
from keras_wake.objectives.objective import Objective
from keras_wake.objectives.objective import WeightPerturbation
from keras_wake.objectives.regularised import MART
from keras_wake.objectives.regularised import TRADES
from keras_wake.objectives.supervised import AdversarialTraining
from keras_wake.objectives.supervised import Standard
from keras_wake.objectives.weight_perturbation import AWP
from keras_wake.utils import validate

_BY_NAME = {
    kind.name: kind
    for kind in (AdversarialTraining, TRADES, MART, AWP, Standard)
}


def get(identifier: str | Objective) -> Objective:
    """Returns the objective of that name, or the given object itself.

    Args:
        identifier: `"at"`, `"trades"`, `"mart"`, `"awp"` (around `"at"`),
            `"standard"` or an `Objective`.

    Raises:
        ValueError: If no objective has that name, or its `inputs` name no
            images.

    Example:

    >>> get("at").name
    'at'
    """
    if isinstance(identifier, Objective):
        check_inputs(identifier)
        return identifier
    validate.one_of(
        _BY_NAME,
        hint="An instance of `keras_wake.objectives.Objective` works as well.",
        objective=identifier,
    )
    return _BY_NAME[identifier]()


__all__ = [
    "AWP",
    "MART",
    "TRADES",
    "AdversarialTraining",
    "Objective",
    "Standard",
    "WeightPerturbation",
    "get",
]
