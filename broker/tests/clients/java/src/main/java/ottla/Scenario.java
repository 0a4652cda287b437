package ottla;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * What a Java user does to a broker, in two parts with a restart of the broker in between.
 *
 * <p>Arguments: first|second BOOTSTRAP TOPIC. Exits with 0 only if everything held.
 */
public final class Scenario {
  private static final int PARTITIONS = 3;
  private static final int PER_CODEC = 200;
  private static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");
  private static final long FIRST_TIMESTAMP = 1_700_000_000_000L;
  private static final Duration DEADLINE = Duration.ofSeconds(120);

  private final String bootstrap;
  private final String topic;
  private final String group;

  private Scenario(String bootstrap, String topic) {
    this.bootstrap = bootstrap;
    this.topic = topic;
    this.group = topic + "-group";
  }

  public static void main(String[] arguments) throws Exception {
    Scenario scenario = new Scenario(arguments[1], arguments[2]);
    switch (arguments[0]) {
      case "first" -> scenario.first();
      case "second" -> scenario.second();
      default -> throw new IllegalArgumentException(arguments[0]);
    }
    System.out.println("java " + arguments[0] + ": ok");
  }

  private void first() throws Exception {
    createAndDescribe();
    for (int codec = 0; codec < CODECS.size(); codec++) {
      produce(CODECS.get(codec), codec * PER_CODEC, PER_CODEC);
    }
    verifyContents(CODECS.size() * PER_CODEC);
    offsetsByTime();
    compressedByTheBroker();
    groupRebalances();
    transactionsAreRefused();
  }

  private void second() throws Exception {
    int before = CODECS.size() * PER_CODEC;
    try (Admin admin = Admin.create(properties())) {
      Map<TopicPartition, OffsetAndMetadata> committed =
          admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
      check(committed.size() == PARTITIONS, "offsets of every partition survive: " + committed);
      long total = committed.values().stream().mapToLong(OffsetAndMetadata::offset).sum();
      check(total == before, "committed offsets cover what was consumed: " + total);
      committed.values().forEach(offset -> check(offset.metadata().equals("up to here"), "metadata survives"));
    }
    produce("lz4", before, PER_CODEC);
    try (KafkaConsumer<String, String> consumer = consumer(true)) {
      consumer.subscribe(List.of(topic));
      List<ConsumerRecord<String, String>> fresh = poll(consumer, PER_CODEC);
      check(fresh.stream().allMatch(record -> number(record) >= before), "the group resumes where it committed");
    }
    verifyContents(before + PER_CODEC);
    try (Admin admin = Admin.create(properties())) {
      admin.deleteTopics(List.of(topic)).all().get();
      check(!admin.listTopics().names().get().contains(topic), "a deleted topic is gone");
      expect(UnknownTopicOrPartitionException.class, () -> admin.deleteTopics(List.of(topic)).all().get());
    }
  }

  private void createAndDescribe() throws Exception {
    try (Admin admin = Admin.create(properties())) {
      check(admin.describeCluster().nodes().get().size() == 1, "one broker");
      check(admin.describeCluster().clusterId().get() != null, "a cluster id");
      NewTopic fresh = new NewTopic(topic, PARTITIONS, (short) -1).configs(Map.of("retention.ms", "86400000"));
      admin.createTopics(List.of(fresh)).all().get();
      expect(TopicExistsException.class, () -> admin.createTopics(List.of(fresh)).all().get());
      NewTopic compacted = new NewTopic(topic + "-c", 1, (short) 1).configs(Map.of("cleanup.policy", "compact"));
      expect(InvalidConfigurationException.class, () -> admin.createTopics(List.of(compacted)).all().get());
      var description = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
      check(description.partitions().size() == PARTITIONS, "partitions as asked");
      ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
      var config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
      check(config.get("retention.ms").value().equals("86400000"), "the topic's own config");
      check(!config.get("retention.ms").isDefault() && config.get("max.message.bytes").isDefault(), "sources");
    }
  }

