"""Raw data -> dataset, and the views that tasks take of a dataset."""
