"""A Celery worker for the bench: a task that reports progress and returns at once.

BENCH_CONFIRMED=1 gives it the promise of the other workers: results persistent and confirmed, jobs
acknowledged after them.
"""

import os

from celery import Celery
from kombu import Queue

confirmed = os.environ["BENCH_CONFIRMED"] == "1"
statuses = int(os.environ["BENCH_STATUSES"])
processes = os.cpu_count()

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend="rpc://")
app.conf.update(
    task_queues=[Queue(os.environ["BENCH_QUEUE"], queue_arguments={"x-queue-type": "quorum"})],
    worker_concurrency=processes,
    # Celery counts per process.
    worker_prefetch_multiplier=max(1, int(os.environ["BENCH_PREFETCH"]) // processes),
    broker_connection_retry_on_startup=True,
)
if confirmed:
    app.conf.update(
        task_acks_late=True,
        result_persistent=True,
        broker_transport_options={"confirm_publish": True},
    )


@app.task(bind=True, name="noop")
def noop(self):
    for number in range(statuses):
        progress = {"stage": "working", "progress": number / statuses, "message": str(number)}
        self.update_state(state="PROGRESS", meta=progress)
    return {"outputs": []}
