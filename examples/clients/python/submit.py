"""Submits one job to Warren and shows its progress and its result, or cancels one.

    python submit.py [--final] AMQP_URL MODEL [NAME=TEXT ...] [NAME:=VALUE ...]
    python submit.py --cancel AMQP_URL JOB

Every NAME=TEXT becomes a text input, every NAME:=VALUE a parameter: a number, true, false, or else a
text. Prints one line an event, with its sequence number in front. With --final the final event comes
alone, as an answer by direct reply-to. Exit status: 0 with a result, 1 with an error event, 2 if the
job could not be sent or followed.
"""

import collections
import json
import re
import sys
import time
import uuid

import pika
import pika.exceptions

USAGE = """usage: submit.py [--final] AMQP_URL MODEL [NAME=TEXT ...] [NAME:=VALUE ...]
       submit.py --cancel AMQP_URL JOB"""

# The job may wait this long in its queue, and be in a host's hands as long again.
PATIENCE_S = 600

# A queue that is none: what is sent there goes straight to whoever consumes it.
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


class Fold:
    """Which events count. Messages may come twice, and a host that was cut off may publish late;
    attempts only rise, and so do sequences within one. What is not above everything seen before is
    a repetition, or belongs to an attempt that was overtaken."""

    def __init__(self):
        self.seen = (0, -1)
        self.done = False

    def accept(self, attempt, sequence, final):
        if self.done or (attempt, sequence) <= self.seen:
            return False
        self.seen = (attempt, sequence)
        self.done = final
        return True


def request(job, arguments):
    """The job's body: an Open Inference Protocol v2 infer request."""
    inputs, parameters = [], {}
    for argument in arguments:
        name, value = argument.split("=", 1)
        if name.endswith(":"):
            plain = re.fullmatch(r"true|false|-?(0|[1-9][0-9]*)(\.[0-9]+)?", value)
            parameters[name[:-1]] = json.loads(value) if plain else value
        else:
            inputs.append({"name": name, "datatype": "BYTES", "shape": [1], "data": [value]})
    return json.dumps({"id": job, "parameters": parameters, "inputs": inputs}).encode()


def publish(channel, exchange, key, body, properties):
    """Publishes, and is done when the broker has the message in a queue."""
    channel.confirm_delivery()
    # Mandatory: without it, a message that no queue takes is confirmed and gone.
    channel.basic_publish(exchange, key, body, properties, mandatory=True)


def submit(channel, model, job, body, queue):
    """Publishes a job whose events go to `queue`."""
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,  # persistent
        correlation_id=job,
        message_id=job,  # published twice with one message_id, a job is answered once
        reply_to=queue,
        expiration=str(PATIENCE_S * 1000),
        headers={"events": "final" if queue == DIRECT_REPLY_TO else "all"},
    )
    publish(channel, "warren.jobs", model, body, properties)


def cancel(channel, job):
    """Tells every host that a job is no longer wanted. Its final event still comes."""
    properties = pika.BasicProperties(type="cancel", correlation_id=job)
    publish(channel, "warren.control", "", b"", properties)


def document(properties, body):
    """The JSON part of a body; the data of binary tensors lies after it."""
    length = properties.headers.get("inference-header-content-length", len(body))
    return json.loads(body[:length])


def show(tensor):
    """An output as name=value: text as it is, other data by its type, shape and place."""
    parameters = tensor.get("parameters", {})
    kind = tensor["datatype"] + "[" + ",".join(map(str, tensor["shape"])) + "]"
    if "dataref" in parameters:
        return f"{tensor['name']}={parameters['dataref']}"
    if "binary_data_size" in parameters:
        return f"{tensor['name']}={kind}:{parameters['binary_data_size']}"
    if tensor["datatype"] == "BYTES":
        return f"{tensor['name']}={','.join(tensor['data'])}"
    return f"{tensor['name']}={kind}"


def show_event(properties, body):
    """Prints an event. Types that are not known here belong to later hosts."""
    kind, sequence = properties.type, properties.headers["sequence"]
    if kind not in ("status", "partial", "result", "error"):
        return
    content = document(properties, body)
    words = [sequence, kind]
    if kind == "status":
        words.append(content["stage"])
        if content.get("progress") is not None:
            words.append(f"{int(content['progress'] * 100 + 0.5)}%")
        if content.get("message"):
            words.append(content["message"])
    elif kind == "error":
        words += [properties.headers["code"], content["error"]]
    else:
        words += map(show, content["outputs"])
    print(*words, flush=True)


def consume(channel, queue):
    """The list to which what comes to `queue` is added; None once nothing more will."""
    events = collections.deque()
    channel.basic_qos(prefetch_count=100)
    channel.add_on_cancel_callback(lambda _: events.append(None))
    channel.basic_consume(
        queue, lambda _, *event: events.append(event), auto_ack=queue == DIRECT_REPLY_TO
    )
    return events


def follow(channel, queue, events, job):
    """Shows the job's events in order; answers the type of the final one, None if none came."""
    fold, attempt, deadline = Fold(), 1, time.monotonic() + 2 * PATIENCE_S + 10
    while time.monotonic() < deadline:
        if not events:
            channel.connection.process_data_events(time_limit=1)
            continue
        event = events.popleft()
        if event is None:
            return None
        method, properties, body = event
        headers = properties.headers
        if properties.correlation_id == job and fold.accept(
            headers["attempt"], headers["sequence"], headers["final"]
        ):
            if headers["attempt"] > attempt:
                attempt = headers["attempt"]
                print("attempt", attempt, flush=True)  # partial outputs of earlier ones are void
            show_event(properties, body)
        if queue != DIRECT_REPLY_TO:
            channel.basic_ack(method.delivery_tag)
        if fold.done:
            return properties.type
    return None


def main(arguments):
    option = arguments.pop(0) if arguments[:1] in (["--final"], ["--cancel"]) else None
    if len(arguments) < 2 or not all("=" in argument for argument in arguments[2:]):
        print(USAGE, file=sys.stderr)
        return 2
    url, target, *rest = arguments
    job = str(uuid.uuid4())
    try:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            if option == "--cancel":
                cancel(channel, target)
                print("asked every host to cancel", target)
                return 0
            queue = DIRECT_REPLY_TO
            if option != "--final":
                # A queue of our own, gone with the connection. It is there before the job is.
                queue = channel.queue_declare("", exclusive=True).method.queue
            events = consume(channel, queue)
            submit(channel, target, job, request(job, rest), queue)
            print("job", job, flush=True)
            last = follow(channel, queue, events, job)
    except pika.exceptions.UnroutableError:
        print(f"no queue takes messages for {target!r}: is a host serving?", file=sys.stderr)
        return 2
    except (pika.exceptions.AMQPError, OSError) as error:
        print(f"the broker: {error!r}", file=sys.stderr)
        return 2
    if last is None:
        print("no final event came: the reply queue is gone, or no host took the job", file=sys.stderr)
        return 2
    return 0 if last == "result" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
