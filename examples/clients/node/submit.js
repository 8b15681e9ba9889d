// Submits one job to Warren and shows its progress and its result, or cancels one.
//
//     node submit.js [--final] AMQP_URL MODEL [NAME=TEXT ...] [NAME:=VALUE ...]
//     node submit.js --cancel AMQP_URL JOB
//
// Every NAME=TEXT becomes a text input, every NAME:=VALUE a parameter: a number, true, false, or else
// a text. Prints one line an event, with its sequence number in front. With --final the final event
// comes alone, as an answer by direct reply-to. Exit status: 0 with a result, 1 with an error event,
// 2 if the job could not be sent or followed.
"use strict";

const { randomUUID } = require("node:crypto");
const { EventEmitter, on } = require("node:events");
const amqp = require("amqplib");

const USAGE = `usage: submit.js [--final] AMQP_URL MODEL [NAME=TEXT ...] [NAME:=VALUE ...]
       submit.js --cancel AMQP_URL JOB`;

// The job may wait this long in its queue, and be in a host's hands as long again.
const PATIENCE_S = 600;

// A queue that is none: what is sent there goes straight to whoever consumes it.
const DIRECT_REPLY_TO = "amq.rabbitmq.reply-to";

// Which events count. Messages may come twice, and a host that was cut off may publish late;
// attempts only rise, and so do sequences within one. What is not above everything seen before is a
// repetition, or belongs to an attempt that was overtaken.
class Fold {
  attempt = 0;
  sequence = -1;
  done = false;

  accept(attempt, sequence, final) {
    const above = attempt > this.attempt || (attempt === this.attempt && sequence > this.sequence);
    if (this.done || !above) return false;
    Object.assign(this, { attempt, sequence, done: final });
    return true;
  }
}

// The job's body: an Open Inference Protocol v2 infer request.
function request(job, args) {
  const [inputs, parameters] = [[], {}];
  for (const argument of args) {
    const [name, value] = argument.split(/=(.*)/s);
    const plain = /^(true|false|-?(0|[1-9][0-9]*)(\.[0-9]+)?)$/.test(value);
    if (name.endsWith(":")) parameters[name.slice(0, -1)] = plain ? JSON.parse(value) : value;
    else inputs.push({ name, datatype: "BYTES", shape: [1], data: [value] });
  }
  return Buffer.from(JSON.stringify({ id: job, parameters, inputs }));
}

// Publishes, and is done when the broker has the message in a queue.
async function publish(channel, exchange, key, body, properties) {
  let returned = false;
  channel.once("return", () => (returned = true));
  // Mandatory: without it, a message that no queue takes is confirmed and gone.
  channel.publish(exchange, key, body, { mandatory: true, ...properties });
  await channel.waitForConfirms(); // a returned message comes back before its confirm
  if (returned) throw new Error(`no queue takes messages for '${key}': is a host serving?`);
}

// Publishes a job whose events go to `queue`.
function submit(channel, model, job, body, queue) {
  return publish(channel, "warren.jobs", model, body, {
    persistent: true,
    contentType: "application/json",
    correlationId: job,
    messageId: job, // published twice with one message id, a job is answered once
    replyTo: queue,
    expiration: String(PATIENCE_S * 1000),
    headers: { events: queue === DIRECT_REPLY_TO ? "final" : "all" },
  });
}

// Tells every host that a job is no longer wanted. Its final event still comes.
function cancel(channel, job) {
  const properties = { type: "cancel", correlationId: job };
  return publish(channel, "warren.control", "", Buffer.alloc(0), properties);
}

// The JSON part of a body; the data of binary tensors lies after it.
function document({ properties, content }) {
  const length = properties.headers["inference-header-content-length"] ?? content.length;
  return JSON.parse(content.subarray(0, length).toString("utf8"));
}

// An output as name=value: text as it is, other data by its type, shape and place.
function show({ name, datatype, shape, data, parameters = {} }) {
  const kind = `${datatype}[${shape.join(",")}]`;
  if ("dataref" in parameters) return `${name}=${parameters.dataref}`;
  if ("binary_data_size" in parameters) return `${name}=${kind}:${parameters.binary_data_size}`;
  return datatype === "BYTES" ? `${name}=${data.join(",")}` : `${name}=${kind}`;
}

// Prints an event. Types that are not known here belong to later hosts.
function showEvent(message) {
  const { type, headers } = message.properties;
  if (!["status", "partial", "result", "error"].includes(type)) return;
  const content = document(message);
  const words = [headers.sequence, type];
  if (type === "status") {
    words.push(content.stage);
    if (content.progress != null) words.push(`${Math.floor(content.progress * 100 + 0.5)}%`);
    if (content.message) words.push(content.message);
  } else if (type === "error") {
    words.push(headers.code, content.error);
  } else {
    words.push(...content.outputs.map(show));
  }
  console.log(words.join(" "));
}

// What comes to `queue`, to be iterated over once.
async function consume(connection, channel, queue) {
  const inbox = new EventEmitter();
  const end = (why) => inbox.emit("error", new Error(why));
  inbox.on("error", () => {}); // after the last event nobody is interested any more
  const events = on(inbox, "event");
  const late = "no final event came: no host took the job";
  setTimeout(end, (2 * PATIENCE_S + 10) * 1000, late).unref();
  connection.once("close", () => end("the connection is gone"));
  await channel.prefetch(100);
  const take = (message) =>
    message === null ? end("the reply queue is gone") : inbox.emit("event", message);
  await channel.consume(queue, take, { noAck: queue === DIRECT_REPLY_TO });
  return events;
}

// Shows the events of the job in order; resolves with the type of the final one.
async function follow(channel, queue, events, job) {
  const fold = new Fold();
  let attempt = 1;
  for await (const [message] of events) {
    const { type, correlationId, headers } = message.properties;
    if (correlationId === job && fold.accept(headers.attempt, headers.sequence, headers.final)) {
      if (headers.attempt > attempt) {
        attempt = headers.attempt;
        console.log(`attempt ${attempt}`); // partial outputs of earlier ones are void
      }
      showEvent(message);
    }
    if (queue !== DIRECT_REPLY_TO) channel.ack(message);
    if (fold.done) return type;
  }
}

async function main(args) {
  const option = ["--final", "--cancel"].includes(args[0]) ? args.shift() : undefined;
  const [url, target, ...rest] = args;
  if (!target || !rest.every((argument) => argument.includes("="))) {
    console.error(USAGE);
    return 2;
  }
  const job = randomUUID();
  let connection;
  try {
    connection = await amqp.connect(url);
    connection.on("error", (error) => console.error(`the broker: ${error.message}`));
    const channel = await connection.createConfirmChannel();
    channel.on("error", (error) => console.error(`the broker: ${error.message}`));
    if (option === "--cancel") {
      await cancel(channel, target);
      console.log(`asked every host to cancel ${target}`);
      return 0;
    }
    let queue = DIRECT_REPLY_TO;
    if (option !== "--final") {
      // A queue of our own, gone with the connection. It is there before the job is.
      ({ queue } = await channel.assertQueue("", { exclusive: true }));
    }
    const events = await consume(connection, channel, queue);
    await submit(channel, target, job, request(job, rest), queue);
    console.log(`job ${job}`);
    return (await follow(channel, queue, events, job)) === "result" ? 0 : 1;
  } catch (error) {
    console.error(error.message);
    return 2;
  } finally {
    await connection?.close().catch(() => {});
  }
}

main(process.argv.slice(2)).then((status) => (process.exitCode = status));
