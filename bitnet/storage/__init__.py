"""Files of networks and of runs: written whole or not at all, read with nothing taken on trust."""

from bitnet.storage.atomic import write_atomically
from bitnet.storage.checkpoint import Checkpoint, CheckpointError, load, load_checkpoint, save, save_checkpoint
from bitnet.storage.door import plain

__all__ = ["Checkpoint", "CheckpointError", "load", "load_checkpoint", "plain", "save", "save_checkpoint", "write_atomically"]
