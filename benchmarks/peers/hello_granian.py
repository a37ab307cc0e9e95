"""The hello server on granian (Rust, hyper), WSGI, one worker with one thread of each kind."""

import os
import sys

from granian import Granian
from granian.constants import HTTPModes, Interfaces

if __name__ == "__main__":
    host, port = sys.argv[1].split(":")
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    Granian(
        "wsgi_app:app",
        address=host,
        port=int(port),
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        workers=1,
        runtime_threads=1,
        blocking_threads=1,
        websockets=False,
        log_enabled=False,
    ).serve()
