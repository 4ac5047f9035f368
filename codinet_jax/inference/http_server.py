"""A predictor behind HTTP: a Starlette application over `serving.Batcher`, which uvicorn runs until a signal."""

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from codinet_jax.data.image_files import read_image
from codinet_jax.inference import trusted_hosts
from codinet_jax.inference.serving import Batcher, Overloaded
from codinet_jax.inference.trusted_hosts import HostCheck, TrustedHosts
from codinet_jax.runtime.console import plural
from codinet_jax.runtime.errors import InputError, meant

UPLOAD_SECONDS = 60  # for an image to arrive; whoever is slower would hold a place that others could have
SHUTDOWN_SECONDS = 60  # for requests in flight to be answered
RETRY_SECONDS = 1

USAGE = """{name}: a network of {blocks}, for images of {size}x{size} pixels and {classes}.

GET  /health    whether it is ready, and what it has done
POST /predict   an image as the body, or as a file of a multipart form; answered in JSON: label, class, probability,
                route (1: the block ran), macs, static_macs, macs_share (of the static network's)

    curl --data-binary @cat.jpg '{address}/predict'
    curl --form image=@cat.jpg '{address}/predict?top=5&threshold=0.7'

?top=5          the most probable classes as well
?threshold=0.7  a block runs where its gate reaches this, {threshold:g} if not given
?cost=0.5       in place of it, of a network that was calibrated: what the mean image may cost

What cannot be answered has a JSON object with a sentence at "error": 400 the request or its Host, 413 an image of more
than {megabytes:g} MB, 422 no image, 503 too many at once or not ready yet: try again.
"""


class Server:
    """The application of one network; what else it is to show, another adds to its routes."""

    def __init__(
        self,
        batcher: Batcher,
        name: str,
        max_upload_bytes: int,
        ready: Callable[[dict[int, float]], None],
        hosts: TrustedHosts = trusted_hosts.OWN,
    ):
        self.batcher, self.name, self.max_upload_bytes, self.ready = batcher, name, max_upload_bytes, ready
        self.counts = {'requests': 0, 'errors': 0}
        # Decoding leaves Python to others; more threads than cores would only hold more images at once.
        self.decoders = ThreadPoolExecutor(os.cpu_count(), 'decoder')
        self.failure: BaseException | None = None
        own = [
            Route('/', self.usage),
            Route('/health', self.health),
            Route('/predict', self.predict, methods=['POST']),
        ]
        self.application = Starlette(
            routes=[*self.more_routes(), *own],
            lifespan=self._lifespan,
            middleware=[Middleware(HostCheck, hosts, self._count_error)],
            exception_handlers={HTTPException: self._refused, Exception: self._failed},
        )

    def more_routes(self) -> list[Route]:
        """What is looked up before its own."""
        return []

    @contextlib.asynccontextmanager
    async def _lifespan(self, application: Starlette) -> AsyncIterator[None]:
        del application
        async with self.batcher:
            warming = asyncio.create_task(self._warmed_up())
            yield
            warming.cancel()
            await asyncio.wait([warming])
        self.decoders.shutdown()

    async def _warmed_up(self) -> None:
        try:
            self.ready(await self.warm_up())
        except Exception as error:  # there is nothing to serve
            self.failure = error
            signal.raise_signal(signal.SIGTERM)

    async def warm_up(self) -> dict[int, float]:
        """Compiles what requests will want; seconds by size of batch."""
        return await self.batcher.warm_up()

    async def usage(self, request: Request) -> PlainTextResponse:
        spec = self.batcher.predictor.spec
        about = {'name': self.name, 'size': spec.image_size, 'megabytes': self._megabytes}
        more = {
            'blocks': plural(len(spec.blocks_macs), 'gated block'),
            'classes': plural(len(spec.classes), 'class', 'classes'),
            'threshold': self.batcher.predictor.threshold,
        }
        return PlainTextResponse(USAGE.format(address=str(request.base_url).rstrip('/'), **about, **more))

    async def health(self, request: Request) -> JSONResponse:
        del request
        spec, is_ready = self.batcher.predictor.spec, self.batcher.is_ready
        about = {
            'status': 'ready' if is_ready else 'warming up',
            'network': self.name,
            'classes': len(spec.classes),
            'blocks': len(spec.blocks_macs),
            'static_macs': spec.static_macs,
            'threshold': self.batcher.predictor.threshold,
            'batch_sizes': self.batcher.sizes,
        }
        return JSONResponse({**about, **self.counts, **self.batcher.counts}, 200 if is_ready else 503)

    async def predict(self, request: Request) -> JSONResponse:
        self.counts['requests'] += 1
        spec = self.batcher.predictor.spec
        _check_known(request, ('top', 'threshold', 'cost'))
        top = _query(request, 'top', int, lambda value: 1 <= value <= len(spec.classes), f'1 to {len(spec.classes)}')
        threshold = self.threshold_of(request)
        with self.admission():
            answer = await self.batcher.answer(await self.uploaded(request), threshold)
        return JSONResponse(answer.as_json(spec, top))

    def threshold_of(self, request: Request) -> float | None:
        """The threshold that a query asks for, by itself or by a cost; None if it asks for none.

        Raises:
          HTTPException: it cannot be.
        """
        threshold = _query(request, 'threshold', float, math.isfinite, 'a number, as 0.5')
        return self._held_to(threshold, _query(request, 'cost', float, math.isfinite, 'a number, as 0.5'))

    @contextlib.contextmanager
    def admission(self) -> Iterator[None]:
        """Where an image is read and answered.

        Raises:
          HTTPException: it cannot be now, or it is none.
        """
        if not self.batcher.is_ready:
            busy('The network is being compiled')
        try:
            with self.batcher.admitted():
                yield
        except Overloaded:
            busy(f'{self.batcher.max_requests} images are being answered already')
        except InputError as error:
            raise HTTPException(422, str(error)) from error

    async def uploaded(self, request: Request) -> np.ndarray:
        """The image that a request brings, as the network takes it.

        Raises:
          HTTPException: it brings none, or too large a one.
          InputError: it cannot be read.
        """
        content, spec = await self._image(request), self.batcher.predictor.spec
        arguments = (content, spec.image_size, spec.num_channels, spec.center_crop)
        return await asyncio.get_running_loop().run_in_executor(self.decoders, read_image, *arguments)

    def _held_to(self, threshold: float | None, cost: float | None) -> float | None:
        if cost is None:
            return threshold
        if threshold is not None:
            raise HTTPException(400, 'A cost is a threshold by itself: ask for one of them.')
        try:
            return self.batcher.predictor.operating_points.threshold(cost=cost)
        except InputError as error:
            raise HTTPException(400, str(error)) from error

    async def _image(self, request: Request) -> bytes:
        """What the body holds, or the one file in its form."""
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                content = await self._body(request)
        except TimeoutError as error:
            sentence = f'The image did not arrive within {UPLOAD_SECONDS} seconds: send it faster.'
            raise HTTPException(408, sentence, {'Connection': 'close'}) from error
        except ClientDisconnect as error:
            raise HTTPException(400, 'The image was cut short: send it again.') from error
        if request.headers.get('content-type', '').partition(';')[0].strip().lower() != 'multipart/form-data':
            return content

        async def whole() -> AsyncGenerator[bytes, None]:
            yield content

        parser = MultiPartParser(request.headers, whole(), max_files=1, max_fields=10)
        parser.spool_max_size = len(content)  # which is in memory already: a full disk is no reason to refuse it
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(400, error.message) from error
        uploads = [value for value in form.values() if isinstance(value, UploadFile)]
        if not uploads:
            raise HTTPException(400, 'The form has no file: send one, as curl --form image=@cat.jpg.')
        try:
            return await uploads[0].read()
        finally:
            await form.close()

    async def _body(self, request: Request) -> bytes:
        """All of it, if it is not too much; of what is too much no more is read than shows it."""
        length = request.headers.get('content-length', '')
        content = bytearray()
        if not (length.isdecimal() and float(length) > self.max_upload_bytes):
            async for chunk in request.stream():
                content += chunk
                if len(content) > self.max_upload_bytes:
                    break
            else:
                return bytes(content)
        raise HTTPException(413, self.too_large, {'Connection': 'close'})

    @property
    def too_large(self) -> str:
        """What is said of an image of too many bytes."""
        return f'The image has more than {self._megabytes:g} MB: send it smaller.'

    @property
    def _megabytes(self) -> float:
        return self.max_upload_bytes / 1e6

    async def _refused(self, request: Request, error: Exception) -> JSONResponse:
        del request
        assert isinstance(error, HTTPException)
        self._count_error()
        return JSONResponse({'error': error.detail}, error.status_code, error.headers)

    async def _failed(self, request: Request, error: Exception) -> JSONResponse:
        del request
        self._count_error()
        return JSONResponse({'error': f'The server failed ({type(error).__name__}): its log says more.'}, 500)

    def _count_error(self) -> None:
        self.counts['errors'] += 1


