"""workers.py address options: http.serve(), with options as JSON.

"supervisor" and "peers" among them have times of the modules of these names, by their names.
"""

import atexit
import json
import logging
import os
import sys
import tempfile

import workers_app

from runtime import http
from runtime._http.workers import peers, supervisor

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
# What belongs to this process must outlive its workers.
directory = tempfile.TemporaryDirectory()
atexit.register(lambda: os.write(2, f"directory {os.path.isdir(directory.name)}\n".encode()))
options = json.loads(sys.argv[2])
for module in (supervisor, peers):
    for name, seconds in options.pop(module.__name__.rpartition(".")[2], {}).items():
        assert hasattr(module, name)
        setattr(module, name, seconds)
http.serve(workers_app.app, sys.argv[1], on_worker_start=workers_app.begin, **options)
print("serve() has returned", file=sys.stderr)
