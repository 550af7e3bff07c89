"""What a run tells: metrics as JSON lines and TensorBoard, pictures, videos, progress."""

from wmplatform.logging.progress import Progress
from wmplatform.logging.run_logger import RunLogger
from wmplatform.logging.running_means import RunningMeans
from wmplatform.logging.silent_logger import SilentLogger

__all__ = ["Progress", "RunLogger", "RunningMeans", "SilentLogger"]
