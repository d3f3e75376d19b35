"""Column names and types of every table on disk, with their units. The one place for them."""

from __future__ import annotations

import pyarrow as pa

SPLITS = ("train", "valid", "test", "context")
"""`context` rows are history only: never a target."""

INTERACTIONS = pa.schema(
    [
        pa.field("user", pa.int32(), nullable=False),  # row of users.parquet
        pa.field("item", pa.int32(), nullable=False),  # row of items.parquet
        pa.field("timestamp", pa.int64(), nullable=False),  # seconds since 1970, UTC
        pa.field("rating", pa.float32()),  # as released; null where there is none
        pa.field("label", pa.int8()),  # 1 liked, 0 not; null for implicit events
        pa.field("split", pa.string(), nullable=False),  # one of SPLITS
    ]
)
"""Sorted by (user, timestamp, original row)."""

TRUTH = (
    pa.field("true_probability", pa.float32()),  # that the label was drawn with
    pa.field("true_rank", pa.int64()),  # the item's place among all items by what it was drawn from, 1 is best
)
"""Side columns of synthetic data: of ratings, and of sequences."""

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),  # the raw id
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string()),  # description or null
    ]
)
USERS = pa.schema([pa.field("user_id", pa.string(), nullable=False)])  # the raw id

CURVE = pa.schema(
    [
        pa.field("step", pa.int64()),  # optimizer steps done
        pa.field("epoch", pa.float64()),  # passes over the training rows done
        pa.field("split", pa.string()),  # what was measured on
        pa.field("metric", pa.string()),
        pa.field("value", pa.float64()),
    ]
)
PREDICTIONS = pa.schema(
    [
        pa.field("row", pa.int64()),  # row of interactions.parquet
        pa.field("user", pa.int32()),
        pa.field("item", pa.int32()),
        pa.field("label", pa.int8()),
        pa.field("score", pa.float32()),  # what ranks
        pa.field("probability", pa.float32()),  # of label 1; null where the model gives none
    ]
)

GROUP = pa.field("group", pa.string())
"""Side column of predictions: warm, cold-user, cold-item or cold-both."""
RANK = pa.field("rank", pa.int64())
"""Side column of next-item predictions: the target's place among all items, 1 is best."""
UNKNOWN = (pa.field("unknown_user", pa.bool_()), pa.field("unknown_item", pa.bool_()))
"""Side columns of predictions by soft tokens: whether a vector for all that is unknown stood for one of its own."""

TOPK = pa.schema(
    [
        pa.field("row", pa.int64()),  # row of interactions.parquet
        pa.field("rank", pa.int32()),  # 1 is best
        pa.field("item", pa.int32()),
        pa.field("score", pa.float32()),
    ]
)
RECOMMENDATIONS = pa.schema(
    [
        pa.field("user", pa.int32()),  # row of users.parquet; null for a new user
        pa.field("user_id", pa.string()),  # the raw id; null for a new user
        pa.field("new_user", pa.int32()),  # of the new users that were described: 1 is the first; null for a known one
        pa.field("rank", pa.int32(), nullable=False),  # 1 is best
        pa.field("item", pa.int32(), nullable=False),  # row of items.parquet
        pa.field("item_id", pa.string(), nullable=False),  # the raw id
        pa.field("title", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # what ranks
    ]
)
