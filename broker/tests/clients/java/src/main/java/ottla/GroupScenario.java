package ottla;

import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.MemberToRemove;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.FencedInstanceIdException;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.GroupSubscribedToTopicException;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Static members, and the deletion of offsets and groups, in two parts with a restart of the broker in between.
 *
 * <p>Arguments: first|second BOOTSTRAP TOPIC. Exits with 0 only if everything held.
 */
public final class GroupScenario {
  private static final int PARTITIONS = 4;
  private static final Duration DEADLINE = Duration.ofSeconds(120);

  private final String bootstrap;
  private final String topic;
  private final String group;

  private GroupScenario(String bootstrap, String topic) {
    this.bootstrap = bootstrap;
    this.topic = topic;
    this.group = topic + "-group";
  }

  public static void main(String[] arguments) throws Exception {
    GroupScenario scenario = new GroupScenario(arguments[1], arguments[2]);
    switch (arguments[0]) {
      case "first" -> scenario.first();
      case "second" -> scenario.second();
      default -> throw new IllegalArgumentException(arguments[0]);
    }
    System.out.println("java groups " + arguments[0] + ": ok");
  }

  /** A consumer, and how often partitions were taken from it. */
  private final class Member {
    final KafkaConsumer<String, String> consumer;
    int revocations;

    Member(String instance) {
      Properties properties = properties();
      properties.put("group.id", group);
      properties.put("group.instance.id", instance);
      properties.put("session.timeout.ms", "60000");
      properties.put("heartbeat.interval.ms", "500");
      properties.put("enable.auto.commit", "false");
      properties.put("key.deserializer", StringDeserializer.class.getName());
      properties.put("value.deserializer", StringDeserializer.class.getName());
      consumer = new KafkaConsumer<>(properties);
      consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
          revocations += partitions.size();
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {}
      });
    }

    int generation() {
      return consumer.groupMetadata().generationId();
    }
  }

  private void first() throws Exception {
    try (Admin admin = Admin.create(properties())) {
      admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) -1))).all().get();
    }
    Member a = new Member("a");
    Member b = new Member("b");
    pollUntil("the members share the partitions", List.of(a, b), () ->
        a.consumer.assignment().size() == PARTITIONS / 2 && b.consumer.assignment().size() == PARTITIONS / 2);
    Set<TopicPartition> ofB = new HashSet<>(b.consumer.assignment());
    int generation = a.generation();
    int revocations = a.revocations;

    // A static member that closes keeps its place; back again, it has its partitions without a rebalance.
    b.consumer.close();
    check(describe().members().size() == 2, "the place is kept");
    Member back = new Member("b");
    pollUntil("the partitions are given back", List.of(a, back), () -> !back.consumer.assignment().isEmpty());
    check(back.consumer.assignment().equals(ofB), "the same partitions: " + back.consumer.assignment());
    check(back.generation() == generation, "in the same generation: " + back.generation());

    // Whoever comes later under the same name takes the place, and the one before is told.
    Member usurper = new Member("b");
    pollUntil("the place is taken", List.of(a, usurper), () -> usurper.consumer.assignment().equals(ofB));
    expect(FencedInstanceIdException.class, () -> pollUntil("the one before is told", List.of(back), () -> false));
    back.consumer.close();
    check(usurper.generation() == generation && a.generation() == generation, "still no rebalance");
    check(a.revocations == revocations, "the other member noticed nothing");

    for (Member member : List.of(a, usurper)) {
      Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
      for (TopicPartition partition : member.consumer.assignment()) {
        offsets.put(partition, new OffsetAndMetadata(0, "generation " + generation));
      }
      member.consumer.commitSync(offsets);
      member.consumer.close();
    }
  }

  private void second() throws Exception {
    ConsumerGroupDescription described = describe();
    check(described.members().size() == 2, "both places survive the restart: " + described);
    Set<TopicPartition> ofA = described.members().stream()
        .filter(member -> member.groupInstanceId().orElse("").equals("a"))
        .flatMap(member -> member.assignment().topicPartitions().stream()).collect(Collectors.toSet());
    Member a = new Member("a");
    pollUntil("the partitions survive the restart", List.of(a), () -> a.consumer.assignment().equals(ofA));
    TopicPartition first = new TopicPartition(topic, 0);
    try (Admin admin = Admin.create(properties())) {
      var offsets = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
      check(offsets.size() == PARTITIONS, "offsets survive the restart: " + offsets);
      String generation = "generation " + a.generation();
      check(offsets.values().stream().allMatch(offset -> offset.metadata().equals(generation)),
          generation + " instead of that of " + offsets);

      expect(GroupSubscribedToTopicException.class,
          () -> admin.deleteConsumerGroupOffsets(group, Set.of(first)).partitionResult(first).get());
      expect(GroupNotEmptyException.class, () -> admin.deleteConsumerGroups(List.of(group)).all().get());
      a.consumer.close();

      var both = new RemoveMembersFromConsumerGroupOptions(
          List.of(new MemberToRemove("a"), new MemberToRemove("b")));
      admin.removeMembersFromConsumerGroup(group, both).all().get();
      check(describe().members().isEmpty(), "an administrator removes static members");
      admin.deleteConsumerGroupOffsets(group, Set.of(first)).all().get();
      admin.alterConsumerGroupOffsets(group, Map.of(new TopicPartition(topic, 1), new OffsetAndMetadata(0, "set")))
          .all().get();
      offsets = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
      check(offsets.size() == PARTITIONS - 1 && !offsets.containsKey(first), "one offset is gone: " + offsets);
      check(offsets.get(new TopicPartition(topic, 1)).metadata().equals("set"), "one was set: " + offsets);
      admin.deleteConsumerGroups(List.of(group)).all().get();
      expect(GroupIdNotFoundException.class, () -> admin.deleteConsumerGroups(List.of(group)).all().get());
      check(admin.listGroups().all().get().stream().noneMatch(listing -> listing.groupId().equals(group)), "gone");
    }
  }

  private ConsumerGroupDescription describe() throws Exception {
    try (Admin admin = Admin.create(properties())) {
      return admin.describeConsumerGroups(List.of(group)).all().get().get(group);
    }
  }

  private interface Condition {
    boolean holds();
  }

  private static void pollUntil(String what, List<Member> members, Condition condition) {
    long deadline = System.nanoTime() + DEADLINE.toNanos();
    while (!condition.holds()) {
      check(System.nanoTime() < deadline, what);
      for (Member member : members) {
        member.consumer.poll(Duration.ofMillis(100));
      }
    }
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
