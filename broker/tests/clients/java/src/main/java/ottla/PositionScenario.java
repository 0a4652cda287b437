package ottla;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.LogTruncationException;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Positions that are not there any more, and positions that a restart must not put in doubt.
 *
 * <p>Arguments: first|live|second BOOTSTRAP TOPIC. The broker is restarted while the second part waits for a line on its
 * standard input. Exits with 0 only if everything held.
 */
public final class PositionScenario {
  private static final Duration DEADLINE = Duration.ofSeconds(120);
  /** What the log begins with after a deletion, and where it ends. */
  private static final long START = 10;
  private static final long END = 20;

  private final String bootstrap;
  private final TopicPartition deleted;
  private final TopicPartition retained;

  private PositionScenario(String bootstrap, String topic) {
    this.bootstrap = bootstrap;
    this.deleted = new TopicPartition(topic, 0);
    this.retained = new TopicPartition(topic + "-retained", 0);
  }

  public static void main(String[] arguments) throws Exception {
    PositionScenario scenario = new PositionScenario(arguments[1], arguments[2]);
    switch (arguments[0]) {
      case "first" -> scenario.first();
      case "live" -> scenario.live();
      case "second" -> scenario.second();
      default -> throw new IllegalArgumentException(arguments[0]);
    }
    System.out.println("java positions " + arguments[0] + ": ok");
  }

  /** Somebody's position is in what DeleteRecords, or retention, has taken. */
  private void first() throws Exception {
    try (Admin admin = Admin.create(properties())) {
      for (TopicPartition partition : List.of(deleted, retained)) {
        NewTopic topic = new NewTopic(partition.topic(), 1, (short) -1).configs(Map.of("retention.ms", "-1"));
        admin.createTopics(List.of(topic)).all().get();
        produce(partition, 0, START);
      }
      admin.deleteRecords(Map.of(deleted, RecordsToDelete.beforeOffset(START))).all().get();
      retention(admin, "1");
      long deadline = System.nanoTime() + DEADLINE.toNanos();
      while (earliest(admin, retained) < START) {
        check(System.nanoTime() < deadline, "retention takes what is too old");
        Thread.sleep(50);
      }
      retention(admin, "-1");
      for (TopicPartition partition : List.of(deleted, retained)) {
        check(earliest(admin, partition) == START, "the start of " + partition);
        produce(partition, START, END);
        positionsThatAreGone(partition);
      }
    }
  }

  private void positionsThatAreGone(TopicPartition partition) throws Exception {
    try (KafkaConsumer<String, String> consumer = consumer("earliest")) {
      seek(consumer, partition, 5);
      List<ConsumerRecord<String, String>> records = read(consumer, (int) (END - START));
      check(records.size() == END - START, "earliest: " + records.size() + " records");
      for (int at = 0; at < records.size(); at++) {
        check(records.get(at).offset() == START + at, "earliest: " + records.get(at));
        check(records.get(at).value().equals("v" + (START + at)), "earliest: " + records.get(at));
      }
    }
    try (KafkaConsumer<String, String> consumer = consumer("latest")) {
      seek(consumer, partition, 5);
      long deadline = System.nanoTime() + DEADLINE.toNanos();
      while (consumer.position(partition) != END) {
        check(System.nanoTime() < deadline, "latest: at " + consumer.position(partition));
        check(consumer.poll(Duration.ofMillis(100)).isEmpty(), "latest: nothing is new");
      }
    }
    try (KafkaConsumer<String, String> consumer = consumer("none")) {
      seek(consumer, partition, 5);
      try {
        read(consumer, 1);
        throw new AssertionError("none: a record came");
      } catch (OffsetOutOfRangeException error) {
        check(error.offsetOutOfRangePartitions().equals(Map.of(partition, 5L)), "none: " + error);
      }
    }
  }

  /** A consumer and a producer that go on while the broker is another one. */
  private void live() throws Exception {
    try (KafkaConsumer<String, String> consumer = consumer("none");
        KafkaProducer<String, String> producer = producer()) {
      seek(consumer, deleted, START);
      read(consumer, (int) (END - START));
      System.out.println("live: waiting");
      System.in.read();
      producer.send(new ProducerRecord<>(deleted.topic(), 0, null, "v" + END)).get();
      ConsumerRecord<String, String> next = read(consumer, 1).get(0);
      check(next.offset() == END && next.value().equals("v" + END), "it goes on where it was: " + next);
      check(next.leaderEpoch().get() == 1, "in the next epoch: " + next);
    }
  }

