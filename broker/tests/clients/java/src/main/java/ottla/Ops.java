package ottla;

import java.io.BufferedWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.DelayQueue;
import java.util.concurrent.Delayed;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.InvalidOffsetException;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * What the Java client is asked to do while brokers die, and what it says became of it: a history for the checker. Arguments,
 * lines and their meaning are those of python/ops.py.
 */
public final class Ops {
  private static final int LANES = 2;
  // A producer that gives up goes on in a new epoch, with what it had under way twice. Runs end before.
  private static final int DELIVERY_MS = 300_000;
  private static final Duration DEADLINE = Duration.ofSeconds(180);
  private static final long PROCESSES = 1_000_000;
  private static final long VALUES = 1_000_000_000;
  private static final String GROUP = "java";
  private static final int GROUP_MEMBERS = 2;
  private static final Duration PROBE_PAUSE = Duration.ofMillis(500);
  private static final Duration PROBE_TIMEOUT = Duration.ofSeconds(10);
  private static final Duration POLL = Duration.ofMillis(100);

  private final String bootstrap;
  private final String topic;
  private final int partitions;
  private final History history;
  private volatile boolean stopping;

  private Ops(String bootstrap, String topic, int partitions, History history) {
    this.bootstrap = bootstrap;
    this.topic = topic;
    this.partitions = partitions;
    this.history = history;
  }

  public static void main(String[] arguments) throws Exception {
    int partitions = Integer.parseInt(arguments[3]);
    long client = Long.parseLong(arguments[4]);
    if (arguments[0].equals("run")) {
      try (History history = new History(Path.of(arguments[6]), client)) {
        new Ops(arguments[1], arguments[2], partitions, history).run(Integer.parseInt(arguments[5]));
      }
    } else {
      try (History history = new History(Path.of(arguments[5]), client)) {
        for (String bootstrap : arguments[1].split(";")) {
          new Ops(bootstrap, arguments[2], partitions, history).read();
        }
      }
    }
  }

  /** The file of lines, and the numbers that this client may give away. */
  private static final class History implements AutoCloseable {
    private final BufferedWriter file;
    private long process;
    private long number;

    History(Path path, long client) throws IOException {
      file = Files.newBufferedWriter(path);
      process = client * PROCESSES;
      number = client * VALUES;
    }

    synchronized long process() {
      return process++;
    }

    synchronized long number() {
      return number++;
    }

    private synchronized void line(long time, String rest) {
      try {
        file.write("{\"time\":" + time + "," + rest + "}\n");
        file.flush();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }

    void operation(long time, long process, String type, String f, String value, String more) {
      String start = "\"process\":" + process + ",\"type\":\"" + type + "\",\"f\":\"" + f + "\",\"value\":";
      line(time, start + value + more);
    }

    void operation(long process, String type, String f, String value, String more) {
      operation(System.nanoTime(), process, type, f, value, more);
    }

    void instant(long process, String f, String value, String more) {
      operation(process, "ok", f, value, more);
    }

    void note(String text) {
      line(System.nanoTime(), "\"note\":" + quoted(text));
    }

    void violation(String text) {
      line(System.nanoTime(), "\"violation\":" + quoted(text));
    }

    @Override
    public void close() throws IOException {
      file.close();
    }
  }

  private static String quoted(String text) {
    return '"' + text.replaceAll("[^ -~]", " ").replace("\\", "/").replace('"', '\'') + '"';
  }

  private static byte[] content(long number) {
    return (number + " " + "x".repeat((int) (number % 300))).getBytes(StandardCharsets.UTF_8);
  }

  private static String error(Throwable error) {
    return ",\"error\":" + quoted(error.getClass().getSimpleName());
  }

  /** A place in a partition's queue of writers: it sends its next record when it knows what became of the one before. */
  private static final class Lane implements Delayed {
    final int partition;
    long due;

    Lane(int partition) {
      this.partition = partition;
    }

