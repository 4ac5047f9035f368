"""Single images from many callers, answered in batches: asyncio and a predictor, no network protocol.

Batches have few sizes, so that each is compiled once, ahead; images of one threshold go together. Whoever comes while a
batch is computed waits for the next one.
"""

import asyncio
import collections
import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import numpy as np

from codinet_jax.inference import answers
from codinet_jax.inference.answers import Answer
from codinet_jax.inference.predictor import Predictor, pixels


class Overloaded(Exception):
    """As many requests as are allowed are being answered already."""


class _Waiting(NamedTuple):
    image_HxWxC: np.ndarray
    arrived: float
    answer: asyncio.Future[Answer]


def ladder(max_batch: int) -> tuple[int, ...]:
    """The sizes of batches: 1, 2, 4, 8, ... below the largest, and that."""
    return (*(2**i for i in range((max_batch - 1).bit_length())), max_batch)


class Batcher:
    """Answers images in batches while it is entered; when it is left it answers those that wait, and takes no more.

    `counts` are of images answered, of batches, and of requests refused.
    """

    def __init__(self, predictor: Predictor, *, max_batch: int, max_wait: float, max_requests: int):
        """Takes a predictor.

        Args:
          predictor: it is called in a thread of its own, one batch at a time.
          max_batch: images of the largest batch, at least 1.
          max_wait: seconds that an image waits, at most, for others to share its batch, where no batch is computed.
          max_requests: that are let in at once.
        """
        self.predictor, self.sizes = predictor, ladder(max_batch)
        self.max_wait, self.max_requests = max_wait, max_requests
        self.counts: collections.Counter[str] = collections.Counter(images=0, batches=0, refused=0)
        self.is_ready = False
        self._num_requests, self._is_leaving = 0, False
        self._waiting: dict[float, collections.deque[_Waiting]] = {}  # by threshold
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, 'predictor')

    async def __aenter__(self) -> 'Batcher':
        self._task = asyncio.create_task(self._answer_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_leaving = True
        self._came.set()
        await self._task
        self._thread.shutdown()

    async def warm_up(self) -> dict[int, float]:
        """Compiles every size of batch, and is ready then; seconds by size."""
        loop, seconds = asyncio.get_running_loop(), dict[int, float]()
        for size in self.sizes:  # one by one, so that whoever gives up waits for one alone
            seconds |= await loop.run_in_executor(self._thread, self.predictor.warm_up, [size])
        self.is_ready = True
        return seconds

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request, from before it is read until it is answered.

        Raises:
          Overloaded: there are as many as may be.
        """
        if self._num_requests >= self.max_requests:
            self.counts['refused'] += 1
            raise Overloaded
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    async def answer(self, image_HxWxC: np.ndarray, threshold: float | None = None) -> Answer:
        """Answers one image, in a batch with others.

        Args:
          image_HxWxC: as the predictor takes them.
          threshold: a block runs where v reaches it; the predictor's own if not given.

        Raises:
          InputError: it is no such image; others are not harmed.
          RuntimeError: the batcher is left already.
        """
        if self._is_leaving:
            raise RuntimeError('the batcher takes no more images')
        (image_HxWxC,) = pixels([image_HxWxC], self.predictor.spec.image_shape)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(image_HxWxC, loop.time(), loop.create_future())
        group = self.predictor.threshold if threshold is None else threshold
        self._waiting.setdefault(group, collections.deque()).append(waiting)
        self._came.set()
        return await waiting.answer

    async def _answer_all(self) -> None:
        while threshold_and_batch := await self._next_batch():
            await self._answer(*threshold_and_batch)

    async def _next_batch(self) -> tuple[float, list[_Waiting]] | None:
        """The images of a threshold that have waited longest, once they are many or have waited enough; None at the
        end."""
        while not self._waiting:
            if self._is_leaving:
                return None
            await self._somebody_came()
        threshold, group = min(self._waiting.items(), key=lambda item: item[1][0].arrived)
        until = group[0].arrived + self.max_wait
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while len(group) < self.sizes[-1] and not self._is_leaving:
                    await self._somebody_came()
        batch = [group.popleft() for _ in range(min(len(group), self.sizes[-1]))]
        if not group:
            del self._waiting[threshold]
        return threshold, batch

    async def _somebody_came(self) -> None:
        self._came.clear()
        await self._came.wait()

    async def _answer(self, threshold: float, batch: Sequence[_Waiting]) -> None:
        batch = [each for each in batch if not each.answer.done()]  # some may have gone away
        if not batch:
            return
        images = [each.image_HxWxC for each in batch]
        size = next(size for size in self.sizes if size >= len(batch))
        loop = asyncio.get_running_loop()
        try:
            prediction = await loop.run_in_executor(self._thread, self.predictor.in_batches, images, size, threshold)
        except Exception as error:  # what befalls a batch is told to those in it, and the next one is answered
            for each in batch:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        self.counts.update(images=len(batch), batches=1)
        for each, answer in zip(batch, answers.rows(prediction), strict=True):
            if not each.answer.done():
                each.answer.set_result(answer)