def _query(request: Request, name: str, kind: Callable[[str], Any], is_good: Callable[[Any], bool], wanted: str) -> Any:
    """A number of the query; None if it is not there."""
    text = request.query_params.get(name)
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        if is_good(value := kind(text)):
            return value
    raise HTTPException(400, f'?{name}={text} cannot be: give {wanted}.')


def _check_known(request: Request, names: Sequence[str]) -> None:
    """Refuses a query of other names: who misspells a threshold would be answered at another one."""
    for name in request.query_params:
        if name not in names:
            known = ', '.join(f'?{each}=' for each in names)
            raise HTTPException(400, f'?{name}= is nothing that can be asked for: give {known}.{meant(name, names)}')


def busy(why: str) -> NoReturn:
    """Tells a caller to come again."""
    raise HTTPException(503, f'{why}: try again in a second.', {'Retry-After': str(RETRY_SECONDS)})


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
      InputError: it is taken, or not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        number = getattr(error, 'errno', None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, 'strerror', error)  # a name's number is below
        raise InputError(f'{host}:{port} cannot be listened at ({reason}): give another --host or --port.') from error


def address(listening: socket.socket) -> str:
    """Where a browser on this machine finds what listens there."""
    host, port = listening.getsockname()[:2]
    return f'http://{f"[{host}]" if ":" in host else host}:{port}'


def run(server: Server, listening: socket.socket) -> int:
    """Serves until SIGTERM or SIGINT, answers what is in flight, and returns the exit status: 143 or 130.

    Raises:
      Exception: what warming up failed of.
    """
    config = uvicorn.Config(
        server.application,
        log_level='warning',
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    running, stopped = uvicorn.Server(config), list[int]()

    def stop(number: int, _: object) -> None:
        running.should_exit = True  # for a signal may come before uvicorn waits for it
        stopped.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)  # which uvicorn raises again when it is done
    running.run(sockets=[listening])
    if server.failure is not None:
        raise server.failure
    sys.stdout.flush()
    return 128 + stopped[0] if stopped else 1
