"""Submits one job to Warren and shows its progress and its result.

    python submit.py AMQP_URL MODEL [NAME=TEXT ...]

Every NAME=TEXT becomes a text input. Prints one line an event. Exit status: 0 with a result, 1 with
an error event, 2 if the job could not be sent or followed.
"""

import json
import sys
import time
import uuid

import pika
import pika.exceptions

PATIENCE_S = 600  # the job may wait and run this long; then nobody wants its result


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


def submit(channel, model, inputs, reply_to):
    """Publishes a job and answers its id once the broker has it in a queue."""
    job = str(uuid.uuid4())
    body = {
        "id": job,
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]} for name, text in inputs
        ],
    }
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,  # persistent
        correlation_id=job,
        message_id=job,  # published twice with one message_id, a job is answered once
        reply_to=reply_to,
        expiration=str(PATIENCE_S * 1000),
    )
    channel.confirm_delivery()
    # Mandatory: without it, a job that no queue takes is confirmed and gone.
    channel.basic_publish("warren.jobs", model, json.dumps(body).encode(), properties, mandatory=True)
    return job


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
    content = document(properties, body)
    if properties.type == "status":
        words = ["status", content["stage"]]
        if content.get("progress") is not None:
            words.append(f"{int(content['progress'] * 100 + 0.5)}%")
        print(*words, *filter(None, [content.get("message")]), flush=True)
    elif properties.type in ("partial", "result"):
        print(properties.type, *map(show, content["outputs"]), flush=True)
    elif properties.type == "error":
        print("error", properties.headers["code"], content["error"], flush=True)


def follow(channel, queue, job):
    """Shows the job's events in order; answers the type of the final one, None if none came."""
    fold, attempt, deadline = Fold(), 1, time.monotonic() + PATIENCE_S + 10
    channel.basic_qos(prefetch_count=100)
    for method, properties, body in channel.consume(queue, inactivity_timeout=1):
        if method is not None:
            headers = properties.headers
            if properties.correlation_id == job and fold.accept(
                headers["attempt"], headers["sequence"], headers["final"]
            ):
                if headers["attempt"] > attempt:
                    attempt = headers["attempt"]
                    print("attempt", attempt)  # partial outputs of earlier ones are void
                show_event(properties, body)
            channel.basic_ack(method.delivery_tag)
            if fold.done:
                return properties.type
        if time.monotonic() > deadline:
            return None
    return None


def main(arguments):
    if len(arguments) < 2 or not all("=" in argument for argument in arguments[2:]):
        print("usage: submit.py AMQP_URL MODEL [NAME=TEXT ...]", file=sys.stderr)
        return 2
    url, model, *inputs = arguments
    try:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            # A queue of our own, gone with the connection. It is there before the job is.
            queue = channel.queue_declare("", exclusive=True).method.queue
            job = submit(channel, model, [i.split("=", 1) for i in inputs], queue)
            print("job", job, flush=True)
            last = follow(channel, queue, job)
    except pika.exceptions.UnroutableError:
        print(f"no queue takes jobs for {model!r}: is a host serving it?", file=sys.stderr)
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
