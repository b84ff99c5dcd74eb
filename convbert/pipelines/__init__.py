"""One helper per task behind one door: `pipeline("fill-mask")`."""

from .tasks import TASKS, pipeline

__all__ = ["TASKS", "pipeline"]