  private void produce(String codec, int from, int count) throws Exception {
    Properties properties = properties();
    properties.put("compression.type", codec);
    properties.put("linger.ms", "5");
    properties.put("key.serializer", StringSerializer.class.getName());
    properties.put("value.serializer", StringSerializer.class.getName());
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(properties)) {
      List<Future<RecordMetadata>> sends = new ArrayList<>();
      for (int i = from; i < from + count; i++) {
        sends.add(producer.send(record(i)));
      }
      Map<Integer, Long> last = new HashMap<>();
      for (Future<RecordMetadata> send : sends) {
        RecordMetadata metadata = send.get();
        Long previous = last.put(metadata.partition(), metadata.offset());
        check(previous == null || metadata.offset() == previous + 1, "offsets are dense per partition");
      }
    }
  }

  /** Record {@code i}: every seventh has a null value, and a header key occurs twice. */
  private ProducerRecord<String, String> record(int i) {
    String value = i % 7 == 0 ? null : "value " + i + " " + "x".repeat(i % 300);
    ProducerRecord<String, String> record =
        new ProducerRecord<>(topic, i % PARTITIONS, FIRST_TIMESTAMP + i, "key-" + i, value);
    record.headers().add("twice", "a".getBytes(StandardCharsets.UTF_8));
    record.headers().add("empty", new byte[0]);
    record.headers().add("twice", null);
    return record;
  }

  private void verifyContents(int count) {
    try (KafkaConsumer<String, String> consumer = consumer(false)) {
      consumer.assign(partitions());
      consumer.seekToBeginning(partitions());
      Map<Integer, Long> next = new HashMap<>();
      Set<Integer> seen = new HashSet<>();
      for (ConsumerRecord<String, String> record : poll(consumer, count)) {
        long expected = next.merge(record.partition(), 1L, Long::sum) - 1;
        check(record.offset() == expected, "offset " + record.offset() + " instead of " + expected);
        int i = number(record);
        check(seen.add(i), "record " + i + " twice");
        check(i == record.offset() * PARTITIONS + record.partition(), "record " + i + " out of place");
        ProducerRecord<String, String> sent = record(i);
        check(java.util.Objects.equals(record.value(), sent.value()), "value of " + i);
        check(record.timestamp() == sent.timestamp(), "timestamp of " + i);
        Header[] headers = record.headers().toArray();
        check(headers.length == 3 && headers[0].key().equals("twice") && headers[2].value() == null
            && headers[1].value().length == 0, "headers of " + i);
      }
      check(seen.size() == count, "records: " + seen.size());
      long end = consumer.endOffsets(partitions()).values().stream().mapToLong(Long::longValue).sum();
      check(end == count, "end offsets: " + end);
    }
  }

  private void offsetsByTime() {
    try (KafkaConsumer<String, String> consumer = consumer(false)) {
      TopicPartition partition = new TopicPartition(topic, 1);
      // Partition 1 holds records 1, 4, 7, …: the first at or after number 500 is 502, at offset 167.
      OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(partition, FIRST_TIMESTAMP + 500)).get(partition);
      check(found.offset() == 167 && found.timestamp() == FIRST_TIMESTAMP + 502, "offset by time: " + found);
      check(consumer.offsetsForTimes(Map.of(partition, Long.MAX_VALUE / 2)).get(partition) == null, "after the end");
      check(consumer.beginningOffsets(partitions()).values().stream().allMatch(offset -> offset == 0), "beginning");
    }
  }

  /** What the broker compresses, this client can read. */
  private void compressedByTheBroker() throws Exception {
    for (String codec : List.of("uncompressed", "gzip", "snappy", "lz4", "zstd")) {
      String name = topic + "-" + codec;
      try (Admin admin = Admin.create(properties())) {
        NewTopic fresh = new NewTopic(name, 1, (short) 1).configs(Map.of("compression.type", codec));
        admin.createTopics(List.of(fresh)).all().get();
      }
      Properties properties = properties();
      properties.put("compression.type", codec.equals("gzip") ? "none" : "gzip");
      properties.put("linger.ms", "50");
      properties.put("key.serializer", StringSerializer.class.getName());
      properties.put("value.serializer", StringSerializer.class.getName());
      try (KafkaProducer<String, String> producer = new KafkaProducer<>(properties)) {
        for (int i = 0; i < 1000; i++) {
          producer.send(new ProducerRecord<>(name, "key-" + i, "a value that repeats itself " + i));
        }
      }
      try (KafkaConsumer<String, String> consumer = consumer(false)) {
        TopicPartition partition = new TopicPartition(name, 0);
        consumer.assign(List.of(partition));
        consumer.seekToBeginning(List.of(partition));
        for (ConsumerRecord<String, String> record : poll(consumer, 1000)) {
          check(record.value().equals("a value that repeats itself " + record.offset()), codec + ": " + record);
        }
      }
    }
  }

  private void groupRebalances() throws Exception {
    int total = CODECS.size() * PER_CODEC;
    try (KafkaConsumer<String, String> one = consumer(true)) {
      one.subscribe(List.of(topic));
      waitForAssignment(one, PARTITIONS);
      KafkaConsumer<String, String> two = consumer(true);
      two.subscribe(List.of(topic));
      // Both must poll for the rebalance to finish; each then holds a part, and together they hold everything.
      long deadline = System.nanoTime() + DEADLINE.toNanos();
      while (one.assignment().size() == PARTITIONS || two.assignment().isEmpty()
          || one.assignment().size() + two.assignment().size() != PARTITIONS) {
        check(System.nanoTime() < deadline, "the second member gets its share");
        one.poll(Duration.ofMillis(100));
        two.poll(Duration.ofMillis(100));
      }
      Set<TopicPartition> both = new HashSet<>(one.assignment());
      both.addAll(two.assignment());
      check(both.equals(Set.copyOf(partitions())), "assignments are disjoint and complete: " + both);
      two.close();
      waitForAssignment(one, PARTITIONS);
      one.seekToBeginning(one.assignment());
      List<ConsumerRecord<String, String>> records = poll(one, total);
      check(records.size() == total, "the group reads everything: " + records.size());
      Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
      for (ConsumerRecord<String, String> record : records) {
        offsets.put(new TopicPartition(topic, record.partition()),
            new OffsetAndMetadata(record.offset() + 1, "up to here"));
      }
      one.commitSync(offsets);
      try (Admin admin = Admin.create(properties())) {
        var described = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
        check(described.members().size() == 1, "one member is described: " + described);
        check(described.members().iterator().next().assignment().topicPartitions().equals(both), "with its assignment");
        check(admin.listGroups().all().get().stream().anyMatch(listing -> listing.groupId().equals(group)), "listed");
      }
    }
  }

  private void transactionsAreRefused() {
    Properties properties = properties();
    properties.put("transactional.id", topic + "-txn");
    properties.put("max.block.ms", "20000");
    properties.put("key.serializer", StringSerializer.class.getName());
    properties.put("value.serializer", StringSerializer.class.getName());
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(properties)) {
      expect(KafkaException.class, producer::initTransactions);
    }
  }

  private void waitForAssignment(KafkaConsumer<String, String> consumer, int size) {
    long deadline = System.nanoTime() + DEADLINE.toNanos();
    while (consumer.assignment().size() != size) {
      check(System.nanoTime() < deadline, "an assignment of " + size + " partitions");
      consumer.poll(Duration.ofMillis(100));
    }
  }

  private List<ConsumerRecord<String, String>> poll(KafkaConsumer<String, String> consumer, int count) {
    List<ConsumerRecord<String, String>> records = new ArrayList<>();
    long deadline = System.nanoTime() + DEADLINE.toNanos();
    while (records.size() < count) {
      check(System.nanoTime() < deadline, "got " + records.size() + " of " + count + " records");
      consumer.poll(Duration.ofMillis(200)).forEach(records::add);
    }
    return records;
  }

  private int number(ConsumerRecord<String, String> record) {
    return Integer.parseInt(record.key().substring("key-".length()));
  }

  private Collection<TopicPartition> partitions() {
    return java.util.stream.IntStream.range(0, PARTITIONS).mapToObj(i -> new TopicPartition(topic, i))
        .collect(Collectors.toList());
  }

  private KafkaConsumer<String, String> consumer(boolean member) {
    Properties properties = properties();
    if (member) {
      properties.put("group.id", group);
      properties.put("session.timeout.ms", "60000");
      properties.put("heartbeat.interval.ms", "500");
    }
    properties.put("auto.offset.reset", "earliest");
    properties.put("enable.auto.commit", "false");
    properties.put("key.deserializer", StringDeserializer.class.getName());
    properties.put("value.deserializer", StringDeserializer.class.getName());
    return new KafkaConsumer<>(properties);
  }

  private Properties properties() {
    Properties properties = new Properties();
    properties.put("bootstrap.servers", bootstrap);
    properties.put("request.timeout.ms", "60000");
    properties.put("default.api.timeout.ms", "120000");
    return properties;
  }

  private interface Action {
    void run() throws Exception;
  }

  private static void expect(Class<? extends Exception> expected, Action action) {
    try {
      action.run();
    } catch (ExecutionException error) {
      check(expected.isInstance(error.getCause()), "expected " + expected + ", got " + error.getCause());
      return;
    } catch (Exception error) {
      check(expected.isInstance(error), "expected " + expected + ", got " + error);
      return;
    }
    throw new AssertionError("expected " + expected + ", and nothing was thrown");
  }

  private static void check(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }
}