    @Override
    public long getDelay(TimeUnit unit) {
      return unit.convert(due - System.nanoTime(), TimeUnit.NANOSECONDS);
    }

    @Override
    public int compareTo(Delayed other) {
      return Long.compare(due, ((Lane) other).due);
    }
  }

  private void run(int paceMs) throws Exception {
    Thread.setDefaultUncaughtExceptionHandler((thread, error) -> history.violation("a thread ended: " + error));
    List<Thread> readers = new ArrayList<>();
    readers.add(new Thread(this::assigned));
    readers.add(new Thread(this::probe));
    for (int member = 0; member < GROUP_MEMBERS; member++) {
      readers.add(new Thread(this::member));
    }
    readers.forEach(Thread::start);
    CountDownLatch ended = new CountDownLatch(1);
    Thread input = new Thread(() -> untilInputEnds(ended));
    input.setDaemon(true);
    input.start();
    write(ended, paceMs);
    stopping = true;
    for (Thread reader : readers) {
      reader.join();
    }
  }

  private static void untilInputEnds(CountDownLatch ended) {
    try {
      System.in.transferTo(java.io.OutputStream.nullOutputStream());
    } catch (IOException error) {
      // It has ended as well.
    }
    ended.countDown();
  }

  private KafkaProducer<byte[], byte[]> producer() {
    Properties settings = new Properties();
    settings.put("bootstrap.servers", bootstrap);
    settings.put("enable.idempotence", "true");
    settings.put("acks", "all");
    settings.put("delivery.timeout.ms", DELIVERY_MS);
    settings.put("max.block.ms", DELIVERY_MS);
    return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
  }

  private void write(CountDownLatch ended, int paceMs) throws Exception {
    DelayQueue<Lane> lanes = new DelayQueue<>();
    for (int at = 0; at < LANES * partitions; at++) {
      lanes.add(new Lane(at % partitions));
    }
    Random random = new Random();
    long process = history.process();
    try (KafkaProducer<byte[], byte[]> producer = producer()) {
      while (ended.getCount() > 0) {
        Lane lane = lanes.poll(100, TimeUnit.MILLISECONDS);
        if (lane != null) {
          long pause = (long) (paceMs * 1e6 * (0.5 + random.nextDouble()));
          send(producer, process, lane.partition, () -> {
            lane.due = System.nanoTime() + pause;
            lanes.add(lane);
          });
        }
      }
      producer.flush();
    }
  }

  private void send(KafkaProducer<byte[], byte[]> producer, long process, int partition, Runnable then) {
    long number = history.number();
    String call = ",\"call\":" + number;
    String start = "[[\"send\",\"" + partition + "\",";
    history.operation(process, "invoke", "send", start + number + "]]", call);
    producer.send(new ProducerRecord<>(topic, partition, null, content(number)), (record, error) -> {
      if (error == null) {
        history.operation(process, "ok", "send", start + "[" + record.offset() + "," + number + "]]]", call);
      } else {
        history.operation(process, "info", "send", start + number + "]]", call + error(error));
        history.note("a send ended in doubt: " + error);
      }
      then.run();
    });
  }

  private KafkaConsumer<byte[], byte[]> consumer(String group, String reset) {
    Properties settings = new Properties();
    settings.put("bootstrap.servers", bootstrap);
    settings.put("enable.auto.commit", "false");
    settings.put("auto.offset.reset", reset);
    settings.put("default.api.timeout.ms", (int) DEADLINE.toMillis());
    if (group != null) {
      settings.put("group.id", group);
    }
    return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
  }

  private List<TopicPartition> everything() {
    return IntStream.range(0, partitions).mapToObj(partition -> new TopicPartition(topic, partition)).toList();
  }

  private long assign(KafkaConsumer<byte[], byte[]> consumer) {
    long process = history.process();
    consumer.assign(everything());
    consumer.seekToBeginning(everything());
    history.instant(process, "assign", keys(everything()), ",\"seek\":true");
    return process;
  }

