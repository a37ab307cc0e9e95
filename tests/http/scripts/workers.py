"""workers.py address options: http.serve(), with options as JSON.

"supervisor" among them has times of the module of that name, by their names.
"""

import atexit
import json
import logging
import os
import sys
import tempfile

import workers_app

from runtime import http
from runtime._http.workers import supervisor

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
# What belongs to this process must outlive its workers.
directory = tempfile.TemporaryDirectory()
atexit.register(lambda: os.write(2, f"directory {os.path.isdir(directory.name)}\n".encode()))
options = json.loads(sys.argv[2])
for name, seconds in options.pop("supervisor", {}).items():
    assert hasattr(supervisor, name)
    setattr(supervisor, name, seconds)
http.serve(workers_app.app, sys.argv[1], on_worker_start=workers_app.begin, **options)
print("serve() has returned", file=sys.stderr)
