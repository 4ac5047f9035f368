"""The page's server: what `serve` answers, and the page, what it is told of the network, images with their views."""

import asyncio
import base64
import io
import math
import time
import zlib
from collections.abc import Callable
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from codinet_jax.data.augmentations import AUGMENTATIONS
from codinet_jax.data.image_files import read_image
from codinet_jax.demonstration.dial import dial, kind
from codinet_jax.demonstration.subject import Subject
from codinet_jax.inference import trusted_hosts
from codinet_jax.inference.answers import Answer
from codinet_jax.inference.http_server import Server, busy
from codinet_jax.inference.serving import Batcher
from codinet_jax.inference.trusted_hosts import TrustedHosts

MOST_REQUESTS = 16
MOST_CLASSES = 8  # that are shown with their probabilities

# Nothing is asked of any other machine, and the browser sees to it.
POLICY = "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; style-src 'self'"
HEADERS = {'Content-Security-Policy': POLICY, 'X-Content-Type-Options': 'nosniff', 'Cache-Control': 'no-store'}
FILES = {
    'report.css': ('codinet_jax.analysis', 'page.css', 'text/css'),
    'page.css': ('codinet_jax.demonstration', 'page.css', 'text/css'),
    'page.js': ('codinet_jax.demonstration', 'page.js', 'text/javascript'),
    'drawing.js': ('codinet_jax.demonstration', 'drawing.js', 'text/javascript'),
    'curve.js': ('codinet_jax.demonstration', 'curve.js', 'text/javascript'),
}


class PageServer(Server):
    """The application of one network and its page; images are answered one at a time, as fast as that is."""

    def __init__(
        self,
        subject: Subject,
        max_upload_bytes: int,
        ready: Callable[[dict[int, float]], None],
        hosts: TrustedHosts = trusted_hosts.OWN,
    ):
        batcher = Batcher(subject.predictor, max_batch=1, max_wait=0.0, max_requests=MOST_REQUESTS)
        super().__init__(batcher, subject.name, max_upload_bytes, ready, hosts)
        self.subject = subject
        self.known: dict[str, Any] | None = None

    def more_routes(self) -> list[Route]:
        return [
            Route('/', self.page),
            Route('/page/{name}', self.file),
            Route('/about', self.about),
            Route('/look', self.look, methods=['POST']),
            Route('/picture/{number}', self.picture),
        ]

    async def warm_up(self) -> dict[int, float]:
        seconds = await super().warm_up()
        self.known = await asyncio.get_running_loop().run_in_executor(self.decoders, self._prepared)
        return seconds

    def _prepared(self) -> dict[str, Any]:
        views_of(np.zeros(self.subject.predictor.spec.image_shape, np.uint8))  # compiles them
        return about(self.subject) | {'maxUploadBytes': self.max_upload_bytes, 'tooLarge': self.too_large}

    async def page(self, request: Request) -> Response:
        del request
        return _packaged('codinet_jax.demonstration', 'page.html', 'text/html')

    async def file(self, request: Request) -> Response:
        name = request.path_params['name']
        if name not in FILES:
            raise HTTPException(404, f'The page has no file {name!r}.')
        return _packaged(*FILES[name])

    async def about(self, request: Request) -> JSONResponse:
        del request
        if self.known is None:
            busy('The network is being compiled')
        return JSONResponse(self.known, headers=HEADERS)

    async def picture(self, request: Request) -> Response:
        kept_hxwxC = self._kept(request.path_params['number'])
        return Response(png(kept_hxwxC), media_type='image/png', headers=HEADERS)

    async def look(self, request: Request) -> JSONResponse:
        """An image, and views of it as evaluation makes them: what the network sees, says and does of each.

        The image is uploaded, or one at hand, by its ?number.
        """
        self.counts['requests'] += 1
        threshold, number = self.threshold_of(request), request.query_params.get('number')
        with self.admission():
            image_HxWxC = await self.uploaded(request) if number is None else self.at_hand(number)
            return JSONResponse(await self._looked(image_HxWxC, threshold))

    def at_hand(self, number: str) -> np.ndarray:
        """An image at hand, whole, as the network takes it.

        Raises:
          HTTPException: there is none of this number.
        """
        spec = self.subject.predictor.spec
        return read_image(png(self._kept(number)), spec.image_size, spec.num_channels)

    def _kept(self, number: str) -> np.ndarray:
        examples = self.subject.examples
        is_number = number.isdecimal() and len(number) < 10
        if isinstance(examples, str) or not is_number or int(number) >= len(examples.thumbnails_SxhxwxC):
            raise HTTPException(404, f'No picture is kept of image {number[:10]}.')
        return examples.thumbnails_SxhxwxC[int(number)]

    async def _looked(self, image_HxWxC: np.ndarray, threshold: float | None) -> dict[str, Any]:
        spec, started = self.subject.predictor.spec, time.perf_counter()
        answer = await self.batcher.answer(image_HxWxC, threshold)
        seconds = time.perf_counter() - started
        views = await asyncio.get_running_loop().run_in_executor(self.decoders, views_of, image_HxWxC)
        answers = [await self.batcher.answer(view, threshold) for view in views.values()]
        of_views = zip(views.items(), answers, strict=True)
        return {
            'seconds': seconds,
            'threshold': self.subject.predictor.threshold if threshold is None else threshold,
            'image': self._shown(image_HxWxC, answer, min(MOST_CLASSES, len(spec.classes))),
            'views': [{'name': name, **self._shown(view, found)} for (name, view), found in of_views],
        }

    def _shown(self, image_HxWxC: np.ndarray, answer: Answer, top: int | None = None) -> dict[str, Any]:
        found = answer.as_json(self.subject.predictor.spec, top)
        picture = f'data:image/png;base64,{base64.b64encode(png(image_HxWxC)).decode()}'
        return found | {'gates': answer.run_probability_n.tolist(), 'picture': picture}