  private static String keys(Collection<TopicPartition> partitions) {
    return partitions.stream().map(partition -> "\"" + partition.partition() + "\"").collect(Collectors.joining(",", "[", "]"));
  }

  private void assigned() {
    try (KafkaConsumer<byte[], byte[]> consumer = consumer(null, "none")) {
      long process = assign(consumer);
      while (!stopping) {
        poll(consumer, process, Set.of());
      }
    }
  }

  private void member() {
    Set<TopicPartition> moved = new HashSet<>();
    try (KafkaConsumer<byte[], byte[]> consumer = consumer(GROUP, "earliest")) {
      long process = history.process();
      ConsumerRebalanceListener listener = new ConsumerRebalanceListener() {
        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
          moved.addAll(partitions);
          // In the middle of a poll, which is why it is numbered.
          String more = groupOf(consumer) + ",\"call\":" + consumer.groupMetadata().generationId();
          history.operation(process, "invoke", "join", "[]", more);
          history.operation(process, "ok", "join", keys(consumer.assignment()), more);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
          moved.addAll(partitions);
        }
      };
      history.instant(process, "subscribe", keys(everything()), ",\"group\":" + quoted(GROUP));
      consumer.subscribe(List.of(topic), listener);
      while (!stopping) {
        Map<Integer, Long> found = poll(consumer, process, moved);
        if (!found.isEmpty()) {
          commit(consumer, process, found);
        }
      }
    }
  }

  private static String groupOf(KafkaConsumer<byte[], byte[]> consumer) {
    return ",\"group\":" + quoted(GROUP) + ",\"generation\":" + consumer.groupMetadata().generationId();
  }

  /** One poll; an operation of the history if it found anything, or if partitions came or went in it. */
  private Map<Integer, Long> poll(KafkaConsumer<byte[], byte[]> consumer, long process, Set<TopicPartition> moved) {
    long began = System.nanoTime();
    ConsumerRecords<byte[], byte[]> records;
    try {
      records = consumer.poll(POLL);
    } catch (InvalidOffsetException error) {
      // Nothing is ever deleted: every position that a reader has is in range.
      history.violation("a reader was told: " + error);
      throw error;
    } catch (KafkaException error) {
      history.note("a reader was told: " + error);
      return Map.of();
    }
    Map<Integer, StringBuilder> found = new TreeMap<>();
    Map<Integer, Long> ends = new HashMap<>();
    for (ConsumerRecord<byte[], byte[]> record : records) {
      String text = new String(record.value(), StandardCharsets.UTF_8);
      long number = Long.parseLong(text.substring(0, text.indexOf(' ')));
      if (!java.util.Arrays.equals(record.value(), content(number))) {
        history.violation("other bytes at " + record.partition() + ":" + record.offset() + ": " + number);
      }
      StringBuilder of = found.computeIfAbsent(record.partition(), partition -> new StringBuilder());
      of.append(of.isEmpty() ? "[" : ",").append('[').append(record.offset()).append(',').append(number).append(']');
      ends.put(record.partition(), record.offset() + 1);
    }
    if (!found.isEmpty() || !moved.isEmpty()) {
      history.operation(began, process, "invoke", "poll", "[[\"poll\"]]", "");
      String value = found.entrySet().stream()
          .map(entry -> "\"" + entry.getKey() + "\":" + entry.getValue() + "]")
          .collect(Collectors.joining(",", "[[\"poll\",{", "}]]"));
      history.operation(process, "ok", "poll", value, moved.isEmpty() ? "" : ",\"rebalanced\":" + keys(moved));
      if (!moved.isEmpty()) {
        moved.clear();
      }
    }
    return ends;
  }

