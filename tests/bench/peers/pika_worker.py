"""A pika worker for the bench: publishes a job's statuses and its result without waiting, and
acknowledges the job when the result is confirmed.

    pika_worker.py AMQP_URL QUEUE PREFETCH STATUSES
"""

import json
import sys
from collections import OrderedDict

import pika

url, queue, prefetch, statuses = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

unconfirmed = OrderedDict()  # publish number -> delivery tag, or None for a status
published = 0


def event(job, sequence, kind):
    return pika.BasicProperties(
        content_type="application/json",
        correlation_id=job,
        message_id=f"{job}:1:{sequence}",
        type=kind,
        delivery_mode=2 if kind == "result" else 1,
        headers={"job": job, "attempt": 1, "sequence": sequence, "final": kind == "result"},
    )


def work(channel, method, properties, _body):
    global published
    job = properties.correlation_id
    for number in range(statuses):
        progress = {"stage": "working", "progress": number / statuses, "message": str(number)}
        channel.basic_publish("", properties.reply_to, json.dumps(progress), event(job, number, "status"))
        published += 1
        unconfirmed[published] = None
    result = json.dumps({"model_name": "noop", "id": job, "outputs": []})
    channel.basic_publish("", properties.reply_to, result, event(job, statuses, "result"), mandatory=True)
    published += 1
    unconfirmed[published] = method.delivery_tag


def confirmed(frame):
    method = frame.method
    if not isinstance(method, pika.spec.Basic.Ack):
        sys.exit("pika_worker: the broker refused an event")
    number = method.delivery_tag
    if method.multiple:
        number = next(iter(unconfirmed))
    while number <= method.delivery_tag:
        tag = unconfirmed.pop(number)
        if tag is not None:
            channel.basic_ack(tag)
        number = next(iter(unconfirmed), sys.maxsize) if method.multiple else sys.maxsize


def opened(_connection):
    _connection.channel(on_open_callback=ready)


def ready(opened_channel):
    global channel
    channel = opened_channel
    channel.add_on_return_callback(lambda *_: sys.exit("pika_worker: an event was returned"))
    channel.confirm_delivery(confirmed)
    channel.basic_qos(prefetch_count=prefetch)
    channel.basic_consume(queue, work)


channel = None
connection = pika.SelectConnection(
    pika.URLParameters(url),
    on_open_callback=opened,
    on_open_error_callback=lambda _c, error: sys.exit(f"pika_worker: {error}"),
)
connection.ioloop.start()