def about(subject: Subject) -> dict[str, Any]:
    """What the page is told of a network."""
    predictor, examples = subject.predictor, subject.examples
    spec, of_dial = predictor.spec, dial(predictor, subject.measured_on)
    return {
        'name': subject.name,
        'kind': kind(predictor),
        'classes': spec.classes,
        'imageSize': spec.image_size,
        'channels': spec.num_channels,
        'blocksPerStage': spec.blocks_per_stage,
        'blocksMacs': spec.blocks_macs,
        'fixedMacs': spec.fixed_macs,
        'staticMacs': spec.static_macs,
        'dial': {**of_dial._asdict(), 'stops': [stop._asdict() for stop in of_dial.stops]},
        'curve': [
            (point.macs_share, point.top1) for point in predictor.operating_points.curve if math.isfinite(point.top1)
        ],
        'groups': [] if isinstance(examples, str) else examples.groups,
        'examples': examples if isinstance(examples, str) else examples.sentence,
    }


def views_of(image_HxWxC: np.ndarray) -> dict[str, np.ndarray]:
    """What evaluation holds an image's route against, by name; the same image has the same views."""
    position = zlib.crc32(image_HxWxC.tobytes()) >> 1  # stands in for the place in the split
    views = _views(image_HxWxC[None], jnp.asarray([position], jnp.int32))
    return {name: np.asarray(views[name][0]) for name in AUGMENTATIONS}


@jax.jit
def _views(images_1xHxWxC: jax.Array, positions_1: jax.Array) -> dict[str, jax.Array]:
    return {name: augment(images_1xHxWxC, positions_1) for name, augment in AUGMENTATIONS.items()}


def png(image_HxWxC: np.ndarray) -> bytes:
    """A uint8 image of one channel or three as a PNG file, every bit kept."""
    file = io.BytesIO()
    Image.fromarray(image_HxWxC.squeeze(-1) if image_HxWxC.shape[-1] == 1 else image_HxWxC).save(file, 'PNG')
    return file.getvalue()


def _packaged(package: str, name: str, media_type: str) -> Response:
    return Response((resources.files(package) / name).read_bytes(), media_type=media_type, headers=HEADERS)
