package main

import (
	"context"
	"errors"
	"time"

	"github.com/segmentio/kafka-go"
)

// segmentio is github.com/segmentio/kafka-go: the oldest protocol versions of them all.
type segmentio struct{ bootstrap, topic, group string }

func newSegmentio(bootstrap, topic string) scenario {
	return segmentio{bootstrap, topic, topic + "-group"}
}

// client has a transport of its own, since a transport answers from metadata that it keeps for a while.
func (s segmentio) client() *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(s.bootstrap), Timeout: deadline, Transport: &kafka.Transport{}}
}

func (s segmentio) create(ctx context.Context) {
	topics := []kafka.TopicConfig{{
		Topic: s.topic, NumPartitions: partitions, ReplicationFactor: 1,
		ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "86400000"}},
	}}
	created, err := s.client().CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: topics})
	must(err)
	must(created.Errors[s.topic])
	created, err = s.client().CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: topics})
	must(err)
	check(errors.Is(created.Errors[s.topic], kafka.TopicAlreadyExists), "a second topic of the name: %v", created.Errors)
	metadata, err := s.client().Metadata(ctx, &kafka.MetadataRequest{Topics: []string{s.topic}})
	must(err)
	check(len(metadata.Topics) == 1 && len(metadata.Topics[0].Partitions) == partitions, "described: %+v", metadata)
	configs, err := s.client().DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: s.topic, ConfigNames: []string{"retention.ms"},
	}}})
	must(err)
	entries := configs.Resources[0].ConfigEntries
	check(len(entries) == 1 && entries[0].ConfigValue == "86400000", "the topic's own config: %+v", configs.Resources)
}

func (s segmentio) produce(ctx context.Context, codec string, from, count int) {
	codecs := map[string]kafka.Compression{"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}
	writer := &kafka.Writer{
		Addr: kafka.TCP(s.bootstrap), Topic: s.topic, RequiredAcks: kafka.RequireAll, Compression: codecs[codec],
		BatchTimeout: 5 * time.Millisecond, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout,
		Balancer: kafka.BalancerFunc(func(message kafka.Message, _ ...int) int {
			return record{key: message.Key}.number() % partitions
		}),
	}
	var messages []kafka.Message
	for i := from; i < from+count; i++ {
		r := sent(i)
		message := kafka.Message{Key: r.key, Value: r.value, Time: time.UnixMilli(r.timestamp)}
		for _, h := range r.headers {
			message.Headers = append(message.Headers, kafka.Header{Key: h.key, Value: h.value})
		}
		messages = append(messages, message)
	}
	must(writer.WriteMessages(ctx, messages...))
	must(writer.Close())
}

func (s segmentio) received(in kafka.Message) record {
	r := record{in.Partition, in.Offset, in.Time.UnixMilli(), in.Key, in.Value, nil}
	for _, h := range in.Headers {
		r.headers = append(r.headers, header{h.Key, h.Value})
	}
	return r
}

func (s segmentio) read(ctx context.Context, count int) []record {
	requests := make([]kafka.OffsetRequest, partitions)
	for p := range requests {
		requests[p] = kafka.LastOffsetOf(p)
	}
	listed, err := s.client().ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{s.topic: requests}})
	must(err)
	var records []record
	for _, end := range listed.Topics[s.topic] {
		must(end.Error)
		reader := kafka.NewReader(kafka.ReaderConfig{
			Brokers: []string{s.bootstrap}, Topic: s.topic, Partition: end.Partition, MaxWait: 100 * time.Millisecond,
			ReadBatchTimeout: requestTimeout,
		})
		for range end.LastOffset {
			message, err := reader.ReadMessage(ctx)
			must(err)
			records = append(records, s.received(message))
		}
		must(reader.Close())
	}
	check(len(records) == count, "end offsets: %d", len(records))
	return records
}

func (s segmentio) offsetByTime(ctx context.Context, partition int, timestamp int64) int64 {
	request := []kafka.OffsetRequest{kafka.TimeOffsetOf(partition, time.UnixMilli(timestamp))}
	listed, err := s.client().ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{s.topic: request}})
	must(err)
	found := listed.Topics[s.topic][0]
	must(found.Error)
	for offset := range found.Offsets {
		return offset
	}
	panic("no offset by time")
}

func (s segmentio) reader() *kafka.Reader {
	return kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{s.bootstrap}, GroupID: s.group, Topic: s.topic, StartOffset: kafka.FirstOffset,
		MaxWait: 100 * time.Millisecond, HeartbeatInterval: 100 * time.Millisecond, SessionTimeout: 60 * time.Second,
		ReadBatchTimeout: requestTimeout,
	})
}

func (s segmentio) rebalance(ctx context.Context) {
	// A member is given what it is to read; who holds what, the broker tells.
	one, two := s.reader(), s.reader()
	shared := func(members int) func() bool {
		return func() bool {
			described, err := s.client().DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: []string{s.group}})
			must(err)
			group := described.Groups[0]
			held := map[int]bool{}
			for _, member := range group.Members {
				for _, topic := range member.MemberAssignments.Topics {
					for _, partition := range topic.Partitions {
						check(!held[partition], "partition %d twice: %+v", partition, group)
						held[partition] = true
					}
				}
			}
			return group.GroupState == "Stable" && len(group.Members) == members && len(held) == partitions
		}
	}
	wait(ctx, "both members share the topic", shared(2))
	must(two.Close())
	wait(ctx, "the other takes over", shared(1))
	must(one.Close())
	groups, err := s.client().ListGroups(ctx, &kafka.ListGroupsRequest{})
	must(err)
	check(len(groups.Groups) == 1 && groups.Groups[0].GroupID == s.group, "listed: %+v", groups)
}

func (s segmentio) consume(ctx context.Context, count int) []record {
	reader := s.reader()
	var records []record
	var messages []kafka.Message
	for len(records) < count {
		message, err := reader.FetchMessage(ctx)
		must(err)
		messages = append(messages, message)
		records = append(records, s.received(message))
	}
	must(reader.CommitMessages(ctx, messages...))
	must(reader.Close())
	return records
}

func (s segmentio) committed(ctx context.Context) []int64 {
	request := &kafka.OffsetFetchRequest{GroupID: s.group, Topics: map[string][]int{s.topic: {0, 1, 2}}}
	fetched, err := s.client().OffsetFetch(ctx, request)
	// This part of the client leaves retries to its user.
	for isTemporary(err) || err == nil && isTemporary(fetched.Error) {
		time.Sleep(20 * time.Millisecond)
		fetched, err = s.client().OffsetFetch(ctx, request)
	}
	must(err)
	must(fetched.Error)
	offsets := make([]int64, partitions)
	for _, partition := range fetched.Topics[s.topic] {
		must(partition.Error)
		offsets[partition.Partition] = partition.CommittedOffset
	}
	return offsets
}

func (s segmentio) remove(ctx context.Context) {
	deleted, err := s.client().DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{s.topic}})
	must(err)
	must(deleted.Errors[s.topic])
	metadata, err := s.client().Metadata(ctx, &kafka.MetadataRequest{})
	must(err)
	for _, topic := range metadata.Topics {
		check(topic.Name != s.topic, "a deleted topic is gone")
	}
	deleted, err = s.client().DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{s.topic}})
	must(err)
	check(errors.Is(deleted.Errors[s.topic], kafka.UnknownTopicOrPartition), "deleted twice: %v", deleted.Errors)
}

func isTemporary(err error) bool {
	var code kafka.Error
	return errors.As(err, &code) && code.Temporary()
}
