// Submits one job to Warren and shows its progress and its result, or cancels one.
//
//     ./run.sh [--final] AMQP_URL MODEL [NAME=TEXT ...] [NAME:=VALUE ...]
//     ./run.sh --cancel AMQP_URL JOB
//
// Every NAME=TEXT becomes a text input, every NAME:=VALUE a parameter: a number, true, false, or else
// a text. Prints one line an event, with its sequence number in front. With --final the final event
// comes alone, as an answer by direct reply-to. Exit status: 0 with a result, 1 with an error event,
// 2 if the job could not be sent or followed.
//
// JSON is the RabbitMQ client's own, so that nothing else is needed; a service would use its library.

import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.tools.json.JSONReader;
import com.rabbitmq.tools.json.JSONWriter;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Collectors;

import static java.nio.charset.StandardCharsets.UTF_8;

public final class Submit {
    /** The job may wait this long in its queue, and be in a host's hands as long again. */
    static final int PATIENCE_S = 600;

    /** A queue that is none: what is sent there goes straight to whoever consumes it. */
    static final String DIRECT_REPLY_TO = "amq.rabbitmq.reply-to";

    static final String USAGE = "usage: run.sh [--final] AMQP_URL MODEL [NAME=TEXT ...] [NAME:=VALUE ...]\n"
            + "       run.sh --cancel AMQP_URL JOB";