  private void commit(KafkaConsumer<byte[], byte[]> consumer, long process, Map<Integer, Long> ends) {
    String value = ends.entrySet().stream()
        .map(end -> "\"" + end.getKey() + "\":" + end.getValue())
        .collect(Collectors.joining(",", "{", "}"));
    Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
    ends.forEach((partition, end) -> offsets.put(new TopicPartition(topic, partition), new OffsetAndMetadata(end)));
    String more = groupOf(consumer);
    history.operation(process, "invoke", "commit", value, more);
    try {
      consumer.commitSync(offsets);
      history.operation(process, "ok", "commit", value, more);
    } catch (KafkaException error) {
      history.operation(process, "info", "commit", value, more + error(error));
    }
  }

  /** Asks for the ends of all partitions, and for what the group has committed. */
  private void probe() {
    long process = history.process();
    while (!stopping) {
      try (KafkaConsumer<byte[], byte[]> consumer = consumer(GROUP, "none")) {
        // An answer that was given up is given, when it comes, for one to the same question asked later. Not to another consumer.
        boolean answered = true;
        while (!stopping && answered) {
          watermarks(consumer, process, PROBE_TIMEOUT);
          answered = committed(consumer, process);
          sleep();
        }
      }
    }
  }

  /** Whether there was an answer. */
  private boolean committed(KafkaConsumer<byte[], byte[]> consumer, long process) {
    String group = ",\"group\":" + quoted(GROUP);
    history.operation(process, "invoke", "committed", "{}", group);
    try {
      Map<TopicPartition, OffsetAndMetadata> answer = consumer.committed(new HashSet<>(everything()), PROBE_TIMEOUT);
      String value = answer.entrySet().stream()
          .map(one -> "\"" + one.getKey().partition() + "\":" + (one.getValue() == null ? null : one.getValue().offset()))
          .collect(Collectors.joining(",", "{", "}"));
      history.operation(process, "ok", "committed", value, group);
      return true;
    } catch (KafkaException error) {
      history.operation(process, "info", "committed", "{}", group + error(error));
      return false;
    }
  }

  private static void sleep() {
    try {
      Thread.sleep(PROBE_PAUSE.toMillis());
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    }
  }

  /** The end of each partition; null if nobody tells. */
  private Map<TopicPartition, Long> watermarks(KafkaConsumer<byte[], byte[]> consumer, long process, Duration patience) {
    history.operation(process, "invoke", "watermarks", "{}", "");
    try {
      Map<TopicPartition, Long> starts = consumer.beginningOffsets(everything(), patience);
      Map<TopicPartition, Long> ends = consumer.endOffsets(everything(), patience);
      String value = ends.entrySet().stream()
          .map(end -> "\"" + end.getKey().partition() + "\":[" + starts.get(end.getKey()) + "," + end.getValue() + "]")
          .collect(Collectors.joining(",", "{", "}"));
      history.operation(process, "ok", "watermarks", value, "");
      return ends;
    } catch (KafkaException error) {
      history.operation(process, "info", "watermarks", "{}", error(error));
      return null;
    }
  }

  private void read() {
    try (KafkaConsumer<byte[], byte[]> consumer = consumer(null, "none")) {
      Map<TopicPartition, Long> ends = watermarks(consumer, history.process(), DEADLINE);
      if (ends == null) {
        throw new AssertionError(bootstrap + " does not tell the ends");
      }
      long process = assign(consumer);
      Set<Integer> behind = new HashSet<>();
      ends.forEach((partition, end) -> {
        if (end > 0) {
          behind.add(partition.partition());
        }
      });
      long deadline = System.nanoTime() + DEADLINE.toNanos();
      while (!behind.isEmpty()) {
        if (System.nanoTime() > deadline) {
          throw new AssertionError(bootstrap + ": nothing more of " + behind + ", which should reach " + ends);
        }
        poll(consumer, process, Set.of()).forEach((partition, end) -> {
          if (end >= ends.get(new TopicPartition(topic, partition))) {
            behind.remove(partition);
          }
        });
      }
      System.out.println(bootstrap + " read");
    }
  }
}
