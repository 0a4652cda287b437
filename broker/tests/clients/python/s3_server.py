"""moto's S3 server, with one bucket: s3_server.py PORT BUCKET [ADDRESS [MIN MAX]].

On 127.0.0.1 unless an address is given. With MIN and MAX each answer is late by as many milliseconds, at random.

Its threads look whether an object is there and create it in two steps, so on a busy machine two conditional creates can
both succeed. Here they go through one at a time.
"""

import io
import os
import random
import sys
import threading
import time

from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from moto.server import MotoRequestHandler
from werkzeug.serving import run_simple


class OneCreateAtATime:
    def __init__(self, application):
        self.application, self.lock = application, threading.Lock()

    def __call__(self, environ, start_response):
        if "HTTP_IF_NONE_MATCH" not in environ:
            return self.application(environ, start_response)
        # The body first: whoever sends it slowly keeps nobody waiting.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        with self.lock:
            return list(self.application(environ, start_response))


def late(application, least, most):
    """A request takes effect somewhere within the time that it takes."""

    def answer(environ, start_response):
        length, before = random.uniform(least, most) / 1000, random.random()
        time.sleep(length * before)
        body = list(application(environ, start_response))
        time.sleep(length * (1 - before))
        return body

    return answer


if __name__ == "__main__":
    port, bucket, address = int(sys.argv[1]), sys.argv[2], (sys.argv[3:] or ["127.0.0.1"])[0]
    os.environ["MOTO_PORT"] = str(port)
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(bucket, "us-east-1")
    application = OneCreateAtATime(DomainDispatcherApplication(create_backend_app))
    if len(sys.argv) > 4:
        application = late(application, float(sys.argv[4]), float(sys.argv[5]))
    run_simple(address, port, application, threaded=True, request_handler=MotoRequestHandler)
