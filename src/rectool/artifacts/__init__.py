"""The on-disk contract: kinds, schemas, manifests, atomic writing, strict reading, lineage."""

from rectool.artifacts.artifact import Artifact, binding, open_artifact
from rectool.artifacts.draft import Draft, Making, write
from rectool.artifacts.inputs import Input
from rectool.artifacts.manifest import Manifest, Parent

__all__ = ["Artifact", "Draft", "Input", "Making", "Manifest", "Parent", "binding", "open_artifact", "write"]