  /** Positions with the epoch of the life before. */
  private void second() throws Exception {
    produce(deleted, END + 1, END + 5);
    try (KafkaConsumer<String, String> consumer = consumer("none")) {
      // All of that epoch is there: the rest is the next one's.
      for (long offset : new long[] {START, START + 3, END}) {
        seek(consumer, deleted, offset, 0);
        List<ConsumerRecord<String, String>> records = read(consumer, (int) (END + 5 - offset));
        check(records.get(0).offset() == offset, "from " + offset + ": " + records.get(0));
        check(records.size() == END + 5 - offset, "from " + offset + ": " + records.size() + " records");
      }
      // Nothing of that epoch is there: what was read was lost, if it ever was.
      seek(consumer, deleted, END + 3, 0);
      try {
        read(consumer, 1);
        throw new AssertionError("a lost past is not noticed");
      } catch (LogTruncationException error) {
        check(error.divergentOffsets().get(deleted).offset() == END, "parted: " + error.divergentOffsets());
      }
    }
    try (KafkaConsumer<String, String> consumer = consumer("earliest")) {
      seek(consumer, deleted, END + 3, 0);
      check(read(consumer, 1).get(0).offset() == END, "it goes back to where the two part");
    }
  }

  private static void seek(KafkaConsumer<String, String> consumer, TopicPartition partition, long offset) {
    consumer.assign(List.of(partition));
    consumer.seek(partition, offset);
  }

  private static void seek(
      KafkaConsumer<String, String> consumer, TopicPartition partition, long offset, int epoch) {
    consumer.assign(List.of(partition));
    consumer.seek(partition, new OffsetAndMetadata(offset, Optional.of(epoch), ""));
  }

  /** At least so many, or an exception. */
  private static List<ConsumerRecord<String, String>> read(KafkaConsumer<String, String> consumer, int count) {
    List<ConsumerRecord<String, String>> records = new ArrayList<>();
    long deadline = System.nanoTime() + DEADLINE.toNanos();
    while (records.size() < count) {
      check(System.nanoTime() < deadline, records.size() + " of " + count + " records came");
      consumer.poll(Duration.ofMillis(100)).forEach(records::add);
    }
    return records;
  }

  private void produce(TopicPartition partition, long from, long to) throws Exception {
    try (KafkaProducer<String, String> producer = producer()) {
      for (long offset = from; offset < to; offset++) {
        long at = producer.send(new ProducerRecord<>(partition.topic(), 0, null, "v" + offset)).get().offset();
        check(at == offset, "record " + offset + " has offset " + at);
      }
    }
  }

  private void retention(Admin admin, String ms) throws Exception {
    Collection<AlterConfigOp> change =
        List.of(new AlterConfigOp(new ConfigEntry("retention.ms", ms), AlterConfigOp.OpType.SET));
    ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, retained.topic());
    admin.incrementalAlterConfigs(Map.of(topic, change)).all().get();
  }

  private static long earliest(Admin admin, TopicPartition partition) throws Exception {
    return admin.listOffsets(Map.of(partition, OffsetSpec.earliest())).partitionResult(partition).get().offset();
  }

  private KafkaConsumer<String, String> consumer(String reset) {
    Properties properties = properties();
    properties.put("auto.offset.reset", reset);
    properties.put("enable.auto.commit", "false");
    properties.put("key.deserializer", StringDeserializer.class.getName());
    properties.put("value.deserializer", StringDeserializer.class.getName());
    return new KafkaConsumer<>(properties);
  }

  private KafkaProducer<String, String> producer() {
    Properties properties = properties();
    properties.put("key.serializer", StringSerializer.class.getName());
    properties.put("value.serializer", StringSerializer.class.getName());
    return new KafkaProducer<>(properties);
  }

  private Properties properties() {
    Properties properties = new Properties();
    properties.put("bootstrap.servers", bootstrap);
    properties.put("request.timeout.ms", "60000");
    properties.put("default.api.timeout.ms", "120000");
    return properties;
  }

  private static void check(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }
}
