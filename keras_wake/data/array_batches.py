"""Old names, until every room uses the new ones."""

from keras_wake.data.sharding import shard_arrays as shared  # noqa: F401
from keras_wake.data.sharding import ShardedBatches as Batches  # noqa: F401
