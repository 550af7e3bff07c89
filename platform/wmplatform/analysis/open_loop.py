"""Open-loop prediction: what comes after the observed frames, and how the error grows."""

from wmplatform.agent import Agent
from wmplatform.analysis.results import CannotAnalyse, Results
from wmplatform.pictures import open_loop_strip, open_loop_video
from wmplatform.prediction import Prediction, predict
from wmplatform.types import Batch

__all__ = ["error_per_frame", "open_loop"]


def open_loop(agent: Agent, batch: Batch, observed: int) -> Prediction:
    """Predict clips from their first `observed` frames; the context is the last of these.

    Args:
        agent: in eval mode.
        batch: records `[B, T, ...]`.
        observed: less than T.

    Raises:
        CannotAnalyse: the model cannot imagine or decode, or nothing is left to predict.
    """
    prediction = predict(agent, batch, observed)
    if prediction is None:
        length = batch["is_first"].shape[1]
        raise CannotAnalyse(
            f"nothing is predicted of clips of {length} frames, {observed} of them observed",
            hint="the model must imagine and decode, and clips be longer than what is observed",
        )
    return prediction


def error_per_frame(prediction: Prediction) -> list[float]:
    """Mean squared error of a pixel (0..1) at each frame, over clips, channels and places."""
    error = (prediction.model - prediction.truth).square()
    means: list[float] = error.mean((0, 2, 3, 4)).tolist()
    return means


def write(results: Results, prediction: Prediction, fps: int) -> dict[str, float]:
    """Write rows truth, model, error as picture and video, and the error of each frame."""
    clips = len(prediction.truth)
    shown = prediction.truth, prediction.model, prediction.observed
    results.picture(open_loop_strip(*shown, clips=min(clips, 3)))
    results.video(open_loop_video(*shown, clips=clips), fps)
    errors = prediction.errors()
    results.numbers(
        {
            "observed": prediction.observed,
            "clips": clips,
            "mse_per_frame": error_per_frame(prediction),
            **errors,
        }
    )
    return errors
