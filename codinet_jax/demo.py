"""Shows a trained network at work on a page of this machine: images in, routes, classes and costs out, with a dial:

    python -m codinet_jax.demo --pretrained=cifar10
    python -m codinet_jax.demo --workdir=runs/digits_r14 --port=8001
    python -m codinet_jax.demo --exported=digits.exported --cost=0.5

Open the address that it prints in a browser, and drop an image there, pick one or paste it. The dial begins where
--operating_point or --cost says, and has costs on it where codinet_jax.calibrate measured them. The page asks nothing
of any other machine. It listens on this machine alone, unless --host says otherwise, and goes by localhost and its
address: to be asked by another name it wants --allowed_hosts. Ctrl-C ends it.
"""

import contextlib
from collections.abc import Sequence

from codinet_jax.runtime import command, plugins

NETWORK = command.define_network()
plugins.define_import()
OPERATING_POINT, COST = command.define_operating_point()
HOST, PORT, ALLOWED_HOSTS, MAX_UPLOAD_MB = command.define_listening()


def main(argv: Sequence[str]) -> int:
    del argv
    command.check_serving()
    network = NETWORK.given('what to show')

    from codinet_jax.demonstration.page_server import PageServer
    from codinet_jax.demonstration.subject import subject
    from codinet_jax.inference import http_server, source, trusted_hosts

    with contextlib.closing(http_server.bound(HOST.value, PORT.value)) as listening:
        hosts = trusted_hosts.of_socket(listening, HOST.value, ALLOWED_HOSTS.value)
        command.start_devices()
        predictor = source.predictor(network, operating_point=OPERATING_POINT.value, cost=COST.value)
        shown, address = subject(predictor, network), http_server.address(listening)

        def report_ready(seconds: dict[int, float]) -> None:
            print(f'ready in {sum(seconds.values()):.1f} s: open {address} in a browser', flush=True)

        server = PageServer(shown, round(MAX_UPLOAD_MB.value * 1e6), report_ready, hosts)
        print(f'{shown.name} at {address}; compiling', flush=True)
        return http_server.run(server, listening)


if __name__ == '__main__':
    command.run(main)