    static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out), true, UTF_8);

    /**
     * Which events count. Messages may come twice, and a host that was cut off may publish late;
     * attempts only rise, and so do sequences within one. What is not above everything seen before
     * is a repetition, or belongs to an attempt that was overtaken.
     */
    static final class Fold {
        long attempt = 0;
        long sequence = -1;
        boolean done = false;

        boolean accept(long attempt, long sequence, boolean last) {
            boolean above =
                    attempt > this.attempt || (attempt == this.attempt && sequence > this.sequence);
            if (done || !above) {
                return false;
            }
            this.attempt = attempt;
            this.sequence = sequence;
            this.done = last;
            return true;
        }
    }

    /** The job's body: an Open Inference Protocol v2 infer request. */
    static byte[] request(String job, List<String> arguments) {
        List<Object> inputs = new ArrayList<>();
        Map<String, Object> parameters = new LinkedHashMap<>();
        for (String argument : arguments) {
            String[] parts = argument.split("=", 2);
            if (parts[0].endsWith(":")) {
                boolean plain = parts[1].matches("true|false|-?(0|[1-9][0-9]*)(\\.[0-9]+)?");
                Object value = plain ? new JSONReader().read(parts[1]) : parts[1];
                parameters.put(parts[0].substring(0, parts[0].length() - 1), value);
            } else {
                inputs.add(Map.of("name", parts[0], "datatype", "BYTES",
                        "shape", List.of(1), "data", List.of(parts[1])));
            }
        }
        Map<String, Object> body = Map.of("id", job, "parameters", parameters, "inputs", inputs);
        return new JSONWriter().write(body).getBytes(UTF_8);
    }

    /** Publishes, and is done when the broker has the message in a queue. */
    static void publish(Channel channel, String exchange, String key, byte[] body, BasicProperties properties)
            throws Exception {
        AtomicBoolean returned = new AtomicBoolean();
        channel.addReturnListener((code, text, e, k, p, b) -> returned.set(true));
        channel.confirmSelect();
        // Mandatory: without it, a message that no queue takes is confirmed and gone.
        channel.basicPublish(exchange, key, true, properties, body);
        channel.waitForConfirmsOrDie(30_000); // a returned message comes back before its confirm
        if (returned.get()) {
            throw new IOException("no queue takes messages for '" + key + "': is a host serving?");
        }
    }

    /** Publishes a job whose events go to {@code queue}. */
    static void submit(Channel channel, String model, String job, byte[] body, String queue) throws Exception {
        publish(channel, "warren.jobs", model, body, new BasicProperties.Builder()
                .contentType("application/json")
                .deliveryMode(2) // persistent
                .correlationId(job)
                .messageId(job) // published twice with one message id, a job is answered once
                .replyTo(queue)
                .expiration(String.valueOf(PATIENCE_S * 1000))
                .headers(Map.of("events", queue.equals(DIRECT_REPLY_TO) ? "final" : "all"))
                .build());
    }

    /** Tells every host that a job is no longer wanted. Its final event still comes. */
    static void cancel(Channel channel, String job) throws Exception {
        publish(channel, "warren.control", "", new byte[0],
                new BasicProperties.Builder().type("cancel").correlationId(job).build());
    }

    /** The JSON part of a body; the data of binary tensors lies after it. */
    @SuppressWarnings("unchecked")
    static Map<String, Object> document(Delivery event) {
        Object length = event.getProperties().getHeaders().get("inference-header-content-length");
        int end = length == null ? event.getBody().length : ((Number) length).intValue();
        return (Map<String, Object>) new JSONReader().read(new String(event.getBody(), 0, end, UTF_8));
    }

    static String join(Object list) {
        return ((List<?>) list).stream().map(String::valueOf).collect(Collectors.joining(","));
    }

    /** An output as name=value: text as it is, other data by its type, shape and place. */
    static String show(Object output) {
        Map<?, ?> tensor = (Map<?, ?>) output;
        Map<?, ?> parameters = tensor.get("parameters") == null ? Map.of() : (Map<?, ?>) tensor.get("parameters");
        String kind = tensor.get("datatype") + "[" + join(tensor.get("shape")) + "]";
        Object value;
        if (parameters.containsKey("dataref")) {
            value = parameters.get("dataref");
        } else if (parameters.containsKey("binary_data_size")) {
            value = kind + ":" + parameters.get("binary_data_size");
        } else {
            value = "BYTES".equals(tensor.get("datatype")) ? join(tensor.get("data")) : kind;
        }
        return tensor.get("name") + "=" + value;
    }

    /** Prints an event. Types that are not known here belong to later hosts. */
    static void showEvent(Delivery event) {
        String type = event.getProperties().getType();
        if (!List.of("status", "partial", "result", "error").contains(type)) {
            return;
        }
        Map<String, Object> headers = event.getProperties().getHeaders();
        Map<String, Object> content = document(event);
        List<String> words = new ArrayList<>(List.of(headers.get("sequence").toString(), type));
        if (type.equals("status")) {
            words.add((String) content.get("stage"));
            if (content.get("progress") != null) {
                words.add((int) Math.floor(((Number) content.get("progress")).doubleValue() * 100 + 0.5) + "%");
            }
            String message = (String) content.get("message");
            if (message != null && !message.isEmpty()) {
                words.add(message);
            }
        } else if (type.equals("error")) {
            words.add(headers.get("code").toString());
            words.add((String) content.get("error"));
        } else {
            ((List<?>) content.get("outputs")).forEach(output -> words.add(show(output)));
        }
        OUT.println(String.join(" ", words));
    }

    /** Instead of an event: no more will come. */
    static final Delivery GONE = new Delivery(null, null, null);

    /** What comes to {@code queue}. */
    static BlockingQueue<Delivery> consume(Channel channel, String queue) throws IOException {
        BlockingQueue<Delivery> events = new LinkedBlockingQueue<>();
        channel.basicQos(100);
        channel.basicConsume(queue, queue.equals(DIRECT_REPLY_TO), (tag, event) -> events.add(event),
                tag -> events.add(GONE), (tag, why) -> events.add(GONE));
        return events;
    }

    /** Shows the events of the job in order; answers the type of the final one. */
    static String follow(Channel channel, String queue, BlockingQueue<Delivery> events, String job)
            throws Exception {
        Fold fold = new Fold();
        long attempt = 1;
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(2 * PATIENCE_S + 10);
        while (true) {
            Delivery event = events.poll(deadline - System.nanoTime(), TimeUnit.NANOSECONDS);
            if (event == null) {
                throw new IOException("no final event came: no host took the job");
            }
            if (event == GONE) {
                throw new IOException("the reply queue is gone, or the connection");
            }
            if (job.equals(event.getProperties().getCorrelationId())) {
                Map<String, Object> headers = event.getProperties().getHeaders();
                long number = ((Number) headers.get("attempt")).longValue();
                long sequence = ((Number) headers.get("sequence")).longValue();
                if (fold.accept(number, sequence, (Boolean) headers.get("final"))) {
                    if (number > attempt) {
                        attempt = number;
                        OUT.println("attempt " + attempt); // partial outputs of earlier ones are void
                    }
                    showEvent(event);
                }
            }
            if (!queue.equals(DIRECT_REPLY_TO)) {
                channel.basicAck(event.getEnvelope().getDeliveryTag(), false);
            }
            if (fold.done) {
                return event.getProperties().getType();
            }
        }
    }

    static int run(List<String> args) {
        boolean alone = !args.isEmpty() && args.get(0).equals("--final");
        boolean cancelling = !args.isEmpty() && args.get(0).equals("--cancel");
        args = args.subList(alone || cancelling ? 1 : 0, args.size());
        if (args.size() < 2 || !args.stream().skip(2).allMatch(argument -> argument.contains("="))) {
            System.err.println(USAGE);
            return 2;
        }
        String job = UUID.randomUUID().toString();
        ConnectionFactory factory = new ConnectionFactory();
        // A recovered connection would have another reply queue than the job was told.
        factory.setAutomaticRecoveryEnabled(false);
        try {
            factory.setUri(args.get(0));
            try (Connection connection = factory.newConnection()) {
                Channel channel = connection.createChannel();
                if (cancelling) {
                    cancel(channel, args.get(1));
                    OUT.println("asked every host to cancel " + args.get(1));
                    return 0;
                }
                // A queue of our own, gone with the connection. It is there before the job is.
                String queue = alone ? DIRECT_REPLY_TO : channel.queueDeclare().getQueue();
                BlockingQueue<Delivery> events = consume(channel, queue);
                submit(channel, args.get(1), job, request(job, args.subList(2, args.size())), queue);
                OUT.println("job " + job);
                return follow(channel, queue, events, job).equals("result") ? 0 : 1;
            }
        } catch (Exception error) {
            System.err.println(error.getMessage() == null ? error.toString() : error.getMessage());
            return 2;
        }
    }

    public static void main(String[] args) {
        System.exit(run(List.of(args)));
    }
}
