// An amqplib worker for the bench: publishes a job's statuses and its result without waiting, and
// acknowledges the job when the result is confirmed.
//
//     node amqplib_worker.js AMQP_URL QUEUE PREFETCH STATUSES
"use strict";

const amqp = require("amqplib");

function fail(error) {
  console.error(`amqplib_worker: ${error}`);
  process.exit(1);
}

function event(job, sequence, type) {
  return {
    contentType: "application/json",
    correlationId: job,
    messageId: `${job}:1:${sequence}`,
    type,
    persistent: type === "result",
    mandatory: type === "result",
    headers: { job, attempt: 1, sequence, final: type === "result" },
  };
}

async function main([url, queue, prefetch, statuses]) {
  const connection = await amqp.connect(url);
  const jobs = await connection.createChannel();
  const events = await connection.createConfirmChannel();
  events.on("return", () => fail("an event was returned"));
  await jobs.prefetch(Number(prefetch));
  await jobs.consume(queue, (delivery) => {
    const { correlationId: job, replyTo } = delivery.properties;
    const count = Number(statuses);
    for (let number = 0; number < count; number++) {
      const progress = { stage: "working", progress: number / count, message: String(number) };
      events.publish("", replyTo, Buffer.from(JSON.stringify(progress)), event(job, number, "status"));
    }
    const result = Buffer.from(JSON.stringify({ model_name: "noop", id: job, outputs: [] }));
    events.publish("", replyTo, result, event(job, count, "result"), (error) => {
      if (error) fail(error);
      jobs.ack(delivery);
    });
  });
}

main(process.argv.slice(2)).catch(fail);
