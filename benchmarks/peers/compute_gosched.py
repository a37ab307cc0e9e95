"""A server whose handlers compute: GET /N turns a loop N times and answers the sum; / is hello.

compute_gosched.py calibrate MICROSECONDS prints the N that takes about so long.
"""

import sys

from compute import calibrate, turn
from runtime import http

mux = http.ServeMux()
mux.handle("GET /{$}", lambda w, r: w.write("Hello, World"))


@mux.handle("GET /{n}")
def compute(w, r):
    return str(turn(int(r.path_value("n"))))


if __name__ == "__main__":
    if sys.argv[1] == "calibrate":
        print(calibrate(float(sys.argv[2]) * 1e-6))
    else:
        http.listen_and_serve(sys.argv[1], mux)
