"""scikit-learn's 1,797 grey 8x8 digits, one fifth of them for testing."""

import numpy as np

from keras_wake.datasets.source import DataDir
from keras_wake.datasets.source import ImageArrays
from keras_wake.datasets.source import ImageSize
from keras_wake.datasets.source import refuse_files
from keras_wake.datasets.source import Source
from keras_wake.datasets.splits import stratified_sample

TEST_FRACTION = 0.2


def open_digits(data_dir: DataDir, image_size: ImageSize) -> Source:
    """Loads the digits, which are part of scikit-learn."""
    refuse_files("digits", data_dir=data_dir, image_size=image_size)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The data set 'digits' needs scikit-learn. "
            "Install it with `pip install keras-wake[examples]`."
        ) from error
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    data = ImageArrays(images, bunch.target.astype(np.int32), white=16)
    # The same test images whatever the seed, so that results can be compared.
    count = round(TEST_FRACTION * len(data))
    test = stratified_sample(data.labels, count, np.random.default_rng(0))
    train = np.setdiff1d(np.arange(len(data)), test)
    class_names = tuple(str(name) for name in bunch.target_names)
    return Source.from_arrays(data.take(train), data.take(test), class_names)
